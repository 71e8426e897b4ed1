"""The command line: ``stream-app worker | topics | produce | mapping | catalog | watch | ...``.

A command is a function of a module here, which reads the settings first, so a wrong one is named
before anything starts, and hands over to ``ops`` or ``runtime``. What a command needs is imported
when it runs: Faust alone takes half a second.
"""

import os
import sys

import typer
from rich.console import Console

from stream_app.cli import (
    catalog,
    dead_letters,
    demo,
    look,
    mapping,
    produce,
    report,
    schema,
    topics,
    worker,
)
from stream_app.errors import StreamAppError

_HELP = """Real-time recommendations, behaviour predictions and churn alerts beside your Kafka.

For example:

    stream-app demo

    stream-app topics create --brokers kafka:9092

    stream-app worker --brokers kafka:9092
"""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_HELP,
)
app.command()(worker.worker)
app.add_typer(topics.app, name="topics")
app.command()(produce.produce)
app.add_typer(mapping.app, name="mapping")
app.add_typer(catalog.app, name="catalog")
app.command()(look.watch)
app.command()(look.user)
app.command()(report.report)
app.command()(schema.schema)
app.add_typer(dead_letters.app, name="dead-letters")
app.command()(demo.demo)


def main() -> None:
    """Run the command line; an error of ours is a message, not a traceback."""
    try:
        app(prog_name="stream-app")
    except StreamAppError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"stream-app: {error}", style="red", markup=False, highlight=False
        )
        raise SystemExit(2) from None
    except BrokenPipeError:  # who reads us has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
