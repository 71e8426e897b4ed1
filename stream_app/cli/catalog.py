"""``stream-app catalog``: the items that may be recommended."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console

from stream_app.cli.common import Brokers, mapping_option, settings_of

RowFormat = Literal["csv", "jsonl", "parquet"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """Send the items that may be recommended.

    For example:

        stream-app catalog load shop.csv --mapping rees46
    """


@app.command("load")
def load(
    file: Annotated[Path, typer.Argument(help="of items, or of rows that tell of them")],
    brokers: Brokers = None,
    mapping: Annotated[str | None, mapping_option("a ready one, or a path")] = None,
    source: Annotated[RowFormat | None, typer.Option(help="else as the name says")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
) -> None:
    """Send a file's items to the catalogue; exit with 1 if any row does not fit.

    Without a mapping a row is an item in our own schema, or {"item_id": ..., "delete": true} to
    remove it. With one, its [item] makes items of the rows, which may be events that tell of
    products. Of an item in several rows the last counts.

    For example:

        stream-app catalog load shop.csv --mapping rees46
    """
    from stream_app.ops.catalog import load_catalog  # noqa: PLC0415 - imports the clients
    from stream_app.sources.mapping_records import misfits_said  # noqa: PLC0415

    loaded = load_catalog(settings_of(brokers=brokers), file, mapping, source)
    if json:
        Console(soft_wrap=True).out(msgspec.json.encode(loaded).decode(), highlight=False)
    else:
        errors = Console(stderr=True, soft_wrap=True)
        if loaded.misfits:
            errors.print(f"{misfits_said(loaded.misfits)}:", style="red")
        for named in loaded.named:
            errors.print(f"  {named}", style="red", markup=False)
        removed = f", {loaded.removed:,} removed" if loaded.removed else ""
        Console().print(
            f"{loaded.items:,} items of {loaded.rows:,} rows{removed}; {loaded.acknowledged} "
            f"records acknowledged in {loaded.seconds:.1f} s"
        )
    if loaded.misfits:
        raise typer.Exit(1)
