"""A shop's baskets, the questions before them, and a partition of the program in this process."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

import msgspec

from stream_app.config import TopicSettings
from stream_app.event import Event
from stream_app.pipeline import Context, Outputs, next_batch, process
from stream_app.sources import Record
from stream_app.state import PartitionState

# Baskets in [from, to), in ms since the epoch, are what recommendations are judged on: 2017-11-05
# to 2018-01-01, taken as UTC. Nothing is trained on them.
TEST_MS, END_MS = 1_509_840_000_000, 1_514_764_800_000
ASKED = "ask-"  # with the basket's id behind it, the id of the event that asks
BATCH_RECORDS = 128


class Basket(msgspec.Struct, frozen=True):
    """What a user bought at once; ``lines`` in stored order."""

    basket_id: str
    user: str
    time_ms: int
    lines: list[Event]

    @property
    def items(self) -> list[str]:
        """The products of its lines."""
        return [line.item_id or "" for line in self.lines]


def baskets(events: Iterable[Event], until_ms: int = END_MS) -> Iterator[Basket]:
    """Yield the baskets before a time, of events that stand in time order, then by order."""
    for basket_id, lines in groupby(events, attrgetter("order_id")):
        first, *others = lines
        assert isinstance(first.timestamp, int)
        if first.timestamp >= until_ms:
            return
        yield Basket(basket_id, first.user_id, first.timestamp, [first, *others])


def questioned(
    own: Iterable[Basket], ask_from_ms: int
) -> Iterator[tuple[Event, int, Basket | None]]:
    """Yield events and the times of their records; a question 1 ms before a basket comes with it.

    Baskets before ``ask_from_ms`` are not asked for.
    """
    for basket in own:
        if basket.time_ms >= ask_from_ms:
            question = Event(
                event_id=ASKED + basket.basket_id,
                type="recommend",
                user_id=basket.user,
                timestamp=basket.time_ms - 1,
            )
            yield question, basket.time_ms - 1, basket
        for line in basket.lines:
            yield line, basket.time_ms, None


class LogRecord(msgspec.Struct, frozen=True):
    """A record as it stands in a partition's log."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Partition:
    """One partition of the program, fed record by record, processed batch by batch."""

    def __init__(self, number: int, context: Context) -> None:
        self._number = number
        self.context = context
        self._state = PartitionState()
        self._state.begin(0, context.partitions, "replay")
        self._offset = 0
        self._waiting: list[LogRecord] = []

    def append(self, record: Record) -> list[Outputs]:
        """Take in a record; return what comes out, if it completes a batch."""
        key, value, time_ms = record
        assert time_ms is not None, "the events of a shop are dated"
        self._waiting.append(LogRecord(self._offset, time_ms, key, value))
        self._offset += 1
        return self.run() if len(self._waiting) >= BATCH_RECORDS else []

    def run(self) -> list[Outputs]:
        """Process all that waits; return what comes out."""
        waiting, topic = self._waiting, TopicSettings().events
        out = []
        while waiting:
            batch = next_batch(self._state, topic, self._number, waiting, BATCH_RECORDS)
            out.append(process(self._state, batch, self.context))
            self._state.changes()
            del waiting[: len(batch.records)]
        return out
