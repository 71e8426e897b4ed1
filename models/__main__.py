"""``python -m models``: the ranker from nothing to a folder, a benchmark, and what serves."""

import importlib
import sys

import typer
from rich.console import Console

from stream_app.errors import StreamAppError

# In which module each command is. Only that of the command that runs is imported, since JAX and
# what writes ONNX take five seconds, and whoever promotes a model needs neither.
COMMANDS = {
    "benchmark": "benchmark_command",
    "compress": "compress",
    "data": "data_commands",
    "encode": "encode",
    "evaluate": "demo_commands",
    "export": "demo_commands",
    "extend": "extend",
    "list": "registry",
    "promote": "registry",
    "publish": "registry",
    "retrain": "retrain",
    "roll-back": "registry",
    "shadow": "registry",
    "train": "fit",
    "wrap": "wrap",
}


def commands(first: str = "") -> typer.Typer:
    """Return the command line: of one module if the first word names a command, else of all."""
    modules = [COMMANDS[first]] if first in COMMANDS else sorted(set(COMMANDS.values()))
    app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
    app.callback()(_only_commands)
    for name in modules:
        app.registered_commands += importlib.import_module(f"models.{name}").app.registered_commands
    return app


def _only_commands() -> None:
    """Keep a command's name on the command line where there is only one command."""


def main() -> None:
    """Run the command line; an error of ours is a message, not a traceback."""
    try:
        commands(*sys.argv[1:2])()
    except StreamAppError as error:
        console = Console(stderr=True, width=100)
        console.print(f"models: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
