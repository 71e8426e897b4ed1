"""One seed, one run: plan, workload, faults, then quiet, then the checks."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from msgspec import Struct

from stream_app.runtime.changelog import restore
from stream_app.stages.decode import TICK_VALUE
from stream_app.state import PartitionState
from stream_app.steps import RawRecord
from tests.sim.broker import Broker, Transaction
from tests.sim.checks_outputs import check_outputs
from tests.sim.checks_reports import check_reports
from tests.sim.checks_state import (
    check_accounts,
    check_bounds,
    check_offset,
    check_state,
    committed_position,
)
from tests.sim.clients import SimReader
from tests.sim.group import Group
from tests.sim.loop import START_SECONDS, VirtualLoop
from tests.sim.oracle import Source, Truth, early, tell
from tests.sim.plan import PROCESS_FAULTS, Chance, Plan, draw
from tests.sim.process import OpenSink, Process, Site
from tests.sim.workload import Shop, Written

# Virtual seconds without faults within which everything must be processed: a few recoveries at
# their slowest, each a session timeout, a transaction timeout or the watchdog's.
QUIET_SECONDS_MAX = 400.0
TIDY_SECONDS = 5.0  # for the last offsets and markers


class Result(Struct):
    """What came of a seed; ``digest`` is over everything that was written, and when."""

    seed: int
    problems: list[str]
    records: int
    faults: Counter[str]
    seconds: float
    digest: str
    happened: Counter[str]  # as the oracle has it


class Simulation:
    """The run of one seed."""

    def __init__(
        self, plan: Plan, rng: Random, written: Sequence[Written], open_sink: OpenSink | None
    ) -> None:
        self.plan = plan
        self._rng = rng
        self._written = written
        self._loop = asyncio.get_running_loop()
        settings = plan.settings
        self.source = settings.topic("events")
        chance = Chance(rng, plan.weights)
        broker = Broker(rng)
        broker.create(self.source, settings.partitions, plan.first_offset)
        broker.create(settings.state_topic, settings.partitions)
        for topic, partitions in plan.output_partitions.items():
            broker.create(topic, partitions)
        group = Group(rng, settings.partitions, settings.session_timeout_seconds)
        self.site = Site(plan, chance, broker, group)
        self.site.open_sink = open_sink
        broker.on_complete.append(self._on_complete)
        self.states: dict[int, PartitionState] = {}  # as restored after the end
        self.happened: Counter[str] = Counter()
        self._processes: list[Process] = []
        self._restarts = 0
        self._wrote_all = False

    async def run(self) -> None:
        """Write, process and break things; then wait until everything has been processed."""
        group = self.site.group
        beside = [group.run(), group.expire(), self._write(), self._keep_alive(), self._break()]
        tasks = [self._loop.create_task(work) for work in beside]
        for number in range(self.plan.workers):
            self._processes.append(Process(self.site, f"w{number}"))
        await asyncio.sleep(self.plan.faults_seconds)
        self._quieten()
        deadline = self._loop.time() + QUIET_SECONDS_MAX
        while not self._done():
            if self._loop.time() > deadline:
                self.site.problems.append(f"no end in sight: {self._positions()}")
                break
            if self.site.problems:
                break
            await asyncio.sleep(0.5)
        for process in self._processes:
            process.wake()
            process.leave()
        await asyncio.sleep(TIDY_SECONDS)
        for task in tasks:
            if task.done() and task.exception() is not None:
                self.site.problems.append(f"the simulator failed: {task.exception()!r}")
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what happens ---------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write the workload, sometimes in transactions of a producer of its own."""
        rng, broker = self._rng, self.site.broker
        pause = self.plan.produce_seconds / max(len(self._written), 1)
        place = 0
        while place < len(self._written):
            count = rng.choice((1, 1, 5, 40))
            chunk = self._written[place : place + count]
            place += len(chunk)
            if self.plan.weights and rng.random() < 0.1:
                await self._write_transaction(chunk, aborted=rng.random() < 0.3)
            else:
                for record in chunk:
                    where = (self.source, record.partition)
                    broker.produce(where, [record.content], record.timestamp)
            await asyncio.sleep(pause * len(chunk) * 2 * rng.random())
        self._wrote_all = True

    async def _write_transaction(self, chunk: Sequence[Written], *, aborted: bool) -> None:
        """Write some records in one transaction; records of one that is aborted come again."""
        broker = self.site.broker
        for committed in (False, True) if aborted else (True,):
            transaction = Transaction("shop", [], {}, committed=None)
            for record in chunk:
                where = (self.source, record.partition)
                broker.logs[where].append([record.content], record.timestamp, transaction)
                if where not in transaction.touched:
                    transaction.touched.append(where)
                await asyncio.sleep(self._rng.random() * 0.05)
            transaction.committed = committed
            for where in transaction.touched:
                broker.logs[where].mark(transaction)
                broker._changed(where)

    async def _keep_alive(self) -> None:
        """Start another process for each that has died."""
        while True:
            await asyncio.sleep(0.3)
            for place, process in enumerate(self._processes):
                if not process.alive:
                    await asyncio.sleep(self._rng.random() * self.plan.restart_seconds)
                    self._restarts += 1
                    life = "" if self.plan.static_names else f".{self._restarts}"
                    self._processes[place] = Process(self.site, f"w{place}{life}")

    async def _break(self) -> None:
        """Let something happen to whole processes, again and again."""
        plan, rng, chance = self.plan, self._rng, self.site.chance
        while chance.active:
            await asyncio.sleep(rng.expovariate(1.0) * plan.process_fault_every_seconds)
            fault = chance.pick(PROCESS_FAULTS)
            process = rng.choice(self._processes)
            if fault == "kill":
                process.crash("killed")
            elif fault == "suspend" and process.alive and not process.suspended:
                process.suspend()
                seconds = plan.settings.session_timeout_seconds * rng.uniform(0.2, 3.0)
                self._loop.call_later(seconds, process.wake)
            elif fault == "rebalance":
                self.site.group.rebalance()
            elif fault == "bounce" and process.alive and not process.suspended:
                process.leave()
            elif fault == "compact":
                partition = rng.randrange(plan.settings.partitions)
                self.site.broker.logs[plan.settings.state_topic, partition].compact()

    def _quieten(self) -> None:
        """Switch all faults off."""
        self.site.say("no more faults")
        self.site.chance.active = False
        self.site.ticking = False
        for process in self._processes:
            process.wake()

    def _on_complete(self, transaction: Transaction) -> None:
        topic = self.plan.settings.state_topic
        self.site.problems += check_offset(self.site.broker, transaction, topic)

    # --- how it ends ----------------------------------------------------------------------------

    def _done(self) -> bool:
        done = self._wrote_all and all(at >= end for at, end in self._positions().values())
        return done and self._settled()

    def _settled(self) -> bool:
        """Tell whether every partition has one owner, who is ready and waits for nothing."""
        workers = [process.worker for process in self._processes if process.alive]
        owned = sorted(partition for worker in workers for partition in worker.tasks)
        return owned == list(range(self.plan.settings.partitions)) and all(
            worker.ready and not any(map(worker.lag, worker.tasks)) for worker in workers
        )

    def _positions(self) -> dict[int, tuple[int, int]]:
        """Return for each partition the committed position and the offset after the last record."""
        broker, positions = self.site.broker, {}
        for partition in range(self.plan.settings.partitions):
            where = (self.plan.settings.state_topic, partition)
            end = broker.logs[self.source, partition].end_visible
            positions[partition] = committed_position(broker, where), end
        return positions

    def records(self, partition: int) -> Sequence[RawRecord]:
        """Return what a reader of a source partition sees."""
        return list(self.site.broker.logs[self.source, partition].visible(0))

    def truths(self) -> dict[int, Truth]:
        """Return what each partition must have given."""
        plan = self.plan
        return {
            partition: tell(
                Source(partition, plan.first_offset, self.records(partition)),
                plan.settings,
                plan.catalog,
                ranker=plan.ranker,
            )
            for partition in range(plan.settings.partitions)
        }

    async def check(self) -> None:
        """Run all checks on what has been written."""
        plan, site, settings = self.plan, self.site, self.plan.settings
        truths = self.truths()
        topics = {
            name: settings.topic(name)
            for name in ("recommendations", "predictions", "churn_alerts", "dead_letter")
        }
        repeats = settings.guarantee == "at_least_once"
        site.problems += check_outputs(site.broker, topics, truths, repeats_allowed=repeats)
        site.problems += check_bounds(site.broker, settings.state_topic)
        complete = not site.chance.counts
        site.problems += check_reports(site.reports, truths, complete=complete)
        self.happened = sum((truth.happened for truth in truths.values()), Counter())
        reader = SimReader(Bystander(site.chance, plan.latency_seconds), site.broker, chunk=1_000)
        for partition, truth in truths.items():
            records = self.records(partition)
            if not records:
                continue
            state = await restore(reader, settings.state_topic, partition, 100)
            self.states[partition] = state
            site.problems += check_state(partition, state, truth)
            ticks = sum(record.value == TICK_VALUE for record in records)
            site.problems += check_accounts(partition, state.ledger, records, ticks)

    def digest(self) -> str:
        """Return a hash over all that was written."""
        total = hashlib.sha256(repr(self._loop.time()).encode())
        for where, log in self.site.broker.logs.items():
            total.update(repr(where).encode())
            for entry in log.entries:
                what = entry and (entry.timestamp, entry.key, entry.value, entry.headers)
                total.update(repr(what).encode())
        return total.hexdigest()


