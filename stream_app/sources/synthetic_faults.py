"""What goes wrong with the records of the synthetic shops: late, sent twice, or broken.

A broken record is a copy beside the good one, so that the truth stays true.
"""

import heapq
import random
from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from stream_app.event import Event, RejectReason, encode
from stream_app.sources import Record
from stream_app.sources.synthetic_shop import DAY_MS, HOUR_MS, MINUTE_MS, Shop
from stream_app.sources.synthetic_truth import Case

_TOO_LONG_BYTES = 70_000  # the worker's setting is 65,536 unless changed

# How long after its event a late record comes, and a repeat after its original.
_LATE_MS_MIN, _LATE_MS_MAX = 11 * MINUTE_MS, 12 * HOUR_MS
_AGAIN_MS_MIN, _AGAIN_MS_MAX = 100, MINUTE_MS


def with_faults(
    journal: Iterable[Event | Case],
    shop: Shop,
    seed: str,
    truth: Callable[[Case], object] | None = None,
) -> Iterator[Record]:
    """Yield the records of a journal in the order of their times, with faults at the shop's rates.

    A record has its event's time; a late one, which comes more than 10 minutes after that, has the
    time at which it comes. The lines of an order are late together.

    Parameters
    ----------
    journal
        Events in time order, each followed by its case if it has one.
    shop, seed
        Rates, and what chance is drawn from.
    truth
        Called with each case before its event is yielded; cases of late events are left out.
    """
    rng = random.Random(f"{seed}/faults")  # noqa: S311 - seeded chance is the point
    waiting: list[tuple[int, int, Record]] = []  # a heap; numbers keep equal times in order
    number = 0
    moment: tuple[str, int] | None = None
    delay_ms = 0

    def post(time_ms: int, key: bytes, value: bytes) -> None:
        nonlocal number
        number += 1
        heapq.heappush(waiting, (time_ms, number, (key, value, time_ms)))

    for entry in journal:
        if isinstance(entry, Case):
            if truth is not None and not (delay_ms and entry.event_id is not None):
                truth(entry)
            continue
        assert isinstance(entry.timestamp, int)
        while waiting and waiting[0][0] <= entry.timestamp:
            yield heapq.heappop(waiting)[2]
        if moment != (entry.user_id, entry.timestamp):
            moment = entry.user_id, entry.timestamp
            late = rng.random() < shop.late_rate
            delay_ms = _between(_LATE_MS_MIN, _LATE_MS_MAX, rng) if late else 0
        key, value = entry.user_id.encode(), encode(entry)
        time_ms = entry.timestamp + delay_ms
        post(time_ms, key, value)
        if rng.random() < shop.duplicate_rate:
            post(time_ms + _between(_AGAIN_MS_MIN, _AGAIN_MS_MAX, rng), key, value)
        if rng.random() < shop.broken_rate:
            post(time_ms, *broken(entry, _WAYS[int(rng.random() * len(_WAYS))]))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _renamed(event: Event, field: str, name: str) -> bytes:
    return encode(event).replace(b'"%s":' % field.encode(), b'"%s":' % name.encode(), 1)


def _undated(event: Event) -> bytes:
    """Return an event whose time has no zone."""
    assert isinstance(event.timestamp, int)
    return encode(event).replace(b":%d" % event.timestamp, b':"2024-01-01T00:00:00"', 1)


def _tomorrow(event: Event) -> bytes:
    assert isinstance(event.timestamp, int)
    return encode(replace(event, timestamp=event.timestamp + DAY_MS))


# Ways to break a record: the reason that the worker gives, and the value of the broken copy.
_OTHER_KEY = "key of another"
BREAKS: dict[str, tuple[RejectReason, Callable[[Event], bytes]]] = {
    "no value": ("empty", lambda _: b""),
    "too long": ("too_large", lambda event: encode(event).ljust(_TOO_LONG_BYTES)),
    "cut off": ("not_json", lambda event: encode(event)[:-9]),
    "not UTF-8": ("not_json", lambda event: encode(event).replace(b'"u-', b'"\xff-', 1)),
    "a list": ("not_an_event", lambda event: b"[" + encode(event) + b"]"),
    "no type": ("not_an_event", lambda event: _renamed(event, "type", "kind")),
    "no time": ("not_an_event", lambda event: _renamed(event, "timestamp", "time")),
    "time without a zone": ("not_an_event", _undated),
    "price below 0": ("not_an_event", lambda event: encode(replace(event, price=-1.0))),
    "unheard-of type": ("unknown_type", lambda event: encode(replace(event, type="wink"))),
    "no item": ("missing_field", lambda event: encode(replace(event, type="view", item_id=None))),
    "blank id": ("bad_id", lambda event: encode(replace(event, event_id=" "))),
    "first second of 1970": ("bad_time", lambda event: encode(replace(event, timestamp=0))),
    "tomorrow": ("from_the_future", _tomorrow),
    _OTHER_KEY: ("wrong_key", encode),
}
_WAYS = tuple(BREAKS)


def broken(event: Event, way: str) -> tuple[bytes, bytes]:
    """Return key and value of a copy of an event, broken in one of the ways of :data:`BREAKS`."""
    key = f"not-{event.user_id}" if way == _OTHER_KEY else event.user_id
    return key.encode(), BREAKS[way][1](event)


def _between(low: int, high: int, rng: random.Random) -> int:
    return low + int(rng.random() * (high - low))
