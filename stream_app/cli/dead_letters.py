"""``stream-app dead-letters``: what was rejected, and putting it back."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console

from stream_app.cli.common import Brokers, mapping_option, settings_of

_HELP = """See what was rejected, and put it back.

For example:

    stream-app dead-letters list

    stream-app dead-letters replay --where reason=wrong_key --dry-run
"""

app = typer.Typer(no_args_is_help=True, help=_HELP)

Where = Annotated[
    list[str] | None,
    typer.Option(help="name=value; several must all hold: id, partition, reason, ..."),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
_Result = TypeVar("_Result")


@app.command("list")
def list_all(
    where: Where = None,
    last: Annotated[int, typer.Option(min=0, help="so many in the table")] = 20,
    brokers: Brokers = None,
    *,
    json: AsJson = False,
) -> None:
    """Count dead letters by reason, partition and status, and show the last of them.

    For example:

        stream-app dead-letters list --where reason=wrong_key --where since=2026-01-01
    """
    from stream_app.ops import dead_letters, dead_letters_view as view  # noqa: PLC0415, I001

    wanted = dead_letters.parse_where(where or [])
    letters = _run(dead_letters.read(settings_of(brokers=brokers), wanted, values=False))
    if json:
        _print_json(view.summary(letters, last))
    else:
        view.print_summary(Console(), letters, last)


@app.command("show")
def show(
    dead_letter: Annotated[str, typer.Argument(metavar="ID", help="or TOPIC-PARTITION-OFFSET")],
    brokers: Brokers = None,
    *,
    json: AsJson = False,
) -> None:
    """Show one dead letter: why, where from, its bytes, its ancestors and what became of it.

    It is named by its id, or by where it stands in the topic of dead letters.

    For example:

        stream-app dead-letters show clickstream.events-2-58-dead-letter
    """
    from stream_app.ops import dead_letters, dead_letters_view as view  # noqa: PLC0415, I001

    settings = settings_of(brokers=brokers)
    topic = settings.topic("dead_letter")
    letters = _run(dead_letters.read(settings))
    named = [
        each
        for each in letters
        if dead_letter in {each.id, f"{topic}-{each.partition}-{each.offset}"}
    ]
    if not named:
        raise dead_letters.DeadLetterError(
            f"there is no dead letter {dead_letter!r} (any more); stream-app dead-letters list "
            "shows those there are"
        )
    if json:
        _print_json(view.details(named[0], letters))
    else:
        view.print_details(Console(soft_wrap=True), named[0], letters)


@app.command("replay")
def replay(  # noqa: PLR0913 - an argument is an option
    where: Where = None,
    mapping: Annotated[
        str | None, mapping_option("makes events of values of another shape")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="dead letters at most")] = None,
    brokers: Brokers = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would do")] = False,
    json: AsJson = False,
) -> None:
    """Put dead letters back into the events, each once, with the right key; again does no harm.

    What would be rejected again is left alone, and so are events of users who were erased since.

    For example:

        stream-app dead-letters replay --where reason=no_key,wrong_key --dry-run

        stream-app dead-letters replay --where reason=not_an_event --mapping shop.toml
    """
    from stream_app.ops import dead_letters, dead_letters_replay, dead_letters_view  # noqa: PLC0415

    settings = settings_of(brokers=brokers)
    wanted = dead_letters.parse_where(where or [])
    mapper = _mapping(mapping) if mapping is not None else None
    done = _run(
        dead_letters_replay.replay(settings, wanted, mapper, limit, dry_run=dry_run),
        "replaying dead letters",
    )
    if json:
        _print_json(dead_letters_view.replay_summary(done))
    else:
        dead_letters_view.print_replay(Console(soft_wrap=True), done)


def _mapping(name: str) -> Any:
    from stream_app.sources.mapping import load_mapping  # noqa: PLC0415

    return load_mapping(name)


def _run(work: Coroutine[Any, Any, _Result], doing: str = "reading dead letters") -> _Result:
    """Run to the end, with a sign of life on standard error if that is a terminal.

    What goes wrong is raised; the client's own log of it, with tracebacks, would say it twice.
    """
    for name in ("aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with Console(stderr=True).status(doing):
        return asyncio.run(work)


def _print_json(said: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(said).decode())
