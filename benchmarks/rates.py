"""How fast a worker is beside a bare loop: the same topic, the same stages, one run.

Both are timed by their outputs, as the broker holds them: from the first recommendation of the
first batch to the last recommendation of all, which leaves out how they start.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.gauges import cpu_of, wait_for
from benchmarks.harness import WorkerProcess, produce, read_log
from benchmarks.in_process import BATCH_RECORDS
from benchmarks.loop import LoopRun
from benchmarks.workload import PARTITIONS, purchases, to_sent, with_requests
from stream_app.config import Settings, load
from stream_app.ops.demo_child import free_port
from stream_app.runtime import topics
from tests.broker.kafka import KafkaServer

LOOP = "bare_loop"
PREFIX = "rates."
WAYS = (LOOP, "exactly_once", "at_least_once")
SECONDS_MAX = 900.0


class Run(msgspec.Struct, frozen=True):
    """One run: events a second, CPU in µs an event of the program and of Kafka, outputs."""

    events_per_second: float
    cpu_us: float
    kafka_cpu_us: float
    outputs: int


class Way(msgspec.Struct, frozen=True):
    """All runs of one way, their medians, and the ratio of its rate to the bare loop's.

    The ratio is taken run by run, each against the loop's of the same round; ``ratio_spread`` holds
    the least and the greatest.
    """

    events_per_second: float
    events_per_second_spread: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]
    cpu_us: float
    kafka_cpu_us: float
    runs: list[Run]


class Rates(msgspec.Struct, frozen=True):
    """The input, and what each way made of it."""

    events: int
    requests: int
    partitions: int
    repeats: int
    ways: dict[str, Way]


def environment_of(brokers: str, prefix: str, app: str, port: int) -> dict[str, str]:
    """Return the settings that the measured programs have in common."""
    return {
        "STREAM_APP_BROKERS": brokers,
        "STREAM_APP_TOPIC_PREFIX": prefix,
        "STREAM_APP_APP": app,
        "STREAM_APP_PARTITIONS": str(PARTITIONS),
        "STREAM_APP_METRICS_HOST": "127.0.0.1",
        "STREAM_APP_METRICS_PORT": str(port),
        "STREAM_APP_STAGES__RECOMMEND_ON": "[]",
    }


def run(kafka: KafkaServer, count: int, repeats: int, folder: Path) -> Rates:
    """Preload a topic with about ``count`` events, and let each way in turn process it."""
    records = to_sent(with_requests(purchases(count * 4 // 5)))
    requests = sum(b'"type":"recommend"' in (record.value or b"") for record in records)
    source = load(
        brokers=kafka.bootstrap,
        topic_prefix=PREFIX,
        app="rates",
        replay=True,
        partitions=PARTITIONS,
    )
    topics.create(source)
    asyncio.run(produce(source, records, PARTITIONS))
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for number in range(repeats):
        # In turn, so that whatever else the machine does hits all of them.
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            found = _run_once(kafka, way, number, len(records), folder)
            assert found.outputs == requests, f"{way}: {found.outputs} answers to {requests}"
            runs[way].append(found)
    return Rates(
        events=len(records),
        requests=requests,
        partitions=PARTITIONS,
        repeats=repeats,
        ways={way: _sum_up(runs[way], runs[LOOP]) for way in WAYS},
    )


def _run_once(kafka: KafkaServer, way: str, number: int, count: int, folder: Path) -> Run:
    """Process the topic once, under a name of its own and with an output topic of its own."""
    name = f"{way}-{number}"
    port = free_port()
    output = f"recommendations-{name}"
    environment = environment_of(kafka.bootstrap, PREFIX, name, port)
    environment["STREAM_APP_REPLAY"] = "true"
    environment["STREAM_APP_TOPICS__RECOMMENDATIONS"] = output
    settings = load(
        brokers=kafka.bootstrap,
        topic_prefix=PREFIX,
        app=name,
        replay=True,
        partitions=PARTITIONS,
        topics={"recommendations": output},
    )
    topics.create(settings)
    before = cpu_of(kafka.pid)
    if way == LOOP:
        cpu_us = _loop(environment, count)
    else:
        environment["STREAM_APP_GUARANTEE"] = way
        cpu_us = _worker(environment, port, count, folder / f"{name}.log")
    kafka_seconds = cpu_of(kafka.pid) - before
    seconds, outputs = _span(settings)
    return Run(
        # The first output is stored when its whole batch has been processed.
        events_per_second=round((count - BATCH_RECORDS) / seconds, 1),
        cpu_us=round(cpu_us, 1),
        kafka_cpu_us=round(kafka_seconds / count * 1e6, 1),
        outputs=outputs,
    )


def _loop(environment: dict[str, str], count: int) -> float:
    """Run the bare loop; return its CPU in µs an event."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loop", str(count)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
        timeout=SECONDS_MAX,
    )
    found = msgspec.convert(json.loads(done.stdout.splitlines()[-1]), LoopRun)
    return found.cpu_seconds / found.events * 1e6


def _worker(environment: dict[str, str], port: int, count: int, log: Path) -> float:
    """Run a worker until all is processed; return its CPU in µs an event, its start left out."""
    worker = WorkerProcess(environment, log)
    worker.start()
    try:
        first = wait_for(port, lambda m: processed(m) > 0, SECONDS_MAX)
        last = wait_for(port, lambda m: processed(m) >= count, SECONDS_MAX)
    finally:
        worker.end()
    seconds = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
    return seconds / (processed(last) - processed(first)) * 1e6


def processed(metrics: dict[str, float]) -> float:
    """Return how many records a worker has committed, by its metrics."""
    return metrics.get("stream_app_records_total", 0.0)


def _span(settings: Settings) -> tuple[float, int]:
    """Return the seconds between the first and the last output, and how many there are."""
    topic = settings.topic("recommendations")
    logs = asyncio.run(read_log(settings.brokers, topic, PARTITIONS))
    stamps = [record.timestamp for log in logs.values() for record in log]
    return (max(stamps) - min(stamps)) / 1000, len(stamps)


def _sum_up(runs: list[Run], loops: list[Run]) -> Way:
    rates = [run.events_per_second for run in runs]
    ratios = [
        round(run.events_per_second / loop.events_per_second, 3)
        for run, loop in zip(runs, loops, strict=True)
    ]
    return Way(
        events_per_second=median(rates),
        events_per_second_spread=(min(rates), max(rates)),
        ratio=median(ratios),
        ratio_spread=(min(ratios), max(ratios)),
        cpu_us=median(run.cpu_us for run in runs),
        kafka_cpu_us=median(run.kafka_cpu_us for run in runs),
        runs=runs,
    )
