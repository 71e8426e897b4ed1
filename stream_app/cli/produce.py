"""``stream-app produce``: events into Kafka."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream_app.cli.common import Brokers, settings_of

Source = Literal["completejourney", "jsonl", "synthetic"]


def produce(  # noqa: PLR0913, PLR0917 - an argument is an option
    source: Annotated[Source, typer.Option(help="where they come from")],
    brokers: Brokers = None,
    file: Annotated[Path | None, typer.Option(help="of jsonl; else standard input")] = None,
    households: Annotated[int | None, typer.Option(min=1, help="of completejourney")] = None,
    shop: Annotated[Literal["first", "second"] | None, typer.Option(help="of synthetic")] = None,
    seed: Annotated[int | None, typer.Option(help="of synthetic; else 0")] = None,
    truth: Annotated[Path | None, typer.Option(help="of synthetic: file to write to")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records at most")] = None,
    rate: Annotated[float | None, typer.Option(help="records a second")] = None,
    speedup: Annotated[float | None, typer.Option(help="times as fast as it happened")] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="date events by when they are sent")] = False,
) -> None:
    """Produce events and print how many the broker has acknowledged.

    With replay = true records carry the events' own times. Otherwise they carry the time of
    sending, and events older than that by more than stages.lateness_ms_max are late: they are
    learned from, but nothing is recommended. Date old ones anew with --now.

    The source synthetic is a seeded shop with late, repeated and broken records among the others;
    --truth writes beside them how probable a purchase, comment, share or churn was, as JSON lines.

    For example:

        stream-app produce --source completejourney --households 50 --rate 100 --now
    """
    from stream_app.ops import produce as producing  # noqa: PLC0415 - imports the clients

    order = producing.Order(
        source=source,
        file=file,
        households=households,
        shop=shop,
        seed=seed,
        truth=truth,
        limit=limit,
        rate=rate,
        speedup=speedup,
        now=now,
    )
    made = producing.run(settings_of(brokers=brokers), order)
    Console().print(f"{made.acknowledged} records acknowledged in {made.seconds:.1f} s")
