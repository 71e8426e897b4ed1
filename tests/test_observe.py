"""What is entered into the metrics is what was committed, once, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from stream_app import metrics
from stream_app.config import Settings
from stream_app.errors import CommitError
from stream_app.event import encode
from stream_app.judge import Kind
from stream_app.pipeline import Outputs, next_batch, process
from stream_app.runtime.changelog import KeyValue
from stream_app.runtime.observe import Observer
from stream_app.runtime.sink import Commit
from stream_app.runtime.task import PartitionTask, Ports, World
from stream_app.steps import SOURCES, Answers, Batch, Forecast, Joined, Judged, Ranked, Scored
from tests.conftest import MINUTE_MS, START_MS, Record, context, event, fresh, request

PROGRAM = Settings(app="observed", partitions=1, replay=True, commit_interval_ms=0)
KIND = Kind("purchase", 30 * MINUTE_MS)
LABELS = {"target": "purchase", "horizon": "30m"}
PARTITION = 0


def value(name: str, **labels: str) -> float:
    """Return the value of a metric, 0 before it is set."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def outputs(judged: Sequence[Judged] = (), joined: Sequence[Joined] = (), **over: Any) -> Outputs:
    """Return the outputs of a batch in which nothing else happened."""
    return Outputs([], [], list(judged), list(joined), Answers(**over))


def case(probability: float, *, happened: bool) -> Judged:
    """Return a case that was known after two seconds."""
    return Judged(*KIND, probability, happened, delay_ms=2_000)


def commit(observer: Observer, done: Outputs, partition: int = PARTITION) -> None:
    """Tell an observer of a committed batch."""
    observer.committed(Batch("events", partition, ()), done, [], 0.01)


@pytest.fixture
def observer() -> Iterator[Observer]:
    """Return an observer, and take its gauges down in the end."""
    made = Observer(PROGRAM, lambda: 0)
    yield made
    for partition in made.judge.partitions:
        made.forget(partition)


def test_figures_are_published_for_partitions_and_the_whole(observer: Observer) -> None:
    """Each partition's figures and those of all stand in the gauges, NaN where none is known."""
    right = [case(0.75, happened=True), case(0.25, happened=False)]
    wrong = [case(0.25, happened=True), case(0.75, happened=False)]
    before = value("stream_app_judged_total", **LABELS, partition="1")
    commit(observer, outputs(right), 1)
    commit(observer, outputs(wrong), 2)
    for _ in range(2):
        observer.publish()
    found = {
        partition: value("stream_app_auc", **LABELS, partition=partition)
        for partition in ("1", "2", "all")
    }
    assert found == {"1": 1.0, "2": 0.0, "all": 0.5}
    assert value("stream_app_label_delay_seconds", **LABELS, partition="all") == 2.0
    assert value("stream_app_judged_total", **LABELS, partition="1") - before == 2
    observer.forget(1)
    assert REGISTRY.get_sample_value("stream_app_auc", {**LABELS, "partition": "1"}) is None


def test_what_became_of_recommendations_is_counted(observer: Observer) -> None:
    """Clicks count by place and by each source; a place that is not known has a label too."""
    names = [
        ("stream_app_recommended_places_total", {"event": "click", "place": "2"}),
        ("stream_app_recommended_places_total", {"event": "click", "place": "unknown"}),
        ("stream_app_recommended_places_total", {"event": "unnamed_purchase", "place": "1"}),
        ("stream_app_recommended_sources_total", {"event": "click", "source": "repeat"}),
        ("stream_app_recommended_sources_total", {"event": "click", "source": "trending"}),
        ("stream_app_recommended_sources_total", {"event": "click", "source": "popular"}),
    ]
    before = [value(name, **labels) for name, labels in names]
    joined = [
        Joined("click", 2, 1 | 4, named=True),
        Joined("click", 2, 1, named=True),
        Joined("click", 0, 0, named=True),
        Joined("purchase", 1, 8, named=False),
    ]
    commit(observer, outputs(joined=joined))
    after = [value(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1, 2, 1, 0]


def test_each_source_has_a_label(observer: Observer) -> None:
    """An item of all sources counts for each of the seven, and there are no other labels."""
    name = "stream_app_recommended_sources_total"
    labels = [{"event": "impression", "source": source} for source in SOURCES.values()]
    before = [value(name, **each) for each in labels]
    commit(observer, outputs(joined=[Joined("impression", 1, 255, named=True)]))
    after = [value(name, **each) for each in labels]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1] * 7
    (family,) = metrics.SOURCES.collect()
    assert {sample.labels["source"] for sample in family.samples} <= set(SOURCES.values())


def test_predictions_are_counted_by_target(observer: Observer) -> None:
    """A prediction of two targets counts for each."""
    before = value("stream_app_predictions_total", **LABELS)
    forecast = Forecast(0, "u", 0, KIND.horizon_ms, {"purchase": 0.5, "share": 0.1}, "m")
    commit(observer, outputs(forecasts=[forecast, forecast]))
    assert value("stream_app_predictions_total", **LABELS) - before == 2


