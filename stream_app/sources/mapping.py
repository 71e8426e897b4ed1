"""Another shop's rows become our events and items, as a TOML file says.

A mapping, of which most keys may be left out::

    title = "what it is for"
    source = "csv"                            # csv, jsonl or parquet: what the rows are read from
    each = ["items[]"]                        # lists to unroll: an event for each entry
    empty = ["(not set)"]                     # texts that mean no value, beside ""
    catalog = "items.csv"                     # a file beside this one: fills in category and price

    [event]                                   # fields of ours: where they come from
    type = "event_type"                       # a path: a column, or names with dots between them
    timestamp = "event_time"
    user_id = ["user_id", "visitor_id"]       # the first that has a value
    item_id = "items[].sku"                   # of the entry
    event_id = { hash = ["order_id", "sku"] } # else a hash of the whole row
    price = { path = "cents", scale = 0.01 }  # further keys: see Field in mapping_fields.py
    currency = { constant = "USD" }

    [context]                                 # what goes into the event's context
    device = "device.category"

    [types]                                   # their names: a type of ours, or "skip"
    add_to_cart = "cart"
    page = { type = "view", where = "items[].sku" }   # only where this has a value, else skipped
    "*" = "skip"                              # all others; without it they are misfits

    [time]
    format = "%d.%m.%Y %H:%M"                 # else RFC 3339 and numbers since the epoch
    zone = "Europe/Berlin"                    # of times that name none, else UTC

    [currency]                                # prices are converted
    to = "USD"
    rates = { EUR = 1.08 }                    # what one of it is in `to`

    [item]                                    # the catalogue, from the same rows or others
    item_id = "product_id"
    category = { path = "category_code", split = "." }
    delete = "discontinued"                   # true removes the item

Event ids follow from the row alone, so the same row sent twice has the same ids, and the worker
drops a repeat that is among the last 32 events of its user. Where a row gives several events,
``-1``, ``-2`` and so on stand behind the ids of all but the first.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from stream_app.errors import ConfigError
from stream_app.event import EVENT_TYPES, TIME_MS_MAX, TIME_MS_MIN, Event, Item
from stream_app.sources.mapping_fields import (
    FieldSpec,
    Paths,
    Read,
    Row,
    Scope,
    as_field,
    divided,
    paths_of,
    reader,
)
from stream_app.sources.mapping_spec import (
    OTHERS,
    SKIP,
    TIME_FIELDS,
    MappingSpec,
    parse_spec,
)
from stream_app.sources.mapping_times import time_reader
from stream_app.sources.mapping_values import (
    CONVERT,
    Field,
    Misfit,
    as_currency,
    as_text,
    check_id,
    exchange,
    typed,
)
from stream_app.sources.rows import read_rows
from stream_app.stages.decode import REQUIRED

__all__ = [
    "Mapping",
    "MappingSpec",
    "Misfit",
    "load_mapping",
    "mapping_text",
    "parse_mapping",
    "ready_mappings",
]

FOLDER = Path(__file__).with_name("mappings")

_ID_FIELDS = ("event_id", "user_id", "item_id")


class Mapping:
    """Makes events and items of rows; :func:`load_mapping` reads one.

    Parameters
    ----------
    name
        Stands before computed event ids.
    spec
        What was read from the file.
    place
        Named in errors: the file.
    catalog
        Items by id, whose category and price events take over that have none.

    Raises
    ------
    ConfigError
        When the description is wrong; it names place, key and what is allowed.
    """

    def __init__(
        self, name: str, spec: MappingSpec, place: str, catalog: dict[str, Item] | None = None
    ) -> None:
        self.name, self.spec, self.place = name, spec, place
        self.catalog = catalog or {}
        try:
            self._paths = Paths(spec.each, spec.empty)
            self._read_time = time_reader(spec.time.format, spec.time.zone)
            self._rules = {
                theirs: (
                    rule if isinstance(rule, str) else rule.type,
                    None if isinstance(rule, str) or rule.where is None else self._at(rule.where),
                )
                for theirs, rule in spec.types.items()
            }
            event = dict(spec.event)
            event.setdefault("event_id", Field(hash=[]))
            self._type = self._reader(event.pop("type")) if event.keys() >= {"type"} else None
            self._event = [(each, *self._field(each, spec)) for each, spec in event.items()]
            self._context = [(each, self._reader(spec)) for each, spec in spec.context.items()]
            self._item = [(each, *self._field(each, spec)) for each, spec in spec.item.items()]
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from error

    @property
    def has_events(self) -> bool:
        """Whether it says what an event is; one of items alone does not."""
        return self._type is not None

    @property
    def has_items(self) -> bool:
        """Whether it says what an item is."""
        return bool(self._item)

    def events(self, row: Row, skipped: "Counter[str] | None" = None) -> list[Event]:
        """Return the events of a row: none where its type is skipped, several where it has a list.

        Parameters
        ----------
        row
            A line of a file or the value of a record.
        skipped
            Counts the names of types that are skipped, once a row.

        Raises
        ------
        Misfit
            When the row does not fit; then it gives no event at all.
        """
        made: list[Event] = []
        names: set[str] = set()
        for scope in self._paths.scopes(row):
            kind = self._kind(scope, names)
            if kind is not None:
                made.append(self._make(kind, scope, len(made)))
        if skipped is not None:
            skipped.update(names)
        return made

    def items(self, row: Row) -> list[tuple[str, Item | None]]:
        """Return the items of a row by their ids, None for one to remove; none without an id.

        Raises
        ------
        Misfit
            When the row does not fit.
        """
        made: list[tuple[str, Item | None]] = []
        for scope in self._paths.scopes(row):
            fields = self._values(self._item, scope)
            if "item_id" not in fields:
                continue
            gone = fields.pop("delete", False)
            item: Item = typed(fields, Item)
            check_id("item_id", item.item_id)
            made.append((item.item_id, None if gone else item))
        return made

    def hints(self, row: Row) -> tuple[str | None, int | None]:
        """Return user and time in ms of a row that does not fit, as far as they can be read."""
        scope = self._paths.scopes(row)[0]
        found: dict[str, Any] = {}
        for entry in self._event:
            if entry[0] in {"user_id", "timestamp"}:
                try:
                    found |= self._values([entry], scope)
                except Misfit:
                    continue
        time_ms = found.get("timestamp")
        if time_ms is not None and not TIME_MS_MIN <= time_ms < TIME_MS_MAX:
            time_ms = None
        return found.get("user_id"), time_ms

    def _kind(self, scope: Scope, skipped: set[str]) -> str | None:
        """Return the type of ours, None for one that is skipped."""
        assert self._type is not None, "a mapping of events has a type"
        found = self._type(scope)
        if found is None or isinstance(found, dict | list):
            raise Misfit("type", found, f"a name is needed at {self._where('type')}")
        name = as_text(found)
        if not self._rules:
            rule: tuple[str, Read | None] | None = (name, None) if name in EVENT_TYPES else None
        else:
            rule = self._rules.get(name) or self._rules.get(OTHERS)
        if rule is None:
            raise Misfit("type", name, "name it in [types]: a type of ours, or skip")
        kind, where = rule
        if kind == SKIP or (where is not None and where(scope) is None):
            skipped.add(name)
            return None
        return kind

    def _make(self, kind: str, scope: Scope, place: int) -> Event:
        fields = self._values(self._event, scope)
        fields["type"] = kind
        if place and "event_id" in fields:
            fields["event_id"] += f"-{place}"
        if self._context:
            values = ((name, read(scope)) for name, read in self._context)
            fields["context"] = {name: value for name, value in values if value is not None}
        if self.catalog:
            self._enrich(fields)
        if self.spec.currency is not None:
            exchange(fields, self.spec.currency.to, self.spec.currency.rates)
        event: Event = typed(fields, Event)
        for name in REQUIRED[kind]:
            if getattr(event, name) is None:
                raise Misfit(name, None, f"a {kind} needs one, at {self._where(name)}")
        for name in _ID_FIELDS:
            check_id(name, getattr(event, name))
        if not TIME_MS_MIN <= fields["timestamp"] < TIME_MS_MAX:
            raise Misfit("timestamp", fields["timestamp"], "a time from 2000 to 2099 is needed")
        return event

    def _values(self, entries: "list[tuple[str, Read, Any]]", scope: Scope) -> dict[str, Any]:
        """Return the fields that have a value, each of our type."""
        values: dict[str, Any] = {}
        for name, read, convert in entries:
            found: object = None
            try:
                found = read(scope)
                if found is not None:
                    values[name] = convert(found)
            except (ValueError, OverflowError, TypeError) as error:
                needed = str(error)
                if name in TIME_FIELDS:
                    needed = f"a time {self.spec.time.format or 'as of RFC 3339'} is needed"
                raise Misfit(name, found, needed) from None
        return values

    def _enrich(self, fields: dict[str, Any]) -> None:
        item = self.catalog.get(fields.get("item_id", ""))
        if item is None:
            return
        if "category" not in fields and item.category:
            fields["category"] = item.category[-1]
        if "price" not in fields and item.price is not None:
            fields["price"] = item.price
            if item.currency is not None:
                fields["currency"] = item.currency

    def _field(self, name: str, spec: FieldSpec) -> "tuple[Read, Any]":
        """Return what reads a field, and what converts the value read."""
        field = as_field(spec)
        of_item = spec is self.spec.item.get(name)
        convert: Any = as_text
        if name in TIME_FIELDS:
            convert = self._read_time
        elif name == "currency":
            convert = as_currency
        elif name in CONVERT and (of_item or name != "category"):
            by_field = CONVERT[name]

            def convert(value: object) -> object:
                return by_field(value, field)

        read = self._reader(spec)
        if field.per is None:
            return read, convert
        return divided(read, self._paths.compile(field.per), field), float

    def _reader(self, spec: FieldSpec) -> Read:
        return reader(as_field(spec), self._paths, f"{self.name}-")

    def _at(self, path: str) -> Read:
        return self._paths.compile(path)

    def _where(self, name: str) -> str:
        """Return where a field comes from, in words."""
        if name not in self.spec.event:
            return f"event.{name}, which the mapping lacks"
        paths = paths_of(as_field(self.spec.event[name]))
        return " or ".join(map(repr, paths)) or f"event.{name}"


def load_mapping(name_or_path: str | Path) -> Mapping:
    """Return a ready mapping by its name, or one from a file; a path has a slash or ends in .toml.

    Raises
    ------
    ConfigError
        When there is none, or it is wrong; it names file, key and what is allowed.

    Examples
    --------
    >>> load_mapping("rees46").events({
    ...     "event_time": "2019-10-01 00:00:00 UTC", "event_type": "view", "product_id": "44600062",
    ...     "price": "35.79", "user_id": "541312140",
    ... })[0].price
    35.79
    """
    path = _path(str(name_or_path))
    return parse_mapping(_read(path), path)


def mapping_text(name: str) -> str:
    """Return a mapping as it stands in its file.

    Raises
    ------
    ConfigError
        When there is none.
    """
    return _read(_path(name))


def ready_mappings() -> list[str]:
    """Return the names of the mappings that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _path(text: str) -> Path:
    """Return the file of a ready mapping, or the one that a path names."""
    path = Path(text)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    if text not in ready_mappings():
        ready = ", ".join(ready_mappings())
        raise ConfigError(f"there is no mapping {text!r}: give {ready}, or a path to a .toml")
    return FOLDER / f"{text}.toml"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: {reason}") from error


def parse_mapping(content: str, path: Path) -> Mapping:
    """Return a mapping from its text; ``path`` names it, and a catalogue lies beside it.

    Raises
    ------
    ConfigError
        As of :func:`load_mapping`.
    """
    spec = parse_spec(content, str(path))
    bare = Mapping(path.stem, spec, str(path))
    if spec.catalog is None:
        return bare
    items: dict[str, Item] = {}
    file = path.parent / spec.catalog
    try:
        for number, row, _ in read_rows(file, None):
            try:
                items |= {key: item for key, item in bare.items(row) if item is not None}
            except Misfit as misfit:
                raise ConfigError(f"{file}, row {number}: {misfit}") from misfit
    except ConfigError as error:
        raise ConfigError(f"{path}: catalog: {error}") from error
    return Mapping(path.stem, spec, str(path), items)
