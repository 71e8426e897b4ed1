"""What the commands share: the settings, and options that several of them have."""

import logging
from typing import Annotated

import typer

from stream_app.config import Settings, load

Brokers = Annotated[str | None, typer.Option(help="host:port, more after commas")]


def settings_of(**overrides: object) -> Settings:
    """Return the settings, with the options that were given, and log as they say.

    Raises
    ------
    ConfigError
        When a setting is wrong.
    """
    settings = load(**overrides)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("aiokafka", "kafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    return settings
