"""``stream-app demo``: a shop's year, live, or the events of a file of your own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stream_app.cli.common import mapping_option
from stream_app.errors import ConfigError

DemoShop = Literal["completejourney", "synthetic"]


def demo(  # noqa: PLR0913 - an argument is an option
    events: Annotated[str, typer.Option(help="about how many, or all")] = "200000",
    shop: Annotated[DemoShop | None, typer.Option(help="real purchases, or one that clicks")] = (
        None
    ),
    file: Annotated[Path | None, typer.Option(help="your own events: CSV, JSON lines")] = None,
    mapping: Annotated[str | None, mapping_option("of --file; else it is guessed")] = None,
    report: Annotated[Path | None, typer.Option(help="page to write")] = Path(
        "stream-app-report.html"
    ),
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave all up until Ctrl-C")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="write no page")] = False,
) -> None:
    """Watch what is recommended and foreseen in a shop, on a broker and a worker of the demo's own.

    The shop is completejourney, a grocer's real purchases, or synthetic, whose users click back, or
    your own: the first events of a --file. How its rows become events a --mapping says, a ready one
    or a path (stream-app mapping list); without it one is guessed and its doubts are told.

    For example:

        stream-app demo --shop synthetic

        stream-app demo --file shop.csv --mapping rees46
    """
    from stream_app.ops import demo as show  # noqa: PLC0415 - imports the clients
    from stream_app.ops.demo_own import OwnFile  # noqa: PLC0415
    from stream_app.ops.report import check_out  # noqa: PLC0415

    if file is not None and shop is not None:
        raise ConfigError("give either a --shop or a --file of your own")
    if mapping is not None and file is None:
        raise ConfigError("--mapping is for a --file of your own")
    chosen = (shop or "completejourney") if file is None else OwnFile(file, mapping)
    page = None if no_report else report
    if page is not None:
        check_out(page, "--report")
    raise typer.Exit(show.run(events, shop=chosen, as_json=json, keep=keep, page=page))
