"""Stage 3: what falls due between two events, which item makes room, and how a log is cut."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.config import DAY_MS, StageSettings
from stream_app.event import EVENT_TYPES
from stream_app.hashing import id_hash
from stream_app.schedule import (
    CHURN,
    CHURN_LABELS,
    DAYS_LABELS,
    SESSION_LABELS,
    SLOTS_MAX,
    ItemTimers,
    Timers,
    UserTimers,
)
from stream_app.stages.timers import (
    DUE_MAX,
    ITEM_EVENTS,
    PREDICTED_EVENTS,
    SLICE_MS_MAX,
    Cut,
    advance,
    cut,
    fire,
)
from stream_app.steps import Admitted, Due, Received, Step, Tick
from tests.conftest import (
    MINUTE_MS,
    SETTINGS,
    START_MS,
    admitted,
    dues,
    lenient,
    record,
    sections,
    tick,
)

USER_TTL_MS = SETTINGS.user_ttl_days * DAY_MS
ITEM_TTL_MS = SETTINGS.item_ttl_days * DAY_MS
# Without predictions that wait, so that nothing but what a test is about falls due.
QUIET = lenient(learn_share=0.0, learn_share_session=0.0, timer_jitter_minutes=0)
EXACT = lenient(timer_jitter_minutes=0)


def empty() -> Timers:
    """Return timers of a partition that has seen nothing."""
    return Timers(sections("user", UserTimers.decode), sections("item", ItemTimers.decode))


def advanced(timers: Timers, *received: Received, settings: StageSettings = QUIET) -> list[Step]:
    """Return the steps that received records become."""
    return advance(timers, received, settings)


def fired_at(timers: Timers, log_ms: int, settings: StageSettings = QUIET) -> list[Due]:
    """Return what falls due when the log reaches a time."""
    return dues(advanced(timers, Tick(0, log_ms), settings=settings))


def test_user_expires_exactly_at_the_time_to_live() -> None:
    """A user's timer fires when the log reaches the time to live, not a millisecond before."""
    timers = empty()
    advanced(timers, admitted(type="search", item_id=None))
    assert fired_at(timers, START_MS + USER_TTL_MS - 1) == []
    due_ms = START_MS + USER_TTL_MS
    assert fired_at(timers, due_ms) == [Due("user", "u-1", "expiry", due_ms, due_ms)]
    assert timers.users.get("u-1") is None
    assert timers.heap == []


def test_item_expires_exactly_at_the_time_to_live() -> None:
    """An item's timer fires when the log reaches the time to live, not a millisecond before."""
    timers = empty()
    advanced(timers, admitted())
    item, due_ms = id_hash("i-1"), START_MS + ITEM_TTL_MS
    assert fired_at(timers, due_ms - 1) == []
    assert fired_at(timers, due_ms + 5) == [Due("item", item, "expiry", due_ms, due_ms + 5)]
    assert (timers.items.get(item), timers.item_count) == (None, 0)


@given(st.lists(st.integers(1, 2 * SETTINGS.user_ttl_days), min_size=1, max_size=12))
def test_expiry_follows_the_newest_event(gaps: Sequence[int]) -> None:
    """User and item expire one time to live after their newest event, however often put off."""
    timers = empty()
    log_ms, expected, fired = START_MS, [], []
    for gap in gaps:
        fired += dues(advanced(timers, admitted(log_ms=log_ms)))
        if gap * DAY_MS >= ITEM_TTL_MS:
            expected.append(("item", log_ms + ITEM_TTL_MS))
        if gap * DAY_MS >= USER_TTL_MS:
            expected.append(("user", log_ms + USER_TTL_MS))
        log_ms += gap * DAY_MS
    fired += fired_at(timers, log_ms)
    assert [(due.scope, due.due_ms) for due in fired] == expected


def test_expiry_of_an_item_that_other_users_keep() -> None:
    """An item lives on while anybody deals with it, and its users expire all the same."""
    timers = empty()
    advanced(timers, admitted(user_id="u-1"))
    for day in range(100, 401, 100):
        advanced(timers, admitted(user_id="u-2", log_ms=START_MS + day * DAY_MS - 1))
    fired = fired_at(timers, START_MS + 400 * DAY_MS)
    assert [(due.scope, due.key) for due in fired] == [("user", "u-1")]


