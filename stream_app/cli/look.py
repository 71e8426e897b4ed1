"""``stream-app watch`` and ``stream-app user``: what goes out, and what is known of one user."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from stream_app.cli.common import Brokers, settings_of


def watch(
    topic: Annotated[str, typer.Argument(help="such as recommendations or dead-letter")],
    brokers: Brokers = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records to show")] = None,
    *,
    from_beginning: Annotated[bool, typer.Option(help="not only what comes now")] = False,
    json: Annotated[bool, typer.Option(help="values only, a line each")] = False,
) -> None:
    """Show the committed records of a topic as they come.

    Example: stream-app watch recommendations --from-beginning --limit 3
    """
    from stream_app.ops.watch import watch as show  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    _run(lambda: show(settings, topic, limit, from_beginning=from_beginning, as_json=json))


def user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="the user_id of events")],
    brokers: Brokers = None,
) -> None:
    """Show what is known of a user, what was last recommended, and why."""
    from stream_app.ops.watch import show_user  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    if not _run(lambda: show_user(settings, user_id)):
        raise typer.Exit(1)


def _run(work: Callable[[], object]) -> object:
    """Run a coroutine to its end; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(work())  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return None
