"""The demo's shop of your own: the events of a file, by a mapping that is given or guessed."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from stream_app.errors import ConfigError
from stream_app.event import Event, Item, Recommendation
from stream_app.ops.demo_shops import Drawn, Entry, Grocer, event_in
from stream_app.ops.mapping import file_bar, say
from stream_app.sources.mapping import Mapping, load_mapping, parse_mapping
from stream_app.sources.mapping_guess import propose
from stream_app.sources.mapping_records import MappedRecords, Tally, first_time_ms, items_of
from stream_app.sources.mapping_values import Misfit
from stream_app.sources.rows import RowFile, read_rows

# Events that the demo needs: a third of them go at a pace, so that there is a latency.
_EVENTS_MIN = 3
_SHOW_ROWS = 1_000


class OwnFile:
    """A file to make a shop of: call it with about how many events, None for all.

    Parameters
    ----------
    file
        CSV, JSON lines or parquet.
    name
        Of a ready mapping, or a path; by default one is guessed, and its doubts are told on
        standard error.

    Raises
    ------
    ConfigError
        When the file or the mapping cannot be read.
    """

    model: Path | None = None

    def __init__(self, file: Path, name: str | None) -> None:
        self._file = file
        errors = Console(stderr=True, soft_wrap=True)
        if name is not None:
            self._mapping = load_mapping(name)
            return
        proposal = propose(file)
        self._mapping = parse_mapping(proposal.content, Path(f"{proposal.ready or file.stem}.toml"))
        if proposal.ready is not None:
            errors.print(f"{file} is read by the ready mapping {proposal.ready}", markup=False)
        else:
            errors.print(
                f"{file} is read by a guessed mapping; to see and change it: stream-app mapping "
                f"guess {file} --out {file.stem}.toml, then --mapping {file.stem}.toml",
                markup=False,
            )
        for doubt in proposal.doubts:
            errors.print(f"- {doubt}", style="yellow", markup=False)

    def __call__(self, limit: int | None) -> "OwnShop":
        """Return the shop of so many events."""
        return OwnShop(self._file, self._mapping, limit)


ShopMaker = type[Grocer] | type[Drawn] | OwnFile


class OwnShop:
    """The events of a file, in the order of their times, in memory; see :class:`OwnFile`.

    Items are those that the mapping's [item] tells of; without one, those of the events, with the
    category and price that these have.

    Raises
    ------
    ConfigError
        When hardly an event can be made of the file.
    """

    who = "user"
    reacts = False
    model: Path | None = None

    def __init__(self, file: Path, mapping: Mapping, limit: int | None) -> None:
        self.title = f"your {file.name}"
        self._items: dict[str, Item] = {}
        self._entries: list[Entry] = []
        first_ms = first_time_ms(read_rows(file, None), mapping)
        records = MappedRecords(mapping, first_ms=first_ms)
        rows = RowFile(file, None)
        with file_bar(f"reading {file.name}", rows) as show:
            for numbered in rows:
                made = (record for record in records.of([numbered]) if record is not None)
                self._entries += [(record, event_in(record)) for record in made]
                if mapping.has_items:
                    self._learn(mapping, numbered[1], numbered[2])
                if records.tally.rows % _SHOW_ROWS == 0:
                    show(len(self._entries))
                if limit is not None and len(self._entries) >= limit:
                    break
        self._entries = sorted(self._entries[:limit], key=lambda entry: entry[0][2] or 0)
        self.total = len(self._entries)
        _refuse_nothing(file, mapping, records.tally)
        sizes = Counter(event.user_id for _, event in self._entries if event is not None)
        ((self.hero, _),) = sizes.most_common(1)

    def entries(self) -> Iterator[Entry]:
        """Yield the events, and the rows that do not fit, which the worker rejects."""
        yield from self._entries

    def items(self) -> list[Item]:
        """Return what the rows tell of items."""
        if self._items:
            return list(self._items.values())
        return list(_items_in(event for _, event in self._entries if event is not None).values())

    def react(self, answer: Recommendation, session_id: str | None) -> list[Event]:  # noqa: ARG002
        """Return nothing: these people never saw it."""
        return []

    def _learn(self, mapping: Mapping, row: dict[str, object], fault: str | None) -> None:
        try:
            found = items_of(mapping, row, fault)
        except Misfit:
            return  # it is told of as an event that does not fit
        for item_id, item in found:
            if item is not None:
                self._items[item_id] = item


def _items_in(events: Iterator[Event]) -> dict[str, Item]:
    """Return items with what the last event of each tells of them."""
    items: dict[str, Item] = {}
    for event in events:
        if event.item_id is not None:
            items[event.item_id] = Item(
                item_id=event.item_id,
                category=[event.category] if event.category else [],
                price=event.price,
                currency=event.currency,
            )
    return items


def _refuse_nothing(file: Path, mapping: Mapping, tally: Tally) -> None:
    if tally.events >= _EVENTS_MIN:
        return
    why = "; ".join(say(tally)) or "there are too few rows"
    raise ConfigError(
        f"{file}: {mapping.place} makes {tally.events} events of {tally.rows} rows, and the demo "
        f"needs {_EVENTS_MIN}: {why}. Mend a mapping: stream-app mapping guess {file} --out F"
    )
