"""What the columns of a sample look like: names, values, times, prices; for guessing a mapping."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from stream_app.event import TIME_MS_MAX, TIME_MS_MIN
from stream_app.sources.mapping_times import time_reader

# Of each column so many values are looked at, and so many different ones are kept.
_VALUES_MAX = 5_000
_DEPTH_MAX = 6
# A share of values that may be odd before a column is not what it looks like.
_ODD_SHARE = 0.05
_CENTS_LIKE = 1_000

# Names by field of ours, the likeliest first; plain words of a nested name are joined by "_".
NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        *("user_id", "customer_id", "visitor_id", "client_id", "shopper_id", "member_id"),
        *("household_id", "account_id", "buyer_id", "person_id", "profile_id", "user_pseudo_id"),
        *("anonymous_id", "customer_unique_id", "customer", "user", "visitor", "client", "member"),
        *("uid", "cid", "shopper", "buyer", "device_id", "email", "reviewer_id", "kunde"),
        *("cliente",),
    ),
    "item_id": (
        *("product_id", "item_id", "sku", "item_sku", "product_sku", "article_id", "variant_id"),
        *("stock_code", "product_code", "item_code", "goods_id", "offer_id", "content_id", "asin"),
        *("isbn", "ean", "upc", "product", "item", "article", "artikel", "produit"),
    ),
    "type": (
        *("event_type", "event_name", "event", "action", "action_type", "event_action"),
        *("behavior_type", "behaviour_type", "behavior", "behaviour", "activity", "interaction"),
        *("interaction_type", "activity_type", "type"),
    ),
    "timestamp": (
        *("event_time", "timestamp", "event_timestamp", "ts", "datetime", "date_time", "time"),
        *("occurred_at", "created_at", "event_date", "time_stamp", "server_time", "order_date"),
        *("invoice_date", "purchase_date", "transaction_date", "date", "datum", "fecha"),
    ),
    "session_id": ("session_id", "user_session", "session", "visit_id", "sid", "session_key"),
    "order_id": (
        *("order_id", "transaction_id", "invoice_no", "invoice_id", "basket_id", "receipt_id"),
        *("order_number", "order", "transaction", "invoice", "receipt"),
    ),
    "event_id": ("event_id", "message_id", "event_uuid", "hit_id", "uuid", "id"),
    "price": (
        *("price", "unit_price", "item_price", "product_price", "sale_price", "price_usd"),
        *("price_eur", "price_gbp", "price_cents", "unit_price_cents", "amount_cents", "amount"),
        *(
            "revenue",
            "sales_value",
            "line_total",
            "total",
            "value",
            "total_price",
            "preis",
            "prix",
            "precio",
        ),
    ),
    "quantity": (
        "quantity",
        "qty",
        "units",
        "pieces",
        "item_quantity",
        "count",
        "menge",
        "cantidad",
    ),
    "currency": ("currency", "currency_code"),
    "category": (
        *("category", "category_code", "category_name", "category_path", "product_category"),
        *("item_category", "department", "product_type", "category_id"),
    ),
    "rating": ("rating", "stars", "review_score"),
    "text": ("search_term", "search_query", "query", "keyword", "review_text", "review_body"),
    "title": ("product_name", "item_name", "product_title", "title", "name", "description"),
    "brand": ("brand", "product_brand", "item_brand", "manufacturer", "vendor"),
}

# Parts of names, in this order: the first that a name has says what it is.
_TYPE_WORDS: tuple[tuple[str, str], ...] = (
    ("remove", "remove_from_cart"),
    ("delete", "remove_from_cart"),
    ("refund", "skip"),
    ("return", "skip"),
    ("cancel", "skip"),
    ("wish", "skip"),
    ("fav", "skip"),
    ("begin", "skip"),
    ("start", "skip"),
    ("list", "skip"),
    ("search", "search"),
    ("review", "comment"),
    ("comment", "comment"),
    ("rating", "comment"),
    ("share", "share"),
    ("purchas", "purchase"),
    ("order", "purchase"),
    ("transaction", "purchase"),
    ("buy", "purchase"),
    ("bought", "purchase"),
    ("sale", "purchase"),
    ("conversion", "purchase"),
    ("cart", "cart"),
    ("basket", "cart"),
    ("atc", "cart"),
    ("click", "click"),
    ("view", "view"),
    ("detail", "view"),
    ("visit", "view"),
    ("pv", "view"),
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_COMMA_NUMBER = re.compile(r"[+-]?\d+(\.\d{3})*,\d{1,2}")
_FRACTION = re.compile(r"[+-]?\d+[.,]\d+")
_ZONE = re.compile(r"(Z|UTC|GMT|[+-]\d\d:?\d\d)$")
_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d)?(\.\d+)?")

# Ways to write a time that RFC 3339 does not cover; where days and months cannot be told apart by
# a sample, the first that reads all of it is proposed, and the other is a doubt.
PATTERNS = (
    *tuple(
        f"{day}{clock}"
        for day in (
            "%d.%m.%Y",
            "%d/%m/%Y",
            "%m/%d/%Y",
            "%d-%m-%Y",
            "%Y/%m/%d",
            "%d/%m/%y",
            "%m/%d/%y",
        )
        for clock in (" %H:%M:%S", " %H:%M", "")
    ),
    "%d %b %Y %H:%M:%S",
    "%b %d, %Y %H:%M:%S",
    "%d/%b/%Y:%H:%M:%S %z",
    "%Y%m%d%H%M%S",
)


class Column(Struct):
    """The values at a path: how many there are, which, and how often."""

    path: str
    filled: int = 0
    values: Counter[Any] = field(default_factory=Counter)

    @property
    def words(self) -> tuple[str, ...]:
        """Names by which it may be known: its own, and that with its parent's before it."""
        parts = [plain(part) for part in self.path.replace("[]", "").split(".")]
        own = parts[-1]
        names = [own, f"{parts[-2].removesuffix('s')}_{own}"] if len(parts) > 1 else [own]
        return tuple(names)

    def texts(self) -> list[str]:
        """Return its different values as text."""
        return [str(value).strip() for value in self.values]


