"""Where a batch goes: outputs, state and position, together or not at all.

Commit is a numbered recipe. ``exactly_once``, one Kafka transaction:

1. begin the transaction
2. send the outputs
3. send the changelog rows, the partition's own row (with the position) among them
4. send the source offset, for whoever watches the group's lag
5. commit the transaction; a ``read_committed`` reader now sees all of it

``at_least_once``, for brokers without transactions and one worker process:

1. send the outputs and wait until they are stored
2. send the changelog rows as one record batch, which is appended whole or not at all

A crash between the two repeats the outputs, with the same ids. Nothing is ever aborted by hand:
after any outcome but success the memory is dropped, and fencing anew aborts what is open.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from stream_app.errors import CommitError, FencedError
from stream_app.hashing import partition_for
from stream_app.steps import OutputRecord

Headers = list[tuple[str, bytes]]  # a list, or aiokafka refuses it
Produced = tuple[bytes | None, bytes | None, Headers]  # key, value, headers

BATCH_BYTES_MAX = 8 * 1024 * 1024
OUTPUT_BYTES_MAX = 512 * 1024  # in one record batch of outputs; topics take 1 MiB by default
TRANSACTION_TIMEOUT_MS = 60_000
_STOP_TIMEOUT_SECONDS = 3.0


class Commit(msgspec.Struct, frozen=True):
    """What one batch leaves behind; ``position`` is the next source offset, if it moved."""

    outputs: Sequence[OutputRecord]
    changes: Sequence[tuple[bytes, bytes | None]]
    position: int | None


class Target(msgspec.Struct, frozen=True):
    """Names and partition counts of what a sink writes to."""

    source: str
    partition: int
    group: str
    state_topic: str
    topics: dict[str, str]  # logical name -> real name
    partitions: dict[str, int]  # real name -> partitions


class Producer(Protocol):
    """What a sink needs of a Kafka producer; the simulator has one too."""

    async def start(self) -> tuple[int, int]:
        """Fence every earlier owner and abort what it left open; return producer id and epoch."""
        ...

    async def begin(self) -> None:
        """Begin a transaction."""
        ...

    async def send(self, topic: str, partition: int, records: Sequence[Produced]) -> None:
        """Send records to one partition; return when they are stored."""
        ...

    async def send_position(self, topic: str, partition: int, position: int, group: str) -> None:
        """Send the next source offset as part of the transaction."""
        ...

    async def commit(self) -> None:
        """Commit the transaction."""
        ...

    async def stop(self) -> None:
        """Give up the connection."""
        ...


class Sink(Protocol):
    """Where a partition's batches go."""

    async def fence(self) -> bool:
        """Become the only owner; tell whether nobody else was since the last commit."""
        ...

    async def commit(self, commit: Commit) -> None:
        """Store a batch. Raises CommitError for every outcome that is not a confirmed success."""
        ...

    async def close(self) -> None:
        """Give up the connection."""
        ...


class TransactionalSink:
    """``exactly_once``: a transaction for each batch, under an id for each source partition."""

    def __init__(self, producer: Producer, target: Target) -> None:
        self._producer = producer
        self._target = target
        self._identity: tuple[int, int] | None = None

    async def fence(self) -> bool:
        """Fence earlier owners; memory is still valid only if the epoch is exactly one higher."""
        before, self._identity = self._identity, None
        identity = await self._producer.start()
        self._identity = identity
        return before is not None and identity == (before[0], before[1] + 1)

    async def commit(self, commit: Commit) -> None:
        """Store a batch by the recipe at the head of this module.

        Raises
        ------
        FencedError
            When a newer owner has fenced this one.
        CommitError
            When the outcome is anything else but a confirmed commit.
        """
        target, producer = self._target, self._producer
        identity, self._identity = self._identity, None
        await producer.begin()  # 1
        await _send_outputs(producer, commit.outputs, target)  # 2
        if commit.changes:  # 3
            await producer.send(target.state_topic, target.partition, _rows(commit.changes))
        if commit.position is not None:  # 4
            await producer.send_position(
                target.source, target.partition, commit.position, target.group
            )
        await producer.commit()  # 5
        self._identity = identity

    async def close(self) -> None:
        """Give up the connection."""
        await self._producer.stop()


class BatchSink:
    """``at_least_once``: outputs first, then everything else as one record batch."""

    def __init__(self, producer: Producer, target: Target) -> None:
        self._producer = producer
        self._target = target

    async def fence(self) -> bool:
        """Connect; nobody can be fenced here, so memory is never reused."""
        await self._producer.start()
        return False

    async def commit(self, commit: Commit) -> None:
        """Store a batch by the recipe at the head of this module.

        Raises
        ------
        CommitError
            When storing is not confirmed.
        """
        target, producer = self._target, self._producer
        await _send_outputs(producer, commit.outputs, target)  # 1
        if commit.changes:  # 2
            await producer.send(target.state_topic, target.partition, _rows(commit.changes))

    async def close(self) -> None:
        """Give up the connection."""
        await self._producer.stop()