def test_timers_stand_between_the_records_that_they_fall_between() -> None:
    """Timers come in order of due time, right before the first record whose log time reaches it."""
    timers = empty()
    first = [
        admitted(user_id=f"u-{n}", log_ms=START_MS - n, type="recommend", item_id=None)
        for n in range(3)
    ]
    advanced(timers, *first)
    early, late = Tick(7, START_MS + USER_TTL_MS - 1), Tick(8, START_MS + USER_TTL_MS)
    steps = advanced(timers, early, late)
    due = [(step.key, step.log_ms) if isinstance(step, Due) else step for step in steps]
    assert due == [("u-2", early.log_ms), ("u-1", early.log_ms), early, ("u-0", late.log_ms), late]


def test_items_are_counted_for_what_users_do_with_them() -> None:
    """Only the events of users who consent make item rows, and only those about an item."""
    for kind in ("view", "search", "impression", "remove_from_cart", "recommend"):
        timers = empty()
        advanced(timers, admitted(type=kind))
        assert timers.item_count == (kind in ITEM_EVENTS)
    timers = empty()
    advanced(timers, admitted(profiled=False))
    assert (timers.item_count, timers.users.get("u-1") is None) == (0, False)


def test_untouchable_events_set_no_timer() -> None:
    """An event from before an erasure leaves the timers as they are."""
    timers = empty()
    entry = Admitted(admitted().arrival, "u-1", profiled=False, untouchable=True)
    assert advanced(timers, entry) == [entry]
    assert (timers.heap, timers.users.get("u-1")) == ([], None)


Events = Sequence[tuple[int, int]]  # number of the item, hours since the event before


def evictions_by_brute_force(events: Events, items_max: int, ttl_ms: int) -> list[tuple[int, str]]:
    """Return which items leave and why, looking at all of them each time."""
    table: dict[int, ItemTimers] = {}
    left, log_ms = [], START_MS
    for number, hours in events:
        log_ms += hours * 3_600_000
        ended = [key for key, one in table.items() if one.newest_ms + ttl_ms <= log_ms]
        for key in sorted(ended, key=lambda key: (table[key].newest_ms, key)):
            left.append((key, "expiry"))
            del table[key]
        item = id_hash(f"i-{number}")
        if item not in table:
            if len(table) == items_max:
                lowest = min(table, key=lambda key: (table[key].score, key))
                left.append((lowest, "evict"))
                del table[lowest]
            table[item] = ItemTimers()
        table[item].count(log_ms)
    return left


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 30, 150])), max_size=80),
    st.integers(1, 4),
    st.integers(0, 80),
)
def test_eviction_takes_the_lowest_decayed_count(
    events: Events, items_max: int, restore_at: int
) -> None:
    """Of too many items the one with the lowest decayed count leaves, after a restore too."""
    settings = lenient(items_max=items_max, item_ttl_days=8, learn_share=0.0)
    timers = empty()
    left: list[tuple[str | int, str]] = []
    log_ms = START_MS
    for place, (number, hours) in enumerate(events):
        log_ms += hours * 3_600_000
        if place == restore_at:
            timers.rebuild()
        entry = admitted(log_ms=log_ms, item_id=f"i-{number}")
        steps = advanced(timers, entry, settings=settings)
        left += [(due.key, due.kind) for due in dues(steps) if due.scope == "item"]
        assert timers.item_count == len(list(timers.items.scan())) <= items_max
    assert left == evictions_by_brute_force(events, items_max, 8 * DAY_MS)


def test_cut_takes_at_most_the_records_that_it_may() -> None:
    """A slice is no longer than the caller allows."""
    records = [tick(n, START_MS + n) for n in range(10)]
    assert cut(empty(), records, 0, 4) == Cut(4, None)
    assert cut(empty(), records, 0, 40) == Cut(10, None)


