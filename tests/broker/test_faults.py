"""Faults that are not the worker's: a broker that dies, producers that abort, records deleted."""

import asyncio
import time
import urllib.request
from pathlib import Path

from aiokafka import AIOKafkaProducer

from benchmarks.harness import Sent, clicks, produce
from stream_app.event import encode
from stream_app.hashing import partition_for
from stream_app.ops.demo_child import free_port
from tests.broker.kafka import SHORT_LIVED, KafkaServer
from tests.broker.test_worker import is_exact
from tests.broker.workers import PARTITIONS, Scene, scene


def test_broker_restart_is_survived(tmp_path: Path) -> None:
    """A broker that is killed and comes back costs time, and nothing else."""
    settings = {"broker.session.timeout.ms": 3000}
    with KafkaServer(tmp_path / "kafka", settings, java=SHORT_LIVED) as kafka:
        stage = scene(kafka.bootstrap, "restart", tmp_path)
        count = len(stage.send(4_000))
        worker = stage.worker()
        worker.start()
        assert stage.wait(300) >= 300
        kafka.kill()
        time.sleep(2)
        kafka.start()
        assert stage.wait(count) == count, stage.said()
        assert worker.running
        assert worker.end() == 0
        assert is_exact(stage)


async def _send_in_transactions(stage: Scene) -> int:
    """Send 40 events in each of 6 transactions, every other one aborted; return the rest."""
    settings = stage.settings
    topic = settings.topic("events")
    producer = AIOKafkaProducer(bootstrap_servers=settings.brokers, transactional_id="shop")
    await producer.start()
    committed = 0
    events = iter(clicks(240, 5))
    for number in range(6):
        await producer.begin_transaction()
        for _ in range(40):
            event = next(events)
            key = event.user_id.encode()
            await producer.send(
                topic,
                encode(event),
                key=key,
                partition=partition_for(key, PARTITIONS),
                timestamp_ms=int(event.timestamp),  # type: ignore[arg-type]
            )
        if number % 2:
            await producer.abort_transaction()
        else:
            await producer.commit_transaction()
            committed += 40
    await producer.stop()
    return committed


def test_aborted_events_are_not_seen(kafka: KafkaServer, tmp_path: Path) -> None:
    """Events of an aborted transaction are not processed, and markers leave no lag behind."""
    stage = scene(kafka.bootstrap, "aborted", tmp_path)
    committed = asyncio.run(_send_in_transactions(stage))
    port = free_port()
    worker = stage.worker(STREAM_APP_METRICS_PORT=str(port))
    worker.start()
    deadline = time.monotonic() + 60
    wanted = [f'stream_app_records_total{{outcome="processed"}} {committed:.1f}']
    wanted += [f'stream_app_lag_records{{partition="{p}"}} 0.0' for p in range(PARTITIONS)]
    text = ""
    while not all(line in text for line in wanted):
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
        text = _metrics(port)
    assert worker.end() == 0
    assert is_exact(stage)


def _metrics(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_large_rejects_do_not_stop_a_partition(kafka: KafkaServer, tmp_path: Path) -> None:
    """Rejects that are together larger than a topic's largest batch all reach the dead letters."""
    stage = scene(kafka.bootstrap, "large", tmp_path)
    records = [Sent(0, b"user", b"x" * 60_000, 1_500_000_000_000 + n) for n in range(150)]
    asyncio.run(produce(stage.settings, records, PARTITIONS))
    worker = stage.worker()
    worker.start()
    assert stage.wait(len(records)) == len(records), stage.said()
    assert worker.end() == 0
    assert is_exact(stage)
