"""A worker process on a real Kafka: stopping, starting again, refusing, and what it shows."""

import asyncio
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from benchmarks.harness import committed, judge, oracle, read_log
from stream_app.ops.demo_child import free_port
from stream_app.runtime import topics
from tests.broker.kafka import KafkaServer
from tests.broker.workers import PARTITIONS, Scene, scene
from tests.command import run

STOP_SECONDS = 5.0


def is_exact(stage: Scene) -> bool:
    """Whether outputs and state are those of a one-pass oracle, and no id came twice."""
    settings = stage.settings
    described = topics.topology(settings)

    async def compare() -> bool:
        logs = await read_log(settings.brokers, settings.topic("events"), PARTITIONS)
        expected = oracle(settings, logs, described.source_id)
        verdict = await judge(settings, expected, PARTITIONS)
        assert verdict.outputs > 0
        wrong = verdict.lost + verdict.unexpected + verdict.different + verdict.state_wrong
        return not wrong and not verdict.repeated

    return asyncio.run(compare())


def test_sigterm_commits_and_stops(kafka: KafkaServer, tmp_path: Path) -> None:
    """On SIGTERM in mid-stream a worker commits its batch and is gone within 5 s, with code 0."""
    stage = scene(kafka.bootstrap, "sigterm", tmp_path)
    count = len(stage.send(4_000))
    worker = stage.worker()
    worker.start()
    assert stage.wait(500) >= 500
    began = time.monotonic()
    code = worker.end(signal.SIGTERM)
    assert time.monotonic() - began < STOP_SECONDS
    assert code == 0, stage.said()
    assert committed(stage.settings) < count
    worker.start()
    assert stage.wait(count) == count
    worker.end()
    assert is_exact(stage)


def test_second_worker_takes_its_share(kafka: KafkaServer, tmp_path: Path) -> None:
    """A worker that joins takes partitions over; one that leaves gives them back; all is exact."""
    stage = scene(kafka.bootstrap, "share", tmp_path)
    first, second = stage.worker(), stage.worker()
    first.start()
    count = len(stage.send(3_000, seed=1))
    assert stage.wait(1_000) >= 1_000
    second.start()
    deadline = time.monotonic() + 60
    while stage.said().count(": restored, at offset") <= PARTITIONS:
        assert time.monotonic() < deadline, stage.said()
        time.sleep(0.2)
    count += len(stage.send(3_000, seed=2))
    time.sleep(2)
    assert second.end() == 0, stage.said()
    assert stage.wait(count) == count, stage.said()
    assert first.end() == 0
    assert is_exact(stage)


def test_at_least_once_refuses_a_second_worker(kafka: KafkaServer, tmp_path: Path) -> None:
    """In `at_least_once` a second worker ends the group's work with a message that says why."""
    stage = scene(kafka.bootstrap, "alone", tmp_path, "at_least_once")
    first, second = stage.worker(), stage.worker()
    stage.send(200)
    first.start()
    assert stage.wait(200) == 200
    second.start()
    deadline = time.monotonic() + 30
    while "at_least_once is for one worker process" not in stage.said():
        assert time.monotonic() < deadline, stage.said()
        time.sleep(0.2)
    for worker in (first, second):
        worker.end()


def test_topic_made_again_is_refused(kafka: KafkaServer, tmp_path: Path) -> None:
    """A source topic that was deleted and made again is not the one the state was built from."""
    stage = scene(kafka.bootstrap, "again", tmp_path)
    stage.send(200)
    worker = stage.worker()
    worker.start()
    assert stage.wait(200) == 200
    worker.end()
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
        admin.delete_topics([stage.settings.topic("events")])
    time.sleep(1)
    topics.create(stage.settings)
    worker.start()
    assert worker.wait(30) == 1
    assert "it was deleted and made again" in stage.said()


def test_position_outside_the_log_is_refused(kafka: KafkaServer, tmp_path: Path) -> None:
    """When records were deleted before they were read, a worker stops and says what to do."""
    stage = scene(kafka.bootstrap, "gone", tmp_path)
    stage.send(200)
    worker = stage.worker()
    worker.start()
    assert stage.wait(200) == 200
    worker.end()
    stage.send(400, seed=3)
    source = stage.settings.topic("events")
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
        admin.delete_records({TopicPartition(source, p): -1 for p in range(PARTITIONS)})
    worker.start()
    assert worker.wait(30) == 1
    assert "raise the topic's retention" in stage.said()


def test_missing_topics_are_named(kafka: KafkaServer, tmp_path: Path) -> None:
    """Without topics a worker says which are missing and how to make them."""
    stage = scene(kafka.bootstrap, "missing", tmp_path)
    worker = stage.worker(STREAM_APP_TOPIC_PREFIX="nowhere.")
    worker.start()
    assert worker.wait(30) == 1
    assert "topic nowhere.clickstream.events is missing" in stage.said()
    assert "stream-app topics create" in stage.said()


