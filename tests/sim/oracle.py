"""What must come out: the pipeline in one pass, record by record, without faults or batches."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct

from stream_app import learners
from stream_app.config import Settings
from stream_app.event import Catalog
from stream_app.pipeline import Context, Outputs, next_batch, process
from stream_app.shelves import Shelves
from stream_app.stages import timers
from stream_app.state import PartitionState
from stream_app.steps import (
    Admitted,
    Due,
    Joined,
    Judged,
    OutputRecord,
    Outside,
    RawRecord,
    Scorer,
    Step,
)

CATALOG_VERSION = "7"
TOPIC_ID = "topic-1"

# A timer or an event by what no other has: (kind, key, due time) or ("event", user, offset).
StepName = tuple[str, str | int, int]


class Source(Struct, frozen=True):
    """One source partition: where it begins, and what a reader of it sees."""

    partition: int
    first: int
    records: Sequence[RawRecord]


class Truth(Struct):
    """What one source partition gives: outputs by id, in order, and the state after the last.

    And what each step says of earlier outputs; ``steps`` counts those of a name, which may be two
    timers that close at the same time.
    """

    outputs: dict[str, OutputRecord]
    state: PartitionState
    steps: Counter[StepName]
    judged: dict[StepName, list[Judged]]
    joined: dict[StepName, list[Joined]]

    @property
    def happened(self) -> Counter[str]:
        """How often each kind of thing has happened."""
        found = Counter(record.topic for record in self.outputs.values())
        counts: Counter[str] = Counter({str(topic): count for topic, count in found.items()})
        for (kind, _, _), count in self.steps.items():
            counts[kind] += count
        for judged in self.judged.values():
            counts.update(f"{one.target} judged {one.happened}" for one in judged)
        for joined in self.joined.values():
            counts.update(f"{one.event_type} joined {bool(one.place)}" for one in joined)
        return counts


def identity(headers: Sequence[tuple[str, bytes]]) -> str:
    """Return an output's id."""
    return dict(headers)["ce_id"].decode()


def name_of(step: Step) -> StepName | None:
    """Return the name of an event or timer; other records say nothing of earlier outputs."""
    if isinstance(step, Due):
        return step.kind, step.key, step.due_ms
    if isinstance(step, Admitted):
        return "event", step.arrival.event.user_id, step.arrival.offset
    return None


@contextmanager
def early(warm_each: int) -> Iterator[None]:
    """Let learners predict once they have seen so many samples of each outcome."""
    usual = learners.WARM_EACH
    learners.WARM_EACH = warm_each
    try:
        yield
    finally:
        learners.WARM_EACH = usual


@contextmanager
def _one_by_one(*, wanted: bool) -> Iterator[None]:
    """Let a batch of timers be of one alone, so that what it gives is that timer's."""
    usual = timers.DUE_MAX
    timers.DUE_MAX = 1 if wanted else usual
    try:
        yield
    finally:
        timers.DUE_MAX = usual


def tell(
    source: Source,
    settings: Settings,
    catalog: Catalog,
    slice_max: int = 1,
    ranker: Scorer | None = None,
) -> Truth:
    """Return what one partition must give, cut into slices of at most ``slice_max`` records.

    With slices of one record, batches of timers are of one timer, too. Only then is it told apart
    which step has judged or joined what.
    """
    state, records = PartitionState(), source.records
    outside = Outside(CATALOG_VERSION)
    context = Context(
        settings.stages_in_effect,
        settings.partitions,
        Shelves(catalog.values()),
        outside,
        ranker=ranker,
    )
    state.begin(source.first, settings.partitions, TOPIC_ID)
    truth = Truth({}, state, Counter(), {}, {})
    done = 0
    with _one_by_one(wanted=slice_max == 1):
        while done < len(records):
            waiting = records[done : done + slice_max]
            topic, partition = settings.topic("events"), source.partition
            batch = next_batch(state, topic, partition, waiting, slice_max)
            _enter(truth, process(state, batch, context))
            state.changes()
            done += len(batch.records)
    return truth


def _enter(truth: Truth, outputs: Outputs) -> None:
    """Enter what one batch gives."""
    for record in outputs.records:
        output = identity(record.headers)
        assert output not in truth.outputs, f"the pipeline itself gives {output} twice"
        truth.outputs[output] = record
    names = [name for step in outputs.steps if (name := name_of(step)) is not None]
    truth.steps.update(names)
    if outputs.judged:
        truth.judged.setdefault(names[0], []).extend(outputs.judged)
    if outputs.joined:
        truth.joined.setdefault(names[-1], []).extend(outputs.joined)
