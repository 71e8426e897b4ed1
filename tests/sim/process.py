"""A worker process: the real Worker on simulated clients; it can die, stand still or leave."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from stream_app.errors import StalledError
from stream_app.pipeline import Outputs
from stream_app.runtime.sink import BatchSink, Produced, Producer, Sink, Target, TransactionalSink
from stream_app.runtime.task import Ports, World
from stream_app.runtime.worker import Worker
from stream_app.shelves import Shelves
from stream_app.stages.decode import TICK_VALUE
from stream_app.steps import RawRecord
from tests.sim.broker import Broker
from tests.sim.clients import Crash, SimProducer, SimReader, SimSource
from tests.sim.group import Group
from tests.sim.loop import OWN_TASKS
from tests.sim.oracle import CATALOG_VERSION, TOPIC_ID
from tests.sim.plan import Chance, Plan

WATCH_SECONDS = 1.0
HEARTBEAT_SECONDS = 0.4

OpenSink = Callable[[Producer, Target, Callable[[], Producer]], Sink]


class Site:
    """What all processes share."""

    def __init__(self, plan: Plan, chance: Chance, broker: Broker, group: Group) -> None:
        self.plan = plan
        self.chance = chance
        self.broker = broker
        self.group = group
        self.open_sink: OpenSink | None = None
        self.problems: list[str] = []
        self.reports: list[Outputs] = []  # of the batches whose commits were confirmed
        self.ticking = True
        self.say: Callable[[str], None] = len  # type: ignore[assignment]


class Process:
    """One life of a worker process: from its start to its end."""

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self.chance = site.chance
        self.latency_seconds = site.plan.latency_seconds
        self.alive = True
        self._running = asyncio.Event()
        self._running.set()
        self._generation = -1
        self._wanted: asyncio.Task[None] | None = None  # taking partitions over
        self._tasks: dict[asyncio.Task[Any], None] = {}
        settings, chance = site.plan.settings, site.chance
        self._source = SimSource(
            self, site.broker, settings.topic("events"), settings.fetch_records_max
        )
        ports = Ports(
            source=self._source,
            reader=SimReader(self, site.broker, chunk=50),
            open_sink=self._open_sink,
            now_ms=lambda: site.broker.now_ms,
            world=World(Shelves(site.plan.catalog.values()), CATALOG_VERSION, site.plan.ranker),
            partitions=settings.partitions,
            topic_id=TOPIC_ID,
            on_outputs=site.reports.append,
        )
        self.worker = Worker(settings, ports, self._fail)
        self._start(self._heartbeats(chance.rng.random() * HEARTBEAT_SECONDS))
        self._start(self._source.run(self._deliver))
        self._start(self._watch())

    @property
    def name(self) -> str:
        """What the group knows it by."""
        return self._name

    @property
    def suspended(self) -> bool:
        """Whether it stands still."""
        return not self._running.is_set()

    async def breathe(self) -> None:
        """Wait while the process is suspended; raise Crash once it is dead."""
        await self._running.wait()
        if not self.alive:
            raise Crash

    def crash(self, reason: str) -> None:
        """End the process at once: its tasks, its memory."""
        if not self.alive:
            return
        self._site.say(f"{self._name}: {reason}")
        self.alive = False
        self._running.set()
        self._site.broker.on_change.remove(self._source._on_change)
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()

    def suspend(self) -> None:
        """Let the process stand still; what it has sent lands all the same."""
        self._site.say(f"{self._name}: suspended")
        self._running.clear()

    def wake(self) -> None:
        """Let the process go on."""
        if self.alive and self.suspended:
            self._site.say(f"{self._name}: wakes up")
            self._running.set()

    def leave(self) -> None:
        """End the process in an orderly way, as soon as the batches in flight have."""
        self._start(self._leave())

    async def _leave(self) -> None:
        self._site.say(f"{self._name}: leaves")
        await self._give_up()
        await self.worker.stop()
        self._site.group.leave(self)
        self.crash("has left")

    def _deliver(self, partition: int, start: int, records: Sequence[RawRecord]) -> None:
        """Hand records to the worker, whose queue must stay bounded: two fetches and what came."""
        self.worker.deliver(partition, start, records)
        task = self.worker.tasks.get(partition)
        most = 4 * self._site.plan.settings.fetch_records_max
        if task is not None and task.waiting > most:
            self._site.problems.append(f"{self._name}: {task.waiting} records wait, {most} may")

    def take_over(self, generation: int, partitions: set[int]) -> None:
        """Begin to own exactly these partitions, as the group says."""
        self._site.say(f"{self._name}: generation {generation}, partitions {sorted(partitions)}")
        if self.alive and generation == self._generation:
            self._wanted = self._start(self._take_over(generation, partitions))

    async def _take_over(self, generation: int, partitions: set[int]) -> None:
        await self.breathe()
        self._source.assign(partitions)
        positions = await self.worker.assign(partitions)
        for partition, position in positions.items():
            await self._source.seek(partition, position)
        if generation != self._generation:
            return
        for partition in positions:
            self._source.resume(partition)
        self.worker.start()

    async def _heartbeats(self, delay: float) -> None:
        """Keep the membership alive, and rejoin when the group says so."""
        group = self._site.group
        await asyncio.sleep(delay)
        group.join(self)
        self._generation = group.generation
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS * (0.5 + self.chance.rng.random()))
            await self.breathe()
            if group.heartbeat(self) != self._generation:
                await self._give_up()
                group.join(self)
                self._generation = group.generation

    async def _give_up(self) -> None:
        """Let batches in flight finish; a takeover under way ends before or after that."""
        early = self.chance.rng.random() < 0.5
        if early:
            await self._cancel_takeover()
        await self.worker.revoke()
        if not early:
            await self._cancel_takeover()

    async def _cancel_takeover(self) -> None:
        taking, self._wanted = self._wanted, None
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _watch(self) -> None:
        """Do what the app does beside the agent: the watchdog, and ticks for idle partitions."""
        settings = self._site.plan.settings
        topic, seconds = settings.topic("events"), settings.idle_tick_seconds
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.breathe()
            self.worker.check()
            if seconds and self._site.ticking:
                for partition in self.worker.idle(seconds):
                    log = self._site.broker.logs[topic, partition]
                    record: Produced = (None, TICK_VALUE, [])
                    stamp = log.newest_ms + self._site.plan.tick_ms
                    self._site.broker.produce((topic, partition), [record], stamp)

    def _open_sink(self, partition: int) -> Sink:
        site, settings = self._site, self._site.plan.settings
        state_topic = settings.state_topic
        target = Target(
            source=settings.topic("events"),
            partition=partition,
            group=settings.app,
            state_topic=state_topic,
            topics={
                name: settings.topic(name)
                for name in ("recommendations", "predictions", "churn_alerts", "dead_letter")
            },
            partitions=site.plan.output_partitions,
        )
        transactional = settings.guarantee == "exactly_once"
        name = f"{settings.app}-{partition}" if transactional else None
        producer = SimProducer(self, site.broker, name, state_topic)
        if site.open_sink is not None:
            return site.open_sink(
                producer, target, lambda: SimProducer(self, site.broker, None, state_topic)
            )
        if transactional:
            return TransactionalSink(producer, target)
        return BatchSink(producer, target)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        token = OWN_TASKS.set(self._tasks)
        task = asyncio.get_running_loop().create_task(work)
        OWN_TASKS.reset(token)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End with an error; one that no fault explains is a finding."""
        if not self.alive:
            return
        if not isinstance(error, Crash | StalledError):
            self._site.problems.append(f"{self._name} died of {error!r}")
        self._site.chance.counts["stalled"] += isinstance(error, StalledError)
        self.crash(f"died of {error!r}")