def test_health_and_metrics(kafka: KafkaServer, tmp_path: Path) -> None:
    """A working worker is healthy and ready, and its metrics say what it has done."""
    stage = scene(kafka.bootstrap, "health", tmp_path)
    stage.send(500)
    port = free_port()
    worker = stage.worker(STREAM_APP_METRICS_PORT=str(port))
    worker.start()
    try:
        assert stage.wait(500) == 500
        assert _get(port, "/healthz") == (200, "ok\n")
        assert _get(port, "/readyz") == (200, "ok\n")
        code, text = _get(port, "/metrics")
        assert code == 200
        assert 'stream_app_records_total{outcome="processed"} 500.0' in text
        assert 'stream_app_commits_total{outcome="confirmed"}' in text
        assert 'stream_app_stage_seconds_count{stage="candidates"}' in text
        assert "stream_app_restores_total 4.0" in text
        assert _get(port, "/else")[0] == 404
    finally:
        worker.end()


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.fixture(scope="module")
def shown(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Topics on which a worker has processed some events."""
    stage = scene(kafka.bootstrap, "shown", tmp_path_factory.mktemp("shown"))
    count = len(stage.send(1_000))
    worker = stage.worker()
    worker.start()
    assert stage.wait(count) == count
    worker.end()
    return stage


def _cli(stage: Scene, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(*arguments, **{**stage.worker()._environment, "COLUMNS": "120"})


def test_user_shows_state_and_why(shown: Scene) -> None:
    """`user ID` shows the user's last events and the last recommendation with its reasons."""
    result = _cli(shown, "user", "user-1")
    assert result.returncode == 0, result.stderr
    for text in ("consent: yes", "Last events", "Last recommendation", "linear-formula"):
        assert text in result.stdout


def test_user_unknown_is_said(shown: Scene) -> None:
    """`user ID` of somebody unknown says so and exits with 1."""
    result = _cli(shown, "user", "nobody")
    assert result.returncode == 1
    assert "nothing of a user 'nobody'" in result.stdout


def test_watch_shows_records(shown: Scene) -> None:
    """`watch` shows as many records as asked, and names the topics when it knows none such."""
    result = _cli(shown, "watch", "recommendations", "--from-beginning", "--limit", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('"recommendation_id"') == 2
    wrong = _cli(shown, "watch", "recommendation")
    assert wrong.returncode == 2
    assert "no topic 'recommendation'" in wrong.stderr


def test_topics_check(kafka: KafkaServer, shown: Scene) -> None:
    """`topics check` accepts what `topics create` makes, and names what differs, with code 1."""
    good = _cli(shown, "topics", "check")
    assert (good.returncode, "as they must be" in good.stdout) == (0, True)
    source = shown.settings.topic("events")
    _alter(kafka, source, "message.timestamp.after.max.ms", str(365 * 86_400_000))
    shown.environment["STREAM_APP_REPLAY"] = "false"
    live = _cli(shown, "topics", "check")
    shown.environment["STREAM_APP_REPLAY"] = "true"
    assert live.returncode == 1
    assert "shown.clickstream.events: one record dated far ahead would fire" in live.stdout
    state = shown.settings.state_topic
    _alter(kafka, state, "cleanup.policy", "delete")
    uncompacted = _cli(shown, "topics", "check")
    _alter(kafka, state, "cleanup.policy", "compact")
    assert uncompacted.returncode == 1
    assert f"{state}: cleanup.policy is delete, it must be compact" in uncompacted.stdout


def test_commits_that_keep_failing_end_the_worker(kafka: KafkaServer, tmp_path: Path) -> None:
    """When every commit is refused, trying again is no progress: the worker gives up."""
    stage = scene(kafka.bootstrap, "refused", tmp_path)
    _alter(kafka, stage.settings.topic("recommendations"), "max.message.bytes", "100")
    stage.send(400)
    worker = stage.worker(STREAM_APP_STALL_SECONDS="8")
    worker.start()
    assert worker.wait(60) == 1
    assert stage.said().count("memory dropped") > 2
    assert "restart the worker" in stage.said()


def _alter(kafka: KafkaServer, topic: str, name: str, value: str) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={name: value})
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
        admin.alter_configs([resource])


def test_processes_are_started_again_and_stopped(kafka: KafkaServer, tmp_path: Path) -> None:
    """`worker --processes 2` starts a killed process again, and SIGTERM ends them all."""
    stage = scene(kafka.bootstrap, "processes", tmp_path)
    count = len(stage.send(2_000))
    parent = stage.worker(STREAM_APP_PROCESSES="2")
    parent.start()
    assert stage.wait(500) >= 500
    victim = _children(parent.pid)[0]
    os.kill(victim, signal.SIGKILL)
    assert stage.wait(count) == count, stage.said()
    assert victim not in _children(parent.pid)
    assert len(_children(parent.pid)) == 2
    children = _children(parent.pid)
    began = time.monotonic()
    assert parent.end() == 0
    assert time.monotonic() - began < STOP_SECONDS + 1
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert is_exact(stage)


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
