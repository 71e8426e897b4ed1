"""``stream-app produce``: events into Kafka."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream_app.cli.common import Brokers, mapping_option, print_json, settings_of

Source = Literal["completejourney", "csv", "jsonl", "parquet", "synthetic"]


def produce(  # noqa: PLR0913, PLR0917 - an argument is an option
    source: Annotated[Source | None, typer.Option(help="where they come from")] = None,
    brokers: Brokers = None,
    file: Annotated[Path | None, typer.Option(help="of rows; else standard input")] = None,
    mapping: Annotated[str | None, mapping_option("of rows: a ready one, or a path")] = None,
    from_topic: Annotated[str | None, typer.Option(help="map another topic's values")] = None,
    group: Annotated[str | None, typer.Option(help="of --from-topic: keeps its place")] = None,
    households: Annotated[int | None, typer.Option(min=1, help="of completejourney")] = None,
    shop: Annotated[Literal["first", "second"] | None, typer.Option(help="of synthetic")] = None,
    seed: Annotated[int | None, typer.Option(help="of synthetic; else 0")] = None,
    truth: Annotated[Path | None, typer.Option(help="of synthetic: file to write to")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records at most")] = None,
    rate: Annotated[float | None, typer.Option(help="records a second")] = None,
    speedup: Annotated[float | None, typer.Option(help="times as fast as it happened")] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="date events by when they are sent")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="go on at the topic's end")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="stop at a row that does not fit")] = (
        False
    ),
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
) -> None:
    """Produce events and print how many the broker has acknowledged.

    With replay = true records carry the events' own times. Otherwise they carry the time of
    sending, and events older than that by more than stages.lateness_ms_max are late: they are
    learned from, but nothing is recommended. Date old ones anew with --now.

    Rows of another shop become events by a --mapping (see stream-app mapping). A row that does not
    fit is sent, too, and so is among the dead letters with its fault; --strict stops instead. Event
    ids follow from the rows, so rows sent again repeat nothing that the worker remembers: the last
    32 events of a user.

    With --from-topic the place in the other topic is committed, to a consumer group, behind what
    the broker has acknowledged: nothing is lost, and what a crash sends again has the same ids. Run
    one at a time for a group.

    The source synthetic is a seeded shop with late, repeated and broken records among the others;
    --truth writes beside them how probable a purchase, comment, share or churn was, as JSON lines.

    For example:

        stream-app produce --source completejourney --households 50 --rate 100 --now

        stream-app produce --file shop.csv --mapping rees46 --now
    """
    from stream_app.ops import produce as producing  # noqa: PLC0415 - imports the clients
    from stream_app.ops.mapping import MappedResult, say  # noqa: PLC0415

    order = producing.Order(
        source=source,
        file=file,
        mapping=mapping,
        from_topic=from_topic,
        follow=follow,
        group=group,
        strict=strict,
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
    if json:
        print_json(made)
        return
    if isinstance(made, MappedResult):
        for sentence in say(made):
            Console(stderr=True, soft_wrap=True).print(sentence, style="yellow", markup=False)
        Console().print(f"{made.rows:,} rows gave {made.events:,} events")
    Console().print(f"{made.acknowledged} records acknowledged in {made.seconds:.1f} s")
