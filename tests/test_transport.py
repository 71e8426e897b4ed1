"""The batch transport: a seek and a fetch never mix up what was read from where."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

from stream_app.runtime.transport import BatchConsumer, ConsumerThread

WHERE = TP("clickstream.events", 0)


class Thread(ConsumerThread):
    """A thread whose consumer returns ten records from its position on, once it is let go."""

    def __init__(self) -> None:
        self._follows = {WHERE: 100}
        self.at = 100
        self.go = asyncio.Event()

    def _ensure_consumer(self) -> Any:
        return SimpleNamespace(seek=self._move)

    def _move(self, where: TP, offset: int) -> None:
        assert where == WHERE
        self.at = offset

    async def call_thread(self, fun: Any, *args: Any, **kwargs: Any) -> Any:
        """Do something where the consumer lives."""
        await asyncio.sleep(0)
        return await fun(*args, **kwargs)


@pytest.fixture(autouse=True)
def _fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(thread: Thread) -> dict[TP, list[Any]]:
        await thread.go.wait()
        numbers = range(thread.at, thread.at + 10)
        thread.at += 10
        return {WHERE: [SimpleNamespace(offset=n, timestamp=1, timestamp_type=0) for n in numbers]}

    monkeypatch.setattr(AIOKafkaConsumerThread, "_fetch_records", fetch)


def consumer(thread: Thread) -> BatchConsumer:
    """Return a consumer that fetches from that, without the rest of Faust."""
    made: Any = BatchConsumer.__new__(BatchConsumer)

    async def getmany(**_: Any) -> Any:
        return await thread._fetch_records()

    made._thread, made._getmany = thread, getmany
    made._read_offset = {WHERE: 100}
    made._fetching = asyncio.Lock()
    made.flow_active = True
    made._get_active_partitions = lambda: {WHERE}
    made.app = SimpleNamespace(
        flow_control=SimpleNamespace(is_active=lambda: True), consumer_generation_id=1
    )
    found: BatchConsumer = made
    return found


async def fetched(seek_at: str) -> list[tuple[int, int]]:
    """Return what each message follows on, and where it begins, around a seek back to 50."""
    thread = Thread()
    reader = consumer(thread)
    told: list[tuple[int, int]] = []
    for turn in range(3):
        fetching = asyncio.create_task(reader._wait_next_records(1.0))
        seeking = None
        if turn == 1 and seek_at != "after":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if seek_at == "while cancelled":
                fetching.cancel()
            if seek_at.startswith("while"):
                seeking = asyncio.create_task(reader.seek_partition(WHERE, 50))
            await asyncio.sleep(0)
        thread.go.set()
        with suppress(asyncio.CancelledError):
            records, _ = await fetching
            thread.go.clear()
            if turn == 1 and seek_at == "after":
                await reader.seek_partition(WHERE, 50)
            told += [(m.start, m.records[0].offset) for m in reader._messages(records, 1)]
        if seeking is not None:
            await seeking
    return told


def test_fetches_follow_on_one_another() -> None:
    """Without a seek all is delivered."""
    assert asyncio.run(fetched("never")) == [(100, 100), (110, 110), (120, 120)]


@pytest.mark.parametrize("when", ["after", "while", "while cancelled"])
def test_seek_and_fetch_are_not_mixed_up(when: str) -> None:
    """What a message says it follows on is where it begins, and after the seek comes its offset."""
    told = asyncio.run(fetched(when))
    assert all(start == first for start, first in told)
    assert told[0] == (100, 100)
    assert told[-1] == (50, 50)


def test_records_that_nobody_got_leave_a_gap() -> None:
    """A fetch whose result is lost moves the consumer on; the next one says so."""

    async def lost() -> list[tuple[int, int]]:
        thread = Thread()
        reader = consumer(thread)
        thread.go.set()
        await thread._fetch_records()  # its caller is gone
        records, _ = await reader._wait_next_records(1.0)
        return [(m.start, m.records[0].offset) for m in reader._messages(records, 1)]

    assert asyncio.run(lost()) == [(110, 110)]