def test_cut_spans_less_than_seven_days() -> None:
    """A slice ends before the record that is seven days of log time after its first."""
    week = [tick(0, START_MS), tick(1, START_MS + SLICE_MS_MAX - 1)]
    assert cut(empty(), [*week, tick(2, START_MS + SLICE_MS_MAX)], START_MS, 128) == Cut(2, None)
    assert cut(empty(), [tick(0, START_MS + 99 * DAY_MS)], START_MS, 128) == Cut(1, None)


def crowd(users: int) -> Timers:
    """Return timers of so many users, one due each millisecond from ``START_MS + USER_TTL_MS``."""
    timers = empty()
    entries = [
        admitted(user_id=f"u-{n}", log_ms=START_MS + n, type="recommend", item_id=None)
        for n in range(users)
    ]
    advanced(timers, *entries)
    return timers


def test_cut_ends_before_too_many_timers() -> None:
    """A slice ends before the record at which more than 512 timers would be due."""
    timers = crowd(DUE_MAX + 1)
    due_ms = START_MS + USER_TTL_MS
    records = [
        tick(0, due_ms - 1),
        tick(1, due_ms + DUE_MAX - 1),  # 512 are due
        tick(2, due_ms + DUE_MAX),  # one more
    ]
    before = sorted(timers.heap)
    assert cut(timers, records, START_MS, 128) == Cut(2, None)
    assert sorted(timers.heap) == before


def test_cut_fires_timers_before_the_record_that_they_precede() -> None:
    """While anything is due before the next record, the next batch is of timers only."""
    timers = crowd(DUE_MAX + 1)
    last_ms = START_MS + USER_TTL_MS + DUE_MAX
    records = [record(0, last_ms)]
    fired = []
    for expected in (DUE_MAX, 1):
        assert cut(timers, records, START_MS, 128) == Cut(0, last_ms)
        dues_now = fire(timers, last_ms, SETTINGS, DUE_MAX)
        assert len(dues_now) == expected
        fired += dues_now
    assert cut(timers, records, START_MS, 128) == Cut(1, None)
    assert [due.due_ms for due in fired] == [START_MS + USER_TTL_MS + n for n in range(DUE_MAX + 1)]


def test_cut_looks_at_log_time() -> None:
    """A record that is older than the log fires what was due before the log got there."""
    timers = crowd(1)
    log_ms = START_MS + USER_TTL_MS
    assert cut(timers, [record(0, START_MS)], log_ms, 128) == Cut(0, log_ms)
    assert cut(timers, [record(0, 2**63 - 1, timestamp=START_MS)], START_MS, 128) == Cut(
        0, 4_102_444_800_000
    )


def test_putting_off_counts_towards_the_limit() -> None:
    """A batch of timers does bounded work even when each of them is only put off."""
    timers = crowd(3)
    for n in range(3):
        advanced(timers, admitted(user_id=f"u-{n}", log_ms=START_MS + DAY_MS, type="search"))
    until_ms = START_MS + USER_TTL_MS + 9
    assert fire(timers, until_ms, SETTINGS, 2) == []
    assert sum(entry[0] <= until_ms for entry in timers.heap) == 1


def test_rebuilt_heap_fires_the_same() -> None:
    """The heap built from the rows after a restore fires what the heap in memory would."""
    timers, again = crowd(5), crowd(5)
    advanced(timers, admitted(user_id="u-3", log_ms=START_MS + DAY_MS))
    advanced(again, admitted(user_id="u-3", log_ms=START_MS + DAY_MS))
    again.rebuild()
    until_ms = START_MS + 2 * USER_TTL_MS
    assert fire(timers, until_ms, SETTINGS) == fire(again, until_ms, SETTINGS)
    assert timers.item_count == again.item_count == 0


