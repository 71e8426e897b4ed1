"""The demo's producer and its reader, a thread each, and the latency between the two."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
from kafka import KafkaConsumer, TopicPartition

from stream_app.clock import monotonic_seconds
from stream_app.event import Event, Recommendation, encode
from stream_app.ops.demo_story import Story
from stream_app.sources import Record
from stream_app.sources.produce import Produced, ProduceSettings, produce

_POLL_MS = 100
# A fetch of some partitions that waits for records holds up the next fetch of the others.
_FETCH_WAIT_MS = 5
_WAIT_SECONDS = 0.05


class _Thread(threading.Thread):
    """A thread whose error is raised where it is waited for."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work; keep its error."""
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - it is raised in `check`
            self._error = error

    def work(self) -> None:
        """Do what the thread is for."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise the error that the thread ended with, if any."""
        if self._error is not None:
            raise self._error

    def stop(self, seconds: float) -> None:
        """Ask the thread to end, and wait so long for it."""
        self.stopping.set()
        self.join(seconds)


class Feed(_Thread):
    """Produces all events: the bulk at full speed, the last ones at a pace once it is told to.

    One producer does both, so the paced ones find it connected.

    Parameters
    ----------
    events
        In the order of the log.
    bulk
        How many of them go at full speed.
    settings
        Of producing; without a pace.
    tell
        Called with each event before it is sent.
    """

    def __init__(
        self,
        events: Iterable[Event],
        bulk: int,
        settings: ProduceSettings,
        tell: Callable[[Event], object],
    ) -> None:
        super().__init__("feed")
        self.sent = 0
        self.produced: Produced | None = None
        self.handed_over: dict[str, float] = {}  # event id -> when, in seconds, of those paced
        self._events = events
        self._bulk = bulk
        self._settings = settings
        self._tell = tell
        self._rate: float | None = None

    def pace(self, rate: float) -> None:
        """Let the last events go, so many a second."""
        self._rate = rate

    def work(self) -> None:
        """Produce all and wait until the broker has acknowledged it."""
        self.produced = produce(self._records(), self._settings)

    def _records(self) -> Iterator[Record]:
        """Yield the records when they are due."""
        start = 0.0
        for place, event in enumerate(self._events):
            if place == self._bulk:
                while self._rate is None and not self.stopping.wait(_WAIT_SECONDS):
                    pass
                start = monotonic_seconds()
            if self.stopping.is_set():
                return
            assert isinstance(event.timestamp, int), "the shop's times are milliseconds"
            record = event.user_id.encode(), encode(event), event.timestamp
            self._tell(event)
            if place >= self._bulk and self._rate is not None:
                wait = start + (place - self._bulk) / self._rate - monotonic_seconds()
                if wait > 0:
                    time.sleep(wait)
                self.handed_over[event.event_id] = monotonic_seconds()
            self.sent += 1
            yield record


class Recommended(_Thread):
    """Reads the recommendations, measures how long they took, and tells the story.

    Parameters
    ----------
    brokers, topic, partitions
        Where they are.
    feed
        Knows when the events were handed over.
    story
        Told of each.
    """

    def __init__(self, brokers: str, topic: str, partitions: int, feed: Feed, story: Story) -> None:
        super().__init__("recommended")
        self.count = 0
        self.latencies_ms: list[float] = []
        self._brokers = brokers
        self._where = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._feed = feed
        self._story = story
        self._decoder = msgspec.json.Decoder(Recommendation)

    def work(self) -> None:
        """Read until it is told to stop."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._brokers.split(","),
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
        )
        try:
            consumer.assign(self._where)
            consumer.seek_to_beginning(*self._where)
            while not self.stopping.is_set():
                fetched = consumer.poll(timeout_ms=_POLL_MS)
                now = monotonic_seconds()
                for records in fetched.values():
                    for record in records:
                        self._take(record.value, now)
        finally:
            consumer.close()

    def _take(self, value: bytes, now: float) -> None:
        answer = self._decoder.decode(value)
        handed_over = self._feed.handed_over.get(answer.cause.event_id)
        if handed_over is not None:
            self.latencies_ms.append((now - handed_over) * 1000)
        self._story.recommended(answer)
        self.count += 1


def percentile(samples: Iterable[float], percent: float) -> float | None:
    """Return the smallest sample that so many percent do not exceed; None without samples.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([4.0, 1.0, 3.0, 2.0], 99)
    (2.0, 4.0)
    """
    ordered = sorted(samples)
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
