"""What was recommended, and how often its user then clicked on it or bought it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream_app.event import EVENT_TYPES
from stream_app.ops.report_events import CLICK, PURCHASE, Book, EventFigures, User, step_of
from stream_app.ops.report_series import Durations, Table, Windows

assert {"purchase", "click"} <= set(EVENT_TYPES), "hits are of these"
TOP_ITEMS = 10
FALLBACK = " (fallback)"  # ends the name of what ranked in the model's place
# Shares over time need more cases than counts do.
_WINDOWS_MAX = 27


class _Cause(msgspec.Struct, frozen=True):
    partition: int
    offset: int


class _Item(msgspec.Struct, frozen=True):
    item_id: str
    sources: list[str]


class _Answer(msgspec.Struct, frozen=True):
    """What is read of a recommendation."""

    user_id: str
    timestamp: int
    items: list[_Item]
    cause: _Cause
    model: str
    fallback_level: str | None


class Shares(msgspec.Struct):
    """How many were shown, and of these bought and clicked on within the horizon."""

    shown: int = 0
    bought: int = 0
    clicked: int = 0

    def add(self, *, bought: bool, clicked: bool) -> None:
        """Count one."""
        self.shown += 1
        self.bought += bought
        self.clicked += clicked


class HitFigures(msgspec.Struct, frozen=True):
    """What came of recommendations, of the users kept, whose horizon has closed.

    ``all`` has recommendations: bought means that at least one item was. ``popular`` has the same
    for as many of the items that everybody had bought most before that day, ``usual`` of those that
    the user had bought most often before. ``places`` and
    ``sources`` have items; an item of several sources counts for each. ``windows`` has the shares
    over ``time``, counted from ``counted_from_ms`` on or not. ``unclosed`` are those whose horizon
    is open, ``unjoined`` those of users that are not kept, ``early`` those made before
    ``counted_from_ms``.
    """

    horizon_ms: int
    counted_from_ms: int | None
    all: Shares
    popular: Shares
    usual: Shares
    items: Shares
    places: Mapping[int, Shares]
    sources: Mapping[str, Shares]
    models: Mapping[str, Shares]
    time: Windows
    windows: Sequence[Shares]
    windows_popular: Sequence[Shares]
    windows_usual: Sequence[Shares]
    early: int
    unclosed: int
    unjoined: int


class AnswerFigures(msgspec.Struct, frozen=True):
    """What was recommended.

    ``models`` and ``sources`` are over the windows of the events: recommendations by who ranked
    them, items by source. ``top`` has the items recommended most, with how often; ``half`` is how
    many different items fill half of all places. ``lag`` is from an event's time to its
    recommendation's record, over the windows, in ms: median and 99th percentile; None where the log
    is a replay.
    """

    count: int
    empty: int
    repeats: int
    users: int
    places: int
    models: Mapping[str, Sequence[int]]
    sources: Mapping[str, Sequence[int]]
    distinct: int
    half: int
    top: Sequence[tuple[str, int]]
    hits: HitFigures
    lag: Sequence[tuple[int, float | None, float | None]] | None


class Answers:
    """Takes in the recommendations; the events must have been read before.

    Parameters
    ----------
    book
        What users did.
    events
        Its figures.
    horizon_ms
        How long after a recommendation a purchase or click counts for it, in ms of event time.
    counted_from_ms
        Where the data ends that the ranking model has learned from; earlier hits prove nothing.
    live
        Whether records carry the time at which they were written, so that the lag can be told.
    """

    def __init__(
        self,
        book: Book,
        events: EventFigures,
        horizon_ms: int,
        *,
        counted_from_ms: int | None = None,
        live: bool = False,
    ) -> None:
        self._book, self._windows = book, events.windows
        self._horizon_ms, self._end_ms = horizon_ms, events.end_ms
        self._from_ms = counted_from_ms
        self._live = live
        self._popular = book.popular(step_of(events.windows))
        self._models, self._sources = Table(events.windows), Table(events.windows)
        self._counts: Counter[str] = Counter()  # of outcomes
        self._users: set[str] = set()
        self._items: Counter[str] = Counter()
        self._done: dict[tuple[int, int], int] = {}
        self._all, self._of_items = Shares(), Shares()
        self._by_popular, self._by_usual = Shares(), Shares()
        self._habits: dict[str, Habit] = {}
        self._by_place: dict[int, Shares] = {}
        self._by_source: dict[str, Shares] = {}
        self._by_model: dict[str, Shares] = {}
        self._time = events.windows.coarse(_WINDOWS_MAX)
        self._over_time = [Shares() for _ in range(self._time.count)]
        self._over_time_popular = [Shares() for _ in range(self._time.count)]
        self._over_time_usual = [Shares() for _ in range(self._time.count)]
        self._lags = [Durations() for _ in range(events.windows.count)]
        self._decode = msgspec.json.Decoder(_Answer).decode

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Take in records; one that a crash has repeated counts once."""
        for record in records:
            try:
                answer = self._decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._counts["unread"] += 1
                continue
            log = partition, answer.cause.partition
            if answer.cause.offset <= self._done.get(log, -1):
                self._counts["repeat"] += 1
                continue
            self._done[log] = answer.cause.offset
            self._enter(answer, record.timestamp)

    def _enter(self, answer: _Answer, record_ms: int) -> None:
        time_ms = answer.timestamp
        self._counts["answer"] += 1
        model = answer.model if answer.fallback_level is None else answer.model + FALLBACK
        self._models.add(time_ms, model)
        if self._live:
            self._lags[self._windows.place(time_ms)].add(max(record_ms - time_ms, 0))
        if not answer.items:
            self._counts["empty"] += 1
            return
        self._items.update([item.item_id for item in answer.items])
        for item in answer.items:
            for source in item.sources:
                self._sources.add(time_ms, source)
        user = self._book.users.get(answer.user_id)
        if user is None:
            self._counts["unjoined"] += 1
            return
        self._users.add(answer.user_id)
        if time_ms + self._horizon_ms > self._end_ms:
            self._counts["unclosed"] += 1
            return
        self._join(answer, user, model)

    def _join(self, answer: _Answer, user: User, model: str) -> None:
        """Count what came of a recommendation whose horizon has closed."""
        time_ms = answer.timestamp
        bought, clicked = followed(user, time_ms, answer.cause.offset, self._horizon_ms)
        number = self._book.items.get
        numbers = [number(item.item_id, -2) for item in answer.items]
        habit = self._habits.setdefault(answer.user_id, Habit(user))
        place = self._time.place(time_ms)
        counted = self._from_ms is None or time_ms >= self._from_ms
        for named, over_time, total in (
            (numbers, self._over_time, self._all),
            (self._popular.items(time_ms, len(numbers)), self._over_time_popular, self._by_popular),
            (habit.items(time_ms, len(numbers)), self._over_time_usual, self._by_usual),
        ):
            hit = {"bought": not bought.isdisjoint(named), "clicked": not clicked.isdisjoint(named)}
            over_time[place].add(**hit)
            if counted:
                total.add(**hit)
        if not counted:
            self._counts["early"] += 1
            return
        hit = {"bought": not bought.isdisjoint(numbers), "clicked": not clicked.isdisjoint(numbers)}
        self._by_model.setdefault(model, Shares()).add(**hit)
        for rank, (item, own) in enumerate(zip(answer.items, numbers, strict=True), 1):
            one = {"bought": own in bought, "clicked": own in clicked}
            self._of_items.add(**one)
            self._by_place.setdefault(rank, Shares()).add(**one)
            for source in item.sources:
                self._by_source.setdefault(source, Shares()).add(**one)

    def close(self) -> AnswerFigures:
        """Return the figures."""
        counts = self._counts
        top = sorted(self._items.items(), key=lambda pair: (-pair[1], pair[0]))
        hits = HitFigures(
            horizon_ms=self._horizon_ms,
            counted_from_ms=self._from_ms,
            all=self._all,
            popular=self._by_popular,
            usual=self._by_usual,
            items=self._of_items,
            places=dict(sorted(self._by_place.items())),
            sources=dict(sorted(self._by_source.items(), key=lambda p: (-p[1].shown, p[0]))),
            models=dict(sorted(self._by_model.items(), key=lambda p: (-p[1].shown, p[0]))),
            time=self._time,
            windows=self._over_time,
            windows_popular=self._over_time_popular,
            windows_usual=self._over_time_usual,
            early=counts["early"],
            unclosed=counts["unclosed"],
            unjoined=counts["unjoined"],
        )
        lag = [(each.count, each.percentile(50), each.percentile(99)) for each in self._lags]
        return AnswerFigures(
            count=counts["answer"],
            empty=counts["empty"],
            repeats=counts["repeat"],
            users=len(self._users),
            places=self._items.total(),
            models=self._models.rows(),
            sources=self._sources.rows(),
            distinct=len(self._items),
            half=_half([count for _, count in top]),
            top=top[:TOP_ITEMS],
            hits=hits,
            lag=lag if self._live else None,
        )