def test_answers_are_counted_by_model_and_fallback(observer: Observer) -> None:
    """A recommendation counts for what scored it, and tells a fallback from a model's answer."""
    labels = [
        {"model": "tiny", "fallback": "none"},
        {"model": "linear-formula", "fallback": "linear-formula"},
    ]
    before = [value("stream_app_answers_total", **each) for each in labels]
    by_model = Scored((), "tiny", "7", None)
    by_formula = Scored((), "linear-formula", "1", "linear-formula")
    ranked = [Ranked(request(), each, (), "") for each in (by_model, by_formula, by_model)]
    unsent = Ranked(request(type="view", item_id="i"), by_formula, (), "")  # nobody asked
    commit(observer, outputs(ranked=[*ranked, unsent]))
    after = [value("stream_app_answers_total", **each) for each in labels]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1]


# --- a task whose commits fail now and then -------------------------------------------------------


@dataclass
class Store:
    """A broker's part: the log, the changelog, and commits of which every third does not land."""

    log: list[Record]
    rows: dict[bytes, bytes] = field(default_factory=dict)
    attempts: int = 0
    failed: int = 0

    async def fence(self) -> bool:
        """Let memory be valid: the state is dropped by the task when a commit fails."""
        return True

    async def commit(self, commit: Commit) -> None:
        """Store the rows, or refuse."""
        self.attempts += 1
        if self.attempts % 3 == 0:
            self.failed += 1
            raise CommitError("refused")
        for key, row in commit.changes:
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    async def close(self) -> None:
        """Do nothing."""

    async def read(self, _topic: str, _partition: int) -> AsyncIterator[Sequence[KeyValue]]:
        """Yield the rows."""
        yield list(self.rows.items())

    async def bounds(self, _topic: str, _partition: int) -> tuple[int, int]:
        """Return where the log begins and ends."""
        return 0, len(self.log)

    def pause(self, partition: int) -> None:
        """Do nothing."""

    def resume(self, partition: int) -> None:
        """Do nothing."""

    async def seek(self, _partition: int, position: int) -> None:
        """Deliver from there."""
        self.task.deliver(position, self.log[position:])

    def highwater(self, _partition: int) -> int | None:
        """Return the end of the log."""
        return len(self.log)

    def read_position(self, _partition: int) -> int | None:
        """Return the end of the log: all has been delivered."""
        return len(self.log)

    def __post_init__(self) -> None:
        """Have no task yet."""
        self.task: Any = None


def sessions(count: int) -> list[Record]:
    """Return a log in which every second user buys after a look, ten minutes apart."""
    log: list[Record] = []
    for number in range(count):
        for kind in ("view", "purchase") if number % 2 else ("view",):
            made = event(
                event_id=f"e-{len(log)}",
                type=kind,
                user_id=f"u-{number}",
                session_id=f"s-{number}",
                timestamp=START_MS + 10 * MINUTE_MS * len(log),
            )
            key = made.user_id.encode()
            log.append(Record(len(log), START_MS + 10 * MINUTE_MS * len(log), key, encode(made)))
    return log


def judged_in(log: Sequence[Record], settings: Settings) -> int:
    """Return how many predictions a process judges to which nothing happens."""
    state, place, judged = fresh(), 0, 0
    while place < len(log):
        window = log[place : place + 16]
        batch = next_batch(state, "clickstream.events", PARTITION, window, 16)
        judged += len(process(state, batch, context(settings.stages)).judged)
        state.changes()
        place += len(batch.records)
    return judged


def test_a_batch_that_was_not_confirmed_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With commits that fail and are made again, each prediction is judged exactly once."""
    monkeypatch.setattr("stream_app.runtime.task.RETRY_SECONDS", (0.0,))
    stages = PROGRAM.stages.model_copy(update={"learn_share_session": 1.0})
    settings = PROGRAM.model_copy(update={"stages": stages, "batch_records_max": 16})
    store = Store(sessions(120))

    async def main() -> Observer:
        observer = Observer(settings, lambda: 0)
        ports = Ports(store, store, lambda _: store, lambda: 0, World(), 1, "topic-id")
        task = store.task = PartitionTask(PARTITION, ports, settings, lambda: 0.0, observer)
        await task.open()
        running = asyncio.create_task(task.run())
        await asyncio.sleep(0)
        task.deliver(0, store.log)
        while not running.done():
            position = task.state.ledger.position if task.state is not None else 0
            if position == len(store.log) and not task.busy:
                break
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return observer

    observer = asyncio.run(main())
    cases = sum(figures.cases for figures in observer.judge.figures(PARTITION).values())
    assert store.failed > 5
    assert cases == judged_in(store.log, settings) > 50
