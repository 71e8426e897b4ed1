"""The clients that a worker is plugged into: producer, reader and source, each with its faults."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from stream_app.runtime.changelog import KeyValue
from stream_app.runtime.sink import Produced
from stream_app.steps import RawRecord
from tests.sim.broker import Broker, Busy, Where, unknown
from tests.sim.plan import READ_FAILS, STALE, Chance

BUSY_SECONDS = 0.005  # before a client asks again while a transaction is being completed
SLOW_SECONDS_MAX = 20.0
SILENCE_SECONDS_MAX = 30.0


class Crash(BaseException):
    """The process has died; nothing that it ran may go on."""


class Host(Protocol):
    """The process that a client runs in."""

    chance: Chance
    latency_seconds: float
    alive: bool

    async def breathe(self) -> None:
        """Wait while the process is suspended; raise Crash once it is dead."""
        ...

    def crash(self, reason: str) -> None:
        """End the process at once."""
        ...


def latency(host: Host) -> float:
    """Return how long one way over the network takes."""
    return host.chance.rng.random() * host.latency_seconds


class SimProducer:
    """A producer, with a transactional id or without.

    Parameters
    ----------
    host
        The process; its requests end with it, save those that are on their way.
    broker
        Where requests land.
    name
        The transactional id; None for none.
    state_topic
        Tells the changelog from the outputs.
    """

    def __init__(self, host: Host, broker: Broker, name: str | None, state_topic: str) -> None:
        self._host = host
        self._broker = broker
        self._name = name
        self._state_topic = state_topic
        self._identity = (-1, -1)
        self._connected = False

    async def start(self) -> tuple[int, int]:
        """Connect anew; with a transactional id, fence every earlier owner."""
        self._connected = False
        name, broker = self._name, self._broker
        if name is None:
            await self._request("fence", lambda: None)
            identity = (-1, -1)
        else:
            identity = await self._request("fence", lambda: broker.init(name))
        self._connected = True
        self._identity = identity
        return identity

    async def begin(self) -> None:
        """Begin a transaction, which the client does on its own."""
        if not self._connected:
            raise unknown("not connected")
        await self._host.breathe()
        self._crash("before", "begin")
        self._crash("after", "begin")

    async def send(self, topic: str, partition: int, records: Sequence[Produced]) -> None:
        """Send one record batch; return when it is stored."""
        where, name, identity, broker = (topic, partition), self._name, self._identity, self._broker
        step = "changelog" if topic == self._state_topic else "outputs"
        kept = list(records)
        assert all(type(headers) is list for _, _, headers in kept), "aiokafka wants a list"
        if name is None:
            late = step == "outputs"
            await self._connected_request(
                step, lambda: broker.produce(where, kept, broker.now_ms), late=late
            )
        else:
            await self._connected_request(
                step, lambda: broker.write(name, identity, where, kept), late=True
            )

    async def send_position(self, topic: str, partition: int, position: int, group: str) -> None:
        """Send the next source offset as part of the transaction."""
        name, identity, where = self._name, self._identity, (topic, partition)
        assert name is not None
        await self._connected_request(
            "offset",
            lambda: self._broker.write_offset(name, identity, where, position, group),
            late=True,
        )

    async def commit(self) -> None:
        """Commit the transaction."""
        name, identity, broker = self._name, self._identity, self._broker
        assert name is not None
        if self._host.chance.hit("aborted commit"):
            broker.abort(name)
        await self._connected_request(
            "commit", lambda: broker.end(name, identity, commit=True), late=True
        )

    async def stop(self) -> None:
        """Give up the connection."""
        self._connected = False

    async def _connected_request(
        self, step: str, land: Callable[[], object], *, late: bool
    ) -> object:
        if not self._connected:
            raise unknown("not connected")
        return await self._request(step, land, late=late)

    async def _request(self, step: str, land: Callable[[], Any], *, late: bool = False) -> Any:
        """Send a request, which lands after a while, and wait for the answer.

        A request that is on its way lands even if the process dies, where a transactional id can
        refuse it; without one it must not land behind the back of the next owner.
        """
        host, loop = self._host, asyncio.get_running_loop()
        await host.breathe()
        self._crash("before", step)
        chance = host.chance
        if chance.hit(f"lost {step}"):
            await asyncio.sleep(chance.rng.random())
            await host.breathe()
            raise unknown(f"{step}: the request was lost")
        answer: asyncio.Future[tuple[object, Exception | None]] = loop.create_future()
        delay = latency(host)
        if late and chance.hit(f"late {step}"):
            loop.call_later(delay + chance.rng.random() * 3, self._land, land, answer)
            await asyncio.sleep(delay)
            await host.breathe()
            raise unknown(f"{step}: no answer yet")
        if chance.hit(f"slow {step}"):
            delay += chance.rng.random() * SLOW_SECONDS_MAX
        loop.call_later(delay, self._land, land, answer)
        result, error = await answer
        self._crash("after", step)
        await asyncio.sleep(latency(host))
        await host.breathe()
        if error is not None:
            raise error
        if chance.hit(f"landed {step}"):
            raise unknown(f"{step}: the answer was lost")
        return result

    def _land(
        self,
        land: Callable[[], object],
        answer: "asyncio.Future[tuple[object, Exception | None]]",
    ) -> None:
        """Let a request arrive at the broker."""
        if self._name is None and not self._host.alive:
            return
        result: object = None
        error: Exception | None = None
        try:
            result = land()
        except Busy:
            asyncio.get_running_loop().call_later(BUSY_SECONDS, self._land, land, answer)
            return
        except Exception as raised:  # noqa: BLE001 - it is the answer
            error = raised
        if not answer.done():
            answer.set_result((result, error))

    def _crash(self, when: str, step: str) -> None:
        if self._host.chance.hit(f"crash {when} {step}"):
            self._host.crash(f"crash {when} {step}")
            raise Crash


class SimReader:
    """Reads one partition to its end, ``read_committed``."""

    def __init__(self, host: Host, broker: Broker, chunk: int) -> None:
        self._host = host
        self._broker = broker
        self._chunk = chunk

    async def read(self, topic: str, partition: int) -> AsyncIterator[Sequence[KeyValue]]:
        """Yield the records in order, in chunks, up to the end as of now."""
        log = self._broker.logs[topic, partition]
        position, clock = log.first, asyncio.get_running_loop().time
        heard = clock()
        while True:
            await asyncio.sleep(latency(self._host))
            await self._host.breathe()
            if self._host.chance.hit(READ_FAILS):
                raise unknown(READ_FAILS)
            chunk = list(log.visible(position, self._chunk))
            if chunk:
                heard = clock()
                position = chunk[-1].offset + 1
                yield [(entry.key or b"", entry.value) for entry in chunk]
            else:
                position = max(position, log.stable)
            if position >= log.end:
                return
            if clock() - heard > SILENCE_SECONDS_MAX:
                raise unknown("no answer while restoring")

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset in the log and the one after the last."""
        await asyncio.sleep(latency(self._host))
        await self._host.breathe()
        if self._host.chance.hit(READ_FAILS):
            raise unknown(READ_FAILS)
        log = self._broker.logs[topic, partition]
        return log.first, log.end