def test_heap_is_bounded_when_items_make_room() -> None:
    """However many items have come and gone, what they leave in memory stays bounded."""
    timers, settings = empty(), lenient(items_max=10, learn_share=0.0)
    for n in range(5_000):
        entry = admitted(item_id=f"i-{n}", log_ms=START_MS + n)
        assert len(dues(advanced(timers, entry, settings=settings))) == (n >= 10)
        assert len(timers.heap) <= 2 * 10 + 1_024 + 2
    fired = fired_at(timers, START_MS + 4_999 + ITEM_TTL_MS)
    assert [due.key for due in fired] == [id_hash(f"i-{n}") for n in range(4_990, 5_000)]


def test_leavers_are_bounded_when_items_expire() -> None:
    """The queue of evictions stays bounded when items expire before they have to make room."""
    timers, settings = empty(), lenient(items_max=10, item_ttl_days=8)
    for n in range(3_000):
        log_ms = START_MS + n * DAY_MS * (1 if n > 20 else 0)
        advanced(timers, admitted(item_id=f"i-{n}", log_ms=log_ms), settings=settings)
        assert len(timers.leavers) <= 2 * 10 + 1_024 + 1


def test_heap_is_bounded_when_a_user_is_erased_again() -> None:
    """Repeated erasures put the expiry off and leave nothing in memory."""
    timers = empty()
    for n in range(100):
        advanced(timers, admitted(type="erase", item_id=None, key="hash", log_ms=START_MS + n))
    assert len(timers.heap) == 1
    due_ms = START_MS + 99 + USER_TTL_MS
    assert fired_at(timers, due_ms - 1) == []
    assert [due.due_ms for due in fired_at(timers, due_ms)] == [due_ms]


# --- behaviour: at which events it is predicted, and which predictions wait -----------------------


def marks(timers: Timers, *entries: Admitted, settings: StageSettings = EXACT) -> list[int | None]:
    """Return when the horizon closes of what is predicted at each entry, None where nothing is."""
    steps = advanced(timers, *entries, settings=settings)
    found = [step for step in steps if isinstance(step, Admitted)]
    assert all(step.predicted or not step.closes_ms for step in found)
    return [step.closes_ms if step.predicted else None for step in found]


def test_predicted_events() -> None:
    """Behaviour is predicted at what users do, if they consent, and at nothing else."""
    for kind in EVENT_TYPES:
        entry = admitted(type=kind, item_id="i-1")
        assert (marks(empty(), entry) != [None]) is (kind in PREDICTED_EVENTS), kind
        assert marks(empty(), admitted(type=kind, item_id="i-1", profiled=False)) == [None]
    assert {"view", "cart", "purchase", "comment", "share", "search", "click"} == PREDICTED_EVENTS


def test_horizon_closes_late() -> None:
    """A prediction waits its horizon and the allowed lateness, counted from event time."""
    late_ms = SETTINGS.lateness_ms_max
    long = admitted(timestamp=START_MS - 7)
    short = admitted(timestamp=START_MS + 7, session_id="s")
    everything = lenient(learn_share_session=1.0)
    assert marks(empty(), long, settings=everything) == [START_MS - 7 + 7 * DAY_MS + late_ms]
    assert marks(empty(), short, settings=everything) == [START_MS + 7 + 30 * MINUTE_MS + late_ms]


def test_late_events_are_not_predicted() -> None:
    """A late event gets no prediction and takes none from the next."""
    timers = empty()
    assert marks(timers, admitted(log_ms=START_MS, timestamp=START_MS - DAY_MS, late=True)) == [
        None
    ]
    (closes_ms,) = marks(timers, admitted(log_ms=START_MS, timestamp=START_MS - 1, event_id="b"))
    assert closes_ms


def test_one_prediction_for_a_timestamp() -> None:
    """At each event time of a user at most one prediction is made, and none behind the newest."""
    timers = empty()
    times = [START_MS, START_MS, START_MS - 1, START_MS + 1]
    entries = [admitted(timestamp=at, event_id=f"e-{n}") for n, at in enumerate(times)]
    found = marks(timers, *entries, admitted(user_id="u-2", event_id="e-9"))
    assert [at is not None for at in found] == [True, False, False, True, True]