def plain(name: str) -> str:
    """Return a name in small words with "_" between them.

    >>> plain("productId"), plain("InvoiceNo"), plain("User ID"), plain("userid")
    ('product_id', 'invoice_no', 'user_id', 'user_id')
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    joined = "_".join(words)
    ends_in_id = joined.endswith("id") and not joined.endswith("_id") and len(words) == 1
    return f"{joined[:-2]}_id" if ends_in_id and len(joined) > len("uid") else joined


def type_of(name: str) -> str:
    """Return what a name of theirs seems to be to us.

    >>> [type_of(name) for name in ("addToCart", "pv", "Order Completed", "login")]
    ['cart', 'view', 'purchase', 'skip']
    """
    small = name.lower()
    return next((kind for word, kind in _TYPE_WORDS if word in small), "skip")


def columns_of(rows: Iterable[Mapping[str, object]]) -> dict[str, Column]:
    """Return the columns of a sample by their paths, in the order in which they come."""
    columns: dict[str, Column] = {}
    for row in rows:
        for path, value in _leaves(row, "", 0):
            column = columns.setdefault(path, Column(path))
            if value is None or value == "":
                continue
            column.filled += 1
            if len(column.values) < _VALUES_MAX:
                column.values[value] += 1
    return columns


def _leaves(value: object, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for entry in value:
            if isinstance(entry, Mapping):
                yield from _leaves(entry, f"{path}[]", depth + 1)
    elif isinstance(value, str | int | float | bool) or value is None or hasattr(value, "year"):
        yield path, value


def ranked(columns: Iterable[Column], name: str) -> list[Column]:
    """Return the columns whose names may mean a field of ours, the likeliest first."""
    known = NAMES[name]
    found = []
    for place, column in enumerate(columns):
        if not column.filled:
            continue
        ranks = [known.index(word) for word in column.words if word in known]
        ranks += [
            len(known) + rank
            for rank, known_name in enumerate(known)
            if "_" in known_name and any(word.endswith(f"_{known_name}") for word in column.words)
        ]
        if ranks:
            found.append((min(ranks), place, column))
    return [column for _, _, column in sorted(found, key=lambda each: each[:2])]


def candidates(columns: Iterable[Column], name: str) -> list[Column]:
    """Return the columns whose values may be a field's, whatever they are called, likeliest first.

    A price is a number, with decimals rather than without. An id has no decimals and several
    values, is no time, and comes again rather than not.
    """
    found = []
    for place, column in enumerate(columns):
        number = number_form(column) is not None
        fractions = any(_FRACTION.fullmatch(text) for text in column.texts())
        repeats = len(column.values) < column.filled
        if name == "price":
            if number:
                found.append((not fractions, place, column))
        elif len(column.values) > 1 and not fractions and time_format(column) is None:
            found.append((not repeats, place, column))
    return [column for _, _, column in sorted(found, key=lambda each: each[:2])]


def time_format(column: Column) -> tuple[str | None, list[str]] | None:
    """Return how a column's times are written and what is doubtful in it; None if it has none.

    The format is None for what RFC 3339 and numbers since the epoch cover.
    """
    values = list(column.values)
    reads = [None, *PATTERNS]
    fits = [pattern for pattern in reads if _read_share(values, pattern) >= 1 - _ODD_SHARE]
    if not fits:
        return None
    doubts = []
    texts = [value for value in values if isinstance(value, str)]
    if texts and not all(_NUMBER.fullmatch(text) or _ZONE.search(text) for text in texts):
        doubts.append(
            f"the times in {column.path!r} name no zone and are taken as UTC: give [time] zone"
        )
    others = [pattern for pattern in fits[1:] if pattern is not None]
    if fits[0] is not None and others:
        doubts.append(f"the times in {column.path!r} can be read as {others[0]!r}, too")
    return fits[0], doubts


def _read_share(values: Sequence[object], pattern: str | None) -> float:
    read = time_reader(pattern, "UTC")
    good = 0
    for value in values:
        try:
            good += TIME_MS_MIN <= read(value) < TIME_MS_MAX
        except (ValueError, OverflowError):
            continue
    return good / len(values) if values else 0.0


def is_clock(column: Column) -> bool:
    """Tell whether a column holds times of day without a date."""
    return bool(column.values) and all(_CLOCK.fullmatch(text) for text in column.texts())


def number_form(column: Column) -> str | None:
    """Return what stands before the decimals of a column's numbers, None if it has other values."""
    texts = [text.strip(" \u00a0$€£¥") for text in column.texts()]
    if not texts:
        return None
    plain_share = sum(bool(_NUMBER.fullmatch(text)) for text in texts) / len(texts)
    if plain_share >= 1 - _ODD_SHARE:
        return "."
    comma_share = sum(
        bool(_COMMA_NUMBER.fullmatch(text) or _NUMBER.fullmatch(text)) for text in texts
    ) / len(texts)
    return "," if comma_share >= 1 - _ODD_SHARE else None


def looks_like_cents(column: Column) -> bool:
    """Tell whether a column's numbers are whole and large, as prices in cents are."""
    numbers = sorted(float(text) for text in column.texts() if _NUMBER.fullmatch(text))
    return (
        bool(numbers)
        and all(number.is_integer() for number in numbers)
        and numbers[len(numbers) // 2] >= _CENTS_LIKE
    )
