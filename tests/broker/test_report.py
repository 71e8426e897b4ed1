"""The report's reader against a real Kafka, with transactions."""

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaProducer

from stream_app.clock import monotonic_seconds
from stream_app.config import load
from stream_app.ops.report import Order, write
from stream_app.ops.report_read import Reader
from stream_app.runtime.topics import create
from tests.broker.kafka import KafkaServer

SECONDS_MAX = 15.0


def read(kafka: KafkaServer, topic: str) -> tuple[list[bytes], tuple[int, int]]:
    """Return the values that are read, and what was told of records passed and to pass."""
    values: list[bytes] = []
    told = [0, 0]

    def tell(passed: int, more: int) -> None:
        told[0] += passed
        told[1] += more

    reader = Reader(kafka.bootstrap, {topic: 2}, tell)
    reader.read(topic, lambda _, records: values.extend(each.value for each in records))
    return values, (told[0], told[1])


async def transact(kafka: KafkaServer, topic: str, *, leave_open: bool) -> AIOKafkaProducer | None:
    """Commit three records and abort two; then leave a transaction open, if that is wanted."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    await producer.start()
    async with producer.transaction():
        for number in range(3):
            await producer.send_and_wait(topic, b"kept %d" % number, partition=0)
    await producer.begin_transaction()
    for number in range(2):
        await producer.send_and_wait(topic, b"aborted %d" % number, partition=0)
    await producer.abort_transaction()
    if leave_open:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        return producer
    await producer.stop()
    return None


def test_reader_passes_over_what_was_aborted(kafka: KafkaServer) -> None:
    """Committed records alone are read, and the end is reached past the transactions' markers."""
    topic = "report-aborted"
    kafka.create_topic(topic, 2)
    asyncio.run(transact(kafka, topic, leave_open=False))
    values, (passed, more) = read(kafka, topic)
    assert values == [b"kept 0", b"kept 1", b"kept 2"]
    assert passed == more == 7


def test_reader_does_not_wait_for_an_open_transaction(kafka: KafkaServer) -> None:
    """A transaction that is open does not hold the report up for long."""
    topic = "report-open"
    kafka.create_topic(topic, 2)

    async def both() -> list[bytes]:
        producer = await transact(kafka, topic, leave_open=True)
        assert producer is not None
        try:
            values, _ = await asyncio.to_thread(read, kafka, topic)
        finally:
            await producer.abort_transaction()
            await producer.stop()
        return values

    began = monotonic_seconds()
    assert asyncio.run(both()) == [b"kept 0", b"kept 1", b"kept 2"]
    assert monotonic_seconds() - began < SECONDS_MAX


def test_report_of_new_topics_is_a_page(kafka: KafkaServer, tmp_path: Path) -> None:
    """Topics without a record give a page that says so."""
    settings = load(brokers=kafka.bootstrap, topic_prefix="report-new.")
    create(settings)
    out = tmp_path / "r.html"
    assert write(settings, Order(out=out)).events.consumed == 0
    assert "There is nothing in report-new.clickstream.events yet" in out.read_text("utf-8")
