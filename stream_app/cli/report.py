"""``stream-app report``: one page with pictures of a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stream_app.cli.common import Brokers, settings_of


def report(
    out: Annotated[Path, typer.Option(help="the page to write")] = Path("stream-app-report.html"),
    brokers: Brokers = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="URL of a worker's /metrics; once for each worker")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="events kept to join; beyond, users are sampled")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="print the figures as one object")] = False,
) -> None:
    """Write one page with pictures of what came in, what went out and how right it was.

    All topics are read from the beginning to their ends as they stand now. If the setting model is
    set, hits are counted from where its data ends.

    For example:

        stream-app report --out report.html --metrics http://worker:8000/metrics
    """
    from stream_app.ops import report as reporting  # noqa: PLC0415 - imports the clients

    settings = settings_of(brokers=brokers)
    order = reporting.Order(
        out=out,
        metrics=metrics or (),
        limit=limit,
        counted_from_ms=reporting.model_data_until_ms(settings),
    )
    figures = reporting.write(settings, order)
    console = Console()
    if json:
        console.out(reporting.as_json(figures, out), highlight=False)
    else:
        console.print(f"The report is in {out}", markup=False, soft_wrap=True)
