"""What came in: counts of all events, and what a sample of users did, to join outputs to."""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from stream_app.config import DAY_MS
from stream_app.event import Instant, to_ms
from stream_app.hashing import event_hash, id_hash
from stream_app.ops.report_series import Series, Windows
from stream_app.stages.admit import RING_SIZE

# What is kept in memory of users: the events that something is joined to (30 bytes each), and the
# users (700 bytes each). Where there are more, whole users are left out.
EVENTS_MAX = 2_000_000
USERS_MAX = 100_000

KINDS = ("purchase", "click", "comment", "share")
PURCHASE, CLICK = KINDS.index("purchase"), KINDS.index("click")
_PLACES = {kind: place for place, kind in enumerate(KINDS)}
_SHARE_ONE = 1 << 64
_ORDER_MASK = (1 << 63) - 1
POPULAR_ITEMS = 50


class _Event(msgspec.Struct, frozen=True):
    """What is read of an event."""

    event_id: str
    type: str
    user_id: str
    timestamp: Instant
    item_id: str | None = None
    order_id: str | None = None


class User:
    """What one user did of :data:`KINDS`, by time and then by place in the log."""

    __slots__ = ("items", "kinds", "offsets", "orders", "ring", "times_ms")

    def __init__(self) -> None:
        self.ring = array("Q")  # hashes of the last events, as the worker keeps them
        self.times_ms = array("q")
        self.offsets = array("q")
        self.kinds = array("b")
        self.items = array("i")  # -1 for none
        self.orders = array("q")

    def sort(self) -> None:
        """Put what has come late where it belongs."""
        times = self.times_ms
        places = sorted(range(len(times)), key=lambda place: (times[place], self.offsets[place]))
        if places == list(range(len(times))):
            return
        for name in ("times_ms", "offsets", "kinds", "items", "orders"):
            column = getattr(self, name)
            setattr(self, name, array(column.typecode, [column[place] for place in places]))

    def within(self, after_ms: int, until_ms: int) -> range:
        """Return the places of what happened after a time, up to and including another.

        >>> user = User()
        >>> user.times_ms.extend([1, 2, 2, 3])
        >>> list(user.within(1, 2)), list(user.within(0, 1))
        ([1, 2], [0])
        """
        return range(bisect_right(self.times_ms, after_ms), bisect_right(self.times_ms, until_ms))

    def order_at(self, time_ms: int, offset: int) -> int | None:
        """Return the order of the event at a place in the log; None if it is no purchase."""
        for place in range(bisect_left(self.times_ms, time_ms), len(self.times_ms)):
            if self.times_ms[place] != time_ms:
                break
            if self.offsets[place] == offset:
                return self.orders[place] if self.kinds[place] == PURCHASE else None
        return None

    def order_before(self, time_ms: int, offset: int) -> int | None:
        """Return the last order up to a time that stands earlier in the log; None for none."""
        for place in range(bisect_right(self.times_ms, time_ms) - 1, -1, -1):
            if self.kinds[place] == PURCHASE and self.offsets[place] <= offset:
                return self.orders[place]
        return None


class EventFigures(msgspec.Struct, frozen=True):
    """What came in.

    ``repeats`` and ``users`` are exact where ``share``, that of users kept, is 1; else they are
    estimates from the users kept. ``others`` are ticks, and records at the end of the log that the
    worker has not come to and that will be rejected. ``items`` are those seen among the users kept,
    ``end_ms`` is the newest time of an accepted record.
    """

    consumed: int
    rejected: int
    repeats: int
    processed: int
    others: int
    users: int
    items: int
    share: float
    kept: int
    windows: Windows
    types: Mapping[str, Sequence[int]]
    reasons: Mapping[str, int]
    first_ms: int
    end_ms: int


