"""A worker owns the partitions of a process: takes them over, feeds their tasks, gives them up."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from stream_app import metrics
from stream_app.config import Settings
from stream_app.errors import CommitError, StalledError
from stream_app.runtime.observe import Observer
from stream_app.runtime.task import RETRY_SECONDS, PartitionTask, Ports, Status
from stream_app.steps import RawRecord

logger = logging.getLogger(__name__)

# Commits of a worker are no closer than this for each partition: one round of transactions costs
# 17 ms for 4 partitions and 60 for 16, as measured on Kafka 4.1.
COMMIT_MS_PER_PARTITION = 6


class Worker:
    """The partitions of one process.

    Parameters
    ----------
    settings
        Of the program.
    ports
        What it is plugged into.
    on_failure
        Called once with the error of a task that cannot go on; the program ends.
    """

    def __init__(
        self, settings: Settings, ports: Ports, on_failure: Callable[[BaseException], None]
    ) -> None:
        self.settings = settings
        self.ports = ports
        self.tasks: dict[int, PartitionTask] = {}
        self._on_failure = on_failure
        self._observer = Observer(settings, ports.now_ms)
        self._assigning = asyncio.Lock()
        self._opening: asyncio.Future[dict[int, int]] | None = None
        self._opened = False
        self._running: list[asyncio.Task[None]] = []

    @property
    def ready(self) -> bool:
        """Whether every partition is being processed; without any there is nothing to wait for."""
        return all(task.status is Status.PROCESSING for task in self.tasks.values())

    async def assign(self, partitions: set[int]) -> dict[int, int]:
        """Take over exactly these partitions; return where to read each from.

        A revocation in the meantime ends it early, with nothing to read.
        """
        async with self._assigning:
            await self._halt()
            self._opening = asyncio.ensure_future(self._assign(partitions))
            try:
                positions = await self._opening
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                return {}
            finally:
                self._opening = None
            self._opened = True
            return positions

    async def _assign(self, partitions: set[int]) -> dict[int, int]:
        for partition in [p for p in self.tasks if p not in partitions]:
            await self.tasks.pop(partition).close()
            self._observer.forget(partition)
        for partition in partitions - self.tasks.keys():
            self.tasks[partition] = PartitionTask(
                partition, self.ports, self.settings, self._commit_seconds, self._observer
            )
        order = sorted(partitions)
        positions = await asyncio.gather(*(self._open(self.tasks[p]) for p in order))
        metrics.PARTITIONS.set(len(partitions))
        return dict(zip(order, positions, strict=True))

    async def _open(self, task: PartitionTask) -> int:
        """Open a task, again and again while the broker does not let it."""
        attempt = 0
        while True:
            try:
                return await task.open()
            except CommitError as error:
                logger.warning("partition %d: %s", task.partition, error)
                await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1

    def start(self) -> None:
        """Let the assigned tasks process what is delivered from now on.

        Nothing happens when they have been revoked again since.
        """
        if not self._opened:
            return
        for partition, task in self.tasks.items():
            running = asyncio.create_task(task.run(), name=f"partition-{partition}")
            running.add_done_callback(self._ended)
            self._running.append(running)
            task.status = Status.PROCESSING
        self._opened = False

    def deliver(self, partition: int, start: int, records: Sequence[RawRecord]) -> None:
        """Hand fetched records to the owner of their partition; returns at once."""
        task = self.tasks.get(partition)
        if task is not None:
            task.deliver(start, records)

    async def revoke(self) -> None:
        """Stop processing: drop what waits, let batches in flight finish."""
        if self._opening is not None:
            self._opening.cancel()
        self._opened = False
        await self._halt()

    async def _halt(self) -> None:
        """Let batches in flight finish, and end the tasks."""
        await asyncio.gather(*(task.revoke() for task in self.tasks.values()))
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def stop(self) -> None:
        """Finish the batches in flight and give everything up."""
        await self.revoke()
        await asyncio.gather(*(task.close() for task in self.tasks.values()))
        self.tasks.clear()

    def check(self) -> None:
        """Measure and publish; raise StalledError when records wait and nothing is committed.

        Any confirmed commit is progress: a batch of timers moves no offset.
        """
        now = asyncio.get_running_loop().time()
        self._observer.publish()
        for partition, task in self.tasks.items():
            lag = self.lag(partition)
            self._measure(task, lag)
            if task.status in (Status.ASSIGNED, Status.FENCED, Status.REVOKED):
                continue  # restoring a large state is no stall
            if not lag and task.status is Status.PROCESSING:
                task.progress = now
            # A dropped task has a batch that was not confirmed, though nothing waits in its queue.
            stalled = now - task.progress
            metrics.STALLED_SECONDS.labels(partition).set(stalled)
            if stalled > self.settings.stall_seconds:
                raise StalledError(
                    f"partition {partition}: records wait and nothing was committed for "
                    f"{stalled:.0f} s; restart the worker"
                )

    def _measure(self, task: PartitionTask, lag: int) -> None:
        """Set the gauges of a partition."""
        partition = task.partition
        metrics.LAG.labels(partition).set(lag)
        oldest_ms = task.oldest_ms
        if not self.settings.replay and (oldest_ms is not None or not lag):
            age_ms = self.ports.now_ms() - oldest_ms if lag and oldest_ms is not None else 0
            metrics.LAG_SECONDS.labels(partition).set(max(age_ms, 0) / 1000)
        if task.state is not None:
            metrics.POSITION.labels(partition).set(task.state.ledger.position)
            for kind, count in task.state.sizes.items():
                metrics.ROWS.labels(partition, kind).set(count)

    def positions(self) -> dict[int, int]:
        """Return the confirmed position of each partition that is being processed."""
        return {
            partition: task.state.ledger.position
            for partition, task in self.tasks.items()
            if task.status is Status.PROCESSING and task.state is not None and not task.busy
        }

    def lag(self, partition: int) -> int:
        """Return how many records of a partition are in the log and not committed.

        A transaction's marker takes an offset, so what was fetched is counted, and what was not is
        measured from where fetching continues.
        """
        source = self.ports.source
        highwater, position = source.highwater(partition), source.read_position(partition)
        unread = max(highwater - position, 0) if highwater and position is not None else 0
        return self.tasks[partition].waiting + unread

    def idle(self, seconds: float) -> list[int]:
        """Return the partitions in which no record has come for so long."""
        now = asyncio.get_running_loop().time()
        return [
            partition
            for partition, task in self.tasks.items()
            if task.status is Status.PROCESSING
            and now - task.last_record >= seconds
            and not self.lag(partition)
        ]

    def _commit_seconds(self) -> float:
        """Return the least time between two commits of a partition."""
        per_partition = COMMIT_MS_PER_PARTITION * len(self.tasks)
        return max(self.settings.commit_interval_ms, per_partition) / 1000

    def _ended(self, running: "asyncio.Task[None]") -> None:
        if not running.cancelled():
            error = running.exception()
            if error is not None:
                self._on_failure(error)
