"""What is entered into the metrics is what was committed, once, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from aiokafka import errors as kafka
from msgspec.structs import replace
from prometheus_client import REGISTRY

from stream_app import metrics
from stream_app.config import Settings
from stream_app.errors import CommitError, FencedError, ModelFault
from stream_app.event import EVENT_TYPES, REJECT_REASONS, encode
from stream_app.hashing import partition_for
from stream_app.judge import Kind
from stream_app.pipeline import Outputs, next_batch, process
from stream_app.runtime.changelog import KeyValue
from stream_app.runtime.observe import _PER_PARTITION, MODELS_MAX, OTHER, Observer, reason_of
from stream_app.runtime.sink import Commit
from stream_app.runtime.task import PartitionTask, Ports, World
from stream_app.runtime.worker import Worker
from stream_app.sources.synthetic import SyntheticShop
from stream_app.sources.synthetic_shop import FIRST
from stream_app.stages.emit import JOINED_EVENTS
from stream_app.steps import SOURCES, Answers, Batch, Forecast, Joined, Judged, Ranked, Scored
from tests.conftest import MINUTE_MS, START_MS, Record, context, event, fresh, request

PROGRAM = Settings(app="observed", partitions=1, replay=True, commit_interval_ms=0)
HORIZONS_MS = [PROGRAM.stages.horizon_ms(in_session=each) for each in (True, False)]
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
    """An item of all sources counts for each, and there are no other labels."""
    name = "stream_app_recommended_sources_total"
    labels = [{"event": "impression", "source": source} for source in SOURCES.values()]
    before = [value(name, **each) for each in labels]
    commit(observer, outputs(joined=[Joined("impression", 1, 255, named=True)]))
    after = [value(name, **each) for each in labels]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1] * len(SOURCES)
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


def test_models_beyond_a_few_share_a_label(observer: Observer) -> None:
    """However many models are tried out, their names are few as labels."""
    scored = [Scored((), f"model-{number}", "1", None) for number in range(20)]
    before = value("stream_app_answers_total", model=OTHER, fallback="none")
    commit(observer, outputs(ranked=[Ranked(request(), each, (), "") for each in scored]))
    after = value("stream_app_answers_total", model=OTHER, fallback="none")
    assert after - before == 20 - MODELS_MAX


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FencedError("a newer owner"), "fenced"),
        (kafka.KafkaTimeoutError(), "timeout"),
        (kafka.RequestTimedOutError(), "timeout"),
        (kafka.KafkaConnectionError(), "unreachable"),
        (kafka.MessageSizeTooLargeError(), "too_large"),
        (kafka.TopicAuthorizationFailedError(), "not_authorized"),
        (kafka.InvalidTxnState(), "other"),
        (None, "other"),
    ],
)
def test_failed_commits_are_counted_by_reason(
    observer: Observer, error: Exception | None, reason: str
) -> None:
    """What the client said becomes one of few reasons; fenced is told from failed."""
    failed = error if isinstance(error, CommitError) else CommitError("not confirmed")
    if failed is not error:
        failed.__cause__ = error
    outcome = "fenced" if reason == "fenced" else "failed"
    names = [
        ("stream_app_commit_failures_total", {"reason": reason}),
        ("stream_app_commits_total", {"outcome": outcome}),
    ]
    before = [value(name, **labels) for name, labels in names]
    observer.failed(failed)
    after = [value(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]
    assert reason_of(failed) == reason


def clear() -> None:
    """Take down the labels that other tests have set."""
    for collector in vars(metrics).values():
        if getattr(collector, "_labelnames", ()):
            collector.clear()


def series() -> dict[str, int]:
    """Return how many series there are of each of our metrics."""
    counts: dict[str, int] = {}
    for family in REGISTRY.collect():
        if family.name.startswith("stream_app_"):
            counts[family.name] = len(family.samples)
    return counts


def test_what_alerts_are_about_begins_at_zero() -> None:
    """Before anything happens, each reason, outcome, topic and level has a series, at 0."""
    clear()
    Observer(PROGRAM, lambda: 0)
    for name, label, values in (
        ("stream_app_rejects_total", "reason", REJECT_REASONS),
        ("stream_app_records_total", "outcome", ("processed", "rejected", "duplicate", "tick")),
        ("stream_app_commits_total", "outcome", ("confirmed", "failed", "fenced")),
        ("stream_app_commit_failures_total", "reason", ("fenced", "timeout", "other")),
        ("stream_app_model_refusals_total", "reason", get_args(ModelFault)),
        ("stream_app_outputs_total", "topic", ("recommendations", "dead_letter")),
        ("stream_app_churn_alerts_total", "level", ("watch", "warning", "critical")),
        ("stream_app_events_total", "type", set(EVENT_TYPES) - {"tick"}),
    ):
        found = {each: REGISTRY.get_sample_value(name, {label: each}) for each in values}
        assert found == dict.fromkeys(values, 0.0), name
    labels = {"target": "churn", "horizon": "28d", "direction": "worse"}
    assert REGISTRY.get_sample_value("stream_app_drifts_total", labels) == 0


def weird(partitions: int) -> list[list[Record]]:
    """Return logs with many faults, and with free text in whatever an event may hold."""
    logs: list[list[Record]] = [[] for _ in range(partitions)]
    shop = SyntheticShop(replace(FIRST, broken_rate=0.3, duplicate_rate=0.2, late_rate=0.1))
    free = [
        (
            f"user \u2603 {number}".encode(),
            encode(
                event(
                    event_id=f"x-{number}",
                    user_id=f"user \u2603 {number}",
                    type=("click", f"type-{number}", "share", "search")[number % 4],
                    item_id=f"item {number}\n",
                    category=f"category-{number}",
                    recommendation_id=f"rec-{number}",
                    context={f"field-{number}": f"text {number}", "position": -number},
                    source=f"source-{number}",
                    timestamp=START_MS + number,
                )
            ),
            START_MS + number,
        )
        for number in range(200)
    ]
    for key, data, time_ms in (*free, *shop.records(3_000), (b"", b"\xff", START_MS)):
        log = logs[partition_for(key, partitions)]
        log.append(Record(len(log), time_ms or 0, key, data))
    return logs


@pytest.mark.parametrize("partitions", [1, 8])
def test_series_are_bounded(partitions: int) -> None:
    """Whatever records hold, a process has no more series than its partitions allow."""
    clear()
    observer = Observer(PROGRAM, lambda: 0)
    timer = metrics.StageTimer()
    kinds = {
        *((target, ms) for target in ("purchase", "comment", "share") for ms in HORIZONS_MS),
        ("churn", PROGRAM.stages.churn_horizon_ms),
    }
    cases = [Judged(*kind, 0.5, happened=happened) for kind in kinds for happened in (True, False)]
    seen = context(PROGRAM.stages, partitions=partitions, lap=timer.lap)
    for partition, log in enumerate(weird(partitions)):
        state, place = fresh(), 0
        while place < len(log):
            batch = next_batch(state, "events", partition, log[place : place + 64], 64)
            timer.start()
            done = process(state, batch, seen)
            observer.committed(batch, done, state.changes(), 0.01)
            place += len(batch.records)
        for gauge in _PER_PARTITION:
            for kind in ("user", "item"):
                gauge.labels(*(partition, kind)[: len(gauge._labelnames)]).set(1)
        commit(observer, outputs(cases), partition)
    joined = [
        Joined(event, place, 255, named=named)
        for event in sorted(JOINED_EVENTS)
        for place in range(60)
        for named in (True, event != "purchase")
    ]
    commit(observer, outputs(joined=joined))
    models = [Ranked(request(), Scored((), f"m-{n}", "1", None), (), "") for n in range(50)]
    commit(observer, outputs(ranked=models))
    for _ in range(partitions):
        observer.publish()
    found = series()
    assert found["stream_app_rejects"] == len(REJECT_REASONS)
    assert found["stream_app_events"] == len(EVENT_TYPES) - 1
    assert found["stream_app_auc"] == len(kinds) * (partitions + 1)
    most = metrics.series_max(partitions)
    assert 0.8 * most < sum(found.values()) <= most, found
    for partition in range(partitions):
        observer.forget(partition)
    left = series()
    assert sum(left[gauge._name] for gauge in _PER_PARTITION) == 0


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


@pytest.mark.parametrize("replay", [False, True])
def test_lag_is_measured_in_records_and_seconds(
    monkeypatch: pytest.MonkeyPatch, *, replay: bool
) -> None:
    """Lag is the age of the oldest record that waits, 0 once all is committed; none in a replay."""
    clear()
    monkeypatch.setattr("stream_app.runtime.task.RETRY_SECONDS", (0.0,))
    settings = PROGRAM.model_copy(update={"replay": replay})
    log = sessions(2)
    store, now_ms = Store(log), log[-1].timestamp + 5_000
    names = ["lag_records", "lag_seconds", "stalled_seconds", "last_commit_timestamp_seconds"]

    def measured(worker: Worker) -> list[float | None]:
        worker.check()
        return [
            REGISTRY.get_sample_value(f"stream_app_{name}", {"partition": str(PARTITION)})
            for name in names
        ]

    async def main() -> tuple[list[float | None], list[float | None]]:
        ports = Ports(store, store, lambda _: store, lambda: now_ms, World(), 1, "topic-id")
        worker = Worker(settings, ports, lambda error: pytest.fail(str(error)))
        await worker.assign({PARTITION})
        task = store.task = worker.tasks[PARTITION]
        worker.start()
        await asyncio.sleep(0)
        worker.deliver(PARTITION, 0, log)
        before = measured(worker)
        for _ in range(10_000):
            await asyncio.sleep(0)
            if task.state is not None and not task.waiting and not task.busy:
                break
        after = measured(worker)
        await worker.stop()
        return before, after

    before, after = asyncio.run(main())
    age = (now_ms - log[0].timestamp) / 1000
    assert before == [len(log), None if replay else age, pytest.approx(0, abs=1), None]
    assert after == [0, None if replay else 0, 0, now_ms / 1000]


def test_a_partition_that_is_given_up_leaves_no_gauge(observer: Observer) -> None:
    """What a partition had to show goes with it, so that no lag stands still for ever."""
    clear()
    for gauge in _PER_PARTITION:
        gauge.labels(*(1, "user")[: len(gauge._labelnames)]).set(7)
    observer.forget(1)
    assert all(not next(iter(gauge.collect())).samples for gauge in _PER_PARTITION)
