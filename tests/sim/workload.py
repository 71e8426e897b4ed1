"""What producers write: orders, repeats, late and future events, garbage, ticks, long pauses."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from msgspec import Struct

from stream_app.config import DAY_MS
from stream_app.event import rfc3339
from stream_app.hashing import partition_for
from stream_app.runtime.sink import Produced
from stream_app.stages.decode import TICK_VALUE

START_MS = 1_704_067_200_000  # 2024-01-01
_MINUTE_MS = 60_000
_TYPES = {
    "view": 40,
    "cart": 8,
    "remove_from_cart": 2,
    "purchase": 14,
    "comment": 6,
    "share": 5,
    "search": 3,
    "impression": 6,
    "click": 8,
    "recommend": 12,
    "consent": 3,
    "erase": 1,
}


class Written(Struct):
    """A record that a producer writes, and where to."""

    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def content(self) -> Produced:
        """What is sent to the partition."""
        return self.key, self.value, list(self.headers)


class Shop:
    """A shop of one seed: who comes how often, what there is, how time passes."""

    def __init__(self, rng: Random, partitions: int, first_offset: int = 0) -> None:
        self.rng = rng
        self.partitions = partitions
        self._ends = [first_offset] * partitions  # about where the next record will stand
        self.now_ms = START_MS
        self._users = [self._user(number) for number in range(rng.choice((1, 5, 30, 80, 1_000)))]
        self._items = [f"item-{n}" for n in range(rng.choice((3, 40, 400, 400)))]
        self._skew = rng.choice((0.0, 0.7, 1.5))
        self._gap_ms = rng.choice((1_000, 8 * 3_600_000, 16 * 3_600_000, DAY_MS))
        self._stay = rng.choice((0.0, 0.5, 0.8))  # that the next event is of the same visit
        self._visit = ("", "")  # user and session
        self._asked: dict[str, int] = {}  # about where a user's last request stands
        self._jumps = rng.choice((0.0, 0.02, 0.05))
        self._repeats = rng.choice((0.0, 0.05, 0.3))
        self._garbage = rng.choice((0.0, 0.05, 0.3))
        self._late = rng.choice((0.0, 0.1))
        self._written: list[Written] = []
        self._count = 0

    def write(self, events: int) -> list[Written]:
        """Return so many records in the order in which they are written."""
        for _ in range(events):
            self._pass_time()
            written = self._next()
            self._ends[written.partition] += 1
            self._written.append(written)
        return self._written

    def _user(self, number: int) -> str:
        if number % 17 == 16:
            return f"käufer-🙂-{number}" + "x" * 100
        return f"user-{number}"

    def _pass_time(self) -> None:
        if self.rng.random() < self._stay and self._visit[0]:
            self.now_ms += self.rng.randrange(90_000)
            return
        session = f"session-{self.rng.randrange(5)}" if self.rng.random() < 0.7 else ""
        self._visit = self._skewed(self._users), session
        self.now_ms += int(self.rng.expovariate(1.0) * self._gap_ms)
        if self.rng.random() < self._jumps:
            self.now_ms += int(self.rng.choice((1, 6, 9, 35)) * DAY_MS * self.rng.uniform(0.9, 1.1))

    def _skewed(self, things: list[str]) -> str:
        """Draw one of several things, the first ones more often."""
        place = self.rng.random() ** (1.0 + self._skew * 2.0)
        return things[int(place * len(things))]

    def _next(self) -> Written:
        rng = self.rng
        chance = rng.random()
        if self._written and chance < self._repeats:
            back = rng.choice((1, 3, 50))
            old = self._written[-min(back, len(self._written))]
            return Written(old.partition, old.key, old.value, self.now_ms, old.headers)
        if rng.random() < self._garbage:
            return self._bad()
        if rng.random() < 0.02:
            return Written(rng.randrange(self.partitions), None, TICK_VALUE, self.now_ms)
        return self._good(self._event())

    def _event(self) -> dict[str, Any]:
        """Return a well-formed event."""
        rng = self.rng
        self._count += 1
        kind = rng.choices(list(_TYPES), list(_TYPES.values()))[0]
        time_ms = self.now_ms - rng.randrange(2_000)
        if rng.random() < self._late:
            time_ms -= rng.choice((20 * _MINUTE_MS, DAY_MS, 40 * DAY_MS))
        elif rng.random() < 0.05:
            time_ms += rng.randrange(299_000)
        event: dict[str, Any] = {
            "event_id": f"event-{self._count}",
            "type": kind,
            "user_id": self._visit[0],
            "timestamp": time_ms if rng.random() < 0.8 else rfc3339(time_ms),
        }
        if self._visit[1]:
            event["session_id"] = self._visit[1]
        return event | self._details(kind, self._visit[0])

    def _details(self, kind: str, user: str) -> dict[str, Any]:
        """Return the fields that a type of event has."""
        rng = self.rng
        if kind == "search":
            return {"text": "milk"}
        if kind == "consent":
            return {"consent": rng.random() < 0.6}
        if kind == "recommend":
            self._asked[user] = self._ends[self._partition(user)]
        if kind in {"recommend", "erase"}:
            return {}
        fields: dict[str, Any] = {"item_id": self._skewed(self._items)}
        if kind in {"impression", "click", "purchase"} and rng.random() < 0.6:
            fields["item_id"] = rng.choice(self._items[:3])  # popular, so it may have been shown
            fields["recommendation_id"] = self._recommendation(user)
        if kind == "purchase":
            fields |= {"price": round(rng.uniform(0, 90), 2), "quantity": rng.randrange(4)}
            if rng.random() < 0.8:
                fields["order_id"] = f"order-{self._count // 3}"
        return fields

    def _recommendation(self, user: str) -> str:
        """Return the id that an earlier recommendation may have; of some there is none."""
        partition = self._partition(user)
        offset = self._ends[partition] - self.rng.randrange(1, 4)
        if self.rng.random() < 0.8:
            offset = self._asked.get(user, offset)
        return f"clickstream.events-{partition}-{offset}-recommendation"

    def _partition(self, user: str) -> int:
        return partition_for(user.encode(), self.partitions)

    def _good(self, event: dict[str, Any]) -> Written:
        event = event | _context(event, self._count)
        key = str(event["user_id"]).encode()
        headers = (("trace", b"%d" % self._count),) if self.rng.random() < 0.1 else ()
        value = json.dumps(event, ensure_ascii=self.rng.random() < 0.5).encode()
        return Written(partition_for(key, self.partitions), key, value, self.now_ms, headers)

    def _bad(self) -> Written:
        """Return a record with one thing wrong, of some thirty kinds."""
        rng = self.rng
        event = self._event()
        written = self._good(event)
        if rng.random() < 0.3:
            written.value = rng.choice(list(_not_events(written.value or b"")))
        elif rng.random() < 0.2:
            written.key = rng.choice((None, b"", b"somebody-else", b"\xff\xfe"))
        elif rng.random() < 0.2:
            written.partition = rng.randrange(self.partitions)
        elif rng.random() < 0.1:
            written.timestamp = rng.choice((-1, 0, self.now_ms - 400 * DAY_MS))
        else:
            event.update(rng.choice(_WRONG_FIELDS))
            if rng.random() < 0.3:
                event.pop(rng.choice(list(event)))
            written.value = json.dumps(event).encode()
        return written


def _context(event: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the category or place of an event; drawn from nothing, so that seeds stay theirs."""
    fields: dict[str, Any] = {}
    if count % 3:
        fields["category"] = f"category-{len(str(event.get('item_id'))) + count % 4}"
    if count % 5 == 0:
        fields["context"] = {"place": count % 300}
    return fields


