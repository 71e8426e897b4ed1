"""The demo's producer and its reader, a thread each, and the latency between the two."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

import msgspec
from kafka import KafkaConsumer, TopicPartition

from stream_app.clock import monotonic_seconds
from stream_app.config import Settings
from stream_app.event import ChurnAlert, Event, Recommendation
from stream_app.ops.demo_shops import DemoShop, record_of
from stream_app.ops.demo_story import Story
from stream_app.sources import Record
from stream_app.sources.produce import Produced, ProduceSettings, produce

_POLL_MS = 100
# A fetch of some partitions that waits for records holds up the next fetch of the others.
_FETCH_WAIT_MS = 5
_WAIT_SECONDS = 0.05
# A reacting shop is no further ahead of the worker than this, or it reacts to what users have long
# had followed by other recommendations. Where no answer comes, it goes on after a while.
_AHEAD_MAX = 1_000
_HOLD_SECONDS = 0.002
_HOLDS_MAX = 50


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

    One producer does both, so the paced ones find it connected. What users do about recommendations
    goes in between. That needs a shop that is not far ahead of the worker.

    Parameters
    ----------
    shop
        Whose entries are sent.
    bulk
        How many of them go at full speed.
    settings
        Of producing; without a pace.
    tell
        Called with each event before it is sent.
    """

    def __init__(
        self,
        shop: DemoShop,
        bulk: int,
        settings: ProduceSettings,
        tell: Callable[[Event], object],
    ) -> None:
        super().__init__("feed")
        self.sent = 0
        self.waiting = False  # for the pace: the bulk is sent
        self.produced: Produced | None = None
        self.handed_over: dict[str, float] = {}  # event id -> when, in seconds, of those paced
        self._shop = shop
        self.bulk = bulk
        self._settings = settings
        self._tell = tell
        self._rate: float | None = None
        self._began = 0.0  # to send at a pace
        self._sessions: dict[str, str] = {}  # the newest of each user
        self._reactions: SimpleQueue[Event] = SimpleQueue()
        self._answered: dict[int, int] = {}  # partition -> offset after the newest known cause

    def pace(self, rate: float) -> None:
        """Let the last events go, so many a second."""
        self._rate = rate

    def answered(self, answer: Recommendation) -> None:
        """Let the user react to a recommendation; called from the thread that reads them."""
        cause = answer.cause
        self._answered[cause.partition] = cause.offset + 1
        for event in self._shop.react(answer, self._sessions.get(answer.user_id)):
            self._reactions.put(event)

    def work(self) -> None:
        """Produce all and wait until the broker has acknowledged it."""
        self.produced = produce(self._records(), self._settings)

    def _records(self) -> Iterator[Record]:
        """Yield the records when they are due."""
        for place, (record, event) in enumerate(self._shop.entries()):
            if place == self.bulk:
                yield from self._await_pace()
            yield from self._reacted()
            if self.stopping.is_set():
                return
            if event is not None:
                self._tell(event)
                if event.session_id is not None:
                    self._sessions[event.user_id] = event.session_id
            if place >= self.bulk:
                self._keep_pace(place - self.bulk, event)
            elif self._shop.reacts:
                self._hold_back()
            self.sent += 1
            yield record
        yield from self._reacted()

    def _await_pace(self) -> Iterator[Record]:
        """Wait for the pace; meanwhile users go on to react."""
        self.waiting = True
        while self._rate is None and not self.stopping.wait(_WAIT_SECONDS):
            yield from self._reacted()
        self._began = monotonic_seconds()

    def _keep_pace(self, place: int, event: Event | None) -> None:
        """Wait until a paced entry is due, and note when it is handed over."""
        if self._rate is None:
            return
        wait = self._began + place / self._rate - monotonic_seconds()
        if wait > 0:
            time.sleep(wait)
        if event is not None:
            self.handed_over[event.event_id] = monotonic_seconds()

    def _reacted(self) -> Iterator[Record]:
        """Yield what users have done about recommendations since the last time."""
        while not self._reactions.empty():
            event = self._reactions.get()
            self._tell(event)
            self.sent += 1
            yield record_of(event)

    def _hold_back(self) -> None:
        """Wait while the worker is far behind, as far as its answers tell; not for ever."""
        for _ in range(_HOLDS_MAX):
            if self.sent - sum(self._answered.values()) < _AHEAD_MAX or self.stopping.is_set():
                return
            time.sleep(_HOLD_SECONDS)


class Replies(_Thread):
    """Reads recommendations and churn alerts, measures how long the first took, tells the story.

    Parameters
    ----------
    settings
        Of the program: where they are.
    feed
        Knows when the events were handed over.
    story
        Told of each recommendation.
    """

    def __init__(self, settings: Settings, feed: Feed, story: Story) -> None:
        super().__init__("replies")
        self.count = 0
        self.latencies_ms: list[float] = []
        self.alerts: Counter[str] = Counter()  # by level
        self.alert: ChurnAlert | None = None  # the newest
        self._brokers = settings.brokers
        self._alerts_topic = settings.topic("churn_alerts")
        self._where = [
            TopicPartition(topic, partition)
            for topic in (settings.topic("recommendations"), self._alerts_topic)
            for partition in range(settings.partitions)
        ]
        self._feed = feed
        self._story = story
        self._decoder = msgspec.json.Decoder(Recommendation)
        self._alert_decoder = msgspec.json.Decoder(ChurnAlert)

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
                for where, records in fetched.items():
                    take = self._take_alert if where.topic == self._alerts_topic else self._take
                    for record in records:
                        take(record.value, now)
        finally:
            consumer.close()

    def _take(self, value: bytes, now: float) -> None:
        answer = self._decoder.decode(value)
        handed_over = self._feed.handed_over.get(answer.cause.event_id)
        if handed_over is not None:
            self.latencies_ms.append((now - handed_over) * 1000)
        self._story.recommended(answer)
        self._feed.answered(answer)
        self.count += 1

    def _take_alert(self, value: bytes, _now: float) -> None:
        self.alert = self._alert_decoder.decode(value)
        self.alerts[self.alert.level] += 1


def percentile(samples: Iterable[float], percent: float) -> float | None:
    """Return the smallest sample that so many percent do not exceed; None without samples.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([4.0, 1.0, 3.0, 2.0], 99)
    (2.0, 4.0)
    """
    ordered = sorted(samples)
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