def test_labels_are_limited_by_slots() -> None:
    """Of a user's predictions so many wait as there are slots; the rest are made all the same.

    Long horizons take no slot from short ones.
    """
    timers = empty()
    limit = len(DAYS_LABELS)
    entries = [admitted(log_ms=START_MS + n, event_id=f"e-{n}") for n in range(limit + 2)]
    found = marks(timers, *entries)
    assert [bool(at) for at in found] == [True] * limit + [False] * 2
    limit = len(SESSION_LABELS)
    visit = [
        admitted(log_ms=START_MS + 9 + n, event_id=f"s-{n}", session_id="s")
        for n in range(limit + 2)
    ]
    all_of_them = lenient(learn_share_session=1)
    found_there = marks(timers, *visit, settings=all_of_them)
    assert [bool(at) for at in found_there] == [True] * limit + [False] * 2
    closed = fired_at(timers, found[0] or 0, EXACT)
    dues = [due.due_ms for due in closed if due.kind == "label"]
    assert dues == [*found_there[:limit], found[0]]
    (again,) = marks(timers, admitted(log_ms=found[0], event_id="e-9"))
    assert again


def test_labels_are_drawn_by_the_event() -> None:
    """The share of predictions that wait is as set, apart for sessions, and drawn by the event."""
    settings = lenient(learn_share=0.5, learn_share_session=0.1)
    for session_id, share in ((None, 0.5), ("s", 0.1)):
        entries = [
            admitted(user_id=f"u-{n}", event_id=f"e-{n}", session_id=session_id) for n in range(900)
        ]
        found = marks(empty(), *entries, settings=settings)
        assert abs(sum(map(bool, found)) / 900 - share) < 0.05
        assert marks(empty(), *entries, settings=settings) == found


def test_timer_of_a_label_is_set_once() -> None:
    """However often consent is withdrawn and given, a user's timers in memory stay bounded."""
    timers, largest = empty(), 0
    for n in range(1_000):
        log_ms = START_MS + n * 1_000
        advanced(
            timers,
            bought(log_ms),
            admitted(log_ms=log_ms + 1, profiled=False),
            admitted(log_ms=log_ms + 2, event_id=f"v-{n}", item_id=f"i-{n % 2}"),
            settings=SETTINGS,
        )
        largest = max(largest, len(timers.heap))
    assert largest <= SLOTS_MAX + 2


# --- churn: each Sunday, and on set days of silence -----------------------------------------------

MONDAY_MS = START_MS  # 2024-01-01 was one
SUNDAY_MS = MONDAY_MS + 6 * DAY_MS
WEEK_MS = 7 * DAY_MS


def bought(log_ms: int, **over: Any) -> Admitted:
    """Return a purchase."""
    fields: dict[str, Any] = {"type": "purchase", "log_ms": log_ms, "event_id": f"p-{log_ms}"}
    return admitted(**(fields | over))


def of_kind(fired: Sequence[Due], kind: str) -> list[int]:
    """Return when the timers of a kind were due."""
    return [due.due_ms for due in fired if due.kind == kind]


@pytest.mark.parametrize(
    ("log_ms", "due_ms"),
    [
        (MONDAY_MS, SUNDAY_MS),
        (SUNDAY_MS - 1, SUNDAY_MS),
        (SUNDAY_MS, SUNDAY_MS + WEEK_MS),
        (SUNDAY_MS + 1, SUNDAY_MS + WEEK_MS),
        (DAY_MS, 3 * DAY_MS),  # 1970-01-02
    ],
)
def test_churn_is_due_on_the_next_sunday(log_ms: int, due_ms: int) -> None:
    """The first look is at the Sunday 00:00 UTC after the purchase; on a Sunday, a week later."""
    timers = empty()
    advanced(timers, bought(log_ms))
    assert datetime.fromtimestamp(due_ms / 1000, UTC).strftime("%a %X") == "Sun 00:00:00"
    assert fired_at(timers, due_ms - 1) == []
    (due,) = fired_at(timers, due_ms)
    closes_ms = due_ms + 28 * DAY_MS + SETTINGS.lateness_ms_max
    assert due == Due("user", "u-1", "churn", due_ms, due_ms, closes_ms)


