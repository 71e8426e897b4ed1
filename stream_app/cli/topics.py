"""``stream-app topics``: make them, or check them."""

import typer
from rich.console import Console

from stream_app.cli.common import Brokers, settings_of

app = typer.Typer(no_args_is_help=True, help="Make the topics, or check them.")


@app.command("create")
def create_missing(brokers: Brokers = None) -> None:
    """Make the topics that are missing."""
    from stream_app.runtime.topics import create  # noqa: PLC0415

    made = create(settings_of(brokers=brokers))
    Console().print(f"made: {', '.join(made)}" if made else "nothing to do: all topics are there")


@app.command("check")
def check_all(brokers: Brokers = None) -> None:
    """Say what is wrong with the topics; exit with 1 if anything is."""
    from stream_app.runtime.topics import check  # noqa: PLC0415

    faults = check(settings_of(brokers=brokers))
    console = Console(soft_wrap=True)
    for fault in faults:
        console.print(fault, style="red", markup=False)
    if faults:
        raise typer.Exit(1)
    console.print("all topics are as they must be")
