"""The batch transport for Faust: one agent event is a list of records of one partition.

Faust's own path costs 148 µs of CPU a record, most of it four asyncio tasks for each; this one
costs 2.9 to 4.1. It is registered under the scheme ``batch://`` by an entry point. What it changes,
and why:

- ``_drain_messages`` hands on lists, says what each follows on, and never sets the read offset
  after an ``await`` that can outlive a rebalance. What was fetched and not handed on, for whatever
  reason, is sought back before the next fetch.
- Nothing is acknowledged or committed through Faust: state owns the position.
- The order of a recovery is stop the flow, seek, clear the queues, resume. Upstream resumes the
  partitions first, and what was fetched in between vanishes.

The members of Faust that are overridden or called are listed in :data:`EXPECTED`; ``check_faust``
says which of them has changed.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import aiokafka
import faust
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import OffsetOutOfRangeError
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.topics import Topic
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.tuples import ConsumerMessage

from stream_app.errors import FaustChangedError, PositionError
from stream_app.steps import RawRecord

# Faust's services log each start and stop; under this name the program can quiet them.
_SERVICES = logging.getLogger("faust.services")

# The longest that an idle fetch holds up one for another partition, in ms; Faust's is 1,500. Below
# 25 the slowest hundredth of outputs comes earlier, at a tenth of a core more.
FETCH_WAIT_MS = 5
_POLL_SECONDS = 1.0
_PAUSED_POLL_SECONDS = 0.2

# Members whose parameters must be what they were in the pinned versions.
EXPECTED: dict[str, tuple[Callable[..., Any], str]] = {
    "Consumer._drain_messages": (BaseConsumer._drain_messages, "self, fetcher"),
    "Consumer._wait_next_records": (BaseConsumer._wait_next_records, "self, timeout"),
    "Consumer.perform_seek": (BaseConsumer.perform_seek, "self"),
    "Consumer.ack": (BaseConsumer.ack, "self, message"),
    "Consumer.commit": (BaseConsumer.commit, "self, topics, start_new_transaction"),
    "Consumer.on_partitions_revoked": (BaseConsumer.on_partitions_revoked, "self, revoked"),
    "Consumer.on_buffer_drop": (BaseConsumer.on_buffer_drop, "self, tp"),
    "Consumer.resume_partitions": (BaseConsumer.resume_partitions, "self, tps"),
    "Consumer._get_active_partitions": (BaseConsumer._get_active_partitions, "self"),
    "Consumer._getmany": (driver.Consumer._getmany, "self, active_partitions, timeout"),
    "Thread._fetch_records": (
        driver.AIOKafkaConsumerThread._fetch_records,
        "self, consumer, active_partitions, timeout, max_records",
    ),
    "Thread._create_worker_consumer": (
        driver.AIOKafkaConsumerThread._create_worker_consumer,
        "self, transport",
    ),
    "Recovery._resume_streams": (Recovery._resume_streams, "self, generation_id"),
    "Recovery._wait": (Recovery._wait, "self, coro, timeout"),
    "TableManager.on_rebalance": (
        TableManager.on_rebalance,
        "self, assigned, revoked, newly_assigned, generation_id",
    ),
    "Topic._compile_decode": (Topic._compile_decode, "self"),
}


def check_faust() -> None:
    """Check that Faust is as the transport expects it.

    Raises
    ------
    FaustChangedError
        Naming every member that changed.
    """
    changed = [
        f"{name}({found}), expected ({expected})"
        for name, (member, expected) in EXPECTED.items()
        if (found := ", ".join(inspect.signature(member).parameters)) != expected
    ]
    if changed:
        raise FaustChangedError(
            "these members of Faust are not what they were: "
            + "; ".join(changed)
            + ". Install the pinned versions of faust-streaming, mode-streaming and aiokafka"
        )


class BatchMessage(ConsumerMessage):
    """A Faust message that carries records, and the offset from which they were read."""

    __slots__ = ("records", "start")

    records: Sequence[RawRecord]
    start: int


class BatchTopic(Topic):
    """A topic whose events carry a :class:`BatchMessage` as their value."""

    def _compile_decode(self) -> None:
        create_event = self.app.create_event

        async def decode(message: BatchMessage, *, propagate: bool = False) -> Any:  # noqa: ARG001
            return create_event(None, message, None, message)

        self.decode = decode  # type: ignore[assignment, method-assign]


class Fetched(list[Any]):
    """Records that were fetched, and the offset from which on they are all; None if unknown."""

    start: int | None = None


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that runs aiokafka's consumer, with our fetch settings.

    It notes what each fetch follows on: the fetch or the seek before it. That is known in this
    thread only, where nothing comes in between; a fetch whose caller has been cancelled still moves
    the consumer on. ``follows`` holds the offset that the next fetch begins at.
    """

    logger = _SERVICES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.follows: dict[TP, int] = {}

    async def seek_to(self, tp: TP, offset: int) -> None:
        """Read a partition from an offset on, if it is assigned; to be called in the thread."""
        consumer = self._ensure_consumer()
        if consumer._subscription.is_assigned(tp):
            consumer.seek(tp, offset)
            self.follows[tp] = offset

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> dict[Any, Fetched]:
        fetched: dict[Any, Fetched] = {}
        for where, records in (await super()._fetch_records(*args, **kwargs)).items():
            if records:
                tp = TP(where.topic, where.partition)
                found = fetched[where] = Fetched(records)
                found.start = self.follows.get(tp)
                self.follows[tp] = records[-1].offset + 1
        return fetched

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=conf.broker_max_poll_records,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 300) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )


