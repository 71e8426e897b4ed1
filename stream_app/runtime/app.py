"""The Faust app: one agent that dispatches, the catalogue, ticks, and a watchdog.

The agent does nothing but hand a batch to the task that owns its partition. A failure anywhere ends
the program with the error; whoever supervises it starts it again.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP
from mode import CrashingSupervisor

from stream_app.clock import monotonic_seconds, now_ms
from stream_app.config import Settings
from stream_app.errors import ConfigError, StreamAppError, TopicError
from stream_app.pipeline import Outputs
from stream_app.runtime.catalog import CatalogReader
from stream_app.runtime.changelog import KafkaReader
from stream_app.runtime.model import ModelKeeper
from stream_app.runtime.shadow import Shadow
from stream_app.runtime.sink import BatchSink, KafkaProducer, Sink, Target, TransactionalSink
from stream_app.runtime.task import Ports, World
from stream_app.runtime.topics import Topology, topology
from stream_app.runtime.transport import (
    BatchApp,
    BatchTopic,
    OrderedTableManager,
    check_faust,
)
from stream_app.runtime.worker import Worker
from stream_app.stages.decode import TICK_VALUE

logger = logging.getLogger(__name__)

_FETCH_BYTES_MAX = 4 * 1024 * 1024
_CHECK_SECONDS = 1.0
_STOP_SECONDS = 4.0
_HEARTBEAT_SECONDS = 3.0
# A batch must wait for the fetching and the producing thread this long at most; Python's is 5 ms.
_SWITCH_SECONDS = 0.0005
# Thresholds of the garbage collector. State is held in objects by the hundred thousand, and looking
# through all of them stops everything for a tenth of a second: only the young are looked through.
_GC_THRESHOLDS = (10_000, 20, 1_000)


class KafkaSource:
    """The consumer as a worker sees it."""

    def __init__(self, app: "StreamApp", topic: str) -> None:
        self._app = app
        self._topic = topic

    def pause(self, partition: int) -> None:
        """Deliver nothing more of a partition until it is resumed."""
        self._app.consumer.pause_partitions({TP(self._topic, partition)})

    def resume(self, partition: int) -> None:
        """Deliver a partition again."""
        self._app.consumer.resume_partitions({TP(self._topic, partition)})

    async def seek(self, partition: int, position: int) -> None:
        """Deliver from ``position`` next."""
        await self._app.consumer.seek_partition(TP(self._topic, partition), position)

    def highwater(self, partition: int) -> int | None:
        """Return the offset after the last stable record, as the last fetch saw it."""
        state = self._partition_state(partition)
        if state is None:
            return None
        stable: int | None = state.lso
        highwater: int | None = state.highwater
        return stable if stable is not None and stable >= 0 else highwater

    def read_position(self, partition: int) -> int | None:
        """Return the offset that will be fetched next."""
        state = self._partition_state(partition)
        if state is None or not state.has_valid_position:
            return None
        position: int = state.position
        return position

    def _partition_state(self, partition: int) -> Any:
        """Return aiokafka's state of an assigned partition."""
        thread = self._app.consumer._thread
        subscription = thread._ensure_consumer()._subscription
        where = TopicPartition(self._topic, partition)
        if not subscription.is_assigned(where):
            return None
        return subscription.subscription.assignment.state_value(where)