class KafkaProducer:
    """A producer on aiokafka; with a transactional id for ``exactly_once``, without one else.

    Parameters
    ----------
    brokers
        Bootstrap addresses, host:port with commas between.
    transactional_id
        Who is fenced by whom; None for a broker without transactions.
    """

    def __init__(self, brokers: str, transactional_id: str | None) -> None:
        self._brokers = brokers
        self._transactional_id = transactional_id
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> tuple[int, int]:
        """Connect anew; with a transactional id, fence every earlier owner."""
        await self.stop()
        settings = {"bootstrap_servers": self._brokers, "acks": "all"}
        if self._transactional_id is not None:
            settings["transactional_id"] = self._transactional_id
        producer = AIOKafkaProducer(
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=BATCH_BYTES_MAX + 65_536,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            **settings,
        )
        try:
            await producer.start()
        except KafkaError as error:
            with suppress(Exception):
                await producer.stop()
            raise CommitError(f"cannot take over the partition: {error!r}") from error
        self._producer = producer
        manager = producer._txn_manager
        return (manager.producer_id, manager.producer_epoch) if manager is not None else (-1, -1)

    async def begin(self) -> None:
        """Begin a transaction."""
        await self._call("begin_transaction")

    async def send(self, topic: str, partition: int, records: Sequence[Produced]) -> None:
        """Send records as few record batches as they fit in; return when they are stored."""
        assert self._producer is not None
        futures: list[Any] = []
        batch = self._producer.create_batch()
        for key, value, headers in records:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                futures.append(await self._call("send_batch", batch, topic, partition=partition))
                batch = self._producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    raise CommitError(f"a record for {topic} exceeds {BATCH_BYTES_MAX} bytes")
        futures.append(await self._call("send_batch", batch, topic, partition=partition))
        try:
            await asyncio.gather(*futures)
        except KafkaError as error:
            raise _commit_error(error) from error

    async def send_position(self, topic: str, partition: int, position: int, group: str) -> None:
        """Send the next source offset as part of the transaction."""
        offsets = {TopicPartition(topic, partition): position}
        await self._call("send_offsets_to_transaction", offsets, group)

    async def commit(self) -> None:
        """Commit the transaction."""
        await self._call("commit_transaction")

    async def stop(self) -> None:
        """Give up the connection; a producer that cannot end in time is left behind."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):
                await asyncio.wait_for(producer.stop(), _STOP_TIMEOUT_SECONDS)

    async def _call(self, method: str, *args: object, **kwargs: object) -> Any:
        """Call the client; every error of its own becomes a CommitError."""
        if self._producer is None:
            raise CommitError("the producer is not connected")
        try:
            return await getattr(self._producer, method)(*args, **kwargs)
        except (KafkaError, AssertionError) as error:
            raise _commit_error(error) from error


def _commit_error(error: Exception) -> CommitError:
    """Return what an error of the client means to the owner of a partition."""
    if isinstance(error, ProducerFenced | InvalidProducerEpoch):
        return FencedError("a newer owner has taken the partition over")
    return CommitError(f"not confirmed: {error!r}")


def _rows(changes: Sequence[tuple[bytes, bytes | None]]) -> list[Produced]:
    return [(key, value, []) for key, value in changes]


async def _send_outputs(
    producer: Producer, outputs: Sequence[OutputRecord], target: Target
) -> None:
    """Send outputs to their partitions at once, to each in order and in pieces that topics take."""

    async def send(where: tuple[str, int], records: list[Produced]) -> None:
        for chunk in _chunks(records):
            await producer.send(*where, chunk)

    await asyncio.gather(*(send(*routed) for routed in _route(outputs, target)))


def _chunks(records: list[Produced]) -> list[list[Produced]]:
    """Cut records into runs of at most 512 KiB; a larger one is a run of its own."""
    chunks: list[list[Produced]] = []
    size = OUTPUT_BYTES_MAX
    for record in records:
        key, value, headers = record
        length = len(key or b"") + len(value or b"") + 64
        length += sum(len(name) + len(text) + 8 for name, text in headers)
        if size + length > OUTPUT_BYTES_MAX:
            chunks.append([])
            size = 0
        chunks[-1].append(record)
        size += length
    return chunks


def _route(
    outputs: Sequence[OutputRecord], target: Target
) -> list[tuple[tuple[str, int], list[Produced]]]:
    """Return the outputs by real topic and partition, in order; no key goes by source partition."""
    routed: dict[tuple[str, int], list[Produced]] = {}
    for record in outputs:
        topic = target.topics[record.topic]
        count = target.partitions[topic]
        key = record.key
        partition = partition_for(key, count) if key is not None else target.partition % count
        routed.setdefault((topic, partition), []).append((key, record.value, list(record.headers)))
    return list(routed.items())