class Bystander:
    """Where the checks read from: a process without faults."""

    alive = True

    def __init__(self, chance: Chance, latency_seconds: float) -> None:
        self.chance = chance
        self.latency_seconds = latency_seconds

    async def breathe(self) -> None:
        """Go on."""

    def crash(self, reason: str) -> None:
        """Never happens."""
        raise AssertionError(reason)


def simulate(
    seed: int,
    *,
    open_sink: OpenSink | None = None,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    inspect: Callable[[Simulation], None] = lambda _: None,
    verbose: bool = False,
) -> Result:
    """Run one seed and return what came of it.

    Parameters
    ----------
    seed
        Draws everything.
    open_sink
        Makes the sinks, where the simulator itself is tested with broken ones.
    change
        Alters the plan that was drawn.
    inspect
        Called with the simulation at its end.
    verbose
        Print what happens, and what the program logs.
    """
    rng = Random(seed)
    plan = change(draw(rng))
    written = Shop(rng, plan.settings.partitions, plan.first_offset).write(plan.events)
    loop = VirtualLoop()

    async def main() -> Result:
        simulation = Simulation(plan, rng, written, open_sink)
        site = simulation.site
        if verbose:
            site.say = lambda text: print(f"{loop.time() - START_SECONDS:9.3f} s  {text}")
            print(plan.settings, plan.weights, sep="\n")
        await simulation.run()
        if not site.problems:
            await simulation.check()
        site.problems += [f"nobody waited for {error!r}" for error in loop.strays]
        inspect(simulation)
        seconds = loop.time() - START_SECONDS
        digest = simulation.digest()
        counts, happened = site.chance.counts, simulation.happened
        return Result(seed, site.problems, len(written), counts, seconds, digest, happened)

    with early(plan.warm_each), _quiet(verbose=verbose):
        try:
            return loop.run_until_complete(main())
        finally:
            loop.end()


@contextmanager
def _quiet(*, verbose: bool) -> Iterator[None]:
    """Keep what the program logs of its faults to ourselves."""
    logger = logging.getLogger("stream_app")
    level, logger.disabled = logger.level, False
    if verbose:
        logging.basicConfig(format="             %(message)s")
        logger.setLevel(logging.INFO)
    else:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
