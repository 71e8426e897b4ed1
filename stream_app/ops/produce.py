"""``stream-app produce``: events of a shop or a file into Kafka, with a bar and an exact count."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream_app.clock import now_ms
from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.sources import Record
from stream_app.sources.jsonl import from_jsonl
from stream_app.sources.produce import Produced, ProduceSettings, produce

Source = Literal["completejourney", "jsonl"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to produce, and how fast.

    Parameters
    ----------
    source
        Where events come from.
    file
        Of `jsonl`; by default standard input.
    households
        Of `completejourney`: so many of them; by default all.
    limit, rate, speedup
        As in :class:`stream_app.sources.produce.ProduceSettings`.
    now
        Date the events anew, by when they are due: see :func:`dated_now`.
    """

    source: Source
    file: Path | None = None
    households: int | None = None
    limit: int | None = None
    rate: float | None = None
    speedup: float | None = None
    now: bool = False


def run(settings: Settings, order: Order) -> Produced:
    """Produce, with a bar on standard error if that is a terminal; return the exact count.

    Raises
    ------
    ConfigError
        When options contradict each other, or the source cannot be read.
    ProduceError
        When the broker does not take every record.
    """
    records, total = _records(order)
    if order.now:
        records = dated_now(records, order.speedup)
    target = ProduceSettings(
        brokers=settings.brokers,
        topic=settings.topic("events"),
        limit=order.limit,
        rate=order.rate,
        speedup=order.speedup,
        event_time=settings.replay and not order.now,
    )
    if total is not None and order.limit is not None:
        total = min(total, order.limit)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("acknowledged", total=total)
        return produce(records, target, lambda count: progress.update(task, completed=count))


def dated_now(records: Iterable[Record], speedup: float | None) -> Iterator[Record]:
    """Yield JSON records with the time at which each is due in place of its own.

    With a speedup the first is due now, and the others keep their distance from it, so many times
    shorter; without, each is due when it is read. A value that is no JSON object stays as it is,
    and so does the third part of a record, which sets the pace.
    """
    began_ms, first_ms = now_ms(), None
    for key, value, time_ms in records:
        due_ms = now_ms()
        if speedup is not None and time_ms is not None:
            first_ms = time_ms if first_ms is None else first_ms
            due_ms = began_ms + int((time_ms - first_ms) / speedup)
        yield key, _dated(value, due_ms), time_ms


def _dated(value: bytes, due_ms: int) -> bytes:
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value
    fields["timestamp"] = msgspec.Raw(b"%d" % due_ms)
    return msgspec.json.encode(fields)


def _records(order: Order) -> tuple[Iterable[Record], int | None]:
    """Return the records of the source, and how many there are if that is known."""
    if order.source == "jsonl":
        if order.households is not None:
            raise ConfigError("households are those of completejourney, jsonl has none")
        return from_jsonl(order.file), None
    if order.file is not None:
        raise ConfigError("a file is for jsonl, completejourney comes with its package")
    from stream_app.sources.completejourney import CompleteJourney  # noqa: PLC0415 - needs pandas

    shop = CompleteJourney()
    chosen = None
    if order.households is not None:
        chosen = frozenset(sorted(shop.households())[: order.households])
    return shop.records(chosen), shop.count(chosen)
