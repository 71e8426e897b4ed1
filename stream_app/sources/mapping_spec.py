"""The form of a mapping's file, checked: :class:`MappingSpec`; what it means is in mapping.py."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from stream_app.errors import ConfigError
from stream_app.event import Event, Item
from stream_app.sources.mapping_fields import FieldSpec, as_field, fault_of
from stream_app.sources.mapping_values import Field
from stream_app.sources.rows import RowSource
from stream_app.stages.decode import REQUIRED

SKIP = "skip"
OTHERS = "*"
TIME_FIELDS = frozenset(("timestamp", "available_from", "available_until"))

_EVENT_FIELDS = frozenset(Event.__struct_fields__) - {"context"}
_ITEM_FIELDS = (frozenset(Item.__struct_fields__) | {"delete"}) - {"embedding"}
_NEEDED = ("type", "timestamp", "user_id")
_AT = re.compile(r" - at `\$\.?([^`]*)`")


class TypeRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What a name of theirs is to us: a ``type``, only ``where`` a path has a value."""

    type: str
    where: str | None = None


class TimeSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How times are written, as :func:`stream_app.sources.mapping_times.time_reader` has it."""

    format: str | None = None
    zone: str = "UTC"


class CurrencySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Prices in a currency of ``rates`` are converted ``to`` another: rate x price."""

    to: str
    rates: dict[str, float]


class MappingSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping as it stands in its file; see the module's docstring."""

    event: dict[str, FieldSpec] = {}
    title: str = ""
    source: RowSource | None = None
    each: list[str] = []
    empty: list[str] = []
    catalog: str | None = None
    context: dict[str, FieldSpec] = {}
    types: dict[str, str | TypeRule] = {}
    time: TimeSpec = TimeSpec()
    currency: CurrencySpec | None = None
    item: dict[str, FieldSpec] = {}


def parse_spec(content: str, place: str) -> MappingSpec:
    """Return a mapping's description from its text, checked; ``place`` names it in errors.

    Raises
    ------
    ConfigError
        When it is no TOML, or says what it cannot; it names the key and what is allowed.
    """
    try:
        table = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place}: no TOML: {error}") from error
    spec: MappingSpec = _converted(table, place)
    faults = [*_field_faults(spec), *_other_faults(spec)]
    if faults:
        raise ConfigError(f"{place}: {'; '.join(faults)}")
    return spec


def _converted(table: dict[str, Any], place: str) -> Any:
    """Return the description in a table; one field at a time first, so that errors name it."""
    at = ""
    kinds: dict[str, Any] = {"types": str | TypeRule}
    try:
        for name in ("event", "item", "context", "types"):
            fields = table.get(name)
            for key, value in fields.items() if isinstance(fields, dict) else ():
                at = f"{name}.{key}"
                msgspec.convert(value, kinds.get(name, FieldSpec))
        at = ""
        return msgspec.convert(table, MappingSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {_explained(str(error), at)}") from error


def _explained(error: str, at: str) -> str:
    """Return msgspec's complaint about a table with the key first and what is allowed behind."""
    match = _AT.search(error)
    place = ".".join(filter(None, (at, match[1] if match else "")))
    sentence = _AT.sub("", error)
    if "unknown field" in sentence:
        tables = {"": MappingSpec, "time": TimeSpec, "currency": CurrencySpec}
        table = tables.get(place, TypeRule if place.startswith("types") else Field)
        key = ".".join(filter(None, (place, sentence.split("`")[1])))
        return f"{key}: there is no such key: {', '.join(table.__struct_fields__)}"
    return f"{place or 'the file'}: {sentence[0].lower()}{sentence[1:]}"


def _field_faults(spec: MappingSpec) -> Iterator[str]:
    """Yield what is wrong with single fields."""
    for table, fields, allowed in (
        ("event", spec.event, _EVENT_FIELDS),
        ("item", spec.item, _ITEM_FIELDS),
        ("context", spec.context, frozenset(spec.context)),
    ):
        for name, field in fields.items():
            full = as_field(field)
            fault = fault_of(full)
            if name not in allowed:
                fault = f"there is no such field: {', '.join(sorted(allowed))}"
            elif (full.parts or full.split) and (table, name) != ("item", "category"):
                fault = "parts and split are for the category of an item"
            if fault:
                yield f"{table}.{name}: {fault}"


def _other_faults(spec: MappingSpec) -> Iterator[str]:
    """Yield what is missing, and what is wrong outside of single fields."""
    if spec.event:
        yield from (f"event.{name}: is needed" for name in _NEEDED if name not in spec.event)
    elif not spec.item:
        yield "[event] or [item] is needed: which fields come from where"
    if spec.item and "item_id" not in spec.item:
        yield "item.item_id: is needed"
    if spec.catalog is not None and not spec.item:
        yield "catalog: [item] must say what an item is in it"
    if spec.currency is not None and not all(rate > 0 for rate in spec.currency.rates.values()):
        yield "currency.rates: each must be greater than 0"
    yield from _list_faults(spec)
    for theirs, rule in spec.types.items():
        kind = rule if isinstance(rule, str) else rule.type
        if kind not in REQUIRED and kind != SKIP:
            yield f"types.{theirs}: {kind!r} is none of {', '.join((*REQUIRED, SKIP))}"


def _list_faults(spec: MappingSpec) -> Iterator[str]:
    """Yield what is wrong with the lists to unroll."""
    for number, path in enumerate(spec.each):
        if not path.endswith("[]"):
            yield f"each: {path!r} must end in []"
        elif number and not path.startswith(f"{spec.each[number - 1]}."):
            yield f"each: {path!r} must lie inside {spec.each[number - 1]!r}"
