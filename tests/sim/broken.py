"""Sinks with one mistake each, which the simulator must find: else it proves nothing."""

import asyncio
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakSet

from stream_app.errors import CommitError
from stream_app.runtime.sink import (
    BatchSink,
    Commit,
    Producer,
    Sink,
    Target,
    TransactionalSink,
    _route,
    _rows,
)
from tests.sim.process import OpenSink


class Forgiving(TransactionalSink):
    """Takes a failed commit for a good one, so memory is kept that was never stored."""

    async def commit(self, commit: Commit) -> None:
        """Store a batch, or not."""
        try:
            await super().commit(commit)
        except CommitError:
            await self.fence()


class Trusting(TransactionalSink):
    """Holds memory to be valid whoever has owned the partition meanwhile."""

    async def fence(self) -> bool:
        """Become the only owner; claim that nobody else was."""
        await super().fence()
        return True


class Hasty(TransactionalSink):
    """Sends the group ahead of the state."""

    async def commit(self, commit: Commit) -> None:
        """Store a batch with the wrong offset."""
        position = None if commit.position is None else commit.position + 1
        await super().commit(Commit(commit.outputs, commit.changes, position))


class Leaky(TransactionalSink):
    """Sends the changelog outside the transaction."""

    def __init__(self, producer: Producer, target: Target, plain: Producer) -> None:
        super().__init__(producer, target)
        self._plain = plain

    async def fence(self) -> bool:
        """Become the only owner, with a second connection."""
        await self._plain.start()
        return await super().fence()

    async def commit(self, commit: Commit) -> None:
        """Store the changelog, then the rest in a transaction."""
        state_topic, partition = self._target.state_topic, self._target.partition
        if commit.changes:
            await self._plain.send(state_topic, partition, _rows(commit.changes))
        await super().commit(Commit(commit.outputs, (), commit.position))


class Blurting(Leaky):
    """Sends the outputs outside the transaction."""

    async def commit(self, commit: Commit) -> None:
        """Store the outputs, then the rest in a transaction."""
        for where, records in _route(commit.outputs, self._target):
            await self._plain.send(*where, records)
        await TransactionalSink.commit(self, Commit((), commit.changes, commit.position))


class Backward(BatchSink):
    """Stores the state before the outputs."""

    async def commit(self, commit: Commit) -> None:
        """Store a batch in the wrong order."""
        await super().commit(Commit((), commit.changes, commit.position))
        await super().commit(Commit(commit.outputs, (), commit.position))


class Torn(BatchSink):
    """Stores the changelog row by row, so a crash leaves half of it."""

    async def commit(self, commit: Commit) -> None:
        """Store a batch piece by piece."""
        await super().commit(Commit(commit.outputs, (), commit.position))
        for change in commit.changes:
            await super().commit(Commit((), (change,), commit.position))


class Stuck(TransactionalSink):
    """Never gets over the first failure."""

    _failed: ClassVar[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()

    async def commit(self, commit: Commit) -> None:
        """Store a batch, until that fails once in a run."""
        loop = asyncio.get_running_loop()
        try:
            if loop in self._failed:
                await loop.create_future()
            await super().commit(commit)
        except CommitError:
            self._failed.add(loop)
            raise


def _exactly_once(kind: type[TransactionalSink]) -> OpenSink:
    def open_sink(producer: Producer, target: Target, _: Callable[[], Producer]) -> Sink:
        return kind(producer, target)

    return open_sink


def _at_least_once(kind: type[BatchSink]) -> OpenSink:
    def open_sink(producer: Producer, target: Target, _: Callable[[], Producer]) -> Sink:
        return kind(producer, target)

    return open_sink


def _with_plain(kind: type[Leaky]) -> OpenSink:
    def open_sink(producer: Producer, target: Target, plain: Callable[[], Producer]) -> Sink:
        return kind(producer, target, plain())

    return open_sink


# Name -> the guarantee that the sink belongs to, and how it is made.
BROKEN: dict[str, tuple[str, OpenSink]] = {
    "forgiving": ("exactly_once", _exactly_once(Forgiving)),
    "trusting": ("exactly_once", _exactly_once(Trusting)),
    "hasty": ("exactly_once", _exactly_once(Hasty)),
    "leaky": ("exactly_once", _with_plain(Leaky)),
    "blurting": ("exactly_once", _with_plain(Blurting)),
    "backward": ("at_least_once", _at_least_once(Backward)),
    "torn": ("at_least_once", _at_least_once(Torn)),
    "stuck": ("exactly_once", _exactly_once(Stuck)),
}
