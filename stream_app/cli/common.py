"""What the commands share: the settings, how to log, how to show, and common options."""

import logging
from contextlib import AbstractContextManager
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from stream_app.config import Settings, load

Brokers = Annotated[str | None, typer.Option(help="host:port, more after commas")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for a program to read")]

_CLIENTS = ("aiokafka", "kafka", "faust", "mode", "asyncio")


def settings_of(*, clients: int = logging.CRITICAL, **overrides: object) -> Settings:
    """Return the settings, with the options that were given, and log as they say.

    Parameters
    ----------
    clients
        From which level on Kafka's clients and Faust may log; a command that ends by itself turns
        their complaints into a sentence of its own.
    overrides
        Options by the name of their setting; None leaves the setting as it is.

    Raises
    ------
    ConfigError
        When a setting is wrong.
    """
    settings = load(**overrides)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in _CLIENTS:
        logging.getLogger(name).setLevel(max(clients, logging.getLogger().level))
    return settings


def waiting(text: str) -> AbstractContextManager[object]:
    """Say on the terminal, if standard error is one, what a command waits for."""
    return Console(stderr=True).status(text)


def print_json(value: object) -> None:
    """Print a value as one line of JSON on standard output."""
    typer.echo(msgspec.json.encode(value).decode())
