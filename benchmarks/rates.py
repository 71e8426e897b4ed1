"""How fast a worker is, beside a bare loop and other frameworks: one topic, one run, one core each.

All are timed by their outputs, as the broker dates them: from the first that is stored to the last,
or to the last commit, where a program says when that was. How they start is left out. Kafka and
whoever measures have cores of their own, the measured process has one. All must store the very same
outputs.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.progress import Progress

from benchmarks.gauges import Cores, cores, cpu_of, pinned, wait_for
from benchmarks.harness import WorkerProcess, committed, output_id, produce, read_log
from benchmarks.in_process import BATCH_RECORDS
from benchmarks.loop import ProgramRun
from benchmarks.peers import ABOUT, Peer
from benchmarks.workload import PARTITIONS, purchases, to_sent, with_requests
from stream_app.config import Settings, load
from stream_app.ops.demo_child import free_port
from stream_app.runtime import topics
from tests.broker.kafka import KafkaServer

LOOP = "bare_loop"
WAYS = (LOOP, "exactly_once", "at_least_once")
OUTPUTS = ("recommendations", "predictions", "churn_alerts", "dead_letter")
# Takes many times what the others take: measured in the last round only.
SLOW = Peer.FAUST_ROWS
SECONDS_MAX = 900.0
_PEERS = frozenset(Peer)

Stored = dict[str, bytes]  # a hash of an output's topic, partition, key, value and headers, by id


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

    guarantee: str
    events_per_second: float
    events_per_second_spread: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]
    cpu_us: float
    kafka_cpu_us: float
    runs: list[Run]


class Rates(msgspec.Struct, frozen=True):
    """The input, and what each way made of it: ``outputs``, the same ones byte for byte."""

    events: int
    requests: int
    outputs: int
    partitions: int
    repeats: int
    cores: Cores
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


class WayError(Exception):
    """A way failed, did not commit all of its input, or stored other outputs than the bare loop."""


def run(
    kafka: KafkaServer,
    count: int,
    repeats: int,
    folder: Path,
    peers: Sequence[Peer] = (),
) -> Rates:
    """Preload a topic with about ``count`` events, and let each way in turn process it.

    Raises
    ------
    WayError
        When a way did something else than the bare loop.
    """
    bench = Bench(kafka, count, folder)
    # The first run warms Kafka up, and says what the outputs are.
    _, outputs = bench.run(LOOP, "first")
    runs: dict[str, list[Run]] = {way: [] for way in (*WAYS, *peers)}
    plan = rounds(tuple(runs), repeats)
    screen = Console(stderr=True)
    with Progress(console=screen, disable=not screen.is_terminal) as progress:
        for number, way in progress.track(plan, description="Rates"):
            found, stored = bench.run(way, str(number))
            check_same(way, stored, outputs)
            runs[way].append(found)
    return Rates(
        events=bench.events,
        requests=bench.requests,
        outputs=len(outputs),
        partitions=PARTITIONS,
        repeats=repeats,
        cores=bench.cores,
        ways={way: _sum_up(way, each, runs[LOOP]) for way, each in runs.items()},
    )


def rounds(ways: Sequence[str], repeats: int) -> list[tuple[int, str]]:
    """Return the rounds, each begun by another way: what else the machine does hits all."""
    plan = []
    for number in range(repeats):
        shift = number * len(ways) // repeats
        plan += [
            (number, way)
            for way in (*ways[shift:], *ways[:shift])
            if way != SLOW or number == repeats - 1
        ]
    return plan


def check_same(way: str, stored: Stored, wanted: Stored) -> None:
    """Compare what a way has stored with what it should have.

    Raises
    ------
    WayError
        When anything is missing, too much or different.
    """
    if stored != wanted:
        missing, more = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
        both = stored.keys() & wanted.keys()
        different = sum(stored[name] != wanted[name] for name in both)
        raise WayError(
            f"{way}: of {len(wanted)} outputs {len(missing)} are missing and {different} differ; "
            f"{len(more)} others are there"
        )


class Bench:
    """A topic that is full of events, and ways to process it.

    Parameters
    ----------
    kafka
        The broker.
    count
        About how many events there are.
    folder
        Where the programs' logs go.
    prefix
        Of the topics' names.

    Attributes
    ----------
    events, requests
        How many records the topic holds, and how many of them ask for recommendations.
    cores
        Who runs where.
    """

    def __init__(
        self, kafka: KafkaServer, count: int, folder: Path, prefix: str = "rates."
    ) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self._folder = folder
        records = to_sent(with_requests(purchases(count * 4 // 5)))
        self.events = len(records)
        self.requests = sum(b'"type":"recommend"' in (record.value or b"") for record in records)
        self.cores = cores()
        source = load(
            brokers=kafka.bootstrap,
            topic_prefix=self._prefix,
            app="rates",
            replay=True,
            partitions=PARTITIONS,
        )
        topics.create(source)
        asyncio.run(produce(source, records, PARTITIONS))

    def settings(self, name: str) -> Settings:
        """Return the settings of a run: an app and output topics of its own."""
        return load(
            brokers=self._kafka.bootstrap,
            topic_prefix=self._prefix,
            app=name,
            replay=True,
            partitions=PARTITIONS,
            topics={logical: f"{logical}-{name}" for logical in OUTPUTS},
            stages={"recommend_on": ()},
        )

    def run(self, way: str, number: str) -> tuple[Run, Stored]:
        """Process the topic once; return what was measured, and what was stored."""
        name = f"{way}-{number}"
        settings = self.settings(name)
        for logical in OUTPUTS:
            # Dated by the broker: one clock for all, and a Quix output would have its event's time.
            dated = {"message.timestamp.type": "LogAppendTime"}
            self._kafka.create_topic(settings.topic(logical), PARTITIONS, dated)
        topics.create(settings)
        environment = environment_of(self._kafka.bootstrap, self._prefix, name, free_port())
        environment["STREAM_APP_REPLAY"] = "true"
        for logical in OUTPUTS:
            environment[f"STREAM_APP_TOPICS__{logical.upper()}"] = f"{logical}-{name}"
        before = cpu_of(self._kafka.pid)
        with pinned(os.getpid(), self.cores.others), pinned(self._kafka.pid, self.cores.others):
            if way == LOOP or way in _PEERS:
                cpu_us, ended_ms = self._program(way, environment)
            else:
                environment["STREAM_APP_GUARANTEE"] = way
                cpu_us, ended_ms = self._worker(environment), 0
        kafka_seconds = cpu_of(self._kafka.pid) - before
        if way in _PEERS and committed(settings) != self.events:
            raise WayError(f"{way}: {committed(settings)} of {self.events} are committed")
        stored, began_ms, stored_ms = asyncio.run(_read(settings))
        # Who takes records in batches has processed a whole one when its first output is stored.
        first = 1 if way in _PEERS else BATCH_RECORDS
        seconds = (max(stored_ms, ended_ms) - began_ms) / 1000
        found = Run(
            events_per_second=round((self.events - first) / seconds, 1),
            cpu_us=round(cpu_us, 1),
            kafka_cpu_us=round(kafka_seconds / self.events * 1e6, 1),
            outputs=len(stored),
        )
        return found, stored

    def _program(self, way: str, environment: dict[str, str]) -> tuple[float, int]:
        """Run the loop or a peer; return its CPU in µs an event, and when it had ended, in ms."""
        count = str(self.events)
        command = ["benchmarks.loop", count] if way == LOOP else [Peer(way).program, way, count]
        path = self._folder / f"{environment['STREAM_APP_APP']}.log"
        with path.open("wb") as log, pinned(os.getpid(), self.cores.measured):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
                timeout=SECONDS_MAX,
            )
        if done.returncode:
            raise WayError(f"{way} ended with {done.returncode}:\n{path.read_text()[-2_000:]}")
        found = msgspec.convert(json.loads(done.stdout.splitlines()[-1]), ProgramRun)
        return found.cpu_seconds / found.events * 1e6, found.ended_ms

    def _worker(self, environment: dict[str, str]) -> float:
        """Run a worker until all is processed; return its CPU in µs an event, without its start."""
        worker = WorkerProcess(environment, self._folder / f"{environment['STREAM_APP_APP']}.log")
        port = int(environment["STREAM_APP_METRICS_PORT"])
        with pinned(os.getpid(), self.cores.measured):
            worker.start()
        try:
            first = wait_for(port, lambda m: processed(m) > 0, SECONDS_MAX)
            last = wait_for(port, lambda m: processed(m) >= self.events, SECONDS_MAX)
        finally:
            worker.end()
        seconds = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
        return seconds / (processed(last) - processed(first)) * 1e6


def processed(metrics: dict[str, float]) -> float:
    """Return how many records a worker has committed, by its metrics."""
    return metrics.get("stream_app_records_total", 0.0)


async def _read(settings: Settings) -> tuple[Stored, int, int]:
    """Return what a ``read_committed`` reader sees, and when the first and last were stored."""
    stored: Stored = {}
    stamps: list[int] = []
    for logical in OUTPUTS:
        logs = await read_log(settings.brokers, settings.topic(logical), PARTITIONS)
        for partition, log in logs.items():
            for record in log:
                name = output_id(record)
                if name in stored:
                    raise WayError(f"{settings.app}: {name} was stored twice")
                what = (logical, partition, record.key, record.value, tuple(record.headers))
                stored[name] = hashlib.blake2b(repr(what).encode(), digest_size=16).digest()
                stamps.append(record.timestamp)
    if not stamps:
        raise WayError(f"{settings.app}: nothing was stored")
    return stored, min(stamps), max(stamps)


def _sum_up(way: str, runs: list[Run], loops: list[Run]) -> Way:
    rates = [run.events_per_second for run in runs]
    ratios = [
        round(run.events_per_second / loop.events_per_second, 3)
        for run, loop in zip(runs, loops[-len(runs) :], strict=True)
    ]
    return Way(
        guarantee=ABOUT[way].guarantee,
        events_per_second=median(rates),
        events_per_second_spread=(min(rates), max(rates)),
        ratio=median(ratios),
        ratio_spread=(min(ratios), max(ratios)),
        cpu_us=median(run.cpu_us for run in runs),
        kafka_cpu_us=median(run.kafka_cpu_us for run in runs),
        runs=runs,
    )
