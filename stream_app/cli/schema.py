"""``stream-app schema``: what is on Kafka, as JSON Schemas and an AsyncAPI document."""

from pathlib import Path
from typing import Annotated

import typer

from stream_app.cli.common import settings_of
from stream_app.errors import ConfigError


def schema(
    name: Annotated[str | None, typer.Argument(help="such as event or asyncapi")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write all documents to")] = None,
) -> None:
    """Print one document, or write all of them; without either, say which there are.

    They are made from the code; the AsyncAPI document names the topics of the settings.

    For example:

        stream-app schema asyncapi

        stream-app schema --out docs/schemas
    """
    from stream_app.ops.schema import documents, text, write  # noqa: PLC0415

    settings = settings_of()
    if out is not None:
        if name is not None:
            raise ConfigError(f"--out writes all documents: leave out {name}, or leave out --out")
        for path in write(settings, out):
            typer.echo(path)
        return
    made = documents(settings)
    if name is None:
        typer.echo("\n".join(made))
        return
    if name not in made:
        raise ConfigError(f"there is no document {name!r}; there are: {', '.join(made)}")
    typer.echo(text(made[name]), nl=False)
