"""What the rows hold of timers, and the names of the slots."""

import math

from stream_app.config import DAY_MS
from stream_app.schedule import (
    _ITEM_HALF_LIFE_MS,
    CHURN,
    CHURN_LABELS,
    DAYS_LABELS,
    EXPIRY,
    KINDS,
    SESSION_LABELS,
    SILENCE,
    SLOTS_MAX,
    USER_BYTES_MAX,
    ItemTimers,
    Timers,
    UserTimers,
)
from tests.conftest import START_MS, sections


def test_slots_have_one_kind_each() -> None:
    """Each slot has the name of what it times; the numbers stand in the state."""
    assert [KINDS[slot] for slot in (EXPIRY, CHURN, SILENCE)] == ["expiry", "churn", "silence"]
    assert {KINDS[slot] for slot in CHURN_LABELS} == {"churn-label"}
    assert {KINDS[slot] for slot in (*SESSION_LABELS, *DAYS_LABELS)} == {"label"}
    assert (EXPIRY, CHURN, SILENCE, *CHURN_LABELS, *SESSION_LABELS, *DAYS_LABELS) == tuple(
        range(SLOTS_MAX)
    )


def test_user_timers_of_all_slots_fit_their_budget() -> None:
    """A user with every timer set stays within the bytes that the row has for them."""
    full = UserTimers(START_MS, 1, 2, {slot: START_MS + slot for slot in range(SLOTS_MAX)})
    assert len(full.encode()) == USER_BYTES_MAX
    assert UserTimers.decode(full.encode()) == full


def test_item_score_is_the_decayed_count() -> None:
    """An item's score is log2 of its events' weights, each halving in thirty days."""
    days = [0, 0, 1, 30, 31, 95]
    item = ItemTimers()
    for day in days:
        item.count(START_MS + day * DAY_MS)
    weight = sum(2.0 ** (day / 30) for day in days)
    assert math.isclose(item.score, START_MS / _ITEM_HALF_LIFE_MS + math.log2(weight))


def test_rebuilt_heap_has_every_slot() -> None:
    """The heap built from the rows holds each slot of users and each item, the earliest first."""
    timers = Timers(sections("user", UserTimers.decode), sections("item", ItemTimers.decode))
    for user in ("a", "b"):
        section = timers.users.touch(user)
        for slot in range(SLOTS_MAX):
            timers.arm(section, user, slot, START_MS - slot * DAY_MS)
    timers.items.touch(7).due_ms = START_MS
    before = sorted(timers.heap)
    timers.rebuild()
    assert sorted(timers.heap) == sorted([*before, (START_MS, "item", 7, EXPIRY)])
    assert timers.heap[0] == min(timers.heap)
    assert timers.item_count == 1
