"""``stream-app catalog load``: items of a file into the catalogue's topic."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from stream_app.config import Settings
from stream_app.errors import ConfigError
from stream_app.event import Item, encode
from stream_app.ops.mapping import file_bar
from stream_app.sources import Record
from stream_app.sources.mapping import Mapping, load_mapping
from stream_app.sources.mapping_records import NamedMisfit, Tally, items_of
from stream_app.sources.mapping_values import Misfit, typed
from stream_app.sources.produce import ProduceSettings, produce
from stream_app.sources.rows import NumberedRow, RowFile, RowSource

_SHOW_ROWS = 1_000
# Our own schema has no mark for an item to remove, so this stands beside its fields.
DELETE = "delete"


class Loaded(msgspec.Struct, frozen=True):
    """What became of a catalogue's rows, as ``--json`` prints it.

    ``items`` were sent and ``removed`` got a tombstone; an item that several rows tell of is sent
    once, as the last of them has it.
    """

    rows: int
    rows_without_item: int
    items: int
    removed: int
    misfits: int
    acknowledged: int
    seconds: float
    faults: dict[str, int]
    named: list[NamedMisfit]


def load_catalog(
    settings: Settings, file: Path, name: str | None = None, source: RowSource | None = None
) -> Loaded:
    """Send the items of a file to the catalogue's topic, with a bar.

    Parameters
    ----------
    settings
        Of the program: where to.
    file
        Of items in our own schema, or of rows that a mapping's [item] makes items of.
    name
        Of a ready mapping, or a path.
    source
        The file's format, by default as its name says.

    Raises
    ------
    ConfigError
        When file or mapping cannot be read, or the mapping says nothing of items.
    ProduceError
        When the broker does not take every record.
    """
    mapping = None if name is None else load_mapping(name)
    if mapping is not None and not mapping.has_items:
        raise ConfigError(f"{mapping.place}: it has no [item], so it gives no items")
    rows = RowFile(file, source)
    tally = Tally()
    with file_bar(f"reading {rows.name}", rows) as show:
        items: dict[str, Item | None] = {}
        for numbered in rows:
            items |= _items(numbered, mapping, tally)
            if tally.rows % _SHOW_ROWS == 0:
                show(tally.rows)
        show(tally.rows)
    target = ProduceSettings(brokers=settings.brokers, topic=settings.topic("catalog"))
    with file_bar("acknowledged", rows) as show:
        produced = produce(_records(items), target, show)
    removed = sum(item is None for item in items.values())
    return Loaded(
        tally.rows,
        tally.rows_skipped,
        len(items) - removed,
        removed,
        tally.misfits,
        produced.acknowledged,
        round(produced.seconds, 3),
        dict(tally.faults.most_common()),
        tally.named,
    )


def _items(numbered: NumberedRow, mapping: Mapping | None, tally: Tally) -> dict[str, Item | None]:
    """Return the items of a row, counted."""
    place, row, fault = numbered
    tally.rows += 1
    try:
        if mapping is not None:
            found = items_of(mapping, row, fault)
        elif fault is not None:
            raise Misfit("row", row.get("line"), fault)  # noqa: TRY301 - as one that does not fit
        else:
            found = [_own(row)]
    except Misfit as misfit:
        tally.misfit(place, misfit)
        return {}
    tally.rows_skipped += not found
    return dict(found)


def _own(row: dict[str, object]) -> tuple[str, Item | None]:
    """Return an item of our own schema, None for one that is marked by ``"delete": true``."""
    fields = {name: value for name, value in row.items() if name != DELETE}
    item: Item = typed(fields, Item)
    return item.item_id, None if row.get(DELETE) is True else item


def _records(items: dict[str, Item | None]) -> Iterator[Record]:
    for item_id, item in items.items():
        yield item_id.encode(), b"" if item is None else encode(item), None
