"""How long a request waits: from just before it is sent to when a reader sees its answer.

Events are dated as they are sent, at a steady pace. The reader is a process of its own
(``python -m benchmarks.latency BROKERS TOPIC COUNT``), ``read_committed`` like every consumer of
the outputs. Producer and reader are librdkafka's: on a machine of few cores they share these with
Kafka and the worker, and cost little.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.gauges import cpu_of, cpu_of_machine, percentile, wait_for
from benchmarks.harness import WorkerProcess
from benchmarks.rates import environment_of, processed
from benchmarks.workload import PARTITIONS, purchases, with_requests
from stream_app.clock import cpu_seconds, monotonic_seconds, now_ms
from stream_app.config import load
from stream_app.event import Event, encode
from stream_app.hashing import partition_for
from stream_app.ops.demo_child import free_port
from stream_app.runtime import topics
from tests.broker.kafka import KafkaServer

PREFIX = "live."
WARM_EVENTS = 20_000  # sent as fast as they go, so that the state is filled and Java compiled
SETTLE_SECONDS = 20.0  # at the pace, not counted: Java compiles what is called often
LINGER_MS = 5  # what Kafka's own producer waits by default, since 4.0
SECONDS_MAX = 180.0
SILENCE_SECONDS_MAX = 60.0  # after which the reader gives up


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from sending to seeing, and what the machine did meanwhile.

    ``cpu_shares`` are cores, ``others`` what ran beside the measurement, ``batch_records`` and
    ``commit_ms`` means over the worker's commits.
    ``producer_late_ms_max`` is by how much the pace was missed.
    """

    events_per_second: float
    seconds: float
    partitions: int
    samples: int
    missing: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    p99_ms_by_round: list[float]
    batch_records: float
    commit_ms: float
    cpu_shares: dict[str, float]
    producer_late_ms_max: float


def run(kafka: KafkaServer, rate: float, seconds: float, rounds: int, folder: Path) -> Latency:
    """Measure at ``rate`` events a second, one in five a request, in ``exactly_once``.

    The pace is kept for ``rounds`` times ``seconds`` without a break.
    """
    port = free_port()
    environment = environment_of(kafka.bootstrap, PREFIX, "live", port)
    settings = load(brokers=kafka.bootstrap, topic_prefix=PREFIX, app="live", partitions=PARTITIONS)
    topics.create(settings)
    settled, paced = int(rate * SETTLE_SECONDS), int(rate * seconds * rounds)
    total = WARM_EVENTS + settled + paced
    events = list(islice(with_requests(purchases(total)), total))
    requests = sum(event.type == "recommend" for event in events)
    worker = WorkerProcess(environment, folder / "live.log")
    worker.start()
    output = settings.topic("recommendations")
    with Reader(kafka.bootstrap, output, requests) as reader:
        try:
            wait_for(port, lambda m: m["stream_app_partitions_assigned"] > 0, SECONDS_MAX)
            sender = Sender(kafka.bootstrap, settings.topic("events"))
            warm, rest = events[:WARM_EVENTS], events[WARM_EVENTS:]
            sender.send(warm)
            wait_for(port, lambda m: processed(m) >= WARM_EVENTS, SECONDS_MAX)
            sender.send(rest[:settled], rate)
            sender.late_seconds = 0.0
            before = _look(port, kafka, reader)
            began = monotonic_seconds()
            sent = sender.send(rest[settled:], rate)
            span = monotonic_seconds() - began
            after = _look(port, kafka, reader)
            wait_for(port, lambda m: processed(m) >= total, SECONDS_MAX)
            seen = reader.result()
        finally:
            worker.end()
    in_order = [(seen[name] - at) * 1000 for name, at in sent.items() if name in seen]
    waits = sorted(in_order)
    spent = {name: after[name] - before[name] for name in after}
    commits = spent["stream_app_commit_seconds_count"]
    return Latency(
        events_per_second=round(paced / span, 1),
        seconds=round(span, 2),
        partitions=PARTITIONS,
        samples=len(waits),
        missing=len(sent) - len(waits),
        p50_ms=round(percentile(waits, 50), 1),
        p95_ms=round(percentile(waits, 95), 1),
        p99_ms=round(percentile(waits, 99), 1),
        max_ms=round(waits[-1], 1),
        p99_ms_by_round=_by_round(in_order, rounds),
        batch_records=round(spent["stream_app_batch_records_sum"] / commits, 1),
        commit_ms=round(spent["stream_app_commit_seconds_sum"] / commits * 1000, 1),
        cpu_shares=_shares(spent, span),
        producer_late_ms_max=round(sender.late_seconds * 1000, 1),
    )


