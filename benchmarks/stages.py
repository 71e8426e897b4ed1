"""Each stage alone, on what the stages before it have made of a log: µs of CPU an event.

``python -m benchmarks.stages [STAGE ...]`` prints a table and a last line of JSON. The measurement
of a stage is the function here that has the stage's name; each begins with an empty state, of which
a stage reaches no more than its own sections anyway.
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Log
from benchmarks.in_process import BATCH_RECORDS
from benchmarks.workload import (
    ASKED_ONLY,
    PARTITIONS,
    TOPIC,
    purchases,
    shelves,
    to_logs,
    with_requests,
)
from stream_app import stages
from stream_app.clock import cpu_seconds
from stream_app.pipeline import STAGES, next_batch
from stream_app.schedule import Timers
from stream_app.stages.admit import expire
from stream_app.state import PartitionState
from stream_app.steps import (
    Answers,
    Batch,
    Decoded,
    Outside,
    Received,
    Request,
    Scored,
    Step,
    UserView,
)


class Slice(msgspec.Struct, frozen=True):
    """One batch, and what each stage makes of it."""

    batch: Batch
    log_ms: int  # before it
    decoded: list[Decoded]
    received: list[Received]
    steps: list[Step]
    views: list[UserView]
    requests: list[Request]
    scored: list[Scored]
    answers: Answers


class Prepared(msgspec.Struct, frozen=True):
    """The slices of one partition's log, and how many events they hold."""

    slices: list[Slice]
    events: int


def prepare(log: Sequence[Log], partition: int) -> Prepared:
    """Return what all stages make of a partition's log, slice by slice."""
    state = PartitionState()
    state.begin(0, PARTITIONS, "stages")
    slices: list[Slice] = []
    place = 0
    while place < len(log):
        waiting = log[place : place + BATCH_RECORDS]
        batch = next_batch(state, TOPIC, partition, waiting, BATCH_RECORDS)
        log_ms = state.ledger.log_ms
        decoded = stages.decode.decode(batch.records, log_ms, partition, PARTITIONS, ASKED_ONLY)
        received = stages.admit.admit(state.admissions, decoded, ASKED_ONLY)
        steps = _due_or_received(state.timers, batch, received)
        expire(state.admissions, steps, ASKED_ONLY)
        views = stages.features.describe(state.profiles, steps, ASKED_ONLY)
        forecasts, _ = stages.behavior.foresee(state.foresight, steps, views, ASKED_ONLY)
        assessed = stages.churn.assess(state.watchlist, steps, views, ASKED_ONLY)
        requests = stages.candidates.propose(state.tables, steps, views, ASKED_ONLY, shelves())
        scored = stages.score.score(requests)
        ranked = stages.rerank.rerank(requests, scored, {}, ASKED_ONLY)
        answers = Answers(ranked, [*forecasts, *assessed.forecasts], assessed.alarms)
        stages.emit.emit(state.notes, batch, steps, answers, Outside())
        state.account(steps, batch.records[-1].offset + 1 if batch.records else None)
        state.changes()
        slices.append(
            Slice(batch, log_ms, decoded, received, steps, views, requests, scored, answers)
        )
        place += len(batch.records)
    return Prepared(slices, len(log))


def _due_or_received(timers_: Timers, batch: Batch, received: Sequence[Received]) -> list[Step]:
    if batch.fire_until_ms is None:
        return stages.timers.advance(timers_, received, ASKED_ONLY)
    return list(stages.timers.fire(timers_, batch.fire_until_ms, ASKED_ONLY, stages.timers.DUE_MAX))


# --- a function a stage; each returns the CPU seconds that all slices take -----------------------


def decode(prepared: Prepared) -> float:
    """Bytes to arrivals."""
    began = cpu_seconds()
    for each in prepared.slices:
        batch = each.batch
        stages.decode.decode(batch.records, each.log_ms, batch.partition, PARTITIONS, ASKED_ONLY)
    return cpu_seconds() - began


def admit(prepared: Prepared) -> float:
    """Repeats, consent, erasure; and the end of users who have expired."""
    users = PartitionState().admissions
    began = cpu_seconds()
    for each in prepared.slices:
        stages.admit.admit(users, each.decoded, ASKED_ONLY)
        expire(users, each.steps, ASKED_ONLY)
    return cpu_seconds() - began


