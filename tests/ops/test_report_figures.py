"""The report's figures, against values worked out by hand or by brute force."""

import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from stream_app.config import DAY_MS
from stream_app.event import (
    Cause,
    ChurnAlert,
    Event,
    Prediction,
    RankedItem,
    Recommendation,
    encode,
)
from stream_app.judge import Kind
from stream_app.ops.report_events import Book, EventFigures, Rejects
from stream_app.ops.report_foresight import Alerts, Forecasts, happened
from stream_app.ops.report_hits import AnswerFigures, Answers, Habit, Shares, followed
from stream_app.ops.report_metrics import Workers
from stream_app.ops.report_series import WINDOWS_MAX, Durations, Series
from stream_app.stages.decode import TICK_VALUE
from tests.conftest import MINUTE_MS, START_MS, Record, event

HORIZON_MS = 7 * DAY_MS


def log(*values: Event | bytes) -> list[Record]:
    """Return a partition's records of these events, dated by them."""
    return [
        Record(offset, START_MS, b"k", each)
        if isinstance(each, bytes)
        else Record(offset, int(str(each.timestamp)), b"k", encode(each))
        for offset, each in enumerate(values)
    ]


def deed(number: int, kind: str, item: str, time_ms: int, **over: Any) -> Event:
    """Return what a user did, so many ms after the start."""
    fields = {"type": kind, "item_id": item, "timestamp": START_MS + time_ms}
    return event(event_id=f"e-{number}", **(fields | over))


def book_of(*values: Event | bytes, **over: Any) -> tuple[Book, EventFigures]:
    """Return what a book makes of one partition."""
    book = Book(Rejects(), **over)
    book.take(0, log(*values))
    return book, book.close()


def answer(offset: int, time_ms: int, *items: str, **over: Any) -> Record:
    """Return the recommendation that the event at an offset caused."""
    fields: dict[str, Any] = {
        "recommendation_id": f"r-{offset}",
        "user_id": "u-1",
        "timestamp": START_MS + time_ms,
        "items": [
            RankedItem(item, rank, 1.0, ["repeat"], []) for rank, item in enumerate(items, 1)
        ],
        "cause": Cause("e", "t", 0, offset),
        "model": "m",
        "model_version": "1",
        "fallback_level": None,
        "service_level": 0,
        "variant": "exploit",
        "catalog_version": "0",
    }
    value = Recommendation(**(fields | over))
    return Record(offset, value.timestamp + 250, b"k", encode(value))


def prediction(
    number: int, time_ms: int, probability: float, target: str = "purchase", **over: Any
) -> Record:
    """Return a prediction of one target."""
    fields: dict[str, Any] = {
        "prediction_id": f"p-{number}",
        "user_id": "u-1",
        "timestamp": START_MS + time_ms,
        "horizon_ms": HORIZON_MS,
        "probabilities": {target: probability},
        "cause": None,
        "model": "m",
        "model_version": "1",
    }
    return Record(number, START_MS, b"k", encode(Prediction(**(fields | over))))


def alert(number: int, user: str, day: int, level: str) -> Record:
    """Return an alert about a user on a day."""
    time_ms = START_MS + day * DAY_MS
    value = ChurnAlert(
        alert_id=f"a-{number}",
        user_id=user,
        timestamp=time_ms,
        horizon_ms=HORIZON_MS,
        risk=0.5,
        level=level,  # type: ignore[arg-type]
        reasons=[],
        offer="reminder",
        model="m",
        model_version="1",
    )
    return Record(number, time_ms, b"k", encode(value))


def answers_of(values: Sequence[Event], records: Iterable[Record], **over: Any) -> AnswerFigures:
    """Return the figures of recommendations after these events."""
    book, events = book_of(*values)
    answers = Answers(book, events, HORIZON_MS, **over)
    answers.take(0, list(records))
    return answers.close()


def items_of(book: Book, numbers: Iterable[int]) -> set[str]:
    """Return items by their ids."""
    names = list(book.items)
    return {names[number] for number in numbers}


# --- time -----------------------------------------------------------------------------------------


