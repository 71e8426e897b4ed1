"""Training data from any source, as the stream would see it: decoded, admitted, counted.

A source is ``completejourney``, ``synthetic``, ``kafka://host:port/topic``, or a file of JSON
lines, CSV or parquet: in our own schema, or another shop's rows through a mapping of
``stream-app mapping``. Every record passes stages 1 and 2 of the stream itself, so what is rejected
there, repeated, without consent or erased is not trained on either.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaConnectionError, KafkaError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from models.replay import LogRecord
from stream_app.config import StageSettings, load
from stream_app.errors import ConfigError, StreamAppError, UnreachableError
from stream_app.event import EVENT_TYPES, Event, Instant, to_ms
from stream_app.sources import Record
from stream_app.sources.completejourney import CompleteJourney
from stream_app.sources.mapping import Mapping, MappingSpec, load_mapping
from stream_app.sources.mapping_records import MappedRecords, Tally, first_time_ms
from stream_app.sources.rows import RowFile, read_rows, row_of, source_of
from stream_app.sources.synthetic import SyntheticShop
from stream_app.stages.admit import admit
from stream_app.stages.decode import decode
from stream_app.state import PartitionState
from stream_app.steps import Admitted, Duplicate, Reject

SHOPS = ("completejourney", "synthetic")
TOPIC = "kafka://"
CHUNK = 4_096  # records that pass the stages at a time
POLL_MS = 500
POLLS_MAX = 60  # polls without a record before a topic's end: then the broker is given up


class SourceError(StreamAppError):
    """The data cannot be read, or holds nothing to learn from; whoever trains names another."""


class Counts(msgspec.Struct):
    """What became of the records of a source, counted while they were read.

    ``duplicates`` are repeats that the worker drops too, ``repeated`` further ones, which it has
    forgotten about. ``withheld`` events were of users without consent, or of whom it was withdrawn
    later; ``erased`` were before their user's erasure. ``faults`` says what mapped rows lacked.
    """

    records: int = 0
    rejects: Counter[str] = msgspec.field(default_factory=Counter)
    duplicates: int = 0
    repeated: int = 0
    withheld: int = 0
    erased: int = 0
    types: Counter[str] = msgspec.field(default_factory=Counter)
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: Counter[str] = msgspec.field(default_factory=Counter)


class Log(msgspec.Struct, frozen=True):
    """Admitted events about items, in the order of their times, then as they came; (n,) each.

    ``user`` and ``item`` are places in ``users`` and ``items``, ``kind`` in
    :data:`stream_app.event.EVENT_TYPES`; ``time_ms`` is event time.
    """

    users: list[str]
    items: list[str]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int8]
    time_ms: npt.NDArray[np.int64]
    counts: Counts

    def __len__(self) -> int:
        return len(self.time_ms)


class Part(NamedTuple):
    """The records of one partition, and of how many it is one; a file has one only."""

    number: int
    partitions: int
    records: Iterable[Record]


class Source:
    """Where records come from; they are read anew, and are the same, each time.

    Parameters
    ----------
    data
        As the module says.
    mapping
        The name of a ready one, or a path; for another shop's rows.

    Raises
    ------
    ConfigError
        When the mapping is none or gives no events.
    SourceError
        When the data is a shop, and yet a mapping is given; or there is no such file.
    """

    def __init__(self, data: str, mapping: str | None = None) -> None:
        self.data = data
        self.mapping = None if mapping is None else load_mapping(mapping)
        self.tally = Tally()
        if data in SHOPS:
            if mapping is not None:
                raise SourceError(f"{data} has our own schema: leave --mapping out")
        elif not data.startswith(TOPIC) and not Path(data).is_file():
            raise SourceError(
                f"there is no file {data}: name one, {' or '.join(SHOPS)}, or a topic as "
                f"{TOPIC}host:port/topic"
            )
        if self.mapping is not None and not self.mapping.has_events:
            raise ConfigError(f"{self.mapping.place}: it has no [event], so it gives no events")

    def parts(self) -> Iterator[Part]:
        """Yield the partitions, each to be read to its end before the next."""
        if self.data == "completejourney":
            yield Part(0, 1, CompleteJourney().records())
        elif self.data == "synthetic":
            yield Part(0, 1, SyntheticShop().records())
        elif self.data.startswith(TOPIC):
            yield from self._topic()
        else:
            yield Part(0, 1, self._file(Path(self.data)))

    def _file(self, path: Path) -> Iterator[Record]:
        mapping, kind = self.mapping, source_of(path)
        if mapping is None and kind == "jsonl":
            return (_own(row, fault) for _, row, fault in RowFile(path, kind))
        mapping = mapping or own_mapping()
        first_ms = first_time_ms(read_rows(path, kind), mapping)
        return self._mapped(mapping, read_rows(path, kind), first_ms)

    def _mapped(
        self, mapping: Mapping, rows: Iterable[Any], first_ms: int | None
    ) -> Iterator[Record]:
        records = MappedRecords(mapping, first_ms=first_ms)
        self.tally = records.tally
        return (record for record in records.of(rows) if record is not None)

    def _topic(self) -> Iterator[Part]:
        brokers, _, topic = self.data.removeprefix(TOPIC).partition("/")
        if not brokers or not topic:
            raise SourceError(f"{self.data} names no topic: write {TOPIC}host:port/topic")
        with _consumer(brokers) as consumer:
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            if not numbers:
                raise SourceError(f"{brokers} has no topic {topic}: name one that exists")
            where = [TopicPartition(topic, number) for number in numbers]
            if self.mapping is not None:
                rows = (
                    (f"{r.partition}:{r.offset}", *row_of(r.value))
                    for each in where
                    for r in _read(consumer, each)
                )
                yield Part(0, 1, self._mapped(self.mapping, rows, None))
                return
            for each in where:
                records = ((r.key, r.value, r.timestamp) for r in _read(consumer, each))
                yield Part(each.partition, len(numbers), records)


def own_mapping() -> Mapping:
    """Return the mapping of rows whose columns are named as the fields of our events are."""
    names = [name for name in Event.__struct_fields__ if name != "context"]
    return Mapping("own", MappingSpec(event={name: name for name in names}), "our own schema")


class _Head(msgspec.Struct):
    """What a record needs of an event; stage 1 checks the rest."""

    user_id: str
    timestamp: Instant


def _own(row: dict[str, Any], fault: str | None) -> Record:
    """Return a line as the record that ``produce`` would send, were it not to stop at a bad one."""
    value = msgspec.json.encode(row) if fault is None else str(row.get("line")).encode()
    try:
        head = msgspec.json.decode(value, type=_Head)
    except msgspec.DecodeError:
        return b"", value, None
    return head.user_id.encode(), value, to_ms(head.timestamp)


@contextmanager
def _consumer(brokers: str) -> Iterator[Any]:
    """Yield a consumer outside any group: reading for training moves nobody's position."""
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=brokers.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
    except (KafkaConnectionError, KafkaError) as error:
        raise UnreachableError(brokers, error) from error
    try:
        yield consumer
    except KafkaError as error:
        raise SourceError(f"{brokers}: {error}: look at the broker, then try again") from error
    finally:
        consumer.close()