class Cursor:
    """Where the fetching of one partition stands; ``start`` is None while it is being sought."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.position = 0
        self.stable: int | None = None
        self.paused = False
        self.seeks = 0


class SimSource:
    """The consumer of one process: fetches its partitions and hands the records on."""

    def __init__(self, host: Host, broker: Broker, topic: str, fetch_max: int) -> None:
        self._host = host
        self._broker = broker
        self._topic = topic
        self._fetch_max = fetch_max
        self._wake = asyncio.Event()
        self.cursors: dict[int, Cursor] = {}
        broker.on_change.append(self._on_change)

    def assign(self, partitions: set[int]) -> None:
        """Fetch these partitions from now on, once they are sought; all are paused."""
        self.cursors = {partition: Cursor() for partition in sorted(partitions)}
        for cursor in self.cursors.values():
            cursor.paused = True

    def pause(self, partition: int) -> None:
        """Deliver nothing more of a partition until it is resumed."""
        if partition in self.cursors:
            self.cursors[partition].paused = True

    def resume(self, partition: int) -> None:
        """Deliver a partition again."""
        if partition in self.cursors:
            self.cursors[partition].paused = False
            self._wake.set()

    async def seek(self, partition: int, position: int) -> None:
        """Deliver from ``position`` next; raises KeyError where the partition is not assigned."""
        cursor = self.cursors[partition]
        cursor.start = None
        cursor.seeks += 1
        await asyncio.sleep(latency(self._host))
        await self._host.breathe()
        cursor.start = cursor.position = position
        self._wake.set()

    def highwater(self, partition: int) -> int | None:
        """Return the offset after the last stable record, as the last fetch saw it."""
        cursor = self.cursors.get(partition)
        return cursor.stable if cursor is not None else None

    def read_position(self, partition: int) -> int | None:
        """Return the offset that will be fetched next."""
        cursor = self.cursors.get(partition)
        return cursor.position if cursor is not None and cursor.start is not None else None

    async def run(self, deliver: Callable[[int, int, Sequence[RawRecord]], None]) -> None:
        """Fetch and deliver until cancelled."""
        rng = self._host.chance.rng
        while True:
            await self._host.breathe()
            ready = [p for p, cursor in self.cursors.items() if self._has_news(p, cursor)]
            if not ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            partition = rng.choice(ready)
            await self._fetch(partition, self.cursors[partition], deliver)

    def _has_news(self, partition: int, cursor: Cursor) -> bool:
        log = self._broker.logs[self._topic, partition]
        return not cursor.paused and cursor.start is not None and cursor.position < log.stable

    async def _fetch(
        self,
        partition: int,
        cursor: Cursor,
        deliver: Callable[[int, int, Sequence[RawRecord]], None],
    ) -> None:
        """Fetch one chunk and deliver it, unless a seek came between; sometimes even then."""
        log, seeks, start = self._broker.logs[self._topic, partition], cursor.seeks, cursor.start
        assert start is not None
        limit = self._host.chance.rng.randint(1, self._fetch_max)
        chunk = list(log.visible(cursor.position, limit))
        position = chunk[-1].offset + 1 if chunk else log.stable
        stable = log.stable
        await asyncio.sleep(latency(self._host))
        await self._host.breathe()
        if cursor.seeks == seeks and self.cursors.get(partition) is cursor:
            cursor.position, cursor.stable = position, stable
            if chunk:
                cursor.start = position
        elif not self._host.chance.hit(STALE):
            return
        if chunk:
            deliver(partition, start, chunk)

    def _on_change(self, where: Where) -> None:
        if where[0] == self._topic:
            self._wake.set()
