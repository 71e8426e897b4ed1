"""The input that the measurements share: a real shop's purchases, one event in five a request."""

from collections.abc import Iterable, Iterator
from functools import cache

import msgspec

from benchmarks.harness import Log, Sent
from stream_app.config import StageSettings
from stream_app.event import Event, encode
from stream_app.hashing import partition_for
from stream_app.shelves import Shelves
from stream_app.sources.completejourney import CompleteJourney

PARTITIONS = 4
TOPIC = "clickstream.events"
PURCHASES_PER_REQUEST = 4

# Only who asks is answered, so that exactly the requests of the input cost a recommendation.
ASKED_ONLY = StageSettings(recommend_on=frozenset())


@cache
def shop() -> CompleteJourney:
    """Return the shop, which is read once."""
    return CompleteJourney()


@cache
def shelves() -> Shelves:
    """Return the shop's catalogue, which is read once."""
    return Shelves(shop().items())


def purchases(count: int) -> Iterator[Event]:
    """Yield the purchases of as many whole households as have about ``count``, in time order."""
    return shop().events(shop().households(count))


def with_requests(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events, and behind every fourth a `recommend` of its user.

    >>> events = [Event(event_id=f"{n}", type="view", user_id="a", timestamp=n) for n in range(5)]
    >>> [event.event_id for event in with_requests(events)]
    ['0', '1', '2', '3', 'ask-3', '4']
    """
    for number, event in enumerate(events, 1):
        yield event
        if number % PURCHASES_PER_REQUEST == 0:
            yield Event(
                event_id=f"ask-{event.event_id}",
                type="recommend",
                user_id=event.user_id,
                timestamp=event.timestamp,
            )


def to_sent(events: Iterable[Event]) -> list[Sent]:
    """Return the events as records to send, dated by their own time."""
    return [Sent(None, event.user_id.encode(), encode(event), _time_ms(event)) for event in events]


def to_logs(events: Iterable[Event]) -> dict[int, list[Log]]:
    """Return the events as they would stand in the partitions of the source topic."""
    logs: dict[int, list[Log]] = {partition: [] for partition in range(PARTITIONS)}
    for event in events:
        key = event.user_id.encode()
        log = logs[partition_for(key, PARTITIONS)]
        log.append(Log(len(log), _time_ms(event), key, encode(event), ()))
    return logs


def _time_ms(event: Event) -> int:
    return msgspec.convert(event.timestamp, int)