def _read(consumer: Any, where: TopicPartition) -> Iterator[Any]:
    """Yield the records of a partition up to what is its end now."""
    consumer.assign([where])
    end = consumer.end_offsets([where])[where]
    consumer.seek_to_beginning(where)
    idle = 0
    while consumer.position(where) < end:
        fetched = consumer.poll(timeout_ms=POLL_MS).get(where, [])
        idle = 0 if fetched else idle + 1
        if idle > POLLS_MAX:
            raise SourceError(f"{where.topic}: the broker gives no more records: look at it")
        yield from (record for record in fetched if record.offset < end)


# --- through the stages ---------------------------------------------------------------------------


def read_log(source: Source, settings: StageSettings | None = None) -> Log:
    """Return a source's events about items, cleaned as the stream would, in time order.

    Parameters
    ----------
    source
        Of the records.
    settings
        Of the stages; by default the operator's own.

    Raises
    ------
    SourceError
        When nothing is left, or a broker or topic is not there.
    """
    settings = load().stages if settings is None else settings
    kept = _Kept()
    for part in source.parts():
        for event, time_ms in admitted(part, settings, kept.counts, kept.forget):
            kept.add(event, time_ms)
    counts, tally = kept.counts, source.tally
    counts.faults, counts.skipped = tally.faults, tally.skipped
    log = kept.log()
    if not len(log):
        raise SourceError(
            f"{source.data} has no events about items among {counts.records:,} records "
            f"(rejected: {dict(counts.rejects) or 'none'}): name other data, or a --mapping"
        )
    return log