class Book:
    """Takes in the events, in the order of each partition's log.

    Parameters
    ----------
    rejects
        What the dead-letter topic has; read it before.
    limit
        Events kept at most.
    users_max
        Users kept at most.
    """

    def __init__(
        self, rejects: "Rejects", limit: int = EVENTS_MAX, users_max: int = USERS_MAX
    ) -> None:
        self.users: dict[str, User] = {}
        self.items: dict[str, int] = {}  # item id -> its number
        self._rejects = rejects
        self._limit, self._users_max = limit, users_max
        self._kept = 0  # events in users
        self._seen = 0  # events of users kept
        self._repeats = 0  # among these
        self._below = _SHARE_ONE  # users whose hash is below are kept
        self._series = Series()
        self._consumed = 0
        self._rejected = 0
        self._others = 0
        self._first_ms: int | None = None
        self._end_ms = 0
        self._decode = msgspec.json.Decoder(_Event).decode

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Take in records of a partition."""
        self._consumed += len(records)
        rejected = self._rejects.among(partition, records)
        for record in records:
            if record.offset in rejected:
                self._rejected += 1
                continue
            try:
                event = self._decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._others += 1
                continue
            time_ms = to_ms(event.timestamp)
            self._series.add(time_ms, event.type)
            self._end_ms = max(self._end_ms, record.timestamp)
            if self._first_ms is None or time_ms < self._first_ms:
                self._first_ms = time_ms
            if id_hash(event.user_id) < self._below:
                self._keep(event, time_ms, record.offset)

    def _keep(self, event: _Event, time_ms: int, offset: int) -> None:
        user = self.users.get(event.user_id)
        if user is None:
            user = self.users[event.user_id] = User()
        self._seen += 1
        digest = event_hash(event.event_id)
        if digest in user.ring:
            self._repeats += 1
            return
        user.ring.append(digest)
        if len(user.ring) > RING_SIZE:
            del user.ring[0]
        item = -1
        if event.item_id is not None:
            item = self.items.setdefault(event.item_id, len(self.items))
        kind = _PLACES.get(event.type)
        if kind is not None:
            user.times_ms.append(time_ms)
            user.offsets.append(offset)
            user.kinds.append(kind)
            user.items.append(item)
            # Without an order_id, a second is an order, as for the worker.
            order = event_hash(event.order_id) if event.order_id else time_ms // 1000
            user.orders.append(order & _ORDER_MASK)
            self._kept += 1
        while self._kept > self._limit or len(self.users) > self._users_max:
            self._thin()

    def _thin(self) -> None:
        """Leave out half of the users."""
        self._below //= 2
        for name in [each for each in self.users if id_hash(each) >= self._below]:
            self._kept -= len(self.users.pop(name).times_ms)

    def close(self) -> EventFigures:
        """Return the figures; after that, ``users`` can be joined to."""
        for user in self.users.values():
            user.sort()
        share = self._below / _SHARE_ONE
        seen = max(self._seen, 1)
        accepted = self._consumed - self._rejected - self._others
        repeats = self._repeats if share == 1 else round(self._repeats / seen * accepted)
        return EventFigures(
            consumed=self._consumed,
            rejected=self._rejected,
            repeats=repeats,
            processed=accepted - repeats,
            others=self._others,
            users=round(len(self.users) / share),
            items=len(self.items),
            share=share,
            kept=self._kept,
            windows=self._series.windows,
            types=self._series.rows(),
            reasons=self._rejects.reasons,
            first_ms=self._first_ms or 0,
            end_ms=self._end_ms,
        )

    def popular(self, step_ms: int) -> "Popular":
        """Return what was bought most, by all users kept, as of the start of each step of time."""
        return Popular(self.users.values(), len(self.items), step_ms)


class Rejects:
    """What the dead-letter topic says: how many records were rejected, and which."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}
        self._offsets: dict[tuple[int, int], array[int]] = {}  # by own partition and the source's
        self._sorted: dict[int, array[int]] = {}

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Take in records of the dead-letter topic; one that is told twice counts once."""
        for record in records:
            headers = dict(record.headers)
            try:
                source = int(headers["source_partition"])
                offset = int(headers["source_offset"])
            except (KeyError, ValueError):
                continue  # not of this program
            known = self._offsets.setdefault((partition, source), array("q"))
            if known and offset <= known[-1]:
                continue
            known.append(offset)
            reason = headers.get("reject_reason", b"unknown").decode(errors="replace")
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def among(self, partition: int, records: Sequence[Any]) -> frozenset[int]:
        """Return which offsets of some records of the source, in order, were rejected."""
        known = self._sorted.get(partition)
        if known is None:
            parts = [each for (_, source), each in self._offsets.items() if source == partition]
            known = self._sorted[partition] = array("q", sorted(chain.from_iterable(parts)))
        if not known or not records:
            return frozenset()
        start = bisect_left(known, records[0].offset)
        return frozenset(known[start : bisect_right(known, records[-1].offset)])


class Popular:
    """The items bought most before each step of time, by whomever; ties go to the earlier seen."""

    def __init__(self, users: Iterable[User], items: int, step_ms: int) -> None:
        self._step_ms = step_ms
        self._steps: list[int] = []
        self._best: list[list[int]] = []
        bought: dict[int, Counter[int]] = {}
        for user in users:
            for time_ms, kind, item in zip(user.times_ms, user.kinds, user.items, strict=True):
                if kind == PURCHASE and item >= 0:
                    bought.setdefault(time_ms // step_ms, Counter())[item] += 1
        counts = np.zeros(items, np.int64)
        for step in sorted(bought):
            places, more = zip(*bought[step].items(), strict=True)
            np.add.at(counts, list(places), list(more))
            best = np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]
            self._steps.append(step)
            self._best.append([int(item) for item in best if counts[item]])

    def items(self, time_ms: int, count: int) -> list[int]:
        """Return the numbers of the items bought most before the step that a time lies in."""
        place = bisect_left(self._steps, time_ms // self._step_ms)
        return self._best[place - 1][:count] if place else []


def step_of(windows: Windows) -> int:
    """Return how long a step is for what is popular: a day, or a window if that is shorter."""
    return min(windows.width_ms, DAY_MS)
