"""A task owns one partition: its state, its sink and its position.

A task goes from assigned over fenced and restored to processing; whatever is not a confirmed commit
makes it dropped, and it begins again with fencing. Revoked, it keeps its memory until the next
assignment, which says whether anybody else has owned the partition in between.

The rule that all rests on: memory is valid only after a confirmed commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice
from typing import Protocol

import msgspec

from stream_app import metrics
from stream_app.config import Settings
from stream_app.errors import CommitError, FencedError, PositionError
from stream_app.pipeline import Context, Outputs, next_batch, process
from stream_app.runtime.changelog import Reader, restore
from stream_app.runtime.observe import Observer
from stream_app.runtime.sink import Commit, Sink
from stream_app.shelves import Shelves
from stream_app.state import PartitionState
from stream_app.steps import Outside, RawRecord, Scorer

logger = logging.getLogger(__name__)

# Waits between attempts, in seconds; the last one goes on.
RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0)


class Status(Enum):
    """Where a task stands."""

    ASSIGNED = "assigned"
    FENCED = "fenced"
    RESTORED = "restored"
    PROCESSING = "processing"
    DROPPED = "dropped"
    REVOKED = "revoked"


class Source(Protocol):
    """What a worker asks of the consumer; the simulator has one too."""

    def pause(self, partition: int) -> None:
        """Deliver nothing more of a partition until it is resumed."""
        ...

    def resume(self, partition: int) -> None:
        """Deliver a partition again."""
        ...

    async def seek(self, partition: int, position: int) -> None:
        """Deliver from ``position`` next."""
        ...

    def highwater(self, partition: int) -> int | None:
        """Return the offset after the last stable record, as the last fetch saw it."""
        ...

    def read_position(self, partition: int) -> int | None:
        """Return the offset that will be fetched next."""
        ...


class World(msgspec.Struct):
    """What comes from outside the log: the catalogue, as far as it has been read, and the model.

    ``version`` is the catalogue's; without a ``ranker`` the formula ranks. The ``shadow`` is a
    model that is compared with it and answers nothing.
    """

    shelves: Shelves = msgspec.field(default_factory=Shelves)
    version: str = "0"
    ranker: Scorer | None = None
    shadow: Scorer | None = None


class Ports(msgspec.Struct, frozen=True):
    """What a worker is plugged into; the simulator plugs in its own."""

    source: Source
    reader: Reader
    open_sink: Callable[[int], Sink]
    now_ms: Callable[[], int]
    world: World
    partitions: int
    topic_id: str
    on_outputs: Callable[[Outputs], None] | None = None


class PartitionTask:
    """The owner of one partition.

    Parameters
    ----------
    partition
        Of the source topic.
    ports
        What the worker is plugged into.
    settings
        Of the program.
    pace
        Returns the least time between two commits, in seconds.
    observer
        Told of each batch that is committed.
    """

    def __init__(
        self,
        partition: int,
        ports: Ports,
        settings: Settings,
        pace: Callable[[], float],
        observer: Observer,
    ) -> None:
        self.partition = partition
        self.status = Status.ASSIGNED
        self.state: PartitionState | None = None
        self._ports = ports
        self._settings = settings
        self._topic = settings.topic("events")
        self._pace = pace
        self._observer = observer
        self._sink = ports.open_sink(partition)
        self._pending: deque[RawRecord] = deque()
        self._next = 0  # the offset that delivery continues at
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._paused = False
        self._seek_needed = False
        self._last_commit = 0.0
        self._committed_ms: int | None = None  # timestamp of the last committed record
        self._timer = metrics.StageTimer()
        self.progress = asyncio.get_running_loop().time()  # of the last confirmed commit
        self.last_record = self.progress

    @property
    def busy(self) -> bool:
        """Whether a batch is in flight, so that memory is ahead of what is confirmed."""
        return not self._idle.is_set()

    @property
    def waiting(self) -> int:
        """Records that were delivered and are not committed."""
        return len(self._pending)

    @property
    def oldest_ms(self) -> int | None:
        """Timestamp of the oldest record that waits; if none has come, of the last committed."""
        return self._pending[0].timestamp if self._pending else self._committed_ms

    async def open(self) -> int:
        """Fence earlier owners, restore unless memory is still valid, and return the position.

        Raises
        ------
        PositionError
            When the log does not hold the position that the state continues at.
        TopicError
            When the state was built from another topic.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._pending.clear()
        valid = await self._sink.fence() and self.state is not None
        self.status = Status.FENCED
        if not valid:
            self.state = None
            reader, topic = self._ports.reader, self._settings.state_topic
            state = await restore(reader, topic, self.partition, self._settings.live_rows_max)
            self.state = state
            metrics.RESTORES.inc()
            metrics.RESTORE_SECONDS.observe(loop.time() - started)
        assert self.state is not None
        first, end = await self._ports.reader.bounds(self._topic, self.partition)
        self.state.begin(first, self._ports.partitions, self._ports.topic_id)
        position = self.state.ledger.position
        if not first <= position <= end:
            raise PositionError(
                f"{self._topic} {self.partition}: the state continues at offset {position}, the "
                f"log holds {first} to {end}. If records were deleted before they were read, raise "
                "the topic's retention; to go on without them start a new `app` name"
            )
        self.status = Status.RESTORED
        self._next = position
        self._paused = False  # an assignment resumes every partition
        self.progress = self.last_record = loop.time()
        logger.info("partition %d: restored, at offset %d", self.partition, position)
        return position

    def deliver(self, start: int, records: Sequence[RawRecord]) -> None:
        """Take in what was fetched from ``start`` on; what is already here is passed over."""
        if self.status is not Status.PROCESSING or self._seek_needed or not records:
            return
        if start > self._next:
            self._seek_needed = True
            self._arrived.set()
            return
        if records[0].offset < self._next:
            records = [record for record in records if record.offset >= self._next]
        if records:
            self._pending.extend(records)
            self._next = records[-1].offset + 1
            self.last_record = asyncio.get_running_loop().time()
            self._arrived.set()
            if not self._paused and len(self._pending) >= self._room:
                self._paused = True
                self._ports.source.pause(self.partition)

    @property
    def _room(self) -> int:
        """Records that may wait before the partition is paused: two fetches."""
        return 2 * self._settings.fetch_records_max

    async def run(self) -> None:
        """Process what is delivered until cancelled; raise what nobody can retry."""
        self.status = Status.PROCESSING
        failures = 0
        while True:
            try:
                if await self._step():
                    failures = 0
            except CommitError as error:
                self._observer.failed(error)
                delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                if isinstance(error, FencedError):
                    # Either this worker has lost the partition and will be told so, or it is its
                    # rightful owner; a session timeout decides which.
                    delay = self._settings.session_timeout_seconds
                failures += 1
                logger.warning("partition %d: %s; memory dropped", self.partition, error)
                await self._recover(delay)

    async def _step(self) -> bool:
        """Wait for records, or commit one batch of them; tell which: whether it was a commit."""
        if self._seek_needed:
            await self._ports.source.seek(self.partition, self._next)
            self._seek_needed = False
        if not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
            return False
        loop = asyncio.get_running_loop()
        wait = self._last_commit + self._pace() - loop.time()
        if wait > 0 and len(self._pending) < self._settings.batch_records_max:
            await asyncio.sleep(wait)
        self._idle.clear()
        try:
            await self._commit_one()
        finally:
            self._idle.set()
        return True

    async def _commit_one(self) -> None:
        """Process one batch and store it: the only place where memory changes."""
        state, limit = self.state, self._settings.batch_records_max
        if state is None or not self._pending:
            return
        loop = asyncio.get_running_loop()
        records = list(islice(self._pending, limit))
        batch = next_batch(state, self._topic, self.partition, records, limit)
        self._timer.start()
        outputs = process(state, batch, self._context())
        changes = state.changes()
        self._last_commit = started = loop.time()
        position = state.ledger.position if batch.records else None
        await self._sink.commit(Commit(outputs.records, changes, position))
        if self._pending:  # else a revocation has emptied it meanwhile
            for _ in batch.records:
                self._pending.popleft()
        self.progress = loop.time()
        if batch.records:
            self._committed_ms = batch.records[-1].timestamp
        self._observer.committed(batch, outputs, changes, loop.time() - started)
        if self._ports.on_outputs is not None:
            self._ports.on_outputs(outputs)
        if self._paused and len(self._pending) < self._settings.fetch_records_max:
            self._paused = False
            self._ports.source.resume(self.partition)

    async def _recover(self, delay: float) -> None:
        """Forget everything that is not confirmed, and begin again from what is."""
        self.status = Status.DROPPED
        progress = self.progress  # only a confirmed commit is progress, not another attempt
        self.state = None
        self._pending.clear()
        self._ports.source.pause(self.partition)
        self._paused = True
        while True:
            await asyncio.sleep(delay)
            try:
                position = await self.open()
                break
            except CommitError as error:
                logger.warning("partition %d: %s", self.partition, error)
                self.state = None
                delay = RETRY_SECONDS[-1]
        self.status = Status.PROCESSING
        self.progress = progress
        self._seek_needed = False
        await self._ports.source.seek(self.partition, position)
        self._paused = False
        self._ports.source.resume(self.partition)

    async def revoke(self) -> None:
        """Drop what waits and let the batch in flight finish; memory stays for now."""
        self.status = Status.REVOKED
        self._pending.clear()
        await self._idle.wait()
        self._pending.clear()

    async def close(self) -> None:
        """Give the partition up for good."""
        self.state = None
        await self._sink.close()

    def _context(self) -> Context:
        world = self._ports.world
        return Context(
            self._settings.stages_in_effect,
            self._ports.partitions,
            world.shelves,
            Outside(world.version),
            lap=self._timer.lap,
            ranker=world.ranker,
        )