def test_series_do_not_depend_on_the_order() -> None:
    """However times come, the same windows come out, few enough, and nothing is lost."""
    random_times = random.Random(1)
    times = [random_times.randrange(400 * DAY_MS) for _ in range(2_000)]
    results = []
    for order in (times, sorted(times), sorted(times, reverse=True)):
        series = Series()
        for time_ms in order:
            series.add(time_ms, "a" if time_ms % 3 else "b")
        assert series.windows.count <= WINDOWS_MAX
        results.append((series.windows, series.rows()))
    assert results[0] == results[1] == results[2]
    assert sum(map(sum, results[0][1].values())) == len(times)


def test_durations_are_within_a_tenth() -> None:
    """A percentile is no more than a tenth above the true one."""
    chance = random.Random(2)
    samples = sorted(chance.lognormvariate(3, 2) for _ in range(5_000))
    durations = Durations(samples)
    for percent in (50, 90, 99):
        true = samples[-(-len(samples) * percent // 100) - 1]
        assert true <= (durations.percentile(percent) or 0) <= 1.1001 * true


# --- what came in ---------------------------------------------------------------------------------


def test_accounts_of_the_topics_are_even() -> None:
    """Every record is processed, rejected, a duplicate or something else; each counts once."""
    values = [deed(n, "view", "a", n) for n in range(5)]
    records = log(*values, values[0], b"broken", TICK_VALUE)
    rejects = Rejects()
    headers = (
        ("source_partition", b"0"),
        ("source_offset", b"6"),
        ("reject_reason", b"not_json"),
    )
    letter = Record(0, START_MS, None, b"broken", headers)
    rejects.take(0, [letter, letter])  # at least once: the same may be there twice
    book = Book(rejects)
    book.take(0, records)
    events = book.close()
    told = events.consumed, events.processed, events.rejected, events.repeats, events.others
    assert told == (8, 5, 1, 1, 1)
    assert events.reasons == {"not_json": 1}
    assert {name: sum(row) for name, row in events.types.items()} == {"view": 6}


def test_rejected_events_do_not_count_as_purchases() -> None:
    """An event that reads well but was rejected is not joined to anything."""
    rejects = Rejects()
    headers = (("source_partition", b"0"), ("source_offset", b"1"), ("reject_reason", b"no_key"))
    rejects.take(3, [Record(9, START_MS, None, b"", headers)])
    book = Book(rejects)
    book.take(0, log(deed(0, "purchase", "a", 0), deed(1, "purchase", "b", 1)))
    book.close()
    assert len(book.users["u-1"].times_ms) == 1


def test_sample_has_whole_users_and_is_the_same_in_any_order() -> None:
    """Beyond the limit, users are left out whole, the same ones however the log is read."""
    logs = [
        log(*(deed(n, "purchase", "a", n, user_id=f"u-{p}-{n % 20}") for n in range(200)))
        for p in range(3)
    ]
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        book = Book(Rejects(), 150)
        for partition in order:
            book.take(partition, logs[partition])
        events = book.close()
        assert events.consumed == 600
        assert 0 < events.kept <= 150
        assert 0 < events.share < 1
        assert all(len(user.times_ms) == 10 for user in book.users.values())
        assert events.users == round(len(book.users) / events.share)
        found.append((sorted(book.users), events.share))
    assert found[0] == found[1]


def test_popular_knows_only_the_past() -> None:
    """What is popular in a step of time was bought before it; none before the first."""
    values = [
        deed(0, "purchase", "a", 0),
        deed(1, "purchase", "b", DAY_MS),
        deed(2, "purchase", "b", DAY_MS + 1),
        deed(3, "view", "c", 0),
    ]
    book, _ = book_of(*values)
    popular = book.popular(DAY_MS)
    assert popular.items(START_MS, 5) == []
    assert items_of(book, popular.items(START_MS + DAY_MS + 5, 5)) == {"a"}
    assert [list(book.items)[n] for n in popular.items(START_MS + 2 * DAY_MS, 5)] == ["b", "a"]
    assert popular.items(START_MS + 2 * DAY_MS, 1) == [book.items["b"]]


# --- hits -----------------------------------------------------------------------------------------


def test_followed_minds_ties_orders_and_ends() -> None:
    """What counts is later in the log, of another order, and not beyond the horizon."""
    values = [
        deed(0, "purchase", "before", 0, order_id="o-0"),
        deed(1, "purchase", "cause", 0, order_id="o-1"),
        deed(2, "purchase", "same order", 0, order_id="o-1"),
        deed(3, "purchase", "same time", 0, order_id="o-2"),
        deed(4, "click", "clicked", 5),
        deed(5, "purchase", "at the end", HORIZON_MS, order_id="o-3"),
        deed(6, "purchase", "too late", HORIZON_MS + 1, order_id="o-4"),
        deed(7, "purchase", "told late", 6, order_id="o-5"),
        deed(8, "purchase", "past", -1, order_id="o-6"),
    ]
    book, _ = book_of(*values)
    bought, clicked = followed(book.users["u-1"], START_MS, 1, HORIZON_MS)
    assert items_of(book, bought) == {"same time", "at the end", "told late"}
    assert items_of(book, clicked) == {"clicked"}


def test_followed_without_orders_takes_a_second_for_one() -> None:
    """Without order ids, what was bought in the second of the cause is the same order."""
    values = [
        deed(0, "purchase", "cause", 0),
        deed(1, "purchase", "rest", 999),
        deed(2, "purchase", "next", 1_000),
    ]
    book, _ = book_of(*values)
    bought, _ = followed(book.users["u-1"], START_MS, 0, HORIZON_MS)
    assert items_of(book, bought) == {"next"}


def test_hits_are_those_worked_out_by_hand() -> None:
    """Shares by place, source and model, and of best sellers, are right to the last case."""
    end = 20 * DAY_MS
    values = [
        deed(0, "purchase", "best", 0, user_id="u-2"),
        deed(1, "view", "x", 2 * DAY_MS),
        deed(2, "click", "a", 2 * DAY_MS + 1),
        deed(3, "purchase", "b", 3 * DAY_MS),
        deed(4, "view", "x", 4 * DAY_MS),
        deed(5, "purchase", "best", 5 * DAY_MS),
        deed(6, "view", "x", end),
    ]
    two = [RankedItem("z", 1, 1.0, ["popular", "new"], []), RankedItem("best", 2, 1.0, ["new"], [])]
    records = [
        answer(1, 2 * DAY_MS, "a", "b"),  # a is clicked on, b bought; best sellers too
        answer(1, 2 * DAY_MS, "a", "b"),  # the same again, after a crash
        answer(4, 4 * DAY_MS, items=two, model="formula", fallback_level="formula"),
        answer(6, end, "a"),  # its horizon is open
        answer(7, end, user_id="u-9"),  # an empty one
    ]
    found = answers_of(values, records)
    assert (found.count, found.repeats, found.empty, found.distinct) == (4, 1, 1, 4)
    hits = found.hits
    assert hits.all == Shares(shown=2, bought=2, clicked=1)
    assert hits.popular == Shares(shown=2, bought=2, clicked=0)
    assert hits.usual == Shares(shown=2, bought=0, clicked=0), "nothing, then b"
    assert hits.places == {1: Shares(2, 0, 1), 2: Shares(2, 2, 0)}
    assert hits.sources == {
        "new": Shares(2, 1, 0),
        "repeat": Shares(2, 1, 1),
        "popular": Shares(1, 0, 0),
    }
    assert hits.models == {"formula (fallback)": Shares(1, 1, 0), "m": Shares(1, 1, 1)}
    assert (hits.unclosed, hits.early, hits.unjoined) == (1, 0, 0)
    assert sum(each.shown for each in hits.windows) == 2
    assert found.top[:2] == [("a", 2), ("b", 1)]


def test_habit_is_what_was_bought_most_before() -> None:
    """What a user buys most is counted up to a time; equals stand as they were bought first."""
    items = ("b", "a", "a", "c")
    values = [deed(n, "purchase", item, n * DAY_MS) for n, item in enumerate(items)]
    values.append(deed(9, "view", "d", 0))
    book, _ = book_of(*values)
    names, habit = list(book.items), Habit(book.users["u-1"])
    told = [
        [names[number] for number in habit.items(START_MS + day * DAY_MS, count)]
        for day, count in ((0, 5), (2, 5), (3, 5), (4, 2))
    ]
    assert told == [[], ["b", "a"], ["a", "b"], ["a", "b"]]


def test_hits_of_what_a_model_learned_from_do_not_count() -> None:
    """Recommendations before the end of the model's data are left out of all but the time line."""
    values = [
        deed(0, "view", "x", 0),
        deed(1, "purchase", "a", 1),
        deed(2, "view", "x", DAY_MS),
        deed(3, "view", "x", 30 * DAY_MS),
    ]
    records = [answer(0, 0, "a"), answer(2, DAY_MS, "a")]
    found = answers_of(values, records, counted_from_ms=START_MS + DAY_MS).hits
    assert (found.early, found.all) == (1, Shares(1, 0, 0))
    assert sum(each.bought for each in found.windows) == 1


def test_lag_is_told_of_live_logs_only() -> None:
    """From an event's time to its recommendation's record; nothing where the log is a replay."""
    values = [deed(0, "view", "x", 0)]
    records = [answer(0, 0, "a")]
    assert answers_of(values, records).lag is None
    ((count, median, _),) = answers_of(values, records, live=True).lag or ()
    assert count == 1
    assert 250 <= (median or 0) <= 275


# --- predictions ----------------------------------------------------------------------------------


def test_happened_is_what_the_worker_means_by_it() -> None:
    """After the time, within the horizon, and no rest of an order that had begun."""
    values = [
        deed(0, "purchase", "a", 0, order_id="o-1"),
        deed(1, "purchase", "b", 60_000, order_id="o-1"),
        deed(2, "comment", "a", HORIZON_MS),
        deed(3, "purchase", "c", HORIZON_MS + MINUTE_MS, order_id="o-2"),
    ]
    book, _ = book_of(*values)
    user = book.users["u-1"]
    kind = Kind("purchase", HORIZON_MS)
    assert not happened(user, kind, START_MS, 0), "the rest of the order only"
    assert not happened(user, kind, START_MS + 60_000 - 1, 1), "the same by the last order before"
    assert happened(user, kind, START_MS + MINUTE_MS, 1), "just at the end of the horizon"
    assert happened(user, Kind("comment", HORIZON_MS), START_MS, 0)
    assert not happened(user, Kind("comment", HORIZON_MS), START_MS + HORIZON_MS, 0), "not after it"
    assert not happened(user, Kind("churn", HORIZON_MS), START_MS, None)
    assert happened(user, Kind("churn", HORIZON_MS), START_MS + HORIZON_MS + MINUTE_MS, None)


def test_auc_and_calibration_are_those_of_brute_force() -> None:
    """Over all pairs of a hit and a miss, ties for half; and by bins of a tenth."""
    chance = random.Random(3)
    step_ms = 2 * HORIZON_MS
    cases: list[tuple[float, bool]] = []
    values: list[Event] = []
    records = []
    for number in range(300):
        probability = float(np.float16(chance.random()))
        hit = chance.random() < probability**2
        cases.append((probability, hit))
        values.append(deed(2 * number, "view", "x", number * step_ms))
        if hit:
            values.append(deed(2 * number + 1, "purchase", "a", number * step_ms + 5_000))
        records.append(prediction(number, number * step_ms, probability))
    values.append(deed(10_000, "view", "x", 301 * step_ms))
    records.append(prediction(10_000, 301 * step_ms, 0.5))  # still open
    book, events = book_of(*values)
    forecasts = Forecasts(book, events)
    forecasts.take(0, records)
    (found,) = forecasts.close(0.3)
    assert (found.target, found.sent, found.horizon) == ("purchase", 301, "7d")
    assert found.figures is not None
    assert found.figures.cases == 300
    pairs = list(product((p for p, hit in cases if hit), (p for p, hit in cases if not hit)))
    auc = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert found.figures.auc == pytest.approx(auc)
    assert found.figures.base_rate == pytest.approx(sum(hit for _, hit in cases) / 300)
    for place, one in enumerate(found.bins):
        inside = [(p, hit) for p, hit in cases if place <= 10 * p < place + 1]
        assert one.count == len(inside)
        if inside:
            assert one.predicted == pytest.approx(sum(p for p, _ in inside) / len(inside))
            assert one.happened == pytest.approx(sum(hit for _, hit in inside) / len(inside))
    assert sum(count for count, _, _ in found.windows) == 300


def test_predictions_that_a_crash_repeated_count_once() -> None:
    """One with the cause of an earlier one is passed over."""
    values = [deed(0, "view", "x", 0), deed(1, "view", "x", 30 * DAY_MS)]
    book, events = book_of(*values)
    forecasts = Forecasts(book, events)
    cause = Cause("e", "t", 0, 0)
    forecasts.take(0, [prediction(0, 0, 0.5, cause=cause), prediction(0, 0, 0.5, cause=cause)])
    (found,) = forecasts.close(0.3)
    assert found.sent == 1


def test_windows_with_few_cases_stay_open() -> None:
    """An area under the curve of a handful of cases is not told."""
    values = [deed(0, "view", "x", 0), deed(1, "purchase", "a", 5_000)]
    values.append(deed(2, "view", "x", 30 * DAY_MS))
    book, events = book_of(*values)
    forecasts = Forecasts(book, events)
    forecasts.take(0, [prediction(0, 0, 0.9), prediction(1, 6_000, 0.1)])
    (found,) = forecasts.close(0.3)
    assert found.figures is not None
    assert found.figures.auc == 1
    assert all(auc is None for _, auc, _ in found.windows)


def test_churn_tells_who_came_back() -> None:
    """Alerts whose horizon closed are right where nothing was bought; risks are the newest."""
    values = [
        deed(0, "purchase", "a", 0),
        deed(1, "purchase", "a", DAY_MS, user_id="u-2"),
        deed(2, "purchase", "b", 9 * DAY_MS, user_id="u-2"),
        deed(3, "view", "x", 30 * DAY_MS),
    ]
    book, events = book_of(*values)
    forecasts = Forecasts(book, events)
    forecasts.take(
        0,
        [
            prediction(0, 5 * DAY_MS, 0.25, "churn"),
            prediction(1, 6 * DAY_MS, 0.95, "churn"),
            prediction(2, 5 * DAY_MS, 0.05, "churn", user_id="u-2"),
        ],
    )
    alerts = Alerts(book, events)
    for number, (user, day, level) in enumerate(
        (("u-1", 5, "watch"), ("u-1", 25, "watch"), ("u-2", 5, "watch"), ("u-2", 10, "critical"))
    ):
        alerts.take(0, [alert(number, user, day, level)])
    found = alerts.close(*forecasts.risks())
    assert (found.assessed, found.alerts) == (2, 4)
    assert found.risks == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    watch, critical = found.levels["watch"], found.levels["critical"]
    assert (watch.alerts, watch.users, watch.closed, watch.back) == (3, 2, 2, 1)
    assert (critical.closed, critical.back) == (1, 0)
    assert found.offers["reminder"].risk == pytest.approx(1.5)


# --- metrics --------------------------------------------------------------------------------------


def test_times_of_workers_are_those_of_their_histograms() -> None:
    """Two workers' buckets are added; percentiles are interpolated as Prometheus does it."""
    registry = CollectorRegistry()
    stage = Histogram(
        "stream_app_stage_seconds", "s", ["stage"], buckets=(0.001, 0.002), registry=registry
    )
    for _ in range(10):
        stage.labels("score").observe(0.0015)
    text = generate_latest(registry).decode()
    workers = Workers.of([("a", text), ("b", text)])
    ((name, spread),) = workers.stages
    assert (name, spread.count) == ("score", 20)
    assert spread.mean_ms == pytest.approx(1.5)
    assert spread.p50_ms == pytest.approx(1.5)
    assert workers.end_to_end.count == 0
    assert msgspec.json.encode(workers)
