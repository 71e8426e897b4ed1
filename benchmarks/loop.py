"""The bare loop that a worker is measured against: no state is written, nothing is committed.

One aiokafka consumer: ``getmany``, the same ``next_batch`` and ``process`` as the worker's, and the
outputs in one ``send_batch`` for each topic and partition. ``python -m benchmarks.loop COUNT``
reads the worker's settings from the environment and ends after COUNT records; the last line is
JSON.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.clock import cpu_seconds, now_ms
from stream_app.config import Settings, load
from stream_app.hashing import partition_for
from stream_app.pipeline import Context, next_batch, process
from stream_app.runtime.sink import BATCH_BYTES_MAX
from stream_app.runtime.transport import FETCH_WAIT_MS
from stream_app.state import PartitionState
from stream_app.steps import OutputRecord, RawRecord

FETCH_BYTES_MAX = 4 * 1024 * 1024  # of a partition, as the worker's


class ProgramRun(msgspec.Struct, frozen=True):
    """What a program did, from its first records to ``ended_ms``, when all was stored."""

    events: int
    outputs: int
    cpu_seconds: float
    ended_ms: int


async def run(settings: Settings, count: int) -> ProgramRun:
    """Read the source from its start, and produce what comes of ``count`` records."""
    source = settings.topic("events")
    where = [TopicPartition(source, partition) for partition in range(settings.partitions)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers,
        acks="all",
        max_batch_size=BATCH_BYTES_MAX,
        max_request_size=BATCH_BYTES_MAX + 65_536,
    )
    states = {tp: PartitionState(settings.live_rows_max) for tp in where}
    for state in states.values():
        state.begin(0, settings.partitions, "loop")
    context = Context(settings.stages_in_effect, settings.partitions)
    await consumer.start()
    await producer.start()
    events = outputs = 0
    began: float | None = None
    try:
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        while events < count:
            fetched = await consumer.getmany(
                timeout_ms=1_000, max_records=settings.fetch_records_max
            )
            if fetched and began is None:
                began = cpu_seconds()
            stored: list[Any] = []
            for tp, records in fetched.items():
                events += len(records)
                for found in _process(states[tp], tp, records, settings, context):
                    outputs += len(found)
                    stored += await _send(producer, settings, found)
            await asyncio.gather(*stored)
        assert began is not None
        return ProgramRun(events, outputs, cpu_seconds() - began, now_ms())
    finally:
        await producer.stop()
        await consumer.stop()


def _process(
    state: PartitionState,
    where: TopicPartition,
    records: Sequence[RawRecord],
    settings: Settings,
    context: Context,
) -> Any:
    """Yield the outputs of each batch of the records."""
    limit = settings.batch_records_max
    while records:
        batch = next_batch(state, where.topic, where.partition, records[:limit], limit)
        yield process(state, batch, context).records
        records = records[len(batch.records) :]


async def _send(
    producer: AIOKafkaProducer, settings: Settings, outputs: Sequence[OutputRecord]
) -> list[Any]:
    """Send outputs, a record batch for each topic and partition; return what to wait for."""
    batches: dict[tuple[str, int], Any] = {}
    for record in outputs:
        topic = settings.topic(record.topic)
        place = topic, partition_for(record.key or b"", settings.partitions)
        batch = batches.get(place)
        if batch is None:
            batch = batches[place] = producer.create_batch()
        batch.append(
            key=record.key, value=record.value, timestamp=None, headers=list(record.headers)
        )
    return [
        await producer.send_batch(batch, topic, partition=partition)
        for (topic, partition), batch in batches.items()
    ]


def main() -> None:
    """Run once, and print what was measured."""
    print(msgspec.json.encode(asyncio.run(run(load(), int(sys.argv[1])))).decode())


if __name__ == "__main__":
    main()
