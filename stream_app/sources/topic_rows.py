"""The records of a Kafka topic as rows, and how far they have been dealt with.

Positions are committed to a consumer group, without joining it: run one at a time. They are
committed behind what the broker has acknowledged of their events, so after a crash a few rows come
again, none is left out. Their events then have the same ids, and the worker drops a repeat that is
among the last 32 events of its user.
"""

import threading
from collections import deque
from collections.abc import Iterator

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from stream_app.clock import monotonic_seconds
from stream_app.errors import StreamAppError, UnreachableError
from stream_app.sources.rows import NumberedRow, row_of

# How long to look for a broker.
_ANSWER_MS_MAX = 10_000
_AGAIN_MS_MAX = 1_000
_POLL_MS = 500
_POLL_RECORDS = 1_000
# Positions are noted at most so often, in rows, and committed as soon as they are acknowledged.
_NOTE_ROWS = 500
_NOTE_SECONDS = 1.0


class TopicSourceError(StreamAppError):
    """The topic to read from is not there, or cannot be read; the operator looks."""


class TopicRows:
    """The rows of a topic from where its group stands, at first from the beginning.

    Parameters
    ----------
    brokers, topic, group
        Where from, and whose positions.
    follow
        Go on at the end; otherwise stop at what was the end at the start.

    Attributes
    ----------
    total, position
        How many records there are to read, as far as it is known, and how many were read.
    stopping
        Set it to end after the row at hand; a signal may.

    Raises
    ------
    TopicSourceError
        When there is no such topic.
    UnreachableError
        When no broker answers.
    """

    def __init__(self, brokers: str, topic: str, group: str, *, follow: bool) -> None:
        self.position = 0
        self.stopping = threading.Event()
        self._topic, self._follow = topic, follow
        self._pending: deque[tuple[int, dict[TopicPartition, int]]] = deque()
        self._sent, self._rows_since, self._noted = 0, 0, monotonic_seconds()
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=brokers.split(","),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                bootstrap_timeout_ms=_ANSWER_MS_MAX,
                reconnect_backoff_max_ms=_AGAIN_MS_MAX,
            )
            self._begin()
        except (KafkaConnectionError, KafkaTimeoutError) as error:
            raise UnreachableError(brokers, error) from error
        except KafkaError as error:
            raise TopicSourceError(f"{topic} on {brokers}: {error}") from error

    def _begin(self) -> None:
        partitions = self._consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise TopicSourceError(f"there is no topic {self._topic}: name one that exists")
        where = [TopicPartition(self._topic, partition) for partition in sorted(partitions)]
        self._consumer.assign(where)
        starts = self._consumer.beginning_offsets(where)
        self._ends: dict[TopicPartition, int] = self._consumer.end_offsets(where)
        # Where each stands: offset of the next row that is not dealt with.
        self._positions = {
            each: max(self._consumer.committed(each) or 0, starts[each]) for each in where
        }
        for each, offset in self._positions.items():
            self._consumer.seek(each, offset)
        self._committed = dict(self._positions)
        self.total = sum(max(self._ends[e] - at, 0) for e, at in self._positions.items())

    def __iter__(self) -> Iterator[NumberedRow | None]:
        """Yield rows; None when there is nothing now."""
        while not self.stopping.is_set() and (self._follow or not self._ended()):
            fetched = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            if not fetched:
                yield None
            for where, records in fetched.items():
                for record in records:
                    if self.stopping.is_set():
                        return
                    if not self._follow and record.offset >= self._ends[where]:
                        break
                    self.position += 1
                    yield (f"{where.partition}:{record.offset}", *row_of(record.value))

    def done(self, place: int | str, sent: int) -> None:
        """Note that a row is dealt with once so many records are acknowledged."""
        partition, _, offset = str(place).partition(":")
        self._positions[TopicPartition(self._topic, int(partition))] = int(offset) + 1
        self._sent = sent
        self._rows_since += 1
        if self._rows_since >= _NOTE_ROWS:
            self._note()

    def acknowledged(self, count: int) -> None:
        """Commit the positions of what so many acknowledged records have dealt with."""
        if self._rows_since and monotonic_seconds() - self._noted > _NOTE_SECONDS:
            self._note()
        newest = None
        while self._pending and self._pending[0][0] <= count:
            newest = self._pending.popleft()[1]
        if newest is not None:
            self._commit(newest)

    def close(self, *, finished: bool) -> None:
        """Commit all that was dealt with if producing has finished, and leave."""
        try:
            if finished:
                self._commit(self._positions)
        finally:
            self._consumer.close()

    def _note(self) -> None:
        self._pending.append((self._sent, dict(self._positions)))
        self._rows_since, self._noted = 0, monotonic_seconds()

    def _commit(self, positions: dict[TopicPartition, int]) -> None:
        moved = {e: at for e, at in positions.items() if at != self._committed[e]}
        if moved:
            self._consumer.commit({e: OffsetAndMetadata(at, "", -1) for e, at in moved.items()})
            self._committed |= moved

    def _ended(self) -> bool:
        """Tell whether all that was there at the start has been read."""
        return all(self._consumer.position(each) >= end for each, end in self._ends.items())
