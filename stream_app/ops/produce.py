"""``stream-app produce``: events of a shop or a file into Kafka, with a bar and an exact count."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, TypeVar, get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream_app.clock import now_ms
from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.event import encode
from stream_app.ops.mapping import MappedOrder, MappedResult, run_mapped
from stream_app.sources import Record
from stream_app.sources.jsonl import from_jsonl
from stream_app.sources.produce import Produced, ProduceSettings, produce
from stream_app.sources.rows import RowSource, source_of
from stream_app.sources.synthetic import SyntheticShop
from stream_app.sources.synthetic_shop import SHOPS

Source = Literal["completejourney", "csv", "jsonl", "parquet", "synthetic"]
ShopName = Literal["first", "second"]

# Options that only some sources have; those of files have a mapping, too.
_FILES: tuple[Source, ...] = ("jsonl", "csv", "parquet")
_OWNERS: dict[str, tuple[str, tuple[Source, ...]]] = {
    "file": ("a file is", _FILES),
    "mapping": ("a mapping is", _FILES),
    "households": ("households are", ("completejourney",)),
    "shop": ("a shop is", ("synthetic",)),
    "seed": ("a seed is", ("synthetic",)),
    "truth": ("a truth is", ("synthetic",)),
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to produce, and how fast.

    Parameters
    ----------
    source
        Where events come from; None for what the name of `file` says.
    file
        Of `jsonl`, `csv` and `parquet`; by default standard input.
    mapping
        Of the same, and needed for the last two: a ready one or a path. Without it `jsonl` is our
        own schema.
    from_topic, follow, group
        Another topic whose JSON values are mapped: see
        :class:`stream_app.sources.topic_rows.TopicRows`.
    strict
        Stop at the first row that the mapping does not fit.
    households
        Of `completejourney`: so many of them; by default all.
    shop, seed
        Of `synthetic`: which one, and what it is drawn from; by default the first, from 0.
    truth
        Of `synthetic`: the file that the probabilities of what comes next are written to, a line
        for each :class:`stream_app.sources.synthetic_truth.Case`, at its own time.
    limit, rate, speedup
        As in :class:`stream_app.sources.produce.ProduceSettings`.
    now
        Date the events anew, by when they are due: see :func:`dated_now`.
    """

    source: Source | None = None
    file: Path | None = None
    mapping: str | None = None
    from_topic: str | None = None
    follow: bool = False
    group: str | None = None
    strict: bool = False
    households: int | None = None
    shop: ShopName | None = None
    seed: int | None = None
    truth: Path | None = None
    limit: int | None = None
    rate: float | None = None
    speedup: float | None = None
    now: bool = False


def run(settings: Settings, order: Order) -> Produced | MappedResult:
    """Produce, with a bar on standard error if that is a terminal; return the exact counts.

    Raises
    ------
    ConfigError
        When options contradict each other, or the source cannot be read.
    ProduceError
        When the broker does not take every record.
    StrictError, TopicSourceError
        Of a mapping: see :func:`stream_app.ops.mapping.run_mapped`.
    """
    _check(order)
    target = ProduceSettings(
        brokers=settings.brokers,
        topic=settings.topic("events"),
        limit=order.limit,
        rate=order.rate,
        speedup=order.speedup,
        event_time=settings.replay and not order.now,
    )
    if order.mapping is not None:
        mapped = MappedOrder(
            mapping=order.mapping,
            source=_row_source(order.source),
            file=order.file,
            topic=order.from_topic,
            follow=order.follow,
            group=order.group,
            strict=order.strict,
        )
        return run_mapped(
            settings,
            mapped,
            target,
            lambda records: dated_now(records, order.speedup) if order.now else records,
        )
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with ExitStack() as stack:
        records, total = _records(order, stack)
        if order.now:
            records = dated_now(records, order.speedup)
        if total is not None and order.limit is not None:
            total = min(total, order.limit)
        progress = stack.enter_context(
            Progress(
                *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
            )
        )
        task = progress.add_task("acknowledged", total=total)
        return produce(records, target, lambda count: progress.update(task, completed=count))