class BatchConsumer(driver.Consumer):
    """A Faust consumer that delivers lists of records and leaves positions to their owner.

    ``before_revoke`` is awaited before Faust hears of a revocation, ``positions`` gives the offset
    to seek to for each assigned partition of the batch topics.
    """

    logger = _SERVICES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_revoke: Callable[[], Awaitable[None]] | None = None
        self.positions: dict[TP, int] = {}
        self._room = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def on_buffer_drop(self, tp: TP) -> None:
        """Wake the fetcher: a full buffer has room again."""
        super().on_buffer_drop(tp)
        self._room.set()

    def resume_partitions(self, tps: Any) -> None:
        """Wake the fetcher: a partition may be fetched again."""
        super().resume_partitions(tps)
        self._room.set()

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109
        """Return what was fetched; when all is paused wait for a change, not for a second."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        active = set(self._get_active_partitions())
        if active:
            await self._seek_back(active)
            return await self._getmany(active_partitions=active, timeout=timeout), active
        self._room.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), _PAUSED_POLL_SECONDS)
        return {}, active

    async def _seek_back(self, active: set[TP]) -> None:
        """Seek back where records were fetched and not handed on.

        A rebalance may cancel the fetch that they were for, or outdate it. They may be the last in
        the log, so nobody would miss them by what comes behind.
        """
        for tp in active:
            offset = self._read_offset.get(tp)
            if offset is not None and self._consumer_thread.follows.get(tp) != offset:
                await self.seek_partition(tp, offset)

    @property
    def _consumer_thread(self) -> ConsumerThread:
        assert isinstance(self._thread, ConsumerThread)
        return self._thread

    async def _drain_messages(self, fetcher: Any) -> None:
        """Fetch and hand on until stopped."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                generation = self.app.consumer_generation_id
                records, _ = await self._wait_next_records(_POLL_SECONDS)
                for message in self._messages(records or {}, generation):
                    await self.callback(message)
        except OffsetOutOfRangeError as error:
            raise PositionError(
                f"the log no longer holds the next offset: {error}. Records were deleted before "
                "they were read: raise the topic's retention, and start a new `app` name to go on"
            ) from error
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    def _messages(self, records: Any, generation: int) -> Iterator[BatchMessage]:
        """Yield a message for each partition that may still be delivered at that moment.

        The read offset moves as the message is made, with no await between.
        """
        flow = self.app.flow_control
        for where, found in records.items():
            tp = TP(where.topic, where.partition)
            if not (self.flow_active and flow.is_active()):
                return
            if generation != self.app.consumer_generation_id:
                return
            start = found.start
            if start is None or start != self._read_offset[tp]:
                continue  # overtaken by a seek
            last = found[-1]
            message = BatchMessage(
                tp.topic,
                tp.partition,
                last.offset,
                last.timestamp / 1000.0,
                last.timestamp_type,
                None,
                None,
                None,
                None,
                0,
                0,
                tp,
                generation_id=generation,
            )
            message.records, message.start = found, start
            self._read_offset[tp] = last.offset + 1
            yield message

    def ack(self, message: Message) -> bool:
        """Forget a message; the batch it carried has its owner by now."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def commit(self, *_: Any, **__: Any) -> bool:
        """Do nothing: the position is committed with the state."""
        return True

    async def perform_seek(self) -> None:
        """Seek every assigned partition to the position that its owner gave."""
        for tp, offset in self.positions.items():
            await self.seek_partition(tp, offset)

    async def seek_partition(self, tp: TP, offset: int) -> None:
        """Read a partition from an offset on; what was fetched before is discarded."""
        thread = self._consumer_thread
        self._read_offset[tp] = None
        await thread.call_thread(thread.seek_to, tp, offset)
        self._read_offset[tp] = offset

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let batches in flight finish before Faust goes on with the rebalance."""
        if self.before_revoke is not None:
            await self.before_revoke()
        self.positions.clear()
        await super().on_partitions_revoked(revoked)


