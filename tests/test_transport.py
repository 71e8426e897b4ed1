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
        self.follows = {WHERE: 100}
        self.at = 100
        self.go = asyncio.Event()

    def _ensure_consumer(self) -> Any:
        assigned = SimpleNamespace(is_assigned=lambda where: where == WHERE)
        return SimpleNamespace(seek=self._move, _subscription=assigned)

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
    for turn in range(5):
        fetching = asyncio.create_task(reader._wait_next_records(1.0))
        seeking = None
        if turn == 1 and seek_at.startswith("while"):
            for _ in range(3):
                await asyncio.sleep(0)  # the fetch is on its way
            if seek_at == "while cancelled":
                fetching.cancel()
            seeking = asyncio.create_task(reader.seek_partition(WHERE, 50))
            await asyncio.sleep(0)
        thread.go.set()
        with suppress(asyncio.CancelledError):
            records, _ = await fetching
            if turn == 1 and seek_at == "after":
                await reader.seek_partition(WHERE, 50)
            told += [(m.start, m.records[0].offset) for m in reader._messages(records, 1)]
        if seeking is not None:
            await seeking
        thread.go.clear()
    return told


def test_fetches_follow_on_one_another() -> None:
    """Without a seek all is delivered."""
    told = asyncio.run(fetched("never"))
    assert told == [(start, start) for start in (100, 110, 120, 130, 140)]


@pytest.mark.parametrize("when", ["after", "while", "while cancelled"])
def test_seek_and_fetch_are_not_mixed_up(when: str) -> None:
    """Messages begin where they say, and after the seek everything comes from its offset on."""
    told = asyncio.run(fetched(when))
    assert all(start == first for start, first in told)
    assert told[0] == (100, 100)
    after = [start for start, _ in told if start < 100]
    assert after[:2] == [50, 60]


def test_records_that_nobody_got_are_fetched_again() -> None:
    """A fetch whose caller is gone moves the consumer on; the next one goes back for them."""

    async def lost() -> list[tuple[int, int]]:
        thread = Thread()
        reader = consumer(thread)
        thread.go.set()
        await thread._fetch_records()  # its caller is gone
        records, _ = await reader._wait_next_records(1.0)
        return [(m.start, m.records[0].offset) for m in reader._messages(records, 1)]

    assert asyncio.run(lost()) == [(100, 100)]


def test_records_of_an_older_generation_are_fetched_again() -> None:
    """What a rebalance has outdated is not handed on, and not lost."""

    async def outdated() -> tuple[list[Any], list[int]]:
        thread = Thread()
        reader = consumer(thread)
        thread.go.set()
        records, _ = await reader._wait_next_records(1.0)
        dropped = list(reader._messages(records, 0))
        records, _ = await reader._wait_next_records(1.0)
        return dropped, [message.start for message in reader._messages(records, 1)]

    assert asyncio.run(outdated()) == ([], [100])
