"""Another shop's file and topic through the command line into a real Kafka, and out of a worker."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from benchmarks.harness import read_log
from stream_app.config import Settings
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.command import run
from tests.sources.shop_rows import rees46_rows, write_csv

ROWS = 600
MISFITS: list[dict[str, str]] = [
    {"price": "a lot"},
    {"event_time": "yesterday"},
    {"event_type": "teleport"},
]


def stream_app(stage: Scene, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command with the settings of a scene and --json; return what it printed."""
    done = run(*words, "--json", **stage.environment)
    assert done.returncode == code, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def values(settings: Settings, logical: str) -> list[dict[str, Any]]:
    """Return the values of a topic, committed ones only."""
    logs = asyncio.run(read_log(settings.brokers, settings.topic(logical), PARTITIONS))
    return [json.loads(log.value or b"null") for records in logs.values() for log in records]


def test_mapped_file_and_topic_give_recommendations_and_rejects(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """Rows of a CSV are recommended from; misfits are dead letters; repeats change nothing."""
    stage = scene(kafka.bootstrap, "mapped", tmp_path)
    rows = rees46_rows(ROWS)
    broken = [{**rows[100 + 7 * n], **over} for n, over in enumerate(MISFITS)]
    file = write_csv(tmp_path / "shop.csv", [*rows[:300], *broken, *rows[300:]])

    loaded = stream_app(stage, "catalog", "load", str(file), "--mapping", "rees46", code=1)
    ids = {row["product_id"] for row in rows}
    assert (loaded["items"], loaded["acknowledged"], loaded["misfits"]) == (len(ids), len(ids), 1)
    catalog = {item["item_id"]: item for item in values(stage.settings, "catalog")}
    assert catalog.keys() == ids
    assert ["home", "kitchen", "pan"] in [item["category"] for item in catalog.values()]

    made = stream_app(stage, "produce", "--file", str(file), "--mapping", "rees46")
    assert (made["rows"], made["events"], made["misfits"]) == (ROWS + 3, ROWS, 3)
    assert made["acknowledged"] == ROWS + 3
    worker = stage.worker()
    worker.start()
    assert stage.wait(ROWS + 3) == ROWS + 3, stage.said()

    answers = values(stage.settings, "recommendations")
    assert answers, stage.said()
    assert {item["item_id"] for answer in answers for item in answer["items"]} <= ids
    letters = values(stage.settings, "dead_letter")
    named = sorted((letter["misfit"]["field"], letter["misfit"]["value"]) for letter in letters)
    assert named == [("price", "a lot"), ("timestamp", "yesterday"), ("type", "teleport")]
    assert {letter["row"]["user_id"] for letter in letters} == {row["user_id"] for row in broken}

    last = write_csv(tmp_path / "last.csv", rows[-20:])
    again = stream_app(stage, "produce", "--file", str(last), "--mapping", "rees46")
    assert again["acknowledged"] == 20
    assert stage.wait(ROWS + 23) == ROWS + 23
    assert len(values(stage.settings, "recommendations")) == len(answers)
    worker.end()

    # A topic that is written in transactions has an end, too; nothing in it is a row of REES46's.
    topic = stage.settings.topic("recommendations")
    read = stream_app(stage, "produce", "--from-topic", topic, "--mapping", "rees46")
    assert read["rows"] == read["misfits"] == len(answers)


def test_mapped_topic_is_read_once_to_its_end(kafka: KafkaServer, tmp_path: Path) -> None:
    """A topic's values are mapped to its end; a second run goes on where the first has stopped."""
    stage = scene(kafka.bootstrap, "remapped", tmp_path)
    kafka.create_topic("shop-clicks", 2)
    rows = rees46_rows(50)
    send_rows(kafka, [json.dumps(row).encode() for row in rows] + [b"no json"])
    words = ("produce", "--from-topic", "shop-clicks", "--mapping", "rees46")
    first = stream_app(stage, *words, "--limit", "10")
    assert first["acknowledged"] == 10
    made = stream_app(stage, *words)
    assert (made["rows"], made["events"], made["misfits"]) == (41, 40, 1)
    assert "no JSON" in made["named"][0]["needs"]
    assert stream_app(stage, *words)["rows"] == 0
    send_rows(kafka, [json.dumps(row).encode() for row in rees46_rows(7, seed=1)])
    assert stream_app(stage, *words)["events"] == 7
    sent = values(stage.settings, "events")
    ids = [event["event_id"] for event in sent if "event_id" in event]
    assert len(ids) == len(set(ids)) == 57
    assert stream_app(stage, *words, "--group", "another")["rows"] == 58


def test_followed_topic_is_left_in_order(kafka: KafkaServer, tmp_path: Path) -> None:
    """Following goes on at the end; on SIGINT all that was read is committed, and counted."""
    stage = scene(kafka.bootstrap, "followed", tmp_path)
    kafka.create_topic("live-clicks", 2)
    words = ("produce", "--from-topic", "live-clicks", "--mapping", "rees46")
    follower = subprocess.Popen(
        [sys.executable, "-m", "stream_app", *words, "--follow", "--json"],
        env={**os.environ, **stage.environment},
        stdout=subprocess.PIPE,
    )
    try:
        sent = 0
        for seed in range(2):
            send_rows(
                kafka, [json.dumps(row).encode() for row in rees46_rows(9, seed)], "live-clicks"
            )
            sent += 9
            deadline = time.monotonic() + 60
            while len(values(stage.settings, "events")) < sent and time.monotonic() < deadline:
                time.sleep(0.2)
        follower.send_signal(signal.SIGINT)
        printed, _ = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert follower.returncode == 0
    made = json.loads(printed)
    assert (made["rows"], made["acknowledged"]) == (18, 18)
    assert stream_app(stage, *words)["rows"] == 0


def send_rows(kafka: KafkaServer, rows: list[bytes], topic: str = "shop-clicks") -> None:
    """Send values to the other shop's topic."""
    with KafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number, row in enumerate(rows):
            producer.send(topic, row, b"%d" % number)
        producer.flush()