class Habit:
    """What one user has bought most often; ask with times that do not fall.

    Parameters
    ----------
    user
        Whose purchases count.
    """

    def __init__(self, user: User) -> None:
        self._user = user
        self._next = 0
        self._counts: Counter[int] = Counter()

    def items(self, time_ms: int, count: int) -> list[int]:
        """Return the items bought most often before a time; of equals, those bought first."""
        user, place = self._user, self._next
        while place < len(user.times_ms) and user.times_ms[place] < time_ms:
            if user.kinds[place] == PURCHASE and user.items[place] >= 0:
                self._counts[user.items[place]] += 1
            place += 1
        self._next = place
        return [item for item, _ in self._counts.most_common(count)]


def followed(
    user: User, time_ms: int, offset: int, horizon_ms: int
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the numbers of the items that a user bought, and clicked on, after a recommendation.

    What counts stands later in the log than the event that caused it, at ``offset``, and happened
    at its time or up to ``horizon_ms`` after it. The rest of the order that caused it does not: it
    had been decided.
    """
    order = user.order_at(time_ms, offset)
    bought, clicked = set(), set()
    for place in user.within(time_ms - 1, time_ms + horizon_ms):
        if user.offsets[place] <= offset or user.items[place] < 0:
            continue
        if user.kinds[place] == PURCHASE:
            if user.orders[place] != order:
                bought.add(user.items[place])
        elif user.kinds[place] == CLICK:
            clicked.add(user.items[place])
    return frozenset(bought), frozenset(clicked)


def _half(counts: Sequence[int]) -> int:
    """Return how many of some counts, greatest first, make up half of their sum.

    >>> _half([5, 3, 2]), _half([4, 4, 2]), _half([])
    (1, 2, 0)
    """
    total, seen = sum(counts), 0
    for place, count in enumerate(counts, 1):
        seen += count
        if 2 * seen >= total:
            return place
    return 0
