"""``stream-app report``: one page with pictures of a run, made from the topics and the metrics.

The dead letters are read first, then the events, and then what followed from them, which is joined
to the events as it is read. Counts are of everything; what is joined is of all users, or of a
sample of them where there are too many to keep in memory. The same topics give the same figures.
"""

import importlib.util
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stream_app.clock import now_ms
from stream_app.config import DAY_MS, Settings
from stream_app.errors import ConfigError
from stream_app.event import Item
from stream_app.manifest import read_manifest
from stream_app.ops.report_events import EVENTS_MAX, Book, EventFigures, Rejects
from stream_app.ops.report_foresight import Alerts, ChurnFigures, ForecastFigures, Forecasts
from stream_app.ops.report_hits import AnswerFigures, Answers
from stream_app.ops.report_metrics import Workers, ask
from stream_app.ops.report_read import Reader, Taker
from stream_app.ops.report_series import Durations
from stream_app.runtime.topics import topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stream_app.ops.report_read import Teller

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Source(Protocol):
    """Where the records of topics come from; tests have one without a broker."""

    def read(self, topic: str, take: Taker) -> None:
        """Hand every record of a topic to ``take``."""
        ...


class Measured(msgspec.Struct, frozen=True):
    """What the demo has measured beside: of its own latencies, and how fast the bulk went."""

    title: str
    events_per_second: float
    latency_samples: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    latencies: Sequence[tuple[float, int]]  # upper bound in ms, count


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to report.

    Parameters
    ----------
    out
        The file to write.
    metrics
        URLs of workers to ask.
    limit
        Events kept in memory to join outputs to, by default EVENTS_MAX; beyond, users are sampled.
    counted_from_ms
        Where the data ends that the ranking model has learned from.
    measured
        What the demo has measured.
    """

    out: Path
    metrics: Sequence[str] = ()
    limit: int | None = None
    counted_from_ms: int | None = None
    measured: Measured | None = None


class Report(msgspec.Struct, frozen=True):
    """All figures of the page."""

    events_topic: str
    made_ms: int
    replay: bool
    catalog: int
    events: EventFigures
    answers: AnswerFigures
    forecasts: Sequence[ForecastFigures]
    churn: ChurnFigures
    workers: Workers | None
    measured: Measured | None
    titles: dict[str, str]


def write(settings: Settings, order: Order) -> Report:
    """Write the page and return its figures; a bar on standard error tells how far it is.

    Raises
    ------
    ConfigError
        When the extra `report` is not installed, or the file cannot be written.
    TopicError
        When the topics cannot be read.
    MetricsError
        When a worker does not answer.
    """
    check_out(order.out, "--out")
    workers = ask(order.metrics)
    with _bar() as (progress, tell):
        reader = Reader(settings.brokers, topology(settings).partitions, tell)
        report = gather(settings, order, workers, reader)
        progress.add_task("drawing", total=None)
        from stream_app.ops.report_page import page  # noqa: PLC0415 - Matplotlib takes a second

        text = page(report)
    try:
        order.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {order.out}: {error.strerror}") from error
    return report


def check_out(out: Path, option: str) -> None:
    """Raise if no page can be written there, before anything else is done.

    Raises
    ------
    ConfigError
        When the extra `report` is not installed, or there is no such folder.
    """
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the report needs {package}: pip install 'stream-app[report]'")
    if not out.parent.is_dir():
        raise ConfigError(f"{option} {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ConfigError(f"{option} {out}: it is a folder; name a file in it")


def gather(settings: Settings, order: Order, workers: Workers | None, reader: Source) -> Report:
    """Return the figures of the topics as they stand now."""
    rejects = Rejects()
    reader.read(settings.topic("dead_letter"), rejects.take)
    book = Book(rejects, order.limit or EVENTS_MAX)
    reader.read(settings.topic("events"), book.take)
    events = book.close()
    answers = Answers(
        book,
        events,
        settings.stages.horizon_days * DAY_MS,
        counted_from_ms=order.counted_from_ms,
        live=not settings.replay,
    )
    reader.read(settings.topic("recommendations"), answers.take)
    forecasts, alerts, titles = Forecasts(book, events), Alerts(book, events), _Titles()
    reader.read(settings.topic("predictions"), forecasts.take)
    reader.read(settings.topic("churn_alerts"), alerts.take)
    reader.read(settings.topic("catalog"), titles.take)
    answered = answers.close()
    return Report(
        events_topic=settings.topic("events"),
        made_ms=now_ms(),
        replay=settings.replay,
        catalog=len(titles.known),
        events=events,
        answers=answered,
        forecasts=forecasts.close(settings.stages.churn_watch),
        churn=alerts.close(*forecasts.risks()),
        workers=workers,
        measured=order.measured,
        titles={item: titles.known.get(item, "") or item for item, _ in answered.top},
    )


class _Titles:
    """The titles of the catalogue's items; an empty one where an item has none."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._decode = msgspec.json.Decoder(Item).decode

    def take(self, _partition: int, records: Sequence[Any]) -> None:
        """Take in records."""
        for record in records:
            item_id = (record.key or b"").decode(errors="replace")
            if not record.value:
                self.known.pop(item_id, None)
                continue
            try:
                item = self._decode(record.value)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            self.known[item.item_id] = item.title or ""


def model_data_until_ms(settings: Settings) -> int | None:
    """Return where the data ends that the ranking model was trained on; None without a model.

    Raises
    ------
    ModelError
        When its folder cannot be read.
    """
    if settings.model is None:
        return None
    until = read_manifest(settings.model).data.until
    return -((_EPOCH - until) // timedelta(milliseconds=1))


def as_json(report: Report, out: Path) -> str:
    """Return the figures as one JSON object, after where the page is."""
    figures = msgspec.to_builtins(report, str_keys=True)
    return msgspec.json.encode({"report": str(out), **figures}).decode()


def measured(title: str, rate: float, latencies_ms: Sequence[float]) -> Measured:
    """Return what a demo has measured, in buckets that are a tenth wide."""
    durations = Durations(latencies_ms)
    return Measured(
        title=title,
        events_per_second=rate,
        latency_samples=durations.count,
        latency_ms_p50=durations.percentile(50),
        latency_ms_p99=durations.percentile(99),
        latencies=durations.buckets(),
    )


@contextmanager
def _bar() -> "Iterator[tuple[Progress, Teller]]":
    """Yield a bar on standard error, if that is a terminal, and how to move it."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("reading the topics", total=0)
        total = 0

        def tell(passed: int, more: int) -> None:
            nonlocal total
            total += more
            progress.update(task, advance=passed, total=total)

        yield progress, tell
