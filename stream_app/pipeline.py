"""What happens to a batch, from its bytes to the records that go out.

``process`` is all there is: plain synchronous code without clock, chance or network, so the result
depends on the partition's log alone, not on how it was cut into batches.
"""

from collections.abc import Callable, Sequence

import msgspec

from stream_app.config import StageSettings
from stream_app.shelves import Shelves
from stream_app.stages import timers
from stream_app.stages.admit import admit, expire
from stream_app.stages.behavior import foresee
from stream_app.stages.candidates import propose
from stream_app.stages.churn import assess
from stream_app.stages.decode import decode
from stream_app.stages.emit import emit
from stream_app.stages.features import describe
from stream_app.stages.rerank import rerank
from stream_app.stages.score import score
from stream_app.state import PartitionState
from stream_app.steps import (
    Answers,
    Batch,
    Joined,
    Judged,
    OutputRecord,
    Outside,
    RawRecord,
    Scorer,
    Step,
)

STAGES = (
    "decode",
    "admit",
    "timers",
    "features",
    "behavior",
    "churn",
    "candidates",
    "score",
    "rerank",
    "emit",
)


class Context(msgspec.Struct, frozen=True):
    """What comes from outside the log; outputs name it. ``lap`` is called after each stage.

    The ``shelves`` hold the catalogue. Without a ``ranker`` the formula ranks.
    """

    settings: StageSettings
    partitions: int
    shelves: Shelves = msgspec.field(default_factory=Shelves)
    outside: Outside = Outside()
    lap: Callable[[str], object] = len
    ranker: Scorer | None = None


class Outputs(msgspec.Struct, frozen=True):
    """The records to produce, the steps that they follow from, and how right earlier ones were.

    ``answers`` is what the records say, before it was encoded.
    """

    records: list[OutputRecord]
    steps: list[Step]
    judged: list[Judged]
    joined: list[Joined]
    answers: Answers = Answers()


def process(state: PartitionState, batch: Batch, context: Context) -> Outputs:
    """Run a batch of one partition through the stages, updating its state."""
    settings, lap = context.settings, context.lap
    steps: list[Step]
    if batch.fire_until_ms is not None:
        steps = list(timers.fire(state.timers, batch.fire_until_ms, settings, timers.DUE_MAX))
    else:
        log_ms = state.ledger.log_ms
        decoded = decode(batch.records, log_ms, batch.partition, context.partitions, settings)
        lap("decode")
        received = admit(state.admissions, decoded, settings)
        lap("admit")
        steps = timers.advance(state.timers, received, settings)
    lap("timers")
    expire(state.admissions, steps, settings)
    views = describe(state.profiles, steps, settings)
    lap("features")
    forecasts, judged = foresee(state.foresight, steps, views, settings)
    lap("behavior")
    assessed = assess(state.watchlist, steps, views, settings)
    lap("churn")
    requests = propose(state.tables, steps, views, settings, context.shelves, context.ranker)
    lap("candidates")
    scored = score(requests, context.ranker)
    lap("score")
    ranked = rerank(requests, scored, context.shelves.catalog, settings)
    lap("rerank")
    answers = Answers(ranked, [*forecasts, *assessed.forecasts], assessed.alarms)
    records, joined = emit(state.notes, batch, steps, answers, context.outside)
    state.account(steps, batch.records[-1].offset + 1 if batch.records else None)
    lap("emit")
    return Outputs(records, steps, judged + assessed.judged, joined, answers)


def next_batch(
    state: PartitionState,
    topic: str,
    partition: int,
    records: Sequence[RawRecord],
    records_max: int,
) -> Batch:
    """Return the batch that comes next: timers alone, or as many records as one slice takes."""
    plan = timers.cut(state.timers, records, state.ledger.log_ms, records_max)
    return Batch(topic, partition, records[: plan.records], plan.fire_until_ms)
