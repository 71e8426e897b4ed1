"""Stage 4: the history, the session, what the user does, and orders."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.codec import Sections
from stream_app.event import EVENT_TYPES, Event
from stream_app.hashing import id_hash
from stream_app.stages.features import (
    _ACTIVITY_SIZE,
    ACTIVITY_EVENTS,
    BYTES_MAX,
    HALF_LIVES_DAYS,
    HISTORY_EVENTS,
    HISTORY_SIZE,
    NOBODY,
    Activity,
    History,
    Profile,
    Session,
    Spend,
    describe,
)
from stream_app.steps import Due, Step, Tick, UserView
from tests.conftest import MINUTE_MS, SETTINGS, START_MS, admitted, event, sections

DAY_S = 86_400
START_S = START_MS // 1000


def profiles() -> Sections[str, Profile]:
    """Return profiles of a partition that has seen nothing."""
    return sections("features", Profile.decode, BYTES_MAX)


def views(users: Sections[str, Profile], *steps: Step) -> list[UserView]:
    """Return the user's view as of each step."""
    return describe(users, steps, SETTINGS)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=120))
def test_history_stands_in_order_of_event_time(entries: Sequence[tuple[int, int]]) -> None:
    """The history is the last 50 by time, late or not; of one second the later arrival is last."""
    history = History.decode(b"")
    model: list[tuple[int, int, int]] = []
    for item, second in entries:
        history.update(item, second, item % 3)
        model.append((second, item, item % 3))
        model = sorted(model, key=lambda entry: entry[0])[-HISTORY_SIZE:]
    held = zip(history.seconds, history.items, history.kinds, strict=True)
    assert list(held) == model
    assert History.decode(history.encode()).encode() == history.encode()


