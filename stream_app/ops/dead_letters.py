"""Dead letters as they stand on Kafka: read, chosen among, and which of them were replayed.

A dead letter that is put back is noted in its own topic and partition: a record with the headers of
a `dead-letter-replayed`, behind the dead letter, so that retention never takes the note first. A
dead letter is known by its `ce_id` and the time of the rejected record: if topics are made anew the
ids begin anew, and the times do not.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Struct

from stream_app.config import Settings
from stream_app.errors import ConfigError, StreamAppError
from stream_app.event import REJECT_REASONS, to_ms
from stream_app.runtime.topics import topology

NOTE_TYPE = b"stream_app.dead-letter-replayed.v1"
# Headers of a record that was put back: the id of its dead letter, and how often it was put back.
REPLAYED_FROM, REPLAY_COUNT = "replayed_from", "replay_count"
_HEADER = "source_header."
_POLL_MS = 200
# A transaction that somebody left open ends after 60 s; what stands behind it is seen only then.
_SILENCE_SECONDS_MAX = 90.0

Identity = tuple[str, int]
Status = Literal["open", "replayed"]


class DeadLetterError(StreamAppError):
    """Dead letters cannot be read or put back; the message says who must do what."""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A rejected record: why, where it came from, and what it was.

    ``partition`` and ``offset`` say where the dead letter stands, ``time_ms`` is the rejected
    record's own time, ``headers`` are those that it had. ``replayed_ms`` is when it was put back,
    0 for never. The ``value`` may be left out; ``size`` is its length all the same.
    """

    id: str
    partition: int
    offset: int
    time_ms: int
    reason: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    key: bytes | None
    value: bytes | None
    size: int
    headers: tuple[tuple[str, bytes], ...] = ()
    replayed_ms: int = 0

    @property
    def identity(self) -> Identity:
        """What a note names: the id, and the time of the rejected record."""
        return self.id, self.time_ms

    @property
    def status(self) -> Status:
        """Whether it was put back."""
        return "replayed" if self.replayed_ms else "open"

    @property
    def parent(self) -> str | None:
        """The id of the dead letter that was put back and became this one."""
        text = dict(self.headers).get(REPLAYED_FROM)
        return text.decode(errors="replace") if text is not None else None

    @property
    def replay_count(self) -> int:
        """How often the record had been put back before it was rejected."""
        text = dict(self.headers).get(REPLAY_COUNT, b"")
        return int(text) if text.isdigit() else int(self.parent is not None)


Filter = Callable[[DeadLetter], bool]


class Where(Struct, frozen=True):
    """Which dead letters are meant: those that pass all tests and have the status, if one is given.

    Whether a dead letter was replayed is known last, once all notes have been read.
    """

    tests: tuple[Filter, ...] = ()
    status: str | None = None

    def fits(self, letter: DeadLetter) -> bool:
        """Whether a dead letter passes all tests, whatever its status."""
        return all(test(letter) for test in self.tests)


def parse_where(conditions: Sequence[str], status: Status | None = None) -> Where:
    """Return what the conditions mean together, each `name=value`.

    `reason` and `partition` (of the source) take several values with commas between, one of which
    must fit; `id` is the dead letter's; `user` fits the key or the value's `user_id`; `since` and
    `until` bound the rejected record's time; `status` is open or replayed.

    Raises
    ------
    ConfigError
        When a condition cannot be read; it says what can be.

    Examples
    --------
    >>> parse_where(["status=open"]).status
    'open'
    """
    tests = []
    for text in conditions:
        name, equals, value = (part.strip() for part in text.partition("="))
        if name == "status" and value in get_args(Status):
            status = value  # type: ignore[assignment]
        elif name in _CONDITIONS and equals:
            tests.append(_condition(text, name, value))
        else:
            raise ConfigError(
                f"--where {text}: give name=value, of {', '.join(sorted(_CONDITIONS))}, or "
                "status=open or status=replayed"
            )
    return Where(tuple(tests), status)


def _condition(text: str, name: str, value: str) -> Filter:
    try:
        return _CONDITIONS[name](value)
    except ValueError as error:
        raise ConfigError(f"--where {text}: {error}") from None


def _reasons(value: str) -> Filter:
    wanted = value.split(",")
    unknown = [each for each in wanted if each not in REJECT_REASONS]
    if unknown:
        raise ValueError(f"no reason {unknown[0]!r}; there are: {', '.join(REJECT_REASONS)}")
    return lambda letter: letter.reason in wanted


def _partitions(value: str) -> Filter:
    try:
        wanted = {int(each) for each in value.split(",")}
    except ValueError:
        raise ValueError("give numbers with commas between, such as 0,3") from None
    return lambda letter: letter.source_partition in wanted