class StreamApp(BatchApp):
    """A worker process: Faust's app around a :class:`Worker`.

    Parameters
    ----------
    settings
        Of the program.
    described
        What the broker says of the topics.
    on_outputs
        Called after each commit with what was produced.
    """

    logger = logging.getLogger("faust.services")
    consumer: Any  # a BatchConsumer, which Faust makes on first use

    def __init__(
        self,
        settings: Settings,
        described: Topology,
        on_outputs: Callable[[Outputs], None] | None = None,
    ) -> None:
        check_faust()
        self._folder = tempfile.TemporaryDirectory(prefix="stream-app-")
        super().__init__(
            settings.app,
            broker=[f"batch://{address}" for address in settings.brokers.split(",")],
            store="memory://",
            datadir=self._folder.name,
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=0,
            stream_wait_empty=True,
            agent_supervisor=CrashingSupervisor,
            TableManager=OrderedTableManager,
            broker_commit_interval=5.0,
            broker_session_timeout=settings.session_timeout_seconds,
            broker_heartbeat_interval=min(_HEARTBEAT_SECONDS, settings.session_timeout_seconds / 3),
            broker_max_poll_records=settings.fetch_records_max,
            broker_max_poll_interval=300.0,
            consumer_max_fetch_size=_FETCH_BYTES_MAX,
            consumer_group_instance_id=settings.instance,
        )
        self.settings = settings
        self.described = described
        self.world = World()
        self.models = ModelKeeper(
            settings, described.partitions[settings.topic("events")], self.world
        )
        self.catalog = CatalogReader(settings, described, self.world)
        self.heartbeat = 0.0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        source = settings.topic("events")
        ports = Ports(
            source=KafkaSource(self, source),
            reader=KafkaReader(settings.brokers),
            open_sink=self._open_sink,
            now_ms=now_ms,
            world=self.world,
            partitions=described.partitions[source],
            topic_id=described.source_id,
            on_outputs=self._told,
        )
        self._shadow, self._on_outputs = Shadow(settings, self.world), on_outputs
        self.worker = Worker(settings, ports, self.fail)
        events = BatchTopic(self, topics=[source], maxsize=16)
        self.agent(events, name="dispatch")(self._dispatch)

    def _told(self, outputs: Outputs) -> None:
        """Take note of a committed batch."""
        self._shadow.committed(outputs)
        if self._on_outputs is not None:
            self._on_outputs(outputs)

    async def _dispatch(self, stream: Any) -> None:
        """Hand each batch to the task that owns its partition."""
        try:
            async for message in stream.noack():
                message.ack(self.consumer)
                self.worker.deliver(message.partition, message.start, message.records)
        except Exception as error:
            self.fail(error)
            raise

    async def take_over(self, assignment: set[TP]) -> dict[TP, int]:
        """Fence, restore and return the positions of the assigned partitions."""
        partitions = {tp.partition for tp in assignment}
        total = self.described.partitions[self.settings.topic("events")]
        if self.settings.guarantee == "at_least_once" and partitions and len(partitions) < total:
            raise ConfigError(
                "another worker is in the group, and at_least_once is for one worker process: a "
                "stopped one that wakes up would overwrite newer state. Set guarantee = "
                "'exactly_once', or stop the other worker"
            )
        topic = self.settings.topic("events")
        now = (await asyncio.to_thread(topology, self.settings)).partitions[topic]
        if now != total:
            raise TopicError(
                f"{topic} has {now} partitions now, it had {total} when the worker started: a "
                "user's key falls elsewhere. Start a new `app` name, which rebuilds the state"
            )
        positions = await self.worker.assign(partitions)
        return {TP(topic, partition): offset for partition, offset in positions.items()}

    def start_processing(self) -> None:
        """Begin to process what is delivered."""
        self.worker.start()

    def fail(self, error: BaseException) -> None:
        """End the program with an error, the first that is reported."""
        if not self.failure.done():
            self.failure.set_exception(error)

    async def crash(self, reason: BaseException) -> None:
        """Take every crash of a Faust service as the end of the program."""
        self.fail(reason)
        await super().crash(reason)

    @property
    def ready(self) -> bool:
        """Whether the catalogue is read and every assigned partition is processed.

        The model has been loaded, or refused, before the first is assigned.
        """
        assigned = not self.rebalancing and self.rebalancing_count > 0
        return self.catalog.complete.is_set() and assigned and self.worker.ready

    def _open_sink(self, partition: int) -> Sink:
        settings = self.settings
        logical = ("recommendations", "predictions", "churn_alerts", "dead_letter")
        target = Target(
            source=settings.topic("events"),
            partition=partition,
            group=settings.app,
            state_topic=settings.state_topic,
            topics={name: settings.topic(name) for name in logical},
            partitions=self.described.partitions,
        )
        if settings.guarantee == "exactly_once":
            identity = f"{settings.topic_prefix}{settings.app}-{partition}"
            return TransactionalSink(KafkaProducer(settings.brokers, identity), target)
        return BatchSink(KafkaProducer(settings.brokers, None), target)

    # --- what runs beside the agent ---------------------------------------------------------------

    async def watch(self) -> None:
        """Measure lag each second, and end the program when it stalls."""
        while True:
            self.heartbeat = monotonic_seconds()
            self.worker.check()
            if self.settings.guarantee == "at_least_once":
                await self._commit_group_offsets()
            await asyncio.sleep(_CHECK_SECONDS)

    async def _commit_group_offsets(self) -> None:
        """Tell the group how far the state is, for whoever watches its lag."""
        topic = self.settings.topic("events")
        positions = {TP(topic, p): at for p, at in self.worker.positions().items()}
        if positions and not self.rebalancing:
            with suppress(KafkaError, ConsumerNotStarted):
                await self.consumer._thread.commit(positions)

    async def write_ticks(self) -> None:
        """Write a tick into each partition that has been idle, so that its timers fire."""
        seconds = self.settings.idle_tick_seconds
        if not seconds or self.settings.replay:
            return
        topic = self.settings.topic("events")
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.brokers, acks="all")
        await producer.start()
        try:
            while True:
                await asyncio.sleep(seconds / 4)
                for partition in self.worker.idle(seconds):
                    with suppress(KafkaError):
                        await producer.send_and_wait(topic, TICK_VALUE, partition=partition)
        finally:
            await producer.stop()


