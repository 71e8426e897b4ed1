"""Stage 4: what is known of a user: history, session, activity and spending, one class each.

Each class has ``update(event)`` and a value as of a moment. What is handed on is a
:class:`UserView`, an immutable copy as of one record, never a reference into the state. Numbers are
held in arrays and structs of the width in which they are stored, so they are rounded when they are
updated.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.config import StageSettings
from stream_app.event import EVENT_TYPES, Event
from stream_app.hashing import event_hash, id_hash
from stream_app.steps import Admitted, Due, Step, UserView

HISTORY_SIZE = 50
HISTORY_EVENTS = frozenset(("view", "cart", "purchase", "comment", "share", "click"))
KIND_CODES = {kind: code for code, kind in enumerate(EVENT_TYPES)}  # stored: only ever append

ACTIVITY_EVENTS = ("view", "cart", "purchase", "comment", "share", "search", "click")
HALF_LIVES_DAYS = (1.0, 30.0)
_ACTIVITY_SIZE = len(ACTIVITY_EVENTS) * len(HALF_LIVES_DAYS)
# Weight of the newest gap in the moving average of the gaps between orders, or visits.
GAP_WEIGHT = 0.25
_DAY_S = 86_400

_SESSION = Struct("<QIIHHHHIff")
_ACTIVITY = Struct(f"<I{_ACTIVITY_SIZE}f")
# Half-lives of the counts of orders.
ORDER_HALF_LIVES_DAYS = (7.0, 28.0)
# Gaps between days with an order are counted by how many of these days they exceed.
LONG_GAPS_DAYS = (0, 3, 7, 14, 28, 42)
IDLE_DAYS = 14  # what of a gap goes beyond counts as idle
_WEEKS = 16  # that a user's mask of weeks with an order goes back

_SPEND = Struct("<QIIIfff")
_RHYTHM = Struct("<Hffff6H")
_FIXED = _SESSION.size + _ACTIVITY.size + _SPEND.size + _RHYTHM.size
BYTES_MAX = _FIXED + HISTORY_SIZE * (8 + 4 + 1)
_COUNT_MAX = 0xFFFF


NOBODY = UserView(
    activity=(0.0,) * _ACTIVITY_SIZE,
    recent_orders=(0.0,) * len(ORDER_HALF_LIVES_DAYS),
    long_gaps=(0,) * len(LONG_GAPS_DAYS),
)


class History:
    """The last 50 items that a user dealt with, in order of event time.

    >>> history = History.decode(b"")
    >>> history.update(7, 60, 3)
    >>> history.update(8, 30, 0)
    >>> history.items.tolist()
    [8, 7]
    """

    __slots__ = ("items", "kinds", "seconds")

    def __init__(self, items: "array[int]", seconds: "array[int]", kinds: bytearray) -> None:
        self.items = items
        self.seconds = seconds
        self.kinds = kinds

    @classmethod
    def decode(cls, data: bytes) -> "History":
        """Return the history that ``data`` holds: items, then times, then kinds."""
        count = len(data) // 13
        items, seconds = data[: 8 * count], data[8 * count : 12 * count]
        return cls(array("Q", items), array("I", seconds), bytearray(data[12 * count :]))

    def encode(self) -> bytes:
        """Return the history as bytes, 13 for each entry."""
        return self.items.tobytes() + self.seconds.tobytes() + bytes(self.kinds)

    def update(self, item: int, second: int, kind: int) -> None:
        """Enter an item at its own time; of more than 50 the oldest leaves."""
        seconds = self.seconds
        place = len(seconds)
        if place and seconds[-1] > second:
            place = bisect_right(seconds, second)
        self.items.insert(place, item)
        seconds.insert(place, second)
        self.kinds.insert(place, kind)
        if len(seconds) > HISTORY_SIZE:
            del self.items[0], seconds[0], self.kinds[0]


class Session(msgspec.Struct):
    """What the user has done in the running session; a new id or 30 idle minutes begin another.

    ``visits`` counts sessions, ``gap_days`` averages the silence between them; ``price`` is the
    last one seen in this session, 0 for none.
    """

    session: int = 0
    start_s: int = 0
    last_s: int = 0
    events: int = 0
    views: int = 0
    carts: int = 0
    purchases: int = 0
    visits: int = 0
    gap_days: float = 0.0
    price: float = 0.0

    def encode(self) -> bytes:
        """Return the session as bytes."""
        return _SESSION.pack(*msgspec.structs.astuple(self))

    def update(self, event: Event, second: int, gap_s: int) -> None:
        """Count an event; one that is older than the session counts as part of it."""
        session = event_hash(event.session_id) if event.session_id is not None else 0
        other = session != self.session and second >= self.start_s
        if other or second > self.last_s + gap_s:
            if self.visits:
                silence_days = max(second - self.last_s, 0) / _DAY_S
                mean = silence_days if self.visits == 1 else self.gap_days
                self.gap_days = _single(mean + GAP_WEIGHT * (silence_days - mean))
            self.visits += 1
            self.session, self.start_s, self.last_s = session, second, second
            self.events = self.views = self.carts = self.purchases = 0
            self.price = 0.0
        self.last_s = max(self.last_s, second)
        self.events = min(self.events + 1, _COUNT_MAX)
        self.price = _single(event.price) if event.price else self.price
        if event.type == "view":
            self.views = min(self.views + 1, _COUNT_MAX)
        elif event.type == "cart":
            self.carts = min(self.carts + 1, _COUNT_MAX)
        elif event.type == "purchase":
            self.purchases = min(self.purchases + 1, _COUNT_MAX)


class Activity:
    """Decayed counts of what the user does, for each type of event and half-life."""

    __slots__ = ("counts", "last_s")

    def __init__(self, last_s: int, counts: "array[float]") -> None:
        self.last_s = last_s
        self.counts = counts

    def encode(self) -> bytes:
        """Return the counts as bytes."""
        return _ACTIVITY.pack(self.last_s, *self.counts)

    def update(self, kind: str, second: int) -> None:
        """Count an event at its own time; an old one counts for what is left of it."""
        if second > self.last_s:
            self.counts = array("f", self.value(second))
            self.last_s = second
        first = ACTIVITY_EVENTS.index(kind) * len(HALF_LIVES_DAYS)
        age_days = (self.last_s - second) / _DAY_S
        for offset, half_life in enumerate(HALF_LIVES_DAYS):
            self.counts[first + offset] += 2.0 ** (-age_days / half_life)

    def value(self, now_s: int) -> tuple[float, ...]:
        """Return the counts as of ``now_s``."""
        age_days = max(now_s - self.last_s, 0) / _DAY_S
        if not age_days:
            return tuple(self.counts)
        factors = [2.0 ** (-age_days / half_life) for half_life in HALF_LIVES_DAYS]
        width = len(factors)
        return tuple(count * factors[i % width] for i, count in enumerate(self.counts))


class Spend(msgspec.Struct):
    """Orders and what they were worth; an order is one ``order_id``, or one second without it."""

    order: int = 0
    first_s: int = 0
    last_s: int = 0
    orders: int = 0
    gap_days: float = 0.0
    spend: float = 0.0
    value: float = 0.0

    def encode(self) -> bytes:
        """Return the orders as bytes."""
        return _SPEND.pack(*msgspec.structs.astuple(self))

    def is_new(self, event: Event, second: int) -> bool:
        """Tell whether a purchased line begins an order: another than the last, and no older."""
        return _order(event, second) != self.order and (second >= self.last_s or not self.orders)

    def update(self, event: Event, second: int) -> None:
        """Enter one purchased line; an order that is older than the last adds only its worth."""
        order = _order(event, second)
        worth = (event.price or 0.0) * (1 if event.quantity is None else event.quantity)
        if self.is_new(event, second):
            if self.orders:
                gap_days = (second - self.last_s) / _DAY_S
                mean = gap_days if self.orders == 1 else self.gap_days
                self.gap_days = _single(mean + GAP_WEIGHT * (gap_days - mean))
                self.spend = _single(self.spend * 2.0 ** (-gap_days / 30.0))
            else:
                self.first_s = second
            self.order, self.last_s, self.value = order, second, 0.0
            self.orders += 1
        self.value = _single(self.value + worth) if order == self.order else self.value
        self.spend = _single(self.spend + worth)


class Rhythm(msgspec.Struct):
    """How regularly a user orders.

    ``weeks`` has a bit for each calendar week (Sunday to Saturday, UTC) with an order, the week of
    the newest the lowest; ``idle_days`` sums what of each gap exceeded 14 days; ``long_gaps``
    counts gaps between days with an order by :data:`LONG_GAPS_DAYS`; ``recent`` are decayed counts.
    """

    weeks: int = 0
    idle_days: float = 0.0
    last_gap_days: float = 0.0
    recent: tuple[float, ...] = (0.0,) * len(ORDER_HALF_LIVES_DAYS)
    long_gaps: tuple[int, ...] = (0,) * len(LONG_GAPS_DAYS)

    @classmethod
    def unpack(cls, data: bytes, start: int) -> "Rhythm":
        """Return the rhythm that stands in ``data`` from ``start`` on."""
        weeks, idle_days, last_gap_days, *rest = _RHYTHM.unpack_from(data, start)
        width = len(ORDER_HALF_LIVES_DAYS)
        return cls(weeks, idle_days, last_gap_days, tuple(rest[:width]), tuple(rest[width:]))

    def encode(self) -> bytes:
        """Return the rhythm as bytes."""
        return _RHYTHM.pack(
            self.weeks, self.idle_days, self.last_gap_days, *self.recent, *self.long_gaps
        )

    def update(self, last_s: int, second: int) -> None:
        """Enter an order after one at ``last_s``, or the first, where that is 0."""
        if not last_s:
            self.weeks, self.recent = 1, (1.0,) * len(ORDER_HALF_LIVES_DAYS)
            return
        gap_days = (second - last_s) / _DAY_S
        days = second // _DAY_S - last_s // _DAY_S
        weeks = _week(second) - _week(last_s)
        self.weeks = (self.weeks << weeks | 1) & (1 << _WEEKS) - 1 if weeks < _WEEKS else 1
        self.idle_days = _single(self.idle_days + max(gap_days - IDLE_DAYS, 0.0))
        self.last_gap_days = _single(gap_days)
        self.recent = tuple(
            _single(count * 2.0 ** (-gap_days / half_life) + 1.0)
            for count, half_life in zip(self.recent, ORDER_HALF_LIVES_DAYS, strict=True)
        )
        self.long_gaps = tuple(
            min(count + (days > edge), _COUNT_MAX)
            for count, edge in zip(self.long_gaps, LONG_GAPS_DAYS, strict=True)
        )


class Profile(msgspec.Struct):
    """A user's section of this stage: session, activity, spending, rhythm and history.

    >>> profile = Profile.decode(b"")
    >>> Profile.decode(profile.encode()).encode() == profile.encode()
    True
    """

    session: Session
    activity: Activity
    spend: Spend
    rhythm: Rhythm
    history: History

    @classmethod
    def decode(cls, data: bytes) -> "Profile":
        """Return the section that ``data`` holds, a fresh one for no data."""
        data = data or bytes(_FIXED)
        last_s, *counts = _ACTIVITY.unpack_from(data, _SESSION.size)
        return cls(
            Session(*_SESSION.unpack_from(data)),
            Activity(last_s, array("f", counts)),
            Spend(*_SPEND.unpack_from(data, _SESSION.size + _ACTIVITY.size)),
            Rhythm.unpack(data, _FIXED - _RHYTHM.size),
            History.decode(data[_FIXED:]),
        )

    def encode(self) -> bytes:
        """Return the section as bytes."""
        parts = (self.session, self.activity, self.spend, self.rhythm, self.history)
        return b"".join([part.encode() for part in parts])

    def view(self, now_s: int) -> UserView:
        """Return an immutable copy as of ``now_s``, in seconds since the epoch."""
        session, spend, history, rhythm = self.session, self.spend, self.history, self.rhythm
        age_days = max(now_s - spend.last_s, 0) / _DAY_S if spend.orders else 0.0
        recent: tuple[float, ...] = rhythm.recent
        if age_days:
            recent = tuple(
                count * 2.0 ** (-age_days / half_life)
                for count, half_life in zip(recent, ORDER_HALF_LIVES_DAYS, strict=True)
            )
        return UserView(
            tuple(history.items),
            tuple(history.seconds),
            bytes(history.kinds),
            session.events,
            session.views,
            session.carts,
            session.purchases,
            session.last_s - session.start_s,
            session.price,
            session.visits,
            session.gap_days,
            max(now_s - session.last_s, 0) / _DAY_S if session.visits else 0.0,
            self.activity.value(now_s),
            spend.order,
            spend.orders,
            spend.gap_days,
            age_days,
            max(now_s - spend.first_s, 0) / _DAY_S if spend.orders else 0.0,
            spend.spend,
            spend.value,
            rhythm.last_gap_days,
            recent,
            rhythm.weeks << max(_week(now_s) - _week(spend.last_s), 0)
            if age_days
            else rhythm.weeks,
            rhythm.idle_days,
            rhythm.long_gaps,
        )


def describe(
    users: Sections[str, Profile], steps: Sequence[Step], settings: StageSettings
) -> list[UserView]:
    """Return the user's view as of each step; :data:`NOBODY` where there is no profile to use.

    Of timers, those that ask for a user's risk have one, as of the time that they are due.

    Updates the profiles on the way, and empties those of users who expire, are erased or withdraw
    their consent.
    """
    gap_s = settings.session_gap_minutes * 60
    views: list[UserView] = []
    for step in steps:
        view = NOBODY
        if type(step) is Admitted:
            if step.profiled:
                view = _update(users.touch(step.key), step, gap_s)
            elif not step.untouchable:
                users.clear(step.arrival.event.user_id)
                users.clear(step.key)
        elif type(step) is Due and step.scope == "user":
            if step.kind == "expiry":
                users.clear(str(step.key))
            elif step.kind in ("churn", "silence"):
                profile = users.get(str(step.key))
                view = profile.view(step.due_ms // 1000) if profile is not None else NOBODY
        views.append(view)
    return views


def _update(profile: Profile, step: Admitted, gap_s: int) -> UserView:
    event = step.arrival.event
    second = step.arrival.time_ms // 1000
    if event.type in ACTIVITY_EVENTS:
        profile.session.update(event, second, gap_s)
        profile.activity.update(event.type, second)
    if event.type in HISTORY_EVENTS and event.item_id is not None:
        profile.history.update(id_hash(event.item_id), second, KIND_CODES[event.type])
    if event.type == "purchase":
        if profile.spend.is_new(event, second):
            profile.rhythm.update(profile.spend.last_s if profile.spend.orders else 0, second)
        profile.spend.update(event, second)
    return profile.view(second)


def _order(event: Event, second: int) -> int:
    """Return what names an event's order: the hash of its id, or the second without one."""
    return event_hash(event.order_id) if event.order_id is not None else second


def _week(second: int) -> int:
    """Return the number of the week that a second lies in; weeks begin Sunday 00:00 UTC."""
    return (second // _DAY_S - 3) // 7


def _single(number: float) -> float:
    """Return a number rounded to single precision, as it is stored."""
    return array("f", (number,))[0]
