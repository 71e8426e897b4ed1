"""The command line: ``stream-app worker | topics | produce | mapping | catalog | watch | ...``.

A command is a function of a module here, which reads the settings first, so a wrong one is named
before anything starts, and hands over to ``ops`` or ``runtime``. What a command needs is imported
when it runs: Faust alone takes half a second.
"""

import typer
from rich.console import Console

from stream_app.cli import catalog, demo, look, mapping, produce, topics, worker
from stream_app.errors import StreamAppError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Real-time recommendations, behaviour predictions and churn alerts beside your Kafka.",
)
app.command()(worker.worker)
app.add_typer(topics.app, name="topics")
app.command()(produce.produce)
app.add_typer(mapping.app, name="mapping")
app.add_typer(catalog.app, name="catalog")
app.command()(look.watch)
app.command()(look.user)
app.command()(demo.demo)


def main() -> None:
    """Run the command line; an error of ours is a message, not a traceback."""
    try:
        app()
    except StreamAppError as error:
        Console(stderr=True).print(f"stream-app: {error}", style="red", markup=False)
        raise SystemExit(2) from None
