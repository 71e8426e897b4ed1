"""``python -m models data``: what is this data like, before anything is trained on it."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from models.data_card import TYPES, data_card, lines, tables
from models.sources import Source, SourceError, read_log
from stream_app.event import EVENT_TYPES

DATA_HELP = "file, kafka://host:port/topic, completejourney or synthetic"
DataOption = Annotated[str, typer.Option("--data", help=DATA_HELP)]
MappingOption = Annotated[
    str | None, typer.Option("--mapping", help="of another shop's rows: a ready one, or a path")
]
TypesOption = Annotated[str, typer.Option("--types", help="of the events that count, a,b,...")]
ItemEventsOption = Annotated[
    int, typer.Option("--item-events-min", min=1, help="rarer items are left out")
]
LicenceOption = Annotated[
    str | None, typer.Option("--licence", help="on what terms the model may be used")
]

TYPES_TEXT = ",".join(TYPES)

app = typer.Typer()


@app.command()
def data(  # noqa: PLR0913 - an argument is an option
    data: DataOption,
    mapping: MappingOption = None,
    sequences: Annotated[
        Path | None, typer.Option(help="write lines `user item item ...`, for `benchmark`")
    ] = None,
    types: TypesOption = TYPES_TEXT,
    item_events_min: ItemEventsOption = 1,
    *,
    json: Annotated[bool, typer.Option("--json", help="a line of JSON only")] = False,
) -> None:
    """Show counts, spans, repeats, skew, rejects and leaks of data, cleaned as the stream would.

    For example:

        python -m models data --data shop.csv --mapping rees46 --sequences shop.txt
    """
    counted = chosen(types)
    log = read_log(Source(data, mapping))
    card = data_card(log, data, counted, item_events_min)
    if sequences is not None:
        sequences.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in lines(log, counted, item_events_min))
        sequences.write_text(text, "utf-8")
    if json:
        print(msgspec.json.encode(card).decode())
    else:
        Console().print(tables(card))


def chosen(types: str) -> list[str]:
    """Return types of events from ``a,b,...``.

    Raises
    ------
    SourceError
        When one is none of ours.
    """
    names = [name.strip() for name in types.split(",") if name.strip()]
    unknown = sorted(set(names) - set(EVENT_TYPES))
    if unknown or not names:
        raise SourceError(
            f"there is no type {', '.join(unknown) or 'given'}: name some of "
            f"{', '.join(EVENT_TYPES)} with --types"
        )
    return names