def test_churn_is_spread_by_jitter() -> None:
    """Users are looked at within six hours of Sunday, each always at the same time of the week."""
    timers = empty()
    users = [f"u-{n}" for n in range(200)]
    advanced(timers, *[bought(MONDAY_MS, user_id=user) for user in users], settings=SETTINGS)
    first = fired_at(timers, SUNDAY_MS + DAY_MS, SETTINGS)
    second = fired_at(timers, SUNDAY_MS + WEEK_MS + DAY_MS, SETTINGS)
    delays = {due.key: due.due_ms - SUNDAY_MS for due in first if due.kind == "churn"}
    assert set(delays) == set(users)
    assert 0 <= min(delays.values()) < max(delays.values()) < 6 * 3_600_000
    assert len(set(delays.values())) > 190
    again = {due.key: due.due_ms - SUNDAY_MS - WEEK_MS for due in second if due.kind == "churn"}
    assert again == delays


@pytest.mark.parametrize(
    ("bought_ms", "weeks"),
    [(SUNDAY_MS, 8), (SUNDAY_MS - 1, 8), (SUNDAY_MS - WEEK_MS + 1, 8), (SUNDAY_MS - DAY_MS, 8)],
)
def test_churn_is_weekly_while_active(bought_ms: int, weeks: int) -> None:
    """The look is repeated each week up to 56 days after the purchase, then no more."""
    timers = empty()
    advanced(timers, bought(bought_ms))
    first_ms = SUNDAY_MS + (WEEK_MS if bought_ms == SUNDAY_MS else 0)
    fired = [due for week in range(60) for due in fired_at(timers, first_ms + week * WEEK_MS)]
    expected = [first_ms + week * WEEK_MS for week in range(weeks)]
    assert of_kind(fired, "churn") == expected
    assert expected[-1] - bought_ms <= SETTINGS.churn_active_days * DAY_MS
    assert of_kind(fired, "churn-label") == [due.closes_ms for due in fired if due.kind == "churn"]
    section = timers.users.get("u-1")
    assert section is None or CHURN not in section.due


def test_churn_begins_again_with_a_purchase() -> None:
    """Who was looked at no more is so again after the next purchase, and views do not count."""
    timers = empty()
    advanced(timers, bought(MONDAY_MS))
    later_ms = MONDAY_MS + 100 * DAY_MS
    assert len(of_kind(fired_at(timers, later_ms), "churn")) == 8
    advanced(timers, admitted(log_ms=later_ms))
    assert of_kind(fired_at(timers, later_ms + 2 * WEEK_MS), "churn") == []
    advanced(timers, bought(later_ms + 2 * WEEK_MS))
    assert len(of_kind(fired_at(timers, later_ms + 3 * WEEK_MS), "churn")) == 1


def test_late_purchase_makes_nobody_active() -> None:
    """Who is told to have bought long ago is not looked at; a recent purchase told late counts."""
    timers = empty()
    old_ms = MONDAY_MS - 57 * DAY_MS
    advanced(
        timers,
        bought(MONDAY_MS, timestamp=old_ms, late=True),
        bought(MONDAY_MS, timestamp=old_ms + WEEK_MS, late=True, user_id="u-2"),
    )
    fired = fired_at(timers, SUNDAY_MS)
    assert [due.key for due in fired if due.kind == "churn"] == ["u-2"]
    assert "churn" not in {due.kind for due in fired_at(timers, SUNDAY_MS + WEEK_MS)}


def test_return_moves_the_silence_up() -> None:
    """After a long silence and a return, the set days count from the return."""
    timers = empty()
    days = SETTINGS.silence_days
    advanced(timers, bought(MONDAY_MS))
    back_ms = MONDAY_MS + (days[2] + 1) * DAY_MS
    fired = of_kind(fired_at(timers, back_ms - 1), "silence")
    assert fired == [MONDAY_MS + day * DAY_MS for day in days[:3]]
    advanced(timers, admitted(log_ms=back_ms))
    fired = of_kind(fired_at(timers, back_ms + 100 * DAY_MS), "silence")
    assert fired == [back_ms + day * DAY_MS for day in days]


