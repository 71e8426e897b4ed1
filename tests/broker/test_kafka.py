"""The broker that all tests of this folder stand on."""

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.broker.kafka import KafkaServer, KafkaServerError


async def _produce_aborted_and_committed(bootstrap: str, topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")


async def _first_value(bootstrap: str, topic: str) -> bytes | None:
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    ) as consumer:
        record = await asyncio.wait_for(consumer.getone(), timeout=30)
        value: bytes | None = record.value
        return value


def test_kafka_shows_committed_records_only(kafka: KafkaServer) -> None:
    """A reader of committed records passes over an aborted transaction to the committed one."""
    kafka.create_topic("transactions")
    asyncio.run(_produce_aborted_and_committed(kafka.bootstrap, "transactions"))
    assert asyncio.run(_first_value(kafka.bootstrap, "transactions")) == b"committed"


def test_kafka_server_without_jars_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing jars are a failure that says which command fetches them."""
    monkeypatch.setenv("KAFKA_LIB", str(tmp_path))
    with pytest.raises(KafkaServerError, match="make kafka-jars"):
        KafkaServer(tmp_path / "server").start()
