"""The consumer group: eager rebalances, session timeouts, generations."""

import asyncio
from random import Random
from typing import Protocol

CHECK_SECONDS = 0.25
REBALANCE_SECONDS_MAX = 15.0


class Member(Protocol):
    """A process as its group sees it."""

    @property
    def name(self) -> str:
        """What the group knows it by."""
        ...

    def take_over(self, generation: int, partitions: set[int]) -> None:
        """Begin to own exactly these partitions."""
        ...


class Group:
    """Decides who owns which partition; a member that it has lost may not know so for a while."""

    def __init__(self, rng: Random, partitions: int, session_seconds: float) -> None:
        self._rng = rng
        self._partitions = partitions
        self._session_seconds = session_seconds
        self._members: dict[str, Member] = {}
        self._seen: dict[str, float] = {}
        self._joined: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.generation = 0

    def heartbeat(self, member: Member) -> int:
        """Note that a member lives; return the generation that it should be in, -1 if unknown."""
        if self._members.get(member.name) is not member:
            return -1
        self._seen[member.name] = self._loop.time()
        return self.generation

    def join(self, member: Member) -> None:
        """Join or rejoin, having given up what was owned in earlier generations."""
        if self._members.get(member.name) is not member:
            self._members[member.name] = member
            self.rebalance()
        self._seen[member.name] = self._loop.time()
        self._joined[member.name] = self.generation

    def leave(self, member: Member) -> None:
        """Leave, which the others notice at once."""
        if self._members.get(member.name) is member:
            self._forget(member.name)
            self.rebalance()

    def rebalance(self) -> None:
        """Begin another generation."""
        self.generation += 1
        self._changed.set()

    async def run(self) -> None:
        """Assign partitions until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            generation = self.generation
            deadline = self._loop.time() + REBALANCE_SECONDS_MAX
            while generation == self.generation and not self._all_joined():
                await asyncio.sleep(CHECK_SECONDS / 5)
                if self._loop.time() > deadline:
                    for name in list(self._members):
                        if self._joined.get(name) != generation:
                            self._forget(name)
            if generation == self.generation:
                self._assign(generation)

    async def expire(self) -> None:
        """Put out the members that have not been heard of for a session timeout."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = self._loop.time()
            for name, seen in list(self._seen.items()):
                if now - seen > self._session_seconds:
                    self._forget(name)
                    self.rebalance()

    def _all_joined(self) -> bool:
        return all(self._joined.get(name) == self.generation for name in self._members)

    def _assign(self, generation: int) -> None:
        """Deal the partitions out, in an order that chance decides."""
        names = list(self._members)
        if not names:
            return
        self._rng.shuffle(names)
        for place, name in enumerate(names):
            partitions = set(range(place, self._partitions, len(names)))
            self._members[name].take_over(generation, partitions)

    def _forget(self, name: str) -> None:
        del self._members[name], self._seen[name]
        self._joined.pop(name, None)
