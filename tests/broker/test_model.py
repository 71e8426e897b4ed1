"""A worker that ranks with a neural model, killed, and given a damaged one, on a real Kafka."""

import asyncio
import signal
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.harness import Expected, Log, oracle, output_id, read_log
from stream_app.event import Recommendation
from stream_app.ops.demo_child import free_port
from stream_app.registry import Registry
from stream_app.runtime import topics
from stream_app.stages.score import FORMULA_NAME
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.onnx_model import NAME, POOL, VERSION, flip_bit, write_model

LOGICAL = ("recommendations", "predictions", "churn_alerts", "dead_letter")
REFUSED = 'stream_app_model_refusals_total{reason="corrupt"} 1.0'


def get(port: int, path: str) -> str:
    """Return what a worker serves, empty while it serves nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:  # nobody listens yet, or the answer is an error
        return ""


def until(stage: Scene, port: int, text: str) -> None:
    """Wait until the metrics of a worker say something."""
    deadline = time.monotonic() + 60
    while text not in get(port, "/metrics"):
        assert time.monotonic() < deadline, stage.said()
        time.sleep(0.2)


async def read_results(stage: Scene) -> tuple[Expected, dict[str, list[Log]]]:
    """Return what an oracle without a model expects, and what a reader sees, by topic."""
    settings = stage.settings
    source = await read_log(settings.brokers, settings.topic("events"), PARTITIONS)
    expected = oracle(settings, source, topics.topology(settings).source_id)
    seen = {}
    for name in LOGICAL:
        logs = await read_log(settings.brokers, settings.topic(name), PARTITIONS)
        seen[name] = [record for log in logs.values() for record in log]
    return expected, seen


def test_damaged_model_and_a_kill_lose_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    """Killed and started again with a damaged model, a worker answers each request just once.

    The answers before the kill name the model, those after it the formula; everything else is what
    it would have been.
    """
    stage = scene(kafka.bootstrap, "model", tmp_path)
    model = write_model(tmp_path / "ranker", item_ids=[f"item-{n}" for n in range(600)])
    port = free_port()
    worker = stage.worker(
        STREAM_APP_METRICS_PORT=str(port),
        STREAM_APP_MODEL=str(model),
        STREAM_APP_MODEL_MS_MAX="1000",
    )
    count = len(stage.send(6_000))
    worker.start()
    assert stage.wait(1_000) >= 1_000, stage.said()
    loaded = get(port, "/metrics")
    assert f'stream_app_model_info{{name="{NAME}",version="{VERSION}"}} 1.0' in loaded
    worker.end(signal.SIGKILL)

    flip_bit(model / "ranker.onnx")
    worker.start()
    assert stage.wait(count) == count, stage.said()
    refused, deadline = get(port, "/metrics"), time.monotonic() + 30
    while get(port, "/readyz") != "ok\n":
        assert time.monotonic() < deadline, stage.said()
        time.sleep(0.2)
    assert REFUSED in refused
    assert (
        f'stream_app_answers_total{{fallback="{FORMULA_NAME}",model="{FORMULA_NAME}"}}' in refused
    )
    assert "stream_app_model_info{" not in refused
    assert worker.end() == 0
    assert "model refused (corrupt): ranker.onnx is not the file" in stage.said()

    expected, seen = asyncio.run(read_results(stage))
    ids = [output_id(record) for records in seen.values() for record in records]
    assert sorted(ids) == sorted(expected.outputs)
    for name in LOGICAL[1:]:
        for record in seen[name]:
            assert record.value == expected.outputs[output_id(record)].value
    _check_answers(seen["recommendations"])


def _check_answers(records: list[Log]) -> None:
    """Assert that in each partition the model answers first, and then the formula to the end."""
    answers = [
        msgspec.json.decode(record.value, type=Recommendation) for record in records if record.value
    ]
    answers.sort(key=lambda answer: (answer.cause.partition, answer.cause.offset))
    makers = {(each.model, each.model_version, each.fallback_level) for each in answers}
    assert makers == {(NAME, VERSION, None), (FORMULA_NAME, "1", FORMULA_NAME)}
    for partition in range(PARTITIONS):
        models = [each.model for each in answers if each.cause.partition == partition]
        assert models == sorted(models, key=lambda name: name != NAME)


def test_swaps_under_load_lose_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    """Models are promoted, refused, rolled back and shadowed while events come: all is exact.

    Each partition is ranked by one model after another, in the order in which they were promoted,
    and the damaged one between them ranks nothing.
    """
    stage = scene(kafka.bootstrap, "swap", tmp_path)
    registry = Registry(str(tmp_path / "registry"))
    item_ids = [f"item-{n}" for n in range(600)]
    releases = {
        version: registry.publish(
            write_model(tmp_path / version, item_ids=item_ids, version=version), POOL
        )
        for version in "123"
    }
    flip_bit(tmp_path / "registry" / releases["2"].place / "ranker.onnx")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    registry.promote(releases["1"], at)
    port = free_port()
    worker = stage.worker(
        STREAM_APP_METRICS_PORT=str(port),
        STREAM_APP_REGISTRY=registry.url,
        STREAM_APP_REGISTRY_SECONDS="0.2",
        STREAM_APP_MODEL_MS_MAX="1000",
    )
    worker.start()
    count = len(stage.send(2_000, seed=1))
    assert stage.wait(500) >= 500, stage.said()
    registry.promote(releases["2"], at)
    count += len(stage.send(1_000, seed=2))
    until(stage, port, REFUSED)
    registry.promote(releases["3"], at)
    registry.set_shadow(releases["1"])
    until(stage, port, f'stream_app_model_info{{name="{NAME}",version="3"}} 1.0')
    count += len(stage.send(2_000, seed=3))
    assert stage.wait(count) == count, stage.said()
    shadowed = get(port, "/metrics")
    assert 'stream_app_shadow_requests_total{outcome="compared"}' in shadowed
    assert worker.end() == 0, stage.said()

    expected, seen = asyncio.run(read_results(stage))
    ids = [output_id(record) for records in seen.values() for record in records]
    assert sorted(ids) == sorted(expected.outputs)
    answers = [
        msgspec.json.decode(record.value, type=Recommendation)
        for record in seen["recommendations"]
        if record.value
    ]
    answers.sort(key=lambda answer: (answer.cause.partition, answer.cause.offset))
    assert {(each.model, each.model_version) for each in answers} == {(NAME, "1"), (NAME, "3")}
    for partition in range(PARTITIONS):
        versions = [each.model_version for each in answers if each.cause.partition == partition]
        assert versions == sorted(versions)
