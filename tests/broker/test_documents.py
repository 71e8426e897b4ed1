"""Foreign readers: kcat, and the script of the docs, find on a Kafka what the documents say."""

import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from benchmarks.harness import Sent, produce, read_log
from stream_app.config import DAY_MS
from stream_app.event import encode
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.command import run
from tests.conftest import START_MS, event

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "read-the-outputs.md"
COMMITTED = ROOT / "docs" / "schemas"
# With these a short log is enough for alerts.
ALERTING = {
    "STREAM_APP_STAGES__CHURN_HORIZON_DAYS": "7",
    "STREAM_APP_STAGES__CHURN_WATCH": "0.02",
    "STREAM_APP_STAGES__CHURN_HYSTERESIS": "0.01",
}
OUTPUTS = ("recommendations", "predictions", "churn_alerts", "dead_letter")


def shop() -> list[Sent]:
    """Return 50 days of a shop: every other user leaves in the middle; some records are broken."""
    chance = random.Random(1)
    sent: list[Sent] = []
    for day in range(50):
        for user in range(240):
            if chance.random() > (0.25 if user % 2 or day < 25 else 0.01):
                continue
            at = START_MS + day * DAY_MS + user * 60_000
            made = event(
                event_id=f"e-{len(sent)}",
                type=chance.choice(("purchase", "view")),
                user_id=f"zoë-{user}",
                item_id=f"i-{chance.randrange(9)}",
                timestamp=at,
            )
            key, value = made.user_id.encode(), encode(made)
            if len(sent) % 100 == 7:
                value = b'\xff\x00"' if len(sent) % 200 == 7 else value[:-1]
            sent.append(Sent(None, key, value, at))
    sent.append(Sent(0, None, b"", at))
    return sent


@pytest.fixture(scope="module")
def processed(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Return topics on which a worker has processed a shop's events."""
    stage = scene(kafka.bootstrap, "documents", tmp_path_factory.mktemp("documents"))
    records = shop()
    asyncio.run(produce(stage.settings, records, PARTITIONS))
    worker = stage.worker(**ALERTING)
    worker.start()
    try:
        assert stage.wait(len(records)) == len(records), stage.said()
    finally:
        worker.end()
    return stage


@pytest.fixture(scope="module")
def documents(processed: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the documents, as the command writes them for these topics."""
    folder = tmp_path_factory.mktemp("schemas")
    run("schema", "--out", str(folder), **processed.environment).check_returncode()
    for path in COMMITTED.glob("*.schema.json"):
        assert (folder / path.name).read_bytes() == path.read_bytes(), "schemas name no topics"
    return folder


def counts(stage: Scene) -> Counter[str]:
    """Return how many records our own reader finds in each topic, by its name in the settings."""
    found = Counter[str]()
    for name in OUTPUTS:
        topic = stage.settings.topic(name)
        logs = asyncio.run(read_log(stage.settings.brokers, topic, PARTITIONS))
        found[name] = sum(map(len, logs.values()))
    return found


def kcat(stage: Scene, topic: str) -> list[dict[str, Any]]:
    """Return what kcat shows of a topic."""
    program = shutil.which("kcat")
    assert program, "kcat is missing: apt-get install kcat"
    command = [program, "-b", stage.settings.brokers, "-C", "-t", topic, "-o", "beginning", "-e"]
    command += ["-q", "-J", "-X", "isolation.level=read_committed"]
    shown = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return [json.loads(line) for line in shown.decode(errors="replace").splitlines()]


def test_kcat_reads_what_the_document_promises(processed: Scene, documents: Path) -> None:
    """Every record that kcat shows has headers, key and payload as the AsyncAPI document says."""
    document = json.loads((documents / "asyncapi.json").read_text())
    for name in OUTPUTS:
        channel = document["channels"][name]
        messages = {
            title: document["components"]["messages"][title] for title in channel["messages"]
        }
        shown = kcat(processed, channel["address"])
        assert len(shown) == counts(processed)[name] > 0
        for record in shown:
            pairs = record["headers"]
            headers = dict(zip(pairs[::2], pairs[1::2], strict=True))
            kind = headers["ce_type"].split(".")[1]
            (message,) = [each for each in messages.values() if each["name"] == kind]
            _check(document, message["headers"], headers)
            if "payload" in message:
                value = json.loads(record["payload"])
                _check(document, message["payload"], value)
                _check(document, message["bindings"]["kafka"]["key"], record["key"])
                assert record["key"] == value["user_id"]


def _check(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    Draft7Validator({**schema, "components": document["components"]}).validate(value)


def test_script_of_the_docs_validates_every_output(
    processed: Scene, documents: Path, tmp_path: Path
) -> None:
    """The script of the page, run as it stands there, reads and validates every output."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = tmp_path / "reader.py"
    script.write_text(code, encoding="utf-8")
    command = [sys.executable, str(script), processed.settings.brokers, str(documents)]
    done = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = Counter(line.split()[0] for line in done.stdout.splitlines())
    found = counts(processed)
    assert lines == {
        "recommendation": found["recommendations"],
        "prediction": found["predictions"],
        "churn-alert": found["churn_alerts"],
        "dead-letter": found["dead_letter"],
    }
    assert min(lines.values()) > 0


def test_script_of_the_docs_finds_what_does_not_fit(processed: Scene, tmp_path: Path) -> None:
    """With a schema that the outputs do not fit, the script fails: it does validate."""
    folder = tmp_path / "schemas"
    shutil.copytree(COMMITTED, folder)
    document = json.loads((folder / "asyncapi.json").read_text())
    for name, channel in document["channels"].items():
        channel["address"] = processed.settings.topic(name)
    (folder / "asyncapi.json").write_text(json.dumps(document))
    wrong = json.loads((folder / "prediction.schema.json").read_text())
    wrong["properties"]["horizon_ms"]["type"] = "string"
    (folder / "prediction.schema.json").write_text(json.dumps(wrong))
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-c", code, processed.settings.brokers, str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "is not of type 'string'" in done.stderr
