"""The part of the demo's picture that is about learning: predictions, how right, and alerts."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream_app.event import ChurnAlert, rfc3339
from stream_app.ops.demo_worker import Counts, Quality
from stream_app.ops.words import foretold

_UNITS = {"m": "minutes", "d": "days"}
_LEVELS = ("watch", "warning", "critical")
_STYLES = {"watch": "yellow", "warning": "dark_orange", "critical": "bold red"}
_PLACES = 10
_LINES_BESIDE_ROWS = 3  # of the panel: borders and heading


def name_of(quality: Quality) -> str:
    """Return in words what is predicted.

    >>> name_of(Quality("churn", "28d"))
    'buys nothing for 28 days'
    """
    horizon = f"{quality.horizon[:-1]} {_UNITS[quality.horizon[-1]]}"
    return foretold(quality.target, horizon)


def learned(
    counts: Counts, alerts: Mapping[str, int], alert: ChurnAlert | None, width: int
) -> RenderableType:
    """Return the panel: a row for each target predicted so far, and the newest alert in words."""
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False)
    table.add_column("learned online", no_wrap=True)
    for heading in ("sent", "judged", "base rate", "AUC so far", "calibration error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for quality in counts.quality:
        table.add_row(
            name_of(quality),
            f"{quality.sent:,}",
            f"{quality.judged:,}",
            _figure(quality.base_rate, ".1%"),
            f"[b]{_figure(quality.auc, '.3f')}[/]",
            _figure(quality.calibration_error, ".3f"),
        )
    parts: list[RenderableType] = [table]
    if alert is not None:
        parts += [_levels(alerts), _tell_alert(alert)]
    rate = click_through(counts.places)
    if rate:
        parts.append(Text(rate, no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*parts), title="predictions", title_align="left", width=width)


def lines_of(counts: Counts, alert: ChurnAlert | None) -> int:
    """Return how many lines the panel takes; none while there is nothing to show in it."""
    if not counts.quality:
        return 0
    clicks = bool(click_through(counts.places))
    return _LINES_BESIDE_ROWS + len(counts.quality) + (2 if alert is not None else 0) + clicks


def click_through(places: Mapping[str, Mapping[str, int]]) -> str:
    """Return the share of impressions that were clicked, by place; empty without impressions.

    >>> click_through({"impression": {"1": 10, "2": 10}, "click": {"1": 4, "2": 1}})
    'clicked, of those shown at place 1, 2 and so on: 40% 10%'
    """
    shown, clicked = places.get("impression", {}), places.get("click", {})
    shares = [
        f"{clicked.get(place, 0) / shown[place]:.0%}"
        for place in map(str, range(1, _PLACES + 1))
        if shown.get(place)
    ]
    heading = "clicked, of those shown at place 1, 2 and so on:"
    return " ".join([heading, *shares]) if shares else ""


def conversions(by: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str]]:
    """Return, by place or source, what share of the items shown was clicked on, and was bought.

    >>> conversions({"impression": {"repeat": 50}, "click": {"repeat": 20}})
    [('repeat', '40.0%, 0.0%')]
    """
    shown, clicked, bought = (by.get(event, {}) for event in ("impression", "click", "purchase"))
    return [
        (name, f"{clicked.get(name, 0) / count:.1%}, {bought.get(name, 0) / count:.1%}")
        for name, count in shown.items()
        if count
    ]


def _levels(alerts: Mapping[str, int]) -> Text:
    text = Text("churn alerts: ", no_wrap=True, overflow="ellipsis")
    text.append(f"{sum(alerts.values()):,}", style="bold")
    for level in _LEVELS:
        text.append(f"   {level} {alerts.get(level, 0):,}", style=_STYLES[level])
    return text


def _tell_alert(alert: ChurnAlert) -> Text:
    """Return an alert in words, on one line."""
    text = Text(f"{rfc3339(alert.timestamp)[:10]}  ", no_wrap=True, overflow="ellipsis")
    text.append(f"{alert.level}: {alert.user_id}", style=_STYLES[alert.level])
    text.append(f" stays away by {alert.risk:.0%}")
    if alert.reasons:
        text.append(": " + "; ".join(alert.reasons), style="dim")
    if alert.offer:
        text.append(f" → {alert.offer}")
    return text


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
