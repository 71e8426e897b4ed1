"""``produce`` and ``mapping check`` of other shops' rows: a bar, exact counts, what did not fit."""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.sources import Record
from stream_app.sources.mapping import Mapping, load_mapping
from stream_app.sources.mapping_records import (
    MappedRecords,
    NamedMisfit,
    Tally,
    first_time_ms,
    items_of,
    misfits_said,
)
from stream_app.sources.mapping_values import Misfit
from stream_app.sources.produce import Produced, ProduceSettings, produce
from stream_app.sources.rows import NumberedRow, RowFile, RowSource, read_rows
from stream_app.sources.topic_rows import TopicRows

# How often the bar moves, in rows.
_SHOW_ROWS = 1_000
_SHARE = 100.0


class MappedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to read, through which mapping.

    Parameters
    ----------
    mapping
        The name of a ready one, or a path.
    source, file
        A file's format, by default as its name says; no file is standard input.
    topic, follow, group
        A topic to read instead, whether to go on at its end, and whose positions to keep; by
        default those of a group named after app, mapping and topic.
    strict
        Stop at the first row that does not fit.
    """

    mapping: str
    source: RowSource | None = None
    file: Path | None = None
    topic: str | None = None
    follow: bool = False
    group: str | None = None
    strict: bool = False


class MappedResult(msgspec.Struct, frozen=True):
    """What became of rows, as ``--json`` prints it; see :class:`Tally`."""

    mapping: str
    rows: int
    rows_skipped: int
    events: int
    misfits: int
    out_of_order: int
    acknowledged: int
    seconds: float
    skipped: dict[str, int]
    faults: dict[str, int]
    named: list[NamedMisfit]

    @classmethod
    def of(cls, mapping: Mapping, tally: Tally, produced: Produced) -> "MappedResult":
        """Return the result of a run."""
        return cls(
            mapping.name,
            tally.rows,
            tally.rows_skipped,
            tally.events,
            tally.misfits,
            tally.out_of_order,
            produced.acknowledged,
            round(produced.seconds, 3),
            dict(tally.skipped.most_common()),
            dict(tally.faults.most_common()),
            tally.named,
        )


def run_mapped(
    settings: Settings,
    order: MappedOrder,
    target: ProduceSettings,
    dated: Callable[[Iterator[Record | None]], Iterable[Record | None]],
) -> MappedResult:
    """Produce events of another shop's rows, with a bar on standard error if that is a terminal.

    Parameters
    ----------
    settings
        Of the program.
    order
        What to read.
    target
        Where to, and how fast.
    dated
        Gives the records other times, or leaves them.

    Raises
    ------
    ConfigError
        When the mapping or the file cannot be read.
    StrictError
        When strict and a row does not fit.
    TopicSourceError, ProduceError
        When a broker or a topic is not there.
    """
    mapping = load_mapping(order.mapping)
    if not mapping.has_events:
        raise ConfigError(f"{mapping.place}: it has no [event], so it gives no events")
    if order.topic is not None:
        return _from_topic(settings, order, target, mapping, dated)
    rows = RowFile(order.file, order.source or (mapping.spec.source if not order.file else None))
    first_ms = None
    if order.file is not None:
        first_ms = first_time_ms(read_rows(order.file, rows.source), mapping)
    records = MappedRecords(mapping, strict=order.strict, first_ms=first_ms)
    with file_bar(f"{rows.name} by {mapping.name}", rows) as show:
        produced = produce(dated(records.of(rows)), target, show)
    return MappedResult.of(mapping, records.tally, produced)


def _from_topic(
    settings: Settings,
    order: MappedOrder,
    target: ProduceSettings,
    mapping: Mapping,
    dated: Callable[[Iterator[Record | None]], Iterable[Record | None]],
) -> MappedResult:
    """Produce events of another topic's records; Ctrl-C or a polite kill ends it in order."""
    assert order.topic is not None, "it was asked for"
    if order.topic == target.topic:
        raise ConfigError(f"{order.topic} is the topic of our own events: read another one")
    group = order.group or f"{settings.app}-mapping-{mapping.name}-{order.topic}"
    rows = TopicRows(settings.brokers, order.topic, group, follow=order.follow)
    finished = False
    with ExitStack() as stack:
        stack.callback(lambda: rows.close(finished=finished))
        stack.enter_context(_stopped_by_signals(rows))
        records = MappedRecords(mapping, strict=order.strict, done=rows.done)
        bar = stack.enter_context(_bar())
        task = bar.add_task(f"{order.topic} by {mapping.name}", total=rows.total or None, count=0)

        def progress(acknowledged: int) -> None:
            rows.acknowledged(acknowledged)
            bar.update(task, completed=min(rows.position, rows.total), count=acknowledged)

        produced = produce(dated(records.of(rows)), target, progress)
        finished = True
    return MappedResult.of(mapping, records.tally, produced)


