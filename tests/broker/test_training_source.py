"""Training data from a topic of a real Kafka, ours or another shop's."""

import json
from pathlib import Path

from kafka import KafkaProducer

from models.sources import Source, read_log
from stream_app.config import StageSettings
from stream_app.event import Event, encode
from tests.broker.kafka import KafkaServer
from tests.broker.workers import scene
from tests.sources.shop_rows import rees46_rows

START_MS = 1_700_000_000_000


def test_a_topic_is_read_to_its_end_as_a_worker_would(kafka: KafkaServer, tmp_path: Path) -> None:
    """Every partition is read, what it rejects is counted, and a second reading gives the same."""
    stage = scene(kafka.bootstrap, "training", tmp_path)
    topic = stage.settings.topic("events")
    events = [
        Event(
            event_id=f"{user}-{place}",
            type="view",
            user_id=f"u-{user}",
            item_id=f"i-{place}",
            timestamp=START_MS + 1_000 * place + user,
        )
        for place in range(20)
        for user in range(10)
    ]
    with KafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for each in events:
            assert isinstance(each.timestamp, int)
            key = each.user_id.encode()
            producer.send(topic, encode(each), key, timestamp_ms=each.timestamp)
        producer.send(topic, b"{no json", b"u-1", timestamp_ms=START_MS)
        producer.send(topic, encode(events[0]), b"u-1", timestamp_ms=START_MS)
        producer.flush()
    for _ in range(2):
        log = read_log(Source(f"kafka://{kafka.bootstrap}/{topic}"), StageSettings())
        assert len(log) == 200
        assert len(log.users) == 10
        assert log.counts.rejects == {"not_json": 1, "wrong_key": 1}
        assert log.time_ms.tolist() == [each.timestamp for each in events]


def test_another_shops_topic_is_read_through_a_mapping(kafka: KafkaServer, tmp_path: Path) -> None:
    """The values of a topic are rows, as they are for `produce --from-topic`."""
    stage = scene(kafka.bootstrap, "training-rows", tmp_path)
    topic = stage.settings.topic("events")
    with KafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for row in rees46_rows(60):
            producer.send(topic, json.dumps(row).encode())
        producer.flush()
    log = read_log(Source(f"kafka://{kafka.bootstrap}/{topic}", "rees46"), StageSettings())
    assert len(log) == 60
    assert not log.counts.rejects
