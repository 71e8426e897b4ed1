"""The batch transport: a seek and a fetch never mix up what was read from where."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from stream_app.runtime.transport import BatchConsumer

WHERE = TP("clickstream.events", 0)


class Thread:
    """A consumer of one partition in which a fetch waits until it is let go."""

    def __init__(self) -> None:
        self.position = 100
        self.go = asyncio.Event()

    def _ensure_consumer(self) -> Any:
        return SimpleNamespace(seek=self.seek)

    def seek(self, where: TP, offset: int) -> None:
        """Read from an offset next."""
        assert where == WHERE
        self.position = offset

    async def call_thread(self, call: Any, *arguments: Any) -> None:
        """Do something where the consumer lives."""
        await asyncio.sleep(0)
        call(*arguments)

    async def fetch(self, **_: Any) -> dict[TP, list[Any]]:
        """Return ten records from the position on, once let go."""
        await self.go.wait()
        first = self.position
        self.position += 10
        return {
            WHERE: [
                SimpleNamespace(offset=first + n, timestamp=1, timestamp_type=0) for n in range(10)
            ]
        }


def consumer(thread: Thread) -> BatchConsumer:
    """Return a consumer that fetches from that, without the rest of Faust."""
    made: Any = BatchConsumer.__new__(BatchConsumer)
    made._thread, made._getmany = thread, thread.fetch
    made._read_offset = {WHERE: 100}
    made._fetching = asyncio.Lock()
    made._seeks, made._seeks_before = Counter(), Counter()
    made.flow_active = True
    made._get_active_partitions = lambda: {WHERE}
    made.app = SimpleNamespace(
        flow_control=SimpleNamespace(is_active=lambda: True), consumer_generation_id=1
    )
    found: BatchConsumer = made
    return found


async def _fetched(seek_at: str) -> list[tuple[int, int]]:
    """Return where each message begins, as told and in truth, around a seek to 50."""
    thread = Thread()
    reader = consumer(thread)
    told: list[tuple[int, int]] = []
    for turn in range(3):
        fetching = asyncio.create_task(reader._wait_next_records(1.0))
        seeking = None
        if turn == 1 and seek_at == "while":
            await asyncio.sleep(0)
            seeking = asyncio.create_task(reader.seek_partition(WHERE, 50))
            await asyncio.sleep(0)
        thread.go.set()
        records, _ = await fetching
        thread.go.clear()
        if turn == 1 and seek_at == "after":
            await reader.seek_partition(WHERE, 50)
        told += [(m.start, m.records[0].offset) for m in reader._messages(records, 1)]
        if seeking is not None:
            await seeking
    return told


def test_seek_outdates_what_was_fetched_before() -> None:
    """Records fetched before a seek are not taken for those that follow it."""
    assert asyncio.run(_fetched("after")) == [(100, 100), (50, 50)]


def test_seek_waits_for_the_fetch() -> None:
    """A seek during a fetch comes after it: nothing is read from behind and passed over."""
    told = asyncio.run(_fetched("while"))
    assert all(start == first for start, first in told)
    assert told[-1] == (50, 50)


def test_without_a_seek_all_is_delivered() -> None:
    """Fetch after fetch follows on."""
    assert asyncio.run(_fetched("never")) == [(100, 100), (110, 110), (120, 120)]