_WRONG_FIELDS: tuple[dict[str, Any], ...] = (
    {"event_id": ""},
    {"event_id": " \t"},
    {"event_id": "x" * 129},
    {"event_id": 7},
    {"user_id": "\u0000"},
    {"user_id": "\ud800"},
    {"type": "explosion"},
    {"type": "tick"},
    {"type": None},
    {"type": "view", "item_id": None},
    {"type": "view", "item_id": "\u200b"},
    {"type": "consent", "consent": None},
    {"type": "search", "text": None},
    {"timestamp": -1},
    {"timestamp": 10**30},
    {"timestamp": 915_148_800_000},
    {"timestamp": 4_200_000_000_000},
    {"timestamp": "2024-01-01T00:00:00"},
    {"timestamp": "9999-12-31T23:59:59Z"},
    {"timestamp": START_MS + 4_000 * DAY_MS},
    {"price": -1.0},
    {"price": "12"},
    {"price": float("nan")},
    {"quantity": 10**9},
    {"text": "x" * 1_900},
    {"text": "x" * 5_000},
    {"context": {"a": {"b": 1}}},
    {"an unknown field": [1, 2, 3]},
)


def _not_events(value: bytes) -> Iterator[bytes | None]:
    """Yield values that are no events at all."""
    yield from (None, b"", b"{", b"\xff\xff", b"null", b"[]", b"7", b'"text"', b"[" * 2_000)
    yield b'{"type": "tick"}'
    yield value[:-1]
    yield value + b"}"
    yield b"\xef\xbb\xbf" + value
    yield value * 40