@contextmanager
def _stopped_by_signals(rows: TopicRows) -> Iterator[None]:
    """End the rows on Ctrl-C or a polite kill: what was sent is waited for and committed."""

    def stop(*_: object) -> None:
        rows.stopping.set()

    names = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(name, stop) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def check(file: Path, name: str, source: RowSource | None = None) -> tuple[Mapping, Tally]:
    """Return what a mapping makes of a file's rows, with a bar; nothing is sent.

    Raises
    ------
    ConfigError
        When the mapping or the file cannot be read.
    """
    mapping = load_mapping(name)
    rows = RowFile(file, source)
    with file_bar(f"{rows.name} by {mapping.name}", rows) as show:
        return mapping, tally_of(rows, mapping, show)


def tally_of(
    rows: Iterable[NumberedRow], mapping: Mapping, show: Callable[[int], object] = int
) -> Tally:
    """Return what a mapping makes of rows: of their events, or items where it has no events."""
    records = MappedRecords(mapping)
    for numbered in rows:
        if mapping.has_events:
            deque(records.of([numbered]), maxlen=0)
        else:
            _check_item(mapping, numbered, records.tally)
        if records.tally.rows % _SHOW_ROWS == 0:
            show(records.tally.rows)
    show(records.tally.rows)
    return records.tally


def _check_item(mapping: Mapping, numbered: NumberedRow, tally: Tally) -> None:
    tally.rows += 1
    try:
        tally.rows_skipped += not items_of(mapping, numbered[1], numbered[2])
    except Misfit as misfit:
        tally.misfit(numbered[0], misfit)


@contextmanager
def file_bar(words: str, rows: RowFile) -> Iterator[Callable[[int], None]]:
    """Show how much of a file was read, beside a count that is told."""
    with _bar() as bar:
        task = bar.add_task(words, total=None, count=0)

        def show(count: int) -> None:
            bar.update(task, total=rows.size, completed=rows.position, count=count)

        yield show


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]:,}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def say(result: MappedResult | Tally) -> list[str]:
    """Return what people should know of rows that were not simply sent, a sentence each."""
    sentences = []
    if result.rows_skipped:
        names = ", ".join(f"{name} ({count:,})" for name, count in _most(result.skipped))
        were = "1 row was" if result.rows_skipped == 1 else f"{result.rows_skipped:,} rows were"
        sentences.append(f"{were} skipped by their type: {names}")
    if result.out_of_order:
        sentences.append(
            f"{result.out_of_order:,} events are older than one before them: those that are late "
            "by more than stages.lateness_ms_max are learned from, but not answered"
        )
    if result.misfits:
        faults = "; ".join(f"{fault} ({count:,})" for fault, count in _most(result.faults))
        sentences.append(f"{misfits_said(result.misfits)}: {faults}")
        sentences += [f"  {named}" for named in result.named]
    return sentences


def _most(counts: Any, number: int = 6) -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ordered[:number]
