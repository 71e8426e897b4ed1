"""``stream-app mapping``: how another shop's rows become events."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream_app.cli.common import mapping_option

RowFormat = Literal["csv", "jsonl", "parquet"]

_HELP = """Say how another shop's rows become events.

For example:

    stream-app mapping guess shop.csv --out shop.toml

    stream-app mapping check shop.csv --mapping shop.toml
"""

app = typer.Typer(no_args_is_help=True, help=_HELP)

Format = Annotated[RowFormat | None, typer.Option(help="else as the name says")]


@app.command("list")
def show_list() -> None:
    """List the ready mappings.

    For example:

        stream-app mapping list
    """
    from stream_app.sources.mapping import load_mapping, ready_mappings  # noqa: PLC0415

    console = Console(soft_wrap=True)
    for name in ready_mappings():
        console.print(f"{name:<10} {load_mapping(name).spec.title}", markup=False, highlight=False)


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="such as rees46")]) -> None:
    """Print a ready mapping, to change it.

    For example:

        stream-app mapping show rees46 > mine.toml
    """
    from stream_app.sources.mapping import mapping_text  # noqa: PLC0415

    Console(soft_wrap=True).out(mapping_text(name), end="", highlight=False)


@app.command("guess")
def guess(
    file: Annotated[Path, typer.Argument(help="a sample of the rows")],
    out: Annotated[Path | None, typer.Option(help="write the mapping here")] = None,
    source: Format = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="write over a file")] = False,
) -> None:
    """Propose a mapping for a file, with its doubts, or name a ready one that fits.

    Exit with 1 if no row gives an event by it: what is not known stands in it as "?".

    For example:

        stream-app mapping guess shop.csv --out shop.toml
    """
    from stream_app.sources.mapping_guess import propose  # noqa: PLC0415

    proposal = propose(file, source)
    errors = Console(stderr=True, soft_wrap=True)
    if proposal.ready is not None:
        errors.print(f"the ready mapping {proposal.ready} fits: --mapping {proposal.ready}")
    if out is None:
        Console(soft_wrap=True).out(proposal.content, end="", highlight=False)
    else:
        _save(proposal.content, out, force=force)
        for doubt in proposal.doubts:
            errors.print(f"- {doubt}", markup=False)
        Console(soft_wrap=True).print(
            f"wrote {out}; try it: stream-app mapping check {file} --mapping {out}",
            markup=False,
            highlight=False,
        )
    if not proposal.events:
        errors.print(f"no row of {file} gives an event by it yet: mend it first", markup=False)
        raise typer.Exit(1)


def _save(content: str, out: Path, *, force: bool) -> None:
    from stream_app.errors import ConfigError  # noqa: PLC0415

    try:
        with out.open("w" if force else "x", encoding="utf-8") as target:
            target.write(content)
    except FileExistsError:
        raise ConfigError(f"{out} is there: name another file, or give --force") from None
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from error


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="of rows")],
    mapping: Annotated[str, mapping_option("a ready one, or a path")],
    source: Format = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
) -> None:
    """Say which rows and fields do not fit a mapping. Nothing is sent.

    Exit with 1 if a row does not fit, or if there are none.

    For example:

        stream-app mapping check shop.csv --mapping rees46
    """
    import msgspec  # noqa: PLC0415

    from stream_app.ops.mapping import check as check_rows  # noqa: PLC0415
    from stream_app.ops.mapping import say  # noqa: PLC0415

    _, tally = check_rows(file, mapping, source)
    console = Console(soft_wrap=True)
    if json:
        console.out(msgspec.json.encode(tally).decode(), highlight=False)
    else:
        for sentence in say(tally):
            console.print(sentence, markup=False, highlight=False)
        console.print(
            f"{tally.rows:,} rows: {tally.events:,} events, {tally.rows_skipped:,} rows skipped, "
            f"{tally.misfits:,} do not fit"
        )
    if not tally.rows:
        Console(stderr=True, soft_wrap=True).print(f"there are no rows in {file}", markup=False)
    if tally.misfits or not tally.rows:
        raise typer.Exit(1)