def _moment(value: str) -> int:
    """Return a date or time in ms since the epoch; UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("give a date such as 2026-01-31, or 2026-01-31T12:00+01:00") from None
    return to_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _since(value: str) -> Filter:
    bound_ms = _moment(value)
    return lambda letter: letter.time_ms >= bound_ms


def _until(value: str) -> Filter:
    bound_ms = _moment(value)
    return lambda letter: letter.time_ms < bound_ms


class _User(Struct):
    user_id: str


_USER = msgspec.json.Decoder(_User)


def user_of(letter: DeadLetter) -> str | None:
    """Return the `user_id` in the value, if it is JSON that has one."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _USER.decode(letter.value or b"").user_id
    return None


_CONDITIONS: dict[str, Callable[[str], Filter]] = {
    "id": lambda value: lambda letter: letter.id == value,
    "partition": _partitions,
    "reason": _reasons,
    "since": _since,
    "until": _until,
    "user": lambda value: lambda letter: letter.key == value.encode() or user_of(letter) == value,
}


_ALL = Where()


async def read(settings: Settings, where: Where = _ALL, *, values: bool = True) -> list[DeadLetter]:
    """Return the dead letters that fit, each once, in the order of their source.

    Reads ``read_committed`` up to the end as of now, and waits where an open transaction hides part
    of it, since a note may stand behind. ``values=False`` leaves the values out, to save memory.

    Raises
    ------
    TopicError
        When the topics are not there.
    DeadLetterError
        When the broker does not answer.
    """
    count = (await asyncio.to_thread(topology, settings)).partitions[settings.topic("dead_letter")]
    letters: dict[Identity, DeadLetter] = {}
    notes: dict[Identity, int] = {}
    async for record in _records(settings, count):
        headers = {name: value or b"" for name, value in record.headers}
        if headers.get("ce_type") == NOTE_TYPE:
            identity = headers["ce_subject"].decode(), int(headers["source_timestamp"])
            notes.setdefault(identity, record.timestamp)
            continue
        letter = _letter(record, headers)
        if letter is not None and where.fits(letter):
            kept = letter if values else msgspec.structs.replace(letter, value=None)
            letters.setdefault(letter.identity, kept)
    found = [
        msgspec.structs.replace(letter, replayed_ms=notes.get(identity, 0))
        for identity, letter in letters.items()
    ]
    chosen = [each for each in found if where.status in {None, each.status}]
    return sorted(chosen, key=lambda each: (each.source_partition, each.source_offset))


def _letter(record: Any, headers: dict[str, bytes]) -> DeadLetter | None:
    """Return the dead letter that a record is; None for a record that somebody else has put in."""
    try:
        return DeadLetter(
            id=headers["ce_id"].decode(),
            partition=record.partition,
            offset=record.offset,
            time_ms=int(headers["source_timestamp"]),
            reason=headers["reject_reason"].decode(),
            detail=headers["reject_detail"].decode(),
            source_topic=headers["source_topic"].decode(),
            source_partition=int(headers["source_partition"]),
            source_offset=int(headers["source_offset"]),
            key=record.key,
            value=record.value,
            size=len(record.value or b""),
            headers=tuple(
                (name.removeprefix(_HEADER), value or b"")
                for name, value in record.headers
                if name.startswith(_HEADER)
            ),
        )
    except (KeyError, ValueError):
        return None


async def _records(settings: Settings, count: int) -> AsyncIterator[Any]:
    """Yield the committed records of partitions up to where each ended at the first fetch."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 1024 * 1024,
    )
    topic, clock = settings.topic("dead_letter"), asyncio.get_running_loop().time
    where = [TopicPartition(topic, partition) for partition in range(count)]
    try:
        await consumer.start()
        consumer.assign(where)
        await consumer.seek_to_beginning(*where)
        ends: dict[TopicPartition, int] = {}
        left, heard = set(where), clock()
        while left:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=5_000)
            for records in fetched.values():
                heard = clock()
                for record in records:
                    yield record
            for place in list(left):
                end = consumer.highwater(place)
                if end is not None and await consumer.position(place) >= ends.setdefault(
                    place, end
                ):
                    left.remove(place)
                    consumer.pause(place)
            if clock() - heard > _SILENCE_SECONDS_MAX:
                raise DeadLetterError(
                    f"{topic}: nothing came for {_SILENCE_SECONDS_MAX:.0f} s: look at the "
                    "broker, and for a transaction that somebody keeps open"
                )
    except KafkaError as error:
        raise DeadLetterError(f"cannot read {topic}: {error!r}") from error
    finally:
        await consumer.stop()
