"""Sends records to Kafka in a steady pace, and counts what the broker acknowledges."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from kafka.producer import KafkaProducer
from msgspec import Struct

from stream_app.clock import monotonic_seconds
from stream_app.errors import ConfigError, StreamAppError, UnreachableError
from stream_app.sources import Record

# Records sent and not yet acknowledged: bounds memory, at some 2 KB a record, and what is sent in
# vain when the broker dies. kafka-python itself knows no bound.
IN_FLIGHT_MAX = 20_000
# How often what was acknowledged is counted and reported, in records.
_REPORT_RECORDS = 1_000
# A shorter wait is put off until it has grown to this, so a fast pace goes in small bursts.
_WAIT_SECONDS_MIN = 0.01
# Kafka-python's default batch, 16 KiB, holds some 70 events; a request holds 1 MiB.
_BATCH_BYTES = 1 << 17
_LINGER_MS = 5
# How long to look for a broker, and for a topic.
_ANSWER_MS_MAX = 10_000

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

Compression = Literal["gzip", "snappy", "lz4", "zstd"]


class ProduceError(StreamAppError):
    """The broker did not take every record; the operator looks at the broker and starts again."""


class ProduceSettings(Struct, frozen=True, kw_only=True):
    """What to send where, and how fast.

    Parameters
    ----------
    brokers
        host:port, more after commas.
    topic
        Its full name; it must exist.
    limit
        Send at most so many records.
    rate
        Records a second; by default as fast as the broker takes them.
    speedup
        Send at the pace of the records' timestamps, so many times faster: 86,400 is a day a second.
    event_time
        Date records by their own timestamps, as a replay needs it; otherwise by their sending.
    compression
        Of batches.
    idempotent
        Let the broker drop what a retry sends twice.

    Raises
    ------
    ConfigError
        When a number is not positive, the topic's name is none, or both `rate` and `speedup` are
        given.
    """

    brokers: str
    topic: str
    limit: int | None = None
    rate: float | None = None
    speedup: float | None = None
    event_time: bool = True
    compression: Compression | None = None
    idempotent: bool = True

    def __post_init__(self) -> None:
        """Check what the types do not."""
        for name in ("limit", "rate", "speedup"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}: it must be greater than 0")
        if not _TOPIC.fullmatch(self.topic):
            raise ConfigError(
                f"topic is {self.topic!r}: letters, digits, '.', '_' and '-' make one"
            )
        if self.rate is not None and self.speedup is not None:
            raise ConfigError("give either a rate or a speedup: each sets the pace")


class Produced(Struct, frozen=True):
    """How many records were sent and acknowledged, which is the same number, and in what time."""

    sent: int
    acknowledged: int
    seconds: float


def produce(
    records: Iterable[Record | None],
    settings: ProduceSettings,
    progress: Callable[[int], object] = int,
) -> Produced:
    """Send records and wait until the broker has acknowledged every one of them.

    A user's records stay in order: they share a partition, by murmur2 of the key.

    Parameters
    ----------
    records
        Read no faster than they are sent; at most 20,000 are in flight. None among them says that
        nothing more is there now: what was acknowledged is counted. An empty key or value
        goes as null, which in a compacted topic removes the key.
    settings
        Where to and how fast.
    progress
        Called now and then with the number acknowledged so far, at the end with all.

    Raises
    ------
    UnreachableError
        When no broker answers.
    ProduceError
        When the topic is not there, or the broker leaves or refuses a record; it says how many are
        in.
    """
    start_seconds = monotonic_seconds()
    tally = _Tally(progress)
    try:
        made = KafkaProducer(**_client_settings(settings))
    except (KafkaConnectionError, KafkaTimeoutError) as error:
        raise UnreachableError(settings.brokers, error) from error
    try:
        with made as producer:
            _send(producer, records, settings, tally)
            producer.flush()
            tally.count(wait_for_all=True)
    except KafkaError as error:
        raise ProduceError(
            f"{settings.topic} on {settings.brokers}: {tally.acknowledged} of {tally.sent} records "
            f"were acknowledged, then: {error}"
        ) from error
    assert tally.acknowledged == tally.sent, "every future was waited for"
    return Produced(tally.sent, tally.acknowledged, monotonic_seconds() - start_seconds)


class _Tally:
    """Counts what was sent and, in the same order, what was acknowledged."""

    def __init__(self, progress: Callable[[int], object]) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._pending: deque[Any] = deque()
        self._progress = progress

    def add(self, future: Any) -> None:
        """Take in the future of a record that was sent; waits while too many are in flight."""
        self.sent += 1
        self._pending.append(future)
        if self.sent % _REPORT_RECORDS == 0:
            self.count()
        if len(self._pending) >= IN_FLIGHT_MAX:
            self._take()

    def count(self, *, wait_for_all: bool = False) -> None:
        """Count what was acknowledged since the last time, raising what was refused."""
        pending = self._pending
        while pending and (wait_for_all or pending[0].is_done):
            self._take()
        self._progress(self.acknowledged)

    def _take(self) -> None:
        # The client itself gives up after two minutes, so this ends.
        self._pending.popleft().get()
        self.acknowledged += 1


def _send(
    producer: Any, records: Iterable[Record | None], settings: ProduceSettings, tally: _Tally
) -> None:
    topic, event_time = settings.topic, settings.event_time
    due_seconds = _schedule(settings)
    start_seconds = monotonic_seconds()
    for record in records:
        if record is None:
            tally.count()
            continue
        key, value, time_ms = record
        wait = start_seconds + due_seconds(time_ms) - monotonic_seconds()
        if wait >= _WAIT_SECONDS_MIN:
            tally.count()
            time.sleep(wait)
        stamp = time_ms if event_time else None
        tally.add(producer.send(topic, value or None, key or None, timestamp_ms=stamp))
        if tally.sent == settings.limit:
            return


def _schedule(settings: ProduceSettings) -> Callable[[int | None], float]:
    """Return a function that tells when the next record is due, in seconds after the start."""
    if settings.rate is not None:
        steps = _count_up(1.0 / settings.rate)
        return lambda _: next(steps)
    if settings.speedup is None:
        return lambda _: 0.0
    ms_a_second = 1000.0 * settings.speedup
    first_ms: int | None = None

    def due_seconds(time_ms: int | None) -> float:
        nonlocal first_ms
        if time_ms is None:
            return 0.0
        if first_ms is None:
            first_ms = time_ms
        return (time_ms - first_ms) / ms_a_second

    return due_seconds


def _count_up(step: float) -> Iterator[float]:
    """Yield the multiples of ``step`` from 0, without adding up errors."""
    number = 0
    while True:
        yield number * step
        number += 1


def _client_settings(settings: ProduceSettings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.brokers.split(","),
        "acks": "all",
        "enable_idempotence": settings.idempotent,
        "compression_type": settings.compression,
        "batch_size": _BATCH_BYTES,
        "linger_ms": _LINGER_MS,
        # A misspelt topic is an error, not a new topic.
        "allow_auto_create_topics": False,
        "max_block_ms": _ANSWER_MS_MAX,
        "bootstrap_timeout_ms": _ANSWER_MS_MAX,
    }