def _look(port: int, kafka: KafkaServer, reader: "Reader") -> dict[str, float]:
    """Return what each process has spent so far, beside the worker's metrics."""
    metrics = wait_for(port, bool, SECONDS_MAX)
    return {
        **metrics,
        "kafka": cpu_of(kafka.pid),
        "producer": cpu_seconds(),
        "reader": cpu_of(reader.pid),
        "machine": cpu_of_machine(),
    }


def _by_round(waits: Sequence[float], rounds: int) -> list[float]:
    """Return the 99th percentile of each round; ``waits`` stand in the order of sending."""
    size = -(-len(waits) // rounds)
    parts = [sorted(waits[start : start + size]) for start in range(0, len(waits), size)]
    return [round(percentile(part, 99), 1) for part in parts]


def _shares(spent: dict[str, float], span: float) -> dict[str, float]:
    """Return how many cores each process used, and all else on the machine."""
    ours = {name: spent[name] for name in ("kafka", "producer", "reader")}
    ours["worker"] = spent["process_cpu_seconds_total"]
    others = max(spent["machine"] - sum(ours.values()), 0.0)
    return {name: round(each / span, 3) for name, each in {**ours, "others": others}.items()}


class Sender:
    """Sends events dated now, each as soon as it is due."""

    def __init__(self, brokers: str, topic: str) -> None:
        self._topic = topic
        self._producer: Any = Producer(
            {"bootstrap.servers": brokers, "acks": "all", "linger.ms": LINGER_MS}
        )
        self.late_seconds = 0.0

    def send(self, events: Iterable[Event], rate: float | None = None) -> dict[str, float]:
        """Send at a rate, or as fast as it goes; return when each request was sent, by its id."""
        producer, topic = self._producer, self._topic
        asked: dict[str, float] = {}
        began = monotonic_seconds()
        for number, event in enumerate(events):
            if rate is not None:
                due = began + number / rate
                wait = due - monotonic_seconds()
                if wait > 0:
                    time.sleep(wait)
                else:
                    self.late_seconds = max(self.late_seconds, -wait)
            value = encode(msgspec.structs.replace(event, timestamp=now_ms()))
            key = event.user_id.encode()
            if event.type == "recommend":
                asked[event.event_id] = monotonic_seconds()
            producer.produce(topic, value, key, partition_for(key, PARTITIONS))
            producer.poll(0)
        producer.flush()
        return asked


class Reader:
    """The reader's process, as long as the measurement lasts."""

    def __init__(self, brokers: str, topic: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.latency", brokers, topic, str(count)],
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        """Wait until it reads from the end of the topic."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the reader did not start"
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever happened."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def result(self) -> dict[str, float]:
        """Wait for the end; return when each answer was seen, by the id of its request."""
        out, _ = self._process.communicate(timeout=SECONDS_MAX)
        seen: dict[str, float] = json.loads(out.splitlines()[-1])
        return seen


def read(brokers: str, topic: str, count: int) -> None:
    """Note when each answer is seen, and print it at the end: nothing else is done meanwhile."""
    consumer: Any = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "latency",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 5,
            "fetch.queue.backoff.ms": 1,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    first = consumer.poll(1.0)
    print("ready", flush=True)
    found = list(islice(_values(consumer, first), count))
    consumer.close()
    print(json.dumps({_cause(value): at for value, at in found}))


def _values(consumer: Any, message: Any) -> Iterator[tuple[bytes, float]]:
    heard = monotonic_seconds()
    while monotonic_seconds() - heard < SILENCE_SECONDS_MAX:
        if message is not None and message.error() is None:
            heard = monotonic_seconds()
            yield message.value(), heard
        message = consumer.poll(0.5)


def _cause(value: bytes) -> str:
    name: str = json.loads(value)["cause"]["event_id"]
    return name


def main(arguments: Sequence[str]) -> None:
    """Be the reader."""
    brokers, topic, count = arguments
    read(brokers, topic, int(count))


if __name__ == "__main__":
    main(sys.argv[1:])
