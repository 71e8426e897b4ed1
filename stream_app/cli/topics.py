"""``stream-app topics``: make them, or check them."""

import typer
from rich.console import Console

from stream_app.cli.common import Brokers, Json, print_json, settings_of, waiting

_HELP = """Make the topics, or check them.

For example:

    stream-app topics create

    stream-app topics check
"""

app = typer.Typer(no_args_is_help=True, help=_HELP)


@app.command("create")
def create_missing(brokers: Brokers = None, *, json: Json = False) -> None:
    """Make the topics that are missing.

    For example:

        stream-app topics create

        STREAM_APP_REPLICATION=3 stream-app topics create --brokers kafka-1:9092,kafka-2:9092
    """
    from stream_app.runtime.topics import create  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    with waiting(f"asking {settings.brokers}"):
        made = create(settings)
    if json:
        print_json({"made": made})
    else:
        typer.echo(f"made: {', '.join(made)}" if made else "nothing to do: all topics are there")


@app.command("check")
def check_all(brokers: Brokers = None, *, json: Json = False) -> None:
    """Say what is wrong with the topics; exit with 1 if anything is.

    For example:

        stream-app topics check && stream-app worker
    """
    from stream_app.runtime.topics import check  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    with waiting(f"asking {settings.brokers}"):
        faults = check(settings)
    if json:
        print_json({"faults": faults})
    else:
        console = Console(soft_wrap=True)
        for fault in faults:
            console.print(fault, style="red", markup=False)
        if not faults:
            console.print("all topics are as they must be")
    if faults:
        raise typer.Exit(1)
