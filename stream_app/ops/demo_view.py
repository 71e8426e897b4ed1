"""What the demo shows: a live picture on a terminal, a line now and then elsewhere, or nothing."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stream_app.clock import monotonic_seconds
from stream_app.event import ChurnAlert, rfc3339
from stream_app.ops.demo_feed import percentile
from stream_app.ops.demo_learned import conversions, learned, lines_of, name_of
from stream_app.ops.demo_ranking import Ranking, day
from stream_app.ops.demo_result import Result
from stream_app.ops.demo_story import Chapter, Score, Story
from stream_app.ops.demo_worker import Counts

_FRAME_SECONDS = 0.25
_LINE_SECONDS = 3.0
_DWELL_SECONDS = 4.0  # a chapter stays so long, or nobody can read it
_ROWS_BESIDE_ITEMS = 15  # of the picture
_ROWS_MIN = 3
_HIT, _CLICK = "✓", "→"
_DEEDS = {"view": "looks at", "cart": "puts into the cart", "purchase": "buys"}
_WIDE_COLUMNS = 110  # from here on there is room for the names of sources


class Progress(msgspec.Struct, frozen=True):
    """Where a run stands; ``title`` names the shop."""

    title: str
    phase: str
    seconds: float
    total: int
    counts: Counts = Counts()
    events_rate: float = 0.0
    answers_rate: float = 0.0
    latencies_ms: Sequence[float] = ()
    story: Story | None = None
    ranking: Ranking = Ranking()
    alerts: Mapping[str, int] = {}
    alert: ChurnAlert | None = None


class View(Protocol):
    """Shows a run while it lasts."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; what was shown stays."""
        ...

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Show where the run stands, if it is time to; the last one at once."""
        ...


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Do nothing."""


class Lines(Silence):
    """Prints a plain line every few seconds, and whenever a new phase begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0
        self._phase = ""
        self._ranking = ""

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Print a line if it is time to."""
        now = monotonic_seconds()
        if progress.ranking.sentence != self._ranking:
            self._ranking = progress.ranking.sentence
            self._print(f"{progress.seconds:5.0f} s  {self._ranking}")
        if now < self._due and progress.phase == self._phase and not last:
            return
        self._due, self._phase = now + _LINE_SECONDS, progress.phase
        parts = [f"{progress.seconds:5.0f} s  {progress.phase}"]
        counts = progress.counts
        if counts.done:
            parts += [
                f"{counts.done:,} of {progress.total:,} events",
                f"{progress.events_rate:,.0f}/s",
                f"lag {counts.lag:,}",
                f"{counts.recommendations:,} recommendations",
                f"{counts.predictions:,} predictions",
                f"{counts.churn_alerts:,} churn alerts",
            ]
            parts += [f"AUC {each.target} {each.auc:.3f}" for each in counts.quality if each.auc]
        if progress.latencies_ms:
            parts.append(_latency(progress.latencies_ms))
        self._print("  ".join(parts))
        if last and progress.story is not None and progress.story.chapter is not None:
            self._console.print(tell(progress, progress.story.chapter, self._console))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Picture:
    """Draws the run on a terminal, four times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._due = 0.0
        self._chapter: Chapter | None = None
        self._newest: Chapter | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture where it is."""
        self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress, *, last: bool = False) -> None:
        """Draw a picture if it is time to."""
        now = monotonic_seconds()
        story = progress.story
        if story is not None:
            self._choose(story.chapter, now)
        if now < self._due and not last:
            return
        self._due = now + _FRAME_SECONDS
        parts: list[RenderableType] = [_figures(progress, self._console)]
        if progress.counts.quality:
            parts.append(
                learned(progress.counts, progress.alerts, progress.alert, self._console.width)
            )
        if story is not None and self._chapter is not None:
            parts.append(tell(progress, self._chapter, self._console))
        self._live.update(Group(*parts), refresh=True)

    def _choose(self, chapter: Chapter | None, now: float) -> None:
        """Turn the page after a while: to the newest chapter with a hit, if there was any."""
        newest = self._newest
        if chapter is not None and (newest is None or chapter.hits or not newest.hits):
            self._newest = chapter
        if self._newest is not None and now - self._since >= _DWELL_SECONDS:
            if self._newest is not self._chapter:
                self._since = now
            self._chapter, self._newest = self._newest, None


def _figures(progress: Progress, console: Console) -> RenderableType:
    """Return the upper part of the picture."""
    counts, total = progress.counts, progress.total
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True)
    share = f"{counts.done / total:.0%}" if total else ""
    bar.add_row(
        Text(progress.phase, style="bold"),
        ProgressBar(total=max(total, 1), completed=counts.done),
        share,
    )
    when = progress.story.time_ms if progress.story is not None else 0
    latency = _latency(progress.latencies_ms) if progress.latencies_ms else "measured at the end"
    grid = Table.grid(padding=(0, 2))
    for _ in range(2):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, min_width=22)
    grid.add_row(
        "events",
        f"[b]{counts.done:,}[/]  [cyan]{progress.events_rate:,.0f}/s[/]",
        "lag",
        f"{counts.lag:,}",
    )
    grid.add_row(
        "recommendations",
        f"[b]{counts.recommendations:,}[/]  [cyan]{progress.answers_rate:,.0f}/s[/]",
        "latency",
        latency,
    )
    grid.add_row(
        "rejected",
        f"{counts.rejected:,}  [dim]duplicate[/]  {counts.duplicate:,}",
        "newest",
        rfc3339(when)[:16].replace("T", " ") if when else "",
    )
    return Panel(
        Group(bar, grid, Text(progress.ranking.sentence, no_wrap=True, overflow="ellipsis")),
        title=f"[b]stream-app demo[/]: {progress.title}, replayed through Kafka",
        title_align="left",
        subtitle=f"{progress.seconds:.0f} s",
        subtitle_align="right",
        width=console.width,
    )