async def serve(
    settings: Settings,
    on_start: Callable[[StreamApp], None] | None = None,
    on_outputs: Callable[[Outputs], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a worker until SIGTERM, SIGINT or ``stop``; then finish the batch in flight and leave.

    Raises
    ------
    StreamAppError
        When it cannot go on; the message says who must do what.
    """
    described = await asyncio.to_thread(topology, settings)
    loop = asyncio.get_running_loop()
    stopping = stop or asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(name, stopping.set)
    app = StreamApp(settings, described, on_outputs)
    if on_start is not None:
        on_start(app)
    beside = [_task(app, app.catalog.run())]
    main = asyncio.ensure_future(stopping.wait())
    try:
        await _first(app, app.models.start(), main)
        await _first(app, app.catalog.complete.wait(), main)
        if not stopping.is_set():
            beside += [
                _task(app, each) for each in (app.watch(), app.write_ticks(), app.models.run())
            ]
            await _first(app, app.start(), main)
            await _first(app, main)
    finally:
        main.cancel()
        await _leave(app, beside)
    if app.failure.done():
        await app.failure


async def _first(app: StreamApp, *awaitables: Any) -> None:
    """Return when the first of the awaitables is done, or raise the app's failure."""
    futures = [asyncio.ensure_future(each) for each in awaitables]
    await asyncio.wait([app.failure, *futures], return_when=asyncio.FIRST_COMPLETED)
    if app.failure.done():
        await app.failure
    for future in futures:
        if future.done() and not future.cancelled():
            future.result()


def _task(app: StreamApp, work: Any) -> "asyncio.Task[None]":
    """Start work beside the agent; its failure ends the program."""

    def ended(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            app.fail(error)

    task: asyncio.Task[None] = asyncio.ensure_future(work)
    task.add_done_callback(ended)
    return task


async def _leave(app: StreamApp, beside: list["asyncio.Task[None]"]) -> None:
    """Commit what is in flight first, then take everything down, within a few seconds."""
    with suppress(Exception):
        await asyncio.wait_for(app.worker.stop(), _STOP_SECONDS)
    for task in beside:
        task.cancel()
    if app.started:
        with suppress(Exception):
            await asyncio.wait_for(app.stop(), _STOP_SECONDS)
    app._folder.cleanup()


def run(
    settings: Settings,
    on_start: Callable[[StreamApp], None] | None = None,
) -> int:
    """Run a worker in this process; return its exit code.

    Threads of the clients may outlive their loop, so the process ends without waiting for them.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(*_GC_THRESHOLDS)
    code = 0
    try:
        asyncio.run(serve(settings, on_start))
    except StreamAppError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is for the operator
        code = 1
    except Exception:
        logger.exception("a defect: please report it")
        code = 1
    logging.shutdown()
    os._exit(code)
