"""The producer against a real Kafka: what it counts is what is there."""

import asyncio

import pytest

from benchmarks.harness import read_log
from stream_app.clock import monotonic_seconds
from stream_app.hashing import partition_for
from stream_app.sources import Record
from stream_app.sources import produce as module
from stream_app.sources.produce import Produced, ProduceError, ProduceSettings, produce
from tests.broker.kafka import KafkaServer

PARTITIONS = 4
START_MS = 1_483_228_800_000


def made_up(count: int) -> list[Record]:
    """Return records of 50 users, a second apart."""
    return [(b"u-%d" % (n % 50), b"value %d" % n, START_MS + 1_000 * n) for n in range(count)]


def read_back(kafka: KafkaServer, topic: str) -> dict[int, list[Record]]:
    """Return what stands in a topic, by partition."""
    logs = asyncio.run(read_log(kafka.bootstrap, topic, PARTITIONS))
    return {
        partition: [(log.key or b"", log.value or b"", log.timestamp) for log in records]
        for partition, records in logs.items()
    }


@pytest.mark.parametrize(
    ("topic", "idempotent", "compression"),
    [("produce-plain", True, None), ("produce-lean", False, "gzip")],
)
def test_produce_counts_what_is_there(
    kafka: KafkaServer, topic: str, *, idempotent: bool, compression: module.Compression | None
) -> None:
    """All records are in their key's partition, in order and dated; the count is theirs."""
    kafka.create_topic(topic, PARTITIONS)
    records, reported = made_up(5_000), [0]
    target = ProduceSettings(
        brokers=kafka.bootstrap, topic=topic, idempotent=idempotent, compression=compression
    )
    produced = produce(records, target, reported.append)
    assert (produced.sent, produced.acknowledged) == (5_000, 5_000)
    assert reported == sorted(reported)
    assert reported[-1] == 5_000
    assert read_back(kafka, topic) == {
        number: [each for each in records if partition_for(each[0], PARTITIONS) == number]
        for number in range(PARTITIONS)
    }


def test_produce_bounds_what_is_in_flight(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few records allowed in flight, all arrive all the same."""
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 10)
    kafka.create_topic("produce-narrow", PARTITIONS)
    target = ProduceSettings(brokers=kafka.bootstrap, topic="produce-narrow")
    assert produce(made_up(100), target).acknowledged == 100
    assert sum(map(len, read_back(kafka, "produce-narrow").values())) == 100


def test_produce_stops_at_the_limit_and_keeps_the_pace(kafka: KafkaServer) -> None:
    """A limit ends an endless source; records are dated by their sending if that is asked for."""
    kafka.create_topic("produce-paced", PARTITIONS)
    target = ProduceSettings(
        brokers=kafka.bootstrap, topic="produce-paced", limit=100, rate=200, event_time=False
    )
    began = monotonic_seconds()
    produced: Produced = produce(made_up(1_000), target)
    assert produced.sent == 100
    assert monotonic_seconds() - began >= 99 / 200
    logs = read_back(kafka, "produce-paced").values()
    assert all(time_ms and time_ms > START_MS + 10**9 for log in logs for _, _, time_ms in log)


def test_produce_reports_a_refused_record(kafka: KafkaServer) -> None:
    """A record that the broker refuses is an error that says how many are in."""
    kafka.create_topic("produce-small", 1, {"max.message.bytes": 2_000})
    records: list[Record] = [(b"u", b"fits", START_MS), (b"u", b"x" * 10_000, START_MS)]
    with pytest.raises(ProduceError, match=r"produce-small on .*: [01] of 2 records"):
        produce(records, ProduceSettings(brokers=kafka.bootstrap, topic="produce-small"))


def test_produce_makes_no_topic(kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that does not exist is an error that names it."""
    monkeypatch.setattr(module, "_ANSWER_MS_MAX", 1_000)
    with pytest.raises(ProduceError, match="produce-nowhere on"):
        produce(made_up(1), ProduceSettings(brokers=kafka.bootstrap, topic="produce-nowhere"))