def timers(prepared: Prepared) -> float:
    """Timers set, put off and fired, and the cut of the batches."""
    own = PartitionState().timers
    began = cpu_seconds()
    for each in prepared.slices:
        if each.batch.records:
            stages.timers.cut(own, each.batch.records, each.log_ms, BATCH_RECORDS)
        _due_or_received(own, each.batch, each.received)
    return cpu_seconds() - began


def features(prepared: Prepared) -> float:
    """Profiles and the views of them."""
    users = PartitionState().profiles
    began = cpu_seconds()
    for each in prepared.slices:
        stages.features.describe(users, each.steps, ASKED_ONLY)
    return cpu_seconds() - began


def behavior(prepared: Prepared) -> float:
    """What users are about to do, predicted; judged and learned from when horizons close."""
    own = PartitionState().foresight
    began = cpu_seconds()
    for each in prepared.slices:
        stages.behavior.foresee(own, each.steps, each.views, ASKED_ONLY)
    return cpu_seconds() - began


def churn(prepared: Prepared) -> float:
    """Who is likely to stay away, each Sunday and on days of silence."""
    own = PartitionState().watchlist
    began = cpu_seconds()
    for each in prepared.slices:
        stages.churn.assess(own, each.steps, each.views, ASKED_ONLY)
    return cpu_seconds() - began


def candidates(prepared: Prepared) -> float:
    """What is learned of items, and the pools of those who ask."""
    tables, catalog = PartitionState().tables, shelves()
    began = cpu_seconds()
    for each in prepared.slices:
        stages.candidates.propose(tables, each.steps, each.views, ASKED_ONLY, catalog)
    return cpu_seconds() - began


def score(prepared: Prepared) -> float:
    """The scores of all candidates."""
    began = cpu_seconds()
    for each in prepared.slices:
        stages.score.score(each.requests)
    return cpu_seconds() - began


def rerank(prepared: Prepared) -> float:
    """The rules."""
    began = cpu_seconds()
    for each in prepared.slices:
        stages.rerank.rerank(each.requests, each.scored, {}, ASKED_ONLY)
    return cpu_seconds() - began


def emit(prepared: Prepared) -> float:
    """The records to produce."""
    users = PartitionState().notes
    began = cpu_seconds()
    for each in prepared.slices:
        stages.emit.emit(users, each.batch, each.steps, each.answers, Outside())
    return cpu_seconds() - began


BENCHMARKS: dict[str, Callable[[Prepared], float]] = {
    benchmark.__name__: benchmark
    for benchmark in (
        decode,
        admit,
        timers,
        features,
        behavior,
        churn,
        candidates,
        score,
        rerank,
        emit,
    )
}
assert tuple(BENCHMARKS) == STAGES, "a stage has a benchmark of its name"


class StageCost(msgspec.Struct, frozen=True):
    """µs of CPU an event, the median of the repeats, and how many times what `decode` costs."""

    cpu_us: float
    of_decode: float


def run(names: Sequence[str], count: int, repeats: int) -> dict[str, StageCost]:
    """Measure stages on one partition's part of about ``count`` events, one in five a request."""
    logs = to_logs(with_requests(purchases(count * 4 // 5)))
    partition, log = max(logs.items(), key=lambda entry: len(entry[1]))
    prepared = prepare(log, partition)
    wanted = ["decode", *(name for name in names if name != "decode")]
    seconds: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(repeats):
        for name in wanted:
            seconds[name].append(BENCHMARKS[name](prepared))
    reference = median(seconds["decode"])
    return {
        name: StageCost(
            round(median(seconds[name]) / prepared.events * 1e6, 2),
            round(median(seconds[name]) / reference, 2),
        )
        for name in names
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("stage", nargs="*", help=f"some of: {', '.join(STAGES)}")
    parser.add_argument("--events", type=int, default=100_000, help="default 100,000")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")
    given = parser.parse_args(arguments)
    for name in given.stage:
        if name not in BENCHMARKS:
            parser.error(f"there is no stage {name!r}; there are: {', '.join(STAGES)}")
    costs = run(given.stage or STAGES, given.events, given.repeats)
    table = Table("stage", title="Each stage alone, one event in five a request")
    table.add_column("µs an event", justify="right")
    table.add_column("of decode", justify="right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost.cpu_us:.2f}", f"{cost.of_decode:.2f}")
    Console().print(table)
    print(msgspec.json.encode(costs).decode())


if __name__ == "__main__":
    main()
