"""Dead letters are put back into the events: repaired, tried out, and each exactly once.

With transactions (`exactly_once`) a replay is a numbered recipe:

1. fence every earlier replay: what it left open is aborted, what it committed is there to be read
2. read the dead letters and the notes of those that were replayed
3. repair each, and leave alone what the decoder would reject again
4. in one transaction: send the events, and a note for each dead letter that they came from

So whenever a replay is killed, the next one finds each dead letter either put back and noted, or
neither. Without transactions (`at_least_once`) notes are sent once the events are stored; a replay
that is killed between the two repeats at most a few events, under the same ids.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, Protocol

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced
from msgspec import Struct

from stream_app.clock import now_ms
from stream_app.config import Settings
from stream_app.event import Event, encode, rfc3339, to_ms
from stream_app.hashing import partition_for
from stream_app.ops.dead_letters import (
    NOTE_TYPE,
    REPLAY_COUNT,
    REPLAYED_FROM,
    DeadLetter,
    DeadLetterError,
    Where,
    read,
)
from stream_app.runtime.changelog import KafkaReader, restore
from stream_app.runtime.topics import topology
from stream_app.stages.admit import erased_key
from stream_app.stages.decode import decode
from stream_app.state import PartitionState
from stream_app.steps import Reject

# Dead letters in a transaction. Without transactions fewer than the event ids that are remembered
# of a user, so that what is repeated is dropped.
_TRANSACTION_LETTERS, _STEP_LETTERS = 100, 20
# Whoever sees the record rejected so often should look at it.
REPLAYS_MAX = 3
_BATCH_BYTES = 1 << 18

Headers = list[tuple[str, bytes]]


class Mapper(Protocol):
    """What turns a value of another shape into events."""

    def events(self, row: dict[str, object]) -> list[Event]:
        """Return the events that a row means; raises an error that says why it means none."""
        ...


class Put(Struct, frozen=True):
    """A record to put back: into which partition, what, and its time, None for that of sending."""

    partition: int
    key: bytes
    value: bytes
    headers: Headers
    time_ms: int | None


class Planned(Struct, frozen=True):
    """What is to become of a dead letter: the records to put back, or why it is left alone."""

    letter: DeadLetter
    puts: tuple[Put, ...] = ()
    left: str = ""


class Replayed(Struct):
    """What a replay did, or would do: dead letters put back, records sent, and what was left."""

    plan: list[Planned]
    letters: int = 0
    records: int = 0
    dry: bool = False

    @property
    def left(self) -> list[Planned]:
        """The dead letters that are left alone."""
        return [each for each in self.plan if each.left]


class _RawRecord(Struct, frozen=True):
    """A record as the decoder takes it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


async def replay(
    settings: Settings,
    where: Where,
    mapping: Mapper | None = None,
    limit: int | None = None,
    *,
    dry_run: bool = False,
) -> Replayed:
    """Put dead letters back into the events by the recipe at the head of this module.

    Parameters
    ----------
    settings
        Name the topics, the guarantee, and what the decoder takes.
    where
        Which dead letters; of those, the ones that were not replayed yet.
    mapping
        Turns values of another shape into events; without one only keys are repaired.
    limit
        At most so many dead letters.
    dry_run
        Say what would be done, and do nothing; nobody is fenced.

    Raises
    ------
    TopicError
        When the topics are not there.
    DeadLetterError
        When the broker does not take everything, or another replay has taken over.
    """
    where = msgspec.structs.replace(where, status="open")
    partitions = (await asyncio.to_thread(topology, settings)).partitions[settings.topic("events")]
    if dry_run:
        letters = (await read(settings, where))[:limit]
        return Replayed(await plan(settings, letters, partitions, mapping), dry=True)
    async with _producer(settings) as producer:  # 1
        letters = (await read(settings, where))[:limit]  # 2
        done = Replayed(await plan(settings, letters, partitions, mapping))  # 3
        await _send(producer, settings, done)  # 4
    return done


async def plan(
    settings: Settings, letters: Sequence[DeadLetter], partitions: int, mapping: Mapper | None
) -> list[Planned]:
    """Return what is to become of each dead letter, given the events' number of partitions."""
    planned = [_plan_one(settings, letter, partitions, mapping) for letter in letters]
    states: dict[int, PartitionState] = {}
    return [await _without_erased(settings, each, states) for each in planned]


