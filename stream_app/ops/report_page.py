"""The page: the figures at its top, its parts, and the template that they are put into."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stream_app.event import rfc3339
from stream_app.ops import report_learned, report_ran, report_shop
from stream_app.ops.report import Report
from stream_app.ops.report_blocks import MISSING, Section, Tile, milliseconds, percent, share
from stream_app.ops.report_learned import auc_of
from stream_app.ops.words import span

TEMPLATE = "report.html.j2"


def page(report: Report) -> str:
    """Return the page; whatever came from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    events = report.events
    title = "What stream_app made of your events"
    if report.measured is not None:
        title = f"What stream_app made of {report.measured.title}"
    return environment.get_template(TEMPLATE).render(
        title=title,
        subtitle=(
            f"{events.consumed:,} records of {report.events_topic}, "
            f"{rfc3339(events.first_ms)[:10]} to {rfc3339(events.end_ms)[:10]}"
            if events.consumed
            else f"There is nothing in {report.events_topic} yet: send events, then make the "
            "report again."
        ),
        tiles=_tiles(report) if events.consumed else [],
        sections=_sections(report) if events.consumed else [],
        footer=(
            f"Made by stream-app report at {rfc3339(report.made_ms)[:19]}Z from the topics as they "
            "stood. The same topics give the same figures."
        ),
    )


def _sections(report: Report) -> list[Section]:
    return [
        report_shop.came_in(report),
        report_shop.recommended(report),
        report_shop.hits(report),
        report_learned.predictions(report),
        report_learned.churn(report),
        report_ran.times(report),
        report_ran.accounts(report),
    ]


def _tiles(report: Report) -> list[Tile]:
    events, hits, measured = report.events, report.answers.hits, report.measured
    usual = percent(share(hits.popular.bought, hits.popular.shown))
    tiles = [
        Tile(f"{events.consumed:,}", "events", f"{events.users:,} users"),
        Tile(f"{report.answers.count:,}", "recommendations"),
        Tile(
            percent(share(hits.all.bought, hits.all.shown)) if hits.all.shown else "-",
            f"named something bought within {span(hits.horizon_ms)}",
            f"best sellers: {usual}" if hits.all.shown else MISSING,
        ),
        Tile(auc_of(report, "purchase"), "AUC, who buys next", "0.5 is chance"),
        Tile(auc_of(report, "churn"), "AUC, who stays away", "0.5 is chance"),
        Tile(
            f"{report.churn.alerts:,}", "churn alerts", f"{report.churn.assessed:,} users assessed"
        ),
    ]
    if measured is not None and measured.latency_samples:
        tiles.append(
            Tile(
                milliseconds(measured.latency_ms_p50),
                "click to recommendation, median",
                f"99% within {milliseconds(measured.latency_ms_p99)}",
            )
        )
    return tiles
