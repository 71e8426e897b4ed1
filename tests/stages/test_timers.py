"""Stage 3: what falls due between two events, which item makes room, and how a log is cut."""

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stream_app.config import DAY_MS, StageSettings
from stream_app.hashing import id_hash
from stream_app.stages.timers import (
    _ITEM_HALF_LIFE_MS,
    DUE_MAX,
    ITEM_EVENTS,
    SLICE_MS_MAX,
    SLOTS_MAX,
    USER_BYTES_MAX,
    Cut,
    ItemTimers,
    Timers,
    UserTimers,
    advance,
    cut,
    fire,
)
from stream_app.steps import Admitted, Due, Received, Step, Tick
from tests.conftest import (
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


def empty() -> Timers:
    """Return timers of a partition that has seen nothing."""
    return Timers(sections("user", UserTimers.decode), sections("item", ItemTimers.decode))


def advanced(timers: Timers, *received: Received, settings: StageSettings = SETTINGS) -> list[Step]:
    """Return the steps that received records become."""
    return advance(timers, received, settings)


def fired_at(timers: Timers, log_ms: int) -> list[Due]:
    """Return what falls due when the log reaches a time."""
    return dues(advanced(timers, Tick(0, log_ms)))


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


def test_user_timers_of_all_slots_fit_their_budget() -> None:
    """A user with every timer set stays within the bytes that the row has for them."""
    full = UserTimers(START_MS, {slot: START_MS + slot for slot in range(SLOTS_MAX)})
    assert len(full.encode()) <= USER_BYTES_MAX


def test_item_score_is_the_decayed_count() -> None:
    """An item's score is log2 of its events' weights, each halving in thirty days."""
    days = [0, 0, 1, 30, 31, 95]
    item = ItemTimers()
    for day in days:
        item.count(START_MS + day * DAY_MS)
    weight = sum(2.0 ** (day / 30) for day in days)
    assert math.isclose(item.score, START_MS / _ITEM_HALF_LIFE_MS + math.log2(weight))


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
    settings = lenient(items_max=items_max, item_ttl_days=8)
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
    timers, settings = empty(), lenient(items_max=10)
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