def test_history_of_a_late_event() -> None:
    """A late event stands in the history where it belongs, and its view is of its own time."""
    users = profiles()
    late_ms = START_MS - 60 * MINUTE_MS
    steps = [
        admitted(item_id="i-1"),
        admitted(item_id="i-2", type="purchase", timestamp=late_ms, late=True),
    ]
    _, view = views(users, *steps)
    assert view.items == (id_hash("i-2"), id_hash("i-1"))
    assert view.seconds == (late_ms // 1000, START_S)
    assert [EVENT_TYPES[code] for code in view.kinds] == ["purchase", "view"]


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_history_takes_what_users_do_with_items(kind: str) -> None:
    """What is merely shown, searched or taken out of the cart is no history."""
    (view,) = views(profiles(), admitted(type=kind))
    assert len(view.items) == (kind in HISTORY_EVENTS)
    assert sum(view.activity) == (len(HALF_LIVES_DAYS) if kind in ACTIVITY_EVENTS else 0)


def session_after(*events: tuple[int, dict[str, Any]]) -> Session:
    """Return a session after events at so many seconds."""
    session = Session()
    for second, over in events:
        session.update(event(**over), START_S + second, 1800)
    return session


def test_session_counts_what_happens_in_it() -> None:
    """Events, views, carts and purchases are counted, and the span goes from first to last."""
    kinds = ["view", "search", "cart", "purchase", "view"]
    session = session_after(*((60 * n, {"type": kind}) for n, kind in enumerate(kinds)))
    assert (session.events, session.views, session.carts, session.purchases) == (5, 2, 1, 1)
    assert session.last_s - session.start_s == 240


def test_session_ends_after_thirty_idle_minutes() -> None:
    """Thirty minutes of silence are within a session, a second more begins another."""
    assert session_after((0, {}), (1800, {})).events == 2
    assert session_after((0, {}), (1801, {})).events == 1


def test_session_ends_with_its_id() -> None:
    """Another session id begins another session, whatever the time."""
    session = session_after((0, {"session_id": "a"}), (5, {"session_id": "b"}))
    assert (session.events, session.start_s) == (1, START_S + 5)


def test_session_counts_an_older_event_as_part_of_it() -> None:
    """A late event neither begins a session nor moves the running one, whatever its session id."""
    for over in ({}, {"session_id": "another"}):
        session = session_after((9_000, {}), (9_060, {}), (10, over), (9_120, {}))
        assert (session.events, session.start_s) == (4, START_S + 9_000)
        assert session.last_s == START_S + 9_120


def test_session_counters_stop_at_their_most() -> None:
    """A session of more events than its counters hold stays at the most that they hold."""
    session = Session(events=0xFFFF, views=0xFFFF, carts=0xFFFF, purchases=0xFFFF)
    for kind in ("view", "cart", "purchase"):
        session.update(event(type=kind), 1, 1800)
    assert (session.events, session.carts) == (0xFFFF, 0xFFFF)
    session.encode()


@given(st.lists(st.tuples(st.sampled_from(ACTIVITY_EVENTS), st.integers(0, 40)), max_size=30))
def test_activity_is_the_sum_of_what_is_left(entries: Sequence[tuple[str, int]]) -> None:
    """A decayed count is the sum of 2^(-age / half-life) over events, whatever their order."""
    activity = Activity(0, array("f", bytes(4 * _ACTIVITY_SIZE)))
    for kind, day in entries:
        activity.update(kind, START_S + day * DAY_S)
    now_day = max((day for _, day in entries), default=0) + 1
    expected = [
        sum(2.0 ** (-(now_day - day) / half_life) for other, day in entries if other == kind)
        for kind in ACTIVITY_EVENTS
        for half_life in HALF_LIVES_DAYS
    ]
    assert activity.value(START_S + now_day * DAY_S) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def spend_after(*lines: tuple[float, dict[str, Any]]) -> Spend:
    """Return orders after purchased lines on so many days."""
    spend = Spend()
    for day, over in lines:
        spend.update(event(type="purchase", **over), START_S + int(day * DAY_S))
    return spend


def test_spend_joins_the_lines_of_an_order() -> None:
    """Lines of one order id are one order, worth their sum; quantity defaults to one piece."""
    spend = spend_after(
        (0, {"order_id": "a", "price": 2.0, "quantity": 3}),
        (0.01, {"order_id": "a", "price": 1.5}),
        (0.02, {"order_id": "a"}),
        (0.03, {"order_id": "a", "price": 9.0, "quantity": 0}),
    )
    assert (spend.orders, spend.value, spend.spend, spend.gap_days) == (1, 7.5, 7.5, 0.0)


def test_spend_without_order_ids() -> None:
    """Without an order id, lines of the same second are one order."""
    assert spend_after((0, {"price": 1.0}), (0, {"price": 1.0}), (1, {"price": 1.0})).orders == 2


def test_spend_averages_gaps_and_decays() -> None:
    """The gap moves by a quarter towards the newest; spending halves in thirty days."""
    spend = spend_after(
        (0, {"order_id": "a", "price": 8.0}),
        (30, {"order_id": "b", "price": 1.0}),
        (40, {"order_id": "c", "price": 0.0}),
    )
    assert spend.orders == 3
    assert spend.gap_days == 30 + 0.25 * (10 - 30)
    assert math.isclose(spend.spend, 5.0 * 2.0 ** (-10 / 30), rel_tol=1e-6)
    assert spend.value == 0.0


def test_spend_of_an_older_order() -> None:
    """An order that is older than the last adds its worth, and is neither counted nor the last."""
    spend = spend_after((10, {"order_id": "a", "price": 2.0}), (3, {"order_id": "b", "price": 4.0}))
    assert (spend.orders, spend.value, spend.spend) == (1, 2.0, 6.0)
    assert spend.last_s == START_S + 10 * DAY_S


def test_view_of_orders() -> None:
    """A view tells ages and tenure in days as of the event."""
    users = profiles()
    lines = [
        admitted(type="purchase", order_id=f"o-{n}", price=2.0, log_ms=START_MS + n * 1000 * DAY_S)
        for n in (0, 4)
    ]
    later = admitted(log_ms=START_MS + 10 * 1000 * DAY_S)
    *_, view = views(users, *lines, later)
    assert (view.orders, view.order_gap_days, view.last_order_value) == (2, 4.0, 2.0)
    assert (view.order_age_days, view.tenure_days) == (6.0, 10.0)


def test_view_is_never_a_live_reference() -> None:
    """A view stays as it was when later events change the profile."""
    users = profiles()
    (view,) = views(users, admitted())
    before = repr(view)
    views(users, *(admitted(item_id=f"i-{n}", log_ms=START_MS + n) for n in range(60)))
    assert repr(view) == before


def test_views_stand_beside_their_steps() -> None:
    """Each step has a view; ticks, timers and users without a profile have nobody's."""
    due = Due("item", 7, "expiry", START_MS, START_MS)
    entries: list[Step] = [
        Tick(0, START_MS),
        due,
        admitted(profiled=False),
        admitted(user_id="u-2"),
    ]
    users = profiles()
    got = views(users, *entries)
    assert got[:3] == [NOBODY] * 3
    assert len(got[3].items) == 1
    assert (users.get("u-1"), users.get("u-2") is None) == (None, False)


def test_profile_ends_with_the_user() -> None:
    """Expiry empties the profile of that user, and no other timer does."""
    users = profiles()
    views(users, admitted(), Due("item", 1, "expiry", START_MS, START_MS))
    assert users.get("u-1")
    *_, back = views(users, Due("user", "u-1", "expiry", START_MS, START_MS), admitted())
    assert (back.session_events, len(back.items)) == (1, 1)


def heavy_event(n: int) -> Event:
    """Return an event that makes every number of a profile large."""
    return event(
        type=("purchase", "view", "cart")[n % 3],
        item_id=f"item-{n}",
        order_id=f"order-{n}",
        price=1e12,
        quantity=1_000_000,
        timestamp=4_102_444_800_000 - 1,
    )


def test_profile_of_a_heavy_user_fits_its_budget() -> None:
    """Extreme prices, times and counts stay within the section's bytes and encode as they are."""
    profile = Profile.decode(b"")
    for n in range(200):
        made = heavy_event(n)
        assert isinstance(made.timestamp, int)
        second = made.timestamp // 1000
        profile.session.update(made, second, 1800)
        profile.activity.update(made.type, second)
        profile.history.update(id_hash(f"item-{n}"), second, n % 13)
        profile.spend.update(made, second)
    data = profile.encode()
    assert len(data) == BYTES_MAX
    assert Profile.decode(data).encode() == data
    assert Profile.decode(data).view(second) == profile.view(second)
