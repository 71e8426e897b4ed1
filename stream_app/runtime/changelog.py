"""The changelog: what a partition's state is restored from, read in bulk to its end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.errors import CommitError
from stream_app.state import PartitionState

KeyValue = tuple[bytes, bytes | None]

_FETCH_BYTES_MAX = 9_000_000
_POLL_MS = 200
# Without an answer for so long the restore is given up and tried again.
_SILENCE_SECONDS_MAX = 30.0


class Reader(Protocol):
    """Reads one partition of a topic from its start to its end; the simulator has one."""

    def read(self, topic: str, partition: int) -> AsyncIterator[Sequence[KeyValue]]:
        """Yield the records in order, in chunks, up to the end as of now."""
        ...

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset in the log and the one after the last."""
        ...


async def restore(reader: Reader, topic: str, partition: int, live_max: int) -> PartitionState:
    """Return the state of a partition as the changelog has it.

    Fence first: only then does nobody append to it any more.

    Raises
    ------
    StateError
        When a row cannot be read.
    CommitError
        When the broker does not answer.
    """
    state = PartitionState(live_max)
    async for chunk in reader.read(topic, partition):
        for key, value in chunk:
            state.apply(key, value)
    state.timers.rebuild()
    return state


class KafkaReader:
    """Reads with aiokafka, ``read_committed``, up to the highwater of the fetch responses.

    The highwater comes from fetching because ListOffsets is one batch short on some brokers, and
    the position counts, not the last record: a transaction's marker takes an offset too.
    """

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers

    async def read(self, topic: str, partition: int) -> AsyncIterator[Sequence[KeyValue]]:
        """Yield the records in order, in chunks, up to the end as of now.

        Raises
        ------
        CommitError
            When the broker does not answer for long.
        """
        where = TopicPartition(topic, partition)
        clock = asyncio.get_running_loop().time
        async with self._consumer(where, _FETCH_BYTES_MAX) as consumer:
            heard = clock()
            while True:
                fetched = await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=5_000)
                records = fetched.get(where, ())
                if records:
                    heard = clock()
                    yield [(record.key, record.value) for record in records]
                end = consumer.highwater(where)
                if end is not None and await consumer.position(where) >= end:
                    return
                if clock() - heard > _SILENCE_SECONDS_MAX:
                    raise CommitError(f"{topic} {partition}: no answer while restoring")

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset in the log and the one after the last."""
        where = TopicPartition(topic, partition)
        clock = asyncio.get_running_loop().time
        async with self._consumer(where, 1) as consumer:
            first = (await consumer.beginning_offsets([where]))[where]
            heard = clock()
            while (end := consumer.highwater(where)) is None:
                await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=1)
                if clock() - heard > _SILENCE_SECONDS_MAX:
                    raise CommitError(f"{topic} {partition}: no answer to a fetch")
            return int(first), int(end)

    @asynccontextmanager
    async def _consumer(
        self, where: TopicPartition, fetch_bytes: int
    ) -> AsyncIterator[AIOKafkaConsumer]:
        """Yield a consumer at the start of a partition; its errors become CommitErrors."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._brokers,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=fetch_bytes,
            fetch_max_wait_ms=_POLL_MS // 2,
        )
        try:
            await consumer.start()
            consumer.assign([where])
            await consumer.seek_to_beginning(where)
            yield consumer
        except KafkaError as error:
            raise CommitError(f"{where.topic} {where.partition}: cannot read: {error!r}") from error
        finally:
            await consumer.stop()
