"""``stream-app demo``: a shop's year, live."""

from pathlib import Path
from typing import Annotated, Literal

import typer

DemoShop = Literal["completejourney", "synthetic"]


def demo(  # noqa: PLR0913 - an argument is an option
    events: Annotated[str, typer.Option(help="about how many, or all")] = "200000",
    shop: Annotated[DemoShop, typer.Option(help="real purchases, or one that clicks")] = (
        "completejourney"
    ),
    report: Annotated[Path | None, typer.Option(help="page to write")] = Path(
        "stream-app-report.html"
    ),
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave all up until Ctrl-C")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="write no page")] = False,
) -> None:
    """Watch what is recommended and foreseen in a shop, on a broker and a worker of the demo's own.

    For example:

        stream-app demo --shop synthetic
    """
    from stream_app.ops import demo as show  # noqa: PLC0415 - imports the clients

    raise typer.Exit(
        show.run(events, shop=shop, as_json=json, keep=keep, page=None if no_report else report)
    )