def _check(order: Order) -> None:
    """Raise what the options contradict each other in.

    Raises
    ------
    ConfigError
        It names the options.
    """
    if order.strict and order.mapping is None:
        raise ConfigError("--strict is for a --mapping")
    if order.from_topic is None and (order.follow or order.group is not None):
        raise ConfigError("--follow and --group are for --from-topic")
    if order.from_topic is not None:
        if order.source is not None or order.file is not None:
            raise ConfigError("give either --from-topic or a source and a file")
        if order.mapping is None:
            raise ConfigError("--from-topic needs a --mapping: a ready one or a path")
    elif order.source is None:
        _check_unnamed(order)
    else:
        _check_source(order, order.source)


def _check_unnamed(order: Order) -> None:
    """Raise what is missing where no source is given: with a mapping, the file's name says it."""
    if order.mapping is not None:
        return
    if order.file is None:
        raise ConfigError(f"give a --source: {', '.join(get_args(Source))}")
    own = ", or --source jsonl if its lines are events of our own schema"
    raise ConfigError(
        f"{order.file} needs a --mapping: a ready one, or what `stream-app mapping guess "
        f"{order.file}` proposes{own if source_of(order.file) == 'jsonl' else ''}"
    )


def _check_source(order: Order, source: Source) -> None:
    for name, (words, owners) in _OWNERS.items():
        if getattr(order, name) is not None and source not in owners:
            raise ConfigError(f"{words} for {', '.join(owners)}; {source} has none")
    if source in {"csv", "parquet"} and order.mapping is None:
        raise ConfigError(
            f"{source} needs a --mapping: a ready one, or what `stream-app mapping guess` proposes"
        )


def _row_source(source: Source | None) -> RowSource | None:
    """Return the format of a file of rows."""
    return source if source in {"csv", "jsonl", "parquet"} else None


R = TypeVar("R", bound=Record | None)


def dated_now(records: Iterable[R], speedup: float | None) -> Iterator[R]:
    """Yield JSON records with the time at which each is due in place of its own.

    With a speedup the first is due now, and the others keep their distance from it, so many times
    shorter; without, each is due when it is read. A value that is no JSON object stays as it is,
    and so does the third part of a record, which sets the pace.
    """
    began_ms, first_ms = now_ms(), None
    for record in records:
        if record is None:
            yield record
            continue
        key, value, time_ms = record
        due_ms = now_ms()
        if speedup is not None and time_ms is not None:
            first_ms = time_ms if first_ms is None else first_ms
            due_ms = began_ms + int((time_ms - first_ms) / speedup)
        yield (key, _dated(value, due_ms), time_ms)  # type: ignore[misc]


def _dated(value: bytes, due_ms: int) -> bytes:
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value
    fields["timestamp"] = msgspec.Raw(b"%d" % due_ms)
    return msgspec.json.encode(fields)


def _records(order: Order, stack: ExitStack) -> tuple[Iterable[Record], int | None]:
    """Return the records of the source, and how many there are if that is known.

    What is open while they are read is closed with the stack.
    """
    if order.source == "jsonl":
        return from_jsonl(order.file), None
    if order.source == "synthetic":
        return _synthetic(order, stack), None
    from stream_app.sources.completejourney import CompleteJourney  # noqa: PLC0415 - needs pandas

    shop = CompleteJourney()
    chosen = None
    if order.households is not None:
        chosen = frozenset(sorted(shop.households())[: order.households])
    return shop.records(chosen), shop.count(chosen)


def _synthetic(order: Order, stack: ExitStack) -> Iterable[Record]:
    shop = SyntheticShop(SHOPS[order.shop or "first"], order.seed or 0)
    if order.truth is None:
        return shop.records()
    try:
        file = stack.enter_context(order.truth.open("wb"))
    except OSError as error:
        raise ConfigError(f"{order.truth}: {error.strerror}") from error
    return shop.records(truth=lambda case: file.write(encode(case) + b"\n"))
