"""A worker that ranks with a neural model, killed, and given a damaged one, on a real Kafka."""

import asyncio
import signal
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest

from benchmarks.harness import Expected, Log, oracle, output_id, read_log
from stream_app.event import Recommendation
from stream_app.ops.demo_child import free_port
from stream_app.runtime import topics
from stream_app.stages.score import FORMULA_NAME
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.onnx_model import NAME, VERSION, flip_bit, write_model

LOGICAL = ("recommendations", "predictions", "churn_alerts", "dead_letter")
REFUSED = 'stream_app_model_refusals_total{reason="corrupt"} 1.0'


def get(port: int, path: str) -> str:
    """Return what a worker serves, empty while it serves nothing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:  # nobody listens yet, or the answer is an error
        return ""


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


@pytest.mark.timeout(240)
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