def admitted(
    part: Part,
    settings: StageSettings,
    counts: Counts,
    forget: Callable[[Event, int], object],
) -> Iterator[tuple[Event, int]]:
    """Yield the events of a partition that the stream would profile, with their times.

    Others are counted. ``forget`` is called with an event that takes a user's profile away, and
    its time: an erasure, or one without consent.
    """
    state, log_ms, offset, newest_ms = PartitionState(), 0, 0, 0
    with _progress() as show:
        records = iter(part.records)
        while chunk := list(islice(records, CHUNK)):
            batch: list[LogRecord] = []
            for key, value, time_ms in chunk:
                newest_ms = newest_ms if time_ms is None else max(time_ms, 0)
                batch.append(LogRecord(offset, newest_ms, key, value))
                offset += 1
            decoded = decode(batch, log_ms, part.number, part.partitions, settings)
            log_ms = decoded[-1].log_ms
            counts.records += len(batch)
            for step in admit(state.admissions, decoded, settings):
                if isinstance(step, Admitted):
                    event, time_ms = step.arrival.event, step.arrival.time_ms
                    counts.types[event.type] += 1
                    if step.profiled:
                        yield event, time_ms
                    elif step.untouchable:
                        counts.erased += 1
                    else:
                        counts.withheld += event.item_id is not None
                        forget(event, time_ms)
                elif isinstance(step, Duplicate):
                    counts.duplicates += 1
                elif isinstance(step, Reject):
                    counts.rejects[step.reason] += 1
            state.changes()  # encodes the rows, which are small then
            show(counts.records)


class _Kept:
    """The events about items so far, as columns; what a user takes back is taken out at the end."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._seen: set[int] = set()
        self._columns = array("q"), array("q"), array("q"), array("q")  # user, item, kind, time_ms
        self._ends: dict[int, list[tuple[int, bool]]] = {}  # user -> rows before it go; an erasure?

    def add(self, event: Event, time_ms: int) -> None:
        """Take in an event; none without an item, and none that was there already."""
        if event.item_id is None:
            return
        name = hash((event.user_id, event.event_id))
        if name in self._seen:
            self.counts.repeated += 1
            return
        self._seen.add(name)
        user = self._users.setdefault(event.user_id, len(self._users))
        item = self._items.setdefault(event.item_id, len(self._items))
        row = user, item, EVENT_TYPES.index(event.type), time_ms
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def forget(self, event: Event, _time_ms: int) -> None:
        """Take a user's events so far away."""
        user = self._users.get(event.user_id)
        if user is not None:
            end = len(self._columns[0]), event.type == "erase"
            self._ends.setdefault(user, []).append(end)

    def log(self) -> Log:
        """Return what is left."""
        rows = np.array(self._columns, np.int64).T  # (n, 4)
        kept, by_user = np.ones(len(rows), np.bool_), np.argsort(rows[:, 0], kind="stable")
        starts = np.searchsorted(rows[by_user, 0], np.arange(len(self._users) + 1))
        for user, ends in self._ends.items():
            own, begin = by_user[starts[user] : starts[user + 1]], 0
            for end, erasure in ends:
                taken = own[(own >= begin) & (own < end)]
                kept[taken] = False
                self.counts.erased += len(taken) * erasure
                self.counts.withheld += len(taken) * (not erasure)
                begin = end
        rows = rows[kept]
        rows = rows[np.argsort(rows[:, 3], kind="stable")]
        user_names, users = _renamed(list(self._users), rows[:, 0])
        item_names, items = _renamed(list(self._items), rows[:, 1])
        kind = rows[:, 2].astype(np.int8)
        return Log(user_names, item_names, users, items, kind, rows[:, 3], self.counts)


def _renamed(
    names: Sequence[str], places: npt.NDArray[np.int64]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Return the names that are used, in the order of their first use, and the new places."""
    used, first, own = np.unique(places, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return [names[place] for place in used[order].tolist()], rank[own.reshape(-1)]


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed:,} records"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda count: bar.update(task, completed=count)
