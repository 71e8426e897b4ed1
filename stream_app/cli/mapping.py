"""``stream-app mapping``: how another shop's rows become events."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

RowFormat = Literal["csv", "jsonl", "parquet"]

app = typer.Typer(no_args_is_help=True, help="Say how another shop's rows become events.")

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
    """Propose a mapping for a file, with its doubts; or name a ready one that fits.

    For example:

        stream-app mapping guess shop.csv --out shop.toml
    """
    from stream_app.errors import ConfigError  # noqa: PLC0415
    from stream_app.sources.mapping_guess import propose  # noqa: PLC0415

    proposal = propose(file, source)
    errors = Console(stderr=True, soft_wrap=True)
    if proposal.ready is not None:
        errors.print(f"the ready mapping {proposal.ready} fits: --mapping {proposal.ready}")
    if out is None:
        Console(soft_wrap=True).out(proposal.content, end="", highlight=False)
        return
    try:
        with out.open("w" if force else "x", encoding="utf-8") as target:
            target.write(proposal.content)
    except FileExistsError:
        raise ConfigError(f"{out} is there: name another file, or give --force") from None
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from error
    for doubt in proposal.doubts:
        errors.print(f"- {doubt}", markup=False)
    Console(soft_wrap=True).print(
        f"wrote {out}; try it: stream-app mapping check {file} --mapping {out}",
        markup=False,
        highlight=False,
    )


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="of rows")],
    mapping: Annotated[str, typer.Option(help="a ready one, or a path")],
    source: Format = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
) -> None:
    """Say which rows and fields do not fit a mapping; exit with 1 if any. Nothing is sent.

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
    if tally.misfits:
        raise typer.Exit(1)
