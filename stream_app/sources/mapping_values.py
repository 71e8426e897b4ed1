"""Values of other shops' rows as ours: text, numbers, yes or no, lists; and what does not fit."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import xxhash
from msgspec import Struct

from stream_app.errors import StreamAppError
from stream_app.event import Scalar

_TRUE, _FALSE = frozenset(("true", "yes", "y", "t", "1")), frozenset(("false", "no", "n", "f", "0"))
# By the mark of thousands: a number, with such marks where they belong or with none.
_GROUPED = {
    ",": re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?"),
    ".": re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?"),
}
# Where msgspec says that a fault is.
_AT = re.compile(r" - at `\$\.?([^`]*)`")
# What may stand about a number.
_MONEY = " \u00a0$€£¥"
# Longer text is cut where a message shows it.
_SHOWN_CHARACTERS = 60


class Misfit(StreamAppError):  # noqa: N818 - a row that does not fit; not a fault of the program
    """A row that a mapping cannot make events of: whoever wrote the mapping or the row acts.

    Attributes
    ----------
    field
        Of the event or item, or "row".
    value
        What was found, as text, cut where it is long.
    sentence
        What is needed instead.
    """

    def __init__(self, field: str, value: object, sentence: str) -> None:
        text = value if isinstance(value, str) else _shown(value)
        if len(text) > _SHOWN_CHARACTERS:
            text = text[:_SHOWN_CHARACTERS] + "…"
        super().__init__(f"{field} {text!r}: {sentence}")
        self.field, self.value, self.sentence = field, text, sentence


class Field(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one field comes from: one of ``path``, ``template``, ``constant``, ``hash``, ``parts``.

    Parameters
    ----------
    path
        One, or several of which the first with a value counts.
    template
        Text with paths in braces: ``"{order_id}-{product_id}"``; without a value if one is missing.
    constant
        The same for all rows.
    hash
        Of the values at these paths; of the whole row for an empty list.
    parts
        Paths whose values make a list: of the category of an item.
    default
        Where there is no value.
    scale
        A number is multiplied by it: 0.01 for cents.
    per
        The path of a number to divide by: a line's total by its quantity. Nothing for 0.
    decimal
        What stands before the decimals; the other of "." and "," may stand between thousands.
    split
        Text is cut at it into a list: of the category of an item.
    """

    path: str | list[str] = []
    template: str | None = None
    constant: Scalar = None
    hash: list[str] | None = None
    parts: list[str] | None = None
    default: Scalar = None
    scale: float = 1.0
    per: str | None = None
    decimal: str = "."
    split: str | None = None


def digest(value: object) -> str:
    """Return 128 bits of XXH3 of a value's JSON, in hex: equal values, equal text, on any machine.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(value, order="deterministic"))


def as_text(value: object) -> str:
    """Return an id or a name as text; 5.0, as pandas writes whole numbers, is "5".

    Raises
    ------
    ValueError
        When it is a list or a table.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping | list | tuple):
        raise ValueError("text is needed")  # noqa: TRY004 - the caller names the field
    return str(value)


def as_currency(value: object) -> str:
    """Return a currency's code, in capitals: some write usd."""
    return as_text(value).upper()


def as_number(value: object, field: Field) -> float:
    """Return a number, scaled; raises ValueError for what is none."""
    if isinstance(value, str):
        value = _plain_number(value, field.decimal)
    elif isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004 - the caller names the field
    try:
        number = float(value) * field.scale  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a number is needed") from None
    if not math.isfinite(number):
        raise ValueError("a finite number is needed")
    # 4999 cents are 49.99, not 49.99000000000001.
    return number if field.scale == 1.0 else round(number, 6)


def _plain_number(text: str, decimal: str) -> str:
    """Return a number as Python reads it; marks of thousands go where they stand as such."""
    text = text.strip(_MONEY)
    other = "," if decimal == "." else "."
    if other in text or decimal == ",":
        if not _GROUPED[other].fullmatch(text):
            raise ValueError(f"a number with {decimal!r} before its decimals is needed")
        text = text.replace(other, "").replace(decimal, ".")
    return text


def as_whole(value: object, field: Field) -> int:
    """Return a whole number; raises ValueError for what is none."""
    number = as_number(value, field)
    if not number.is_integer():
        raise ValueError("a whole number is needed")
    return int(number)


def as_truth(value: object, _field: Field) -> bool:
    """Return yes or no; raises ValueError for what is neither."""
    text = as_text(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false is needed")


def as_list(value: object, field: Field) -> list[str]:
    """Return the parts of a category, from the general to the particular."""
    if isinstance(value, str):
        parts = value.split(field.split) if field.split else [value]
    elif isinstance(value, Sequence):
        parts = [as_text(part) for part in value]
    else:
        raise ValueError("text or a list is needed")  # noqa: TRY004 - the caller names the field
    return [part.strip() for part in parts if part.strip()]


def typed(fields: dict[str, Any], kind: Any) -> Any:
    """Return a struct of fields, which holds what its types ask for."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _AT.search(text) or re.search(r"required field `(\w+)`", text)
        name = match[1].split(".")[0].split("[")[0] if match else "row"
        raise Misfit(name, fields.get(name), _AT.sub("", text)) from None


def check_id(name: str, text: str | None) -> None:
    """Raise for an id that is there and cannot be one."""
    if text is not None and (text.isspace() or not text.isprintable()):
        raise Misfit(name, text, "an id must be printable and not blank")


def exchange(fields: dict[str, Any], to: str, rates: Mapping[str, float]) -> None:
    """Convert the price to another currency, and say so in the currency.

    Raises
    ------
    Misfit
        When no rate is known.
    """
    given = fields.get("currency")
    if given == to or "price" not in fields:
        return
    rate = rates.get(given or "")
    if rate is None:
        known = ", ".join((to, *rates))
        raise Misfit("currency", given, f"[currency] converts from {known} only")
    fields["price"] = round(fields["price"] * rate, 6)
    fields["currency"] = to


def _shown(value: object) -> Any:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return str(value)


# What makes a field's value one of ours, by its name; others are text or times.
CONVERT: dict[str, Callable[[object, Field], Any]] = {
    "price": as_number,
    "rating": as_number,
    "quantity": as_whole,
    "stock": as_whole,
    "consent": as_truth,
    "hidden": as_truth,
    "blocked": as_truth,
    "delete": as_truth,
    "category": as_list,  # of an item; that of an event is text
}