def _plan_one(
    settings: Settings, letter: DeadLetter, partitions: int, mapping: Mapper | None
) -> Planned:
    if letter.source_topic != settings.topic("events"):
        return Planned(letter, left=f"it came from {letter.source_topic}, which is not the events")
    if letter.replay_count >= REPLAYS_MAX:
        return Planned(letter, left=f"it was put back {letter.replay_count} times and came again")
    pairs: list[tuple[bytes | None, bytes | None]]
    if mapping is None:
        pairs = [(_right_key(letter), letter.value)]
    else:
        try:
            row = msgspec.json.decode(letter.value or b"", type=dict[str, object])
            pairs = [(each.user_id.encode(), encode(each)) for each in mapping.events(row)]
        # Whatever a mapping finds wrong with a value is what there is to say of the dead letter.
        except Exception as error:  # noqa: BLE001
            return Planned(letter, left=f"the mapping does not fit: {error}")
        if not pairs:
            return Planned(letter, left="the mapping makes no event of it")
    time_ms = letter.time_ms if settings.replay else None
    headers: Headers = [
        header for header in letter.headers if header[0] not in {REPLAYED_FROM, REPLAY_COUNT}
    ]
    headers.append((REPLAYED_FROM, letter.id.encode()))
    headers.append((REPLAY_COUNT, b"%d" % (letter.replay_count + 1)))
    puts = []
    for key, value in pairs:
        partition = partition_for(key or b"", partitions)
        stamp = now_ms() if time_ms is None else time_ms
        raw = _RawRecord(letter.source_offset, stamp, key, value, headers)
        (decoded,) = decode([raw], 0, partition, partitions, settings.stages_in_effect)
        if isinstance(decoded, Reject):
            return Planned(letter, left=f"rejected again: {decoded.reason}: {decoded.detail}")
        assert key is not None
        assert value is not None
        puts.append(Put(partition, key, value, headers, time_ms))
    return Planned(letter, tuple(puts))


def _right_key(letter: DeadLetter) -> bytes | None:
    """Return the key that the value calls for, or the one there is where the value is no event."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(letter.value or b"", type=Event).user_id.encode()
    return letter.key


async def _without_erased(
    settings: Settings, planned: Planned, states: dict[int, PartitionState]
) -> Planned:
    """Return the plan, or that the dead letter is left alone as its user was erased since."""
    for put in planned.puts:
        event = msgspec.json.decode(put.value, type=Event)
        if put.partition not in states:
            reader = KafkaReader(settings.brokers)
            states[put.partition] = await restore(
                reader, settings.state_topic, put.partition, settings.live_rows_max
            )
        admission = states[put.partition].admissions.get(erased_key(event.user_id))
        if admission is not None and to_ms(event.timestamp) < admission.erased_ms:
            at = rfc3339(admission.erased_ms)
            return Planned(planned.letter, left=f"its user was erased at {at}")
    return planned


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer; with transactions, one that has fenced every earlier replay."""
    options: dict[str, Any] = {"bootstrap_servers": settings.brokers, "acks": "all"}
    if settings.guarantee == "exactly_once":
        options["transactional_id"] = f"{settings.app}-dead-letters"
    producer = AIOKafkaProducer(
        max_batch_size=_BATCH_BYTES,
        max_request_size=settings.stages.record_bytes_max + (1 << 20),
        **options,
    )
    try:
        await producer.start()
        yield producer
    except (ProducerFenced, InvalidProducerEpoch) as error:
        raise DeadLetterError(
            "another replay has taken over; what this one had sent and noted stays, and the rest "
            "is the other's"
        ) from error
    except KafkaError as error:
        raise DeadLetterError(
            f"the broker did not take everything: {error!r}; run the replay again, it goes on "
            "where this one ended"
        ) from error
    finally:
        with suppress(Exception):
            await producer.stop()


async def _send(producer: AIOKafkaProducer, settings: Settings, done: Replayed) -> None:
    """Send what is planned, a number of dead letters at a time, with their notes."""
    exact = settings.guarantee == "exactly_once"
    size = _TRANSACTION_LETTERS if exact else _STEP_LETTERS
    wanted = [each for each in done.plan if each.puts]
    for first in range(0, len(wanted), size):
        chunk = wanted[first : first + size]
        async with producer.transaction() if exact else nullcontext():
            sent = [await _put(producer, settings, put) for each in chunk for put in each.puts]
            await asyncio.gather(*sent)
            noted = [await _note(producer, settings, each.letter) for each in chunk]
            await asyncio.gather(*noted)
        done.letters += len(chunk)
        done.records += sum(len(each.puts) for each in chunk)


async def _put(producer: AIOKafkaProducer, settings: Settings, put: Put) -> Any:
    topic = settings.topic("events")
    return await producer.send(topic, put.value, put.key, put.partition, put.time_ms, put.headers)


async def _note(producer: AIOKafkaProducer, settings: Settings, letter: DeadLetter) -> Any:
    """Send the note that a dead letter was put back, behind it in its own partition."""
    source = f"/stream_app/{letter.source_topic}/{letter.source_partition}"
    headers: Headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", f"{letter.id}-replayed".encode()),
        ("ce_source", source.encode()),
        ("ce_type", NOTE_TYPE),
        ("ce_time", rfc3339(now_ms()).encode()),
        ("content-type", b"application/octet-stream"),
        ("ce_subject", letter.id.encode()),
        ("source_timestamp", b"%d" % letter.time_ms),
    ]
    topic = settings.topic("dead_letter")
    return await producer.send(topic, None, letter.id.encode(), letter.partition, headers=headers)
