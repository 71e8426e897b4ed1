"""``stream-app watch`` and ``stream-app user``: what goes out, and what is known of one user."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from stream_app.cli.common import Brokers, Json, print_json, settings_of, waiting
from stream_app.config import TopicSettings


def _topics(incomplete: str) -> list[str]:
    """Return the topics that a shell may complete a word to."""
    names = sorted(field.default for field in TopicSettings.model_fields.values())
    return [name for name in names if name.startswith(incomplete)]


def watch(
    topic: Annotated[
        str,
        typer.Argument(help="such as recommendations or dead-letter", autocompletion=_topics),
    ],
    brokers: Brokers = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records to show")] = None,
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="not only what comes now")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="values only, a line each")] = False,
) -> None:
    """Show the committed records of a topic as they come, until Ctrl-C.

    For example:

        stream-app watch recommendations

        stream-app watch dead-letter --from-beginning --limit 3

        stream-app watch churn-alerts --json | jq .user_id
    """
    from stream_app.ops.watch import watch as show  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    _run(show(settings, topic, limit, from_beginning=from_beginning, as_json=json))


def user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="as in events")],
    brokers: Brokers = None,
    *,
    json: Json = False,
) -> None:
    """Show what is known of a user, what was last recommended, and why; exit with 1 if nothing is.

    For example:

        stream-app user 14

        stream-app user 14 --json | jq .recommendation.items
    """
    from stream_app.ops import user as users  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    with waiting(f"reading the state of {settings.app}"):
        known = _run(users.known_of(settings, user_id))
    if json:
        print_json(known)
    elif known is None:
        typer.echo(f"There is nothing of a user {user_id!r}.")
    else:
        users.show(known)
    if known is None:
        raise typer.Exit(1)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return None
