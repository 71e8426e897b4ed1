"""What the commands share: the settings, how to log, how to show, and common options."""

import logging
from contextlib import AbstractContextManager
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from stream_app.config import Settings, load

Brokers = Annotated[str | None, typer.Option(help="host:port, more after commas")]


def _ready(incomplete: str) -> list[str]:
    """Return the ready mappings that a shell may complete a word to; paths it completes itself."""
    from stream_app.sources.mapping import ready_mappings  # noqa: PLC0415

    return [name for name in ready_mappings() if name.startswith(incomplete)]


def mapping_option(words: str) -> Any:
    """Return an option that takes a mapping, completed by the shell to the ready ones."""
    return typer.Option(help=words, autocompletion=_ready)


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
