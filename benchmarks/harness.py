"""What tests and benchmarks on a real broker share: input with known faults, workers, an oracle.

The oracle runs each partition's log through the stages in one pass, record by record, and so knows
every output and every row of state that the workers must have produced, whatever was done to them.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream_app.config import Settings
from stream_app.event import Event, encode
from stream_app.hashing import partition_for
from stream_app.pipeline import Context, next_batch, process
from stream_app.runtime.changelog import KafkaReader, restore
from stream_app.state import PartitionState
from stream_app.steps import OutputRecord

DAY_MS = 86_400_000
START_MS = 1_483_228_800_000  # 2017-01-01
RECENT = 8  # a duplicate repeats one of a user's last events: within the ring of 32


class Sent(msgspec.Struct, frozen=True):
    """A record to send: where to (None: where the key belongs), what, and its timestamp in ms."""

    partition: int | None
    key: bytes | None
    value: bytes | None
    timestamp: int


class Log(msgspec.Struct, frozen=True):
    """A record as it stands in a log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def clicks(count: int, seed: int, users: int = 300, items: int = 800) -> Iterator[Event]:
    """Yield made-up events of a shop over about 60 days: views, carts, purchases and requests."""
    chance = random.Random(seed)
    now_ms = START_MS
    for number in range(count):
        now_ms += chance.choice((1, 500, 5_000, 60 * DAY_MS // max(count, 1) * 2))
        kind = chance.choices(
            ("view", "cart", "purchase", "comment", "recommend"), (50, 15, 25, 5, 5)
        )[0]
        yield Event(
            event_id=f"click-{number}",
            type=kind,
            user_id=f"user-{min(int(chance.expovariate(1 / (users / 4))), users)}",
            timestamp=now_ms,
            session_id=f"session-{number // 20}",
            item_id=None if kind == "recommend" else f"item-{int(chance.random() ** 2 * items)}",
            order_id=f"order-{number // 5}" if kind == "purchase" else None,
            price=round(chance.uniform(0.5, 50), 2) if kind != "recommend" else None,
            quantity=chance.randint(0, 3) if kind == "purchase" else None,
        )


# Ways to break a record, each of which must end as a reject; the reason is the stage's to find.
def _broken(event: Event, timestamp: int, kind: int, partitions: int) -> Sent:
    value = encode(event)
    key = event.user_id.encode()
    right = partition_for(key, partitions)
    document: dict[str, Any] = msgspec.json.decode(value)
    changed = (
        lambda: Sent(right, key, None, timestamp),
        lambda: Sent(right, key, value[: len(value) // 2], timestamp),
        lambda: Sent(right, key, b"\xff\xfe" + value, timestamp),
        lambda: Sent(right, key, b"[1, 2, 3]", timestamp),
        lambda: Sent(right, None, value, timestamp),
        lambda: Sent(right, b"somebody-else", value, timestamp),
        lambda: Sent((right + 1) % partitions, key, value, timestamp),
        lambda: Sent(right, key, _with(document, type="teleport"), timestamp),
        lambda: Sent(right, key, _with(document, event_id=None), timestamp),
        lambda: Sent(right, key, _with(document, type="view", item_id=None), timestamp),
        lambda: Sent(right, key, _with(document, price=-1), timestamp),
        lambda: Sent(right, key, _with(document, quantity="two"), timestamp),
        lambda: Sent(right, key, _with(document, timestamp=timestamp + DAY_MS), timestamp),
        lambda: Sent(right, key, _with(document, timestamp=5), timestamp),
        lambda: Sent(right, key, _with(document, event_id="  "), timestamp),
        lambda: Sent(right, key, _with(document, text="x" * 70_000), timestamp),
    )
    return changed[kind % len(changed)]()


BROKEN_KINDS = 16


def _with(document: dict[str, Any], **over: object) -> bytes:
    kept = {**document, **over}
    return msgspec.json.encode({name: value for name, value in kept.items() if value is not None})


def spoil(
    events: Iterable[Event],
    seed: int,
    partitions: int,
    duplicates: float = 0.01,
    broken: float = 0.005,
) -> tuple[list[Sent], Counter[str]]:
    """Return the events as records, repeats and broken ones among them, and how many of each."""
    chance = random.Random(seed)
    recent: dict[str, list[tuple[bytes, bytes]]] = {}
    sent: list[Sent] = []
    counts: Counter[str] = Counter()
    for event in events:
        timestamp = int(event.timestamp)  # type: ignore[arg-type]
        key, value = event.user_id.encode(), encode(event)
        sent.append(Sent(None, key, value, timestamp))
        counts["processed"] += 1
        past = recent.setdefault(event.user_id, [])
        past.append((key, value))
        del past[:-RECENT]
        if chance.random() < duplicates:
            again = chance.choice(past)
            sent.append(Sent(None, *again, timestamp))
            counts["duplicate"] += 1
        if chance.random() < broken:
            # A reject must not be mistaken for a repeat: its event has an id of its own.
            other = msgspec.structs.replace(event, event_id=f"broken-{counts['rejected']}")
            sent.append(_broken(other, timestamp, counts["rejected"], partitions))
            counts["rejected"] += 1
    return sent, counts


async def produce(
    settings: Settings, records: Sequence[Sent], partitions: int, rate: float | None = None
) -> None:
    """Send records to the source topic, with their timestamps, ``rate`` a second if given."""
    topic = settings.topic("events")
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.brokers, acks="all", linger_ms=5, max_batch_size=1 << 18
    )
    await producer.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    chunk = 2_000 if rate is None else max(int(rate / 20), 1)
    try:
        for first in range(0, len(records), chunk):
            futures = []
            for record in records[first : first + chunk]:
                where = record.partition
                if where is None:
                    where = partition_for(record.key or b"", partitions)
                futures.append(
                    await producer.send(
                        topic,
                        record.value,
                        key=record.key,
                        partition=where,
                        timestamp_ms=record.timestamp,
                    )
                )
            await asyncio.gather(*futures)
            if rate is not None:
                await asyncio.sleep(max(began + (first + chunk) / rate - loop.time(), 0))
    finally:
        await producer.stop()


async def read_log(
    brokers: str, topic: str, partitions: int, isolation: str = "read_committed"
) -> dict[int, list[Log]]:
    """Return all records of a topic, by partition, up to its end as of now."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=brokers,
        isolation_level=isolation,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    logs: dict[int, list[Log]] = {}
    try:
        for partition in range(partitions):
            where = TopicPartition(topic, partition)
            consumer.assign([where])
            await consumer.seek_to_beginning(where)
            log = logs[partition] = []
            while (end := consumer.highwater(where)) is None or await consumer.position(
                where
            ) < end:
                fetched = await consumer.getmany(where, timeout_ms=200, max_records=10_000)
                log += [
                    Log(r.offset, r.timestamp, r.key, r.value, r.headers)
                    for r in fetched.get(where, ())
                ]
    finally:
        await consumer.stop()
    return logs


def committed(settings: Settings) -> int:
    """Return how many offsets of the source the group has committed; 0 while nobody can say."""
    try:
        with KafkaAdminClient(bootstrap_servers=settings.brokers) as admin:
            offsets = admin.list_group_offsets([settings.app])
    except KafkaError:  # the group is not there yet, or its coordinator is busy
        return 0
    return sum(max(entry.offset, 0) for entry in offsets.get(settings.app, {}).values())


class Expected(msgspec.Struct):
    """What one pass over the logs gives: outputs by id, state digests, accounting."""

    outputs: dict[str, OutputRecord]
    states: dict[int, PartitionState]

    @property
    def counts(self) -> Counter[str]:
        """What became of the records, over all partitions."""
        total: Counter[str] = Counter()
        for state in self.states.values():
            ledger = state.ledger
            for name in ("consumed", "processed", "rejected", "duplicate"):
                total[name] += getattr(ledger, name)
        return total


def output_id(record: OutputRecord | Log) -> str:
    """Return the ``ce_id`` of an output."""
    return dict(record.headers)["ce_id"].decode()


def oracle(settings: Settings, logs: dict[int, list[Log]], topic_id: str) -> Expected:
    """Run each partition's log through the stages, record by record."""
    topic = settings.topic("events")
    expected = Expected({}, {})
    context = Context(settings.stages_in_effect, len(logs))
    for partition, log in logs.items():
        state = PartitionState()
        state.begin(0, len(logs), topic_id)
        place = 0
        while place < len(log):
            batch = next_batch(state, topic, partition, log[place : place + 1], 1)
            for record in process(state, batch, context).records:
                expected.outputs[output_id(record)] = record
            state.changes()
            place += len(batch.records)
        expected.states[partition] = state
    return expected


class Verdict(msgspec.Struct):
    """What is wrong with the workers' results, beside the oracle's."""

    outputs: int
    lost: int
    repeated: int
    unexpected: int
    different: int
    state_wrong: int


async def judge(settings: Settings, expected: Expected, partitions: int) -> Verdict:
    """Compare what a ``read_committed`` reader sees with what the oracle expects."""
    seen: dict[str, list[tuple[Any, ...]]] = {}
    for logical in ("recommendations", "predictions", "churn_alerts", "dead_letter"):
        logs = await read_log(settings.brokers, settings.topic(logical), partitions)
        for log in logs.values():
            for record in log:
                headers = tuple((name, value) for name, value in record.headers)
                seen.setdefault(output_id(record), []).append((record.key, record.value, headers))
    wanted = {
        name: (record.key, record.value, tuple(record.headers))
        for name, record in expected.outputs.items()
    }
    wrong = 0
    reader = KafkaReader(settings.brokers)
    for partition, state in expected.states.items():
        found = await restore(reader, settings.state_topic, partition, 1_000)
        rows, right = found.rows(), state.rows()
        wrong += sum(rows.get(key) != right.get(key) for key in rows.keys() | right.keys())
    return Verdict(
        outputs=sum(map(len, seen.values())),
        lost=len(wanted.keys() - seen.keys()),
        repeated=sum(len(copies) - 1 for copies in seen.values()),
        unexpected=len(seen.keys() - wanted.keys()),
        different=sum(
            any(copy != wanted[name] for copy in copies)
            for name, copies in seen.items()
            if name in wanted
        ),
        state_wrong=wrong,
    )


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """The id."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class WorkerProcess:
    """A worker in a process of its own, which can be killed, stopped and woken up.

    Parameters
    ----------
    environment
        Settings as environment variables.
    log
        File that its output is appended to.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = {**os.environ, "STREAM_APP_METRICS_PORT": "0", **environment}
        self._log = log
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the process runs, or is stopped but not dead."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None, "the worker was not started"
        return self._process.pid

    def start(self) -> None:
        """Start the process."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream_app", "worker"],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, name: signal.Signals) -> None:
        """Send a signal, if there is somebody to receive it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(name)

    def wait(self, timeout: float) -> int:
        """Wait for the process to end by itself; return the exit code.

        Raises
        ------
        subprocess.TimeoutExpired
            When it has not ended in time; it is killed then.
        """
        assert self._process is not None, "the worker was not started"
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def end(self, name: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self._process is None:
            return 0
        self.send(signal.SIGCONT)
        self.send(name)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