def test_churn_labels_are_limited_by_slots() -> None:
    """Five risks of a user wait at once; where lateness lets them wait longer, some are not."""
    timers = empty()
    weekly = [bought(MONDAY_MS + week * WEEK_MS) for week in range(30)]
    fired = dues(advanced(timers, *weekly))
    assert all(due.closes_ms for due in fired if due.kind == "churn")
    timers, slow = empty(), lenient(lateness_ms_max=8 * DAY_MS, timer_jitter_minutes=0)
    fired = dues(advanced(timers, *weekly, settings=slow))
    waiting = [bool(due.closes_ms) for due in fired if due.kind == "churn"]
    assert waiting[:7] == [True] * len(CHURN_LABELS) + [False] * 1 + [True]


def test_silence_fires_on_the_set_days() -> None:
    """A user who bought and fell silent is looked at on each of the set days, to the ms."""
    timers = empty()
    advanced(timers, bought(MONDAY_MS + 5))
    days = SETTINGS.silence_days
    fired = fired_at(timers, MONDAY_MS + 5 + days[0] * DAY_MS - 1)
    assert of_kind(fired, "silence") == []
    fired = fired_at(timers, MONDAY_MS + 300 * DAY_MS)
    assert of_kind(fired, "silence") == [MONDAY_MS + 5 + day * DAY_MS for day in days]
    assert not any(due.closes_ms for due in fired if due.kind == "silence")


def test_silence_is_put_off_by_any_event() -> None:
    """Days of silence count from the newest event, be it a view; after the last day a new one."""
    timers = empty()
    advanced(timers, bought(MONDAY_MS))
    seen = [MONDAY_MS + day * DAY_MS for day in (5, 9, 24, 26)]
    fired: list[Due] = []
    for n, log_ms in enumerate(seen):
        fired += dues(advanced(timers, admitted(log_ms=log_ms, event_id=f"v-{n}")))
    fired += fired_at(timers, MONDAY_MS + 200 * DAY_MS)
    back_ms = MONDAY_MS + 200 * DAY_MS
    fired += dues(advanced(timers, admitted(log_ms=back_ms, event_id="back")))
    fired += fired_at(timers, back_ms + 10 * DAY_MS)
    after = [(9, 10), *[(26, day) for day in SETTINGS.silence_days], (200, 10)]
    assert of_kind(fired, "silence") == [MONDAY_MS + (day + n) * DAY_MS for day, n in after]


@pytest.mark.parametrize("entry", [admitted(), bought(START_MS, profiled=False)])
def test_silence_needs_a_purchase(entry: Admitted) -> None:
    """Who has bought nothing that counts is neither active nor missed."""
    timers = empty()
    advanced(timers, entry)
    fired = fired_at(timers, START_MS + 300 * DAY_MS)
    assert {due.kind for due in fired if due.scope == "user"} <= {"label"}


@pytest.mark.parametrize(
    "end", [{"profiled": False}, {"type": "erase", "key": "hash", "profiled": False}]
)
def test_churn_ends_with_consent_and_with_the_user(end: dict[str, Any]) -> None:
    """After consent is withdrawn, or the user erased, no risk is looked at until a purchase."""
    timers = empty()
    advanced(timers, bought(MONDAY_MS))
    advanced(timers, admitted(**(end | {"log_ms": MONDAY_MS + 1, "event_id": "end"})))
    fired = fired_at(timers, MONDAY_MS + 20 * DAY_MS)
    assert not {due.kind for due in fired} & {"churn", "silence"}
    again_ms = MONDAY_MS + 20 * DAY_MS
    key = str(end.get("key", ""))
    advanced(timers, bought(again_ms, key=key))
    fired = fired_at(timers, again_ms + 10 * DAY_MS)
    looked = {due.kind for due in fired} & {"churn", "silence"}
    # Of an erased user's row the key is no user's id, which an alert would need.
    assert looked == (set() if key else {"churn", "silence"})