def tell(progress: Progress, chapter: Chapter, console: Console) -> RenderableType:
    """Return one chapter of the story: what was recommended, and what was bought then."""
    story = progress.story
    assert story is not None, "there is a chapter"
    used = _ROWS_BESIDE_ITEMS + lines_of(progress.counts, progress.alert)
    rows = max(console.height - used, _ROWS_MIN)
    wide = console.width >= _WIDE_COLUMNS
    table = Table(box=None, padding=(0, 1), expand=True, show_edge=False)
    table.add_column("", justify="right", style="dim", width=2)
    table.add_column("", width=1)
    table.add_column("recommended", ratio=3, no_wrap=True)
    if wide:
        table.add_column("from", ratio=3, no_wrap=True, style="dim")
    table.add_column("why", ratio=5, no_wrap=True)
    for item in chapter.items[:rows]:
        hit, clicked = item.item_id in chapter.bought, item in chapter.clicks
        cells = [story.title(item.item_id), ", ".join(item.sources), "; ".join(item.reasons)]
        table.add_row(
            str(item.rank),
            _HIT if hit else _CLICK if clicked else "",
            *(Text(cell) for cell in (cells if wide else cells[::2])),
            style="bold green" if hit else "cyan" if clicked else "",
        )
    others = ", ".join(map(story.title, chapter.others)) or "nothing"
    return Panel(
        Group(
            table,
            Text(f"also bought: {others}", style="dim", no_wrap=True, overflow="ellipsis"),
            _score(f"this {story.who}", story.hero_score, story.counted_from_ms),
            _score(f"all {story.who}s", story.score, story.counted_from_ms),
        ),
        title=Text(
            f"{story.who} {chapter.user}, {rfc3339(chapter.time_ms)[:16].replace('T', ' ')}"
            f"{'' if story.counts(chapter) else ' (the model learned from this time)'}, "
            f"{_DEEDS.get(chapter.deed, chapter.deed)} {story.title(chapter.cause)}"
        ),
        title_align="left",
        subtitle=f"{_HIT} bought {_CLICK} clicked on before the next recommendation",
        subtitle_align="right",
        width=console.width,
    )


def _score(who: str, score: Score, since_ms: int | None) -> Text:
    """Return how many recommendations had a hit, of those made since the model's data ended."""
    text = Text(f"{who}: ", no_wrap=True, overflow="ellipsis")
    if since_ms is not None and not score.judged:
        text.append(f"nothing is counted yet; hits count from {day(since_ms)} on", style="dim")
        return text
    text.append(f"{score.right:,} of {score.judged:,}", style="bold")
    since = "" if since_ms is None else f" since {day(since_ms)}"
    text.append(f" recommendations{since} had a hit {_HIT} ({score.share:.0%})")
    return text


def outcome(result: Result, counts: Counts, story: Story) -> RenderableType:
    """Return the table of the figures at the end."""
    table = Table(title="What came of it", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("consumed", "processed", "rejected", "duplicate"):
        table.add_row(f"events {name}", f"{getattr(result, name):,}")
    table.add_row("events a second", f"{result.events_per_second:,.0f}")
    table.add_section()
    table.add_row("recommendations", f"{result.recommendations:,}")
    if counts.model is not None:
        name, version = counts.model
        table.add_row(f"... by the model {name}, version {version}", f"{result.model_answers:,}")
    table.add_row("... by the formula", f"{result.fallback_answers:,}")
    score, since_ms = story.score, story.counted_from_ms
    since = "" if since_ms is None else f", made from {day(since_ms)} on"
    table.add_row(f"... counted: a purchase followed{since}", f"{score.judged:,}")
    table.add_row("... that named a product bought then", f"{score.right:,} ({score.share:.0%})")
    for source, count in score.sources.most_common():
        table.add_row(f"    such products that came from {source}", f"{count:,}")
    for title, by in (("at place", counts.places), ("from", counts.sources)):
        for name, shares in conversions(by):
            table.add_row(f"clicked and bought, of those shown {title} {name}", shares)
    table.add_section()
    table.add_row("predictions", f"{result.predictions:,}")
    table.add_row("churn alerts", f"{result.churn_alerts:,}")
    for each in counts.quality:
        auc = "not known yet" if each.auc is None else f"{each.auc:.3f}"
        table.add_row(f"AUC of: {name_of(each)}, {each.judged:,} judged", auc)
    table.add_section()
    for name, value in (("median", result.latency_ms_p50), ("99 %", result.latency_ms_p99)):
        text = "not measured" if value is None else f"{value:,.1f} ms"
        table.add_row(f"click to recommendation, {name}", text)
    table.add_row("samples of that", f"{result.latency_samples:,}")
    table.add_row("the whole run", f"{result.seconds:,.0f} s")
    return table


def _latency(samples: Sequence[float]) -> str:
    p50, p99 = percentile(samples, 50), percentile(samples, 99)
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"