class Transport(driver.Transport):
    """The transport behind ``batch://host:port``."""

    Consumer = BatchConsumer


class OrderedRecovery(Recovery):
    """Resumes streams in an order that loses nothing, after the app has taken its partitions over.

    ``take_over`` is awaited with the assignment and returns the positions to read from; the next
    rebalance cancels it.
    """

    logger = _SERVICES
    app: Any

    async def _resume_streams(self, generation_id: int = 0) -> None:
        app, consumer = self.app, self.app.consumer
        rebalances = app.rebalancing_count
        await app.on_rebalance_complete.send()
        assignment = consumer.assignment()
        if app.consumer_generation_id != generation_id:
            return
        consumer.stop_flow()
        app.flow_control.suspend()
        await self._wait(self._take_over(assignment))
        # The count goes up as the next rebalance begins, the generation only as it ends.
        if app.consumer_generation_id != generation_id or app.rebalancing_count != rebalances:
            return
        self.completed.set()
        app.flow_control.resume()  # clears the queues: nothing of this assignment is in them yet
        if assignment:
            consumer.resume_partitions(assignment)
        consumer.resume_flow()
        app.start_processing()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        app.on_rebalance_end()

    async def _take_over(self, assignment: set[TP]) -> None:
        try:
            self.app.consumer.positions = await self.app.take_over(assignment)
            await self.app.consumer.perform_seek()
        except Exception as error:  # noqa: BLE001 - whatever it is, the program must end
            await self.app.crash(error)


class OrderedTableManager(TableManager):
    """Faust's table manager, with :class:`OrderedRecovery`; the app has no Faust tables."""

    logger = _SERVICES

    @property
    def recovery(self) -> Recovery:
        """The recovery service, made on first use."""
        if self._recovery is None:
            self._recovery = OrderedRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class BatchApp(faust.App):
    """A Faust app that says how its partitions are taken over and begun."""

    logger = _SERVICES

    async def take_over(self, assignment: set[TP]) -> dict[TP, int]:
        """Return the positions to read the assigned partitions from; subclasses override it."""
        raise NotImplementedError

    def start_processing(self) -> None:
        """Begin to process what is delivered; subclasses override it."""
        raise NotImplementedError
