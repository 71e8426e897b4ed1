"""The records on Kafka: what comes in and what goes out, as frozen msgspec structs, JSON."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

EventType = Literal[
    "view",
    "cart",
    "remove_from_cart",
    "purchase",
    "comment",
    "share",
    "search",
    "impression",
    "click",
    "recommend",
    "consent",
    "erase",
    "tick",
]
EVENT_TYPES: tuple[str, ...] = get_args(EventType)

RejectReason = Literal[
    "empty",  # no value at all
    "too_large",  # more bytes than settings allow
    "not_json",  # not UTF-8 JSON
    "not_an_event",  # JSON that does not fit the schema
    "unknown_type",  # a type that this version does not know
    "missing_field",  # a field that this type of event needs
    "bad_id",  # an id that is blank
    "bad_time",  # before 2000-01-01 or after 2100-01-01
    "from_the_future",  # dated more than 5 minutes after its record
    "no_key",  # a record without a key
    "wrong_key",  # the key is not the user's id
    "wrong_partition",  # not where the configured partitioner puts the key
]
REJECT_REASONS: tuple[str, ...] = get_args(RejectReason)

# An id takes at most this many characters: a row of state holds one, and a row is bounded.
Id = Annotated[str, Meta(min_length=1, max_length=128)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Instant = Annotated[int, Meta(ge=0)] | Annotated[datetime, Meta(tz=True)]
Scalar = str | int | float | bool | None


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a user did, as a producer sends it; Kafka's key is ``user_id``.

    ``timestamp`` is RFC 3339 with an offset, or milliseconds since the epoch. ``price`` is that of
    one piece, in ``currency`` (ISO 4217). ``rating`` is what a comment gave, 0 to 5.
    """

    event_id: Id
    type: str
    user_id: Id
    timestamp: Instant
    session_id: Id | None = None
    item_id: Id | None = None
    order_id: Id | None = None
    recommendation_id: Id | None = None
    price: Amount | None = None
    quantity: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    category: Annotated[str, Meta(max_length=256)] | None = None
    rating: Annotated[float, Meta(ge=0, le=5)] | None = None
    text: Annotated[str, Meta(max_length=10_000)] | None = None
    source: Annotated[str, Meta(max_length=128)] | None = None
    consent: bool | None = None
    context: dict[Annotated[str, Meta(max_length=128)], Scalar] | None = None


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One product of the catalogue; Kafka's key is ``item_id``, an empty value removes it.

    ``category`` is a path from the general to the particular. ``stock`` in pieces; none of it means
    unknown. ``available_from`` and ``available_until`` are milliseconds since the epoch.
    """

    item_id: Id
    title: str | None = None
    category: list[str] = []
    brand: str | None = None
    price: Amount | None = None
    currency: str | None = None
    merchant_id: str | None = None
    stock: int | None = None
    hidden: bool = False
    blocked: bool = False
    available_from: int | None = None
    available_until: int | None = None
    embedding: list[float] | None = None


class Cause(Struct, frozen=True):
    """What an output follows from: the event's id and where it stands in the log."""

    event_id: str
    topic: str
    partition: int
    offset: int


class RankedItem(Struct, frozen=True):
    """One recommended item: its place from 1, its score, where it came from and why."""

    item_id: str
    rank: int
    score: float
    sources: list[str]
    reasons: list[str]


class Recommendation(Struct, frozen=True, kw_only=True):
    """The items recommended to a user, best first. ``timestamp`` is event time in ms."""

    recommendation_id: str
    user_id: str
    timestamp: int
    items: list[RankedItem]
    cause: Cause
    model: str
    model_version: str
    fallback_level: str | None
    service_level: int
    variant: str
    catalog_version: str


Target = Literal["purchase", "comment", "share", "churn"]


class Prediction(Struct, frozen=True, kw_only=True):
    """How probable it is, by target, that a user does it within ``horizon_ms`` of ``timestamp``.

    The target ``churn`` is that the user buys nothing. A target that the model has not seen enough
    of is left out. A prediction without ``cause`` was due at its time.
    """

    prediction_id: str
    user_id: str
    timestamp: int
    horizon_ms: int
    probabilities: dict[Target, float]
    cause: Cause | None
    model: str
    model_version: str


class ChurnAlert(Struct, frozen=True, kw_only=True):
    """A user at risk of leaving: how likely, how grave, why, and what to offer.

    ``risk`` is the probability that the user buys nothing within ``horizon_ms`` of ``timestamp``.
    """

    alert_id: str
    user_id: str
    timestamp: int
    horizon_ms: int
    risk: float
    level: Literal["watch", "warning", "critical"]
    reasons: list[str]
    offer: str | None
    model: str
    model_version: str


Output = Recommendation | Prediction | ChurnAlert


Catalog = Mapping[str, Item]

# Every time lies between these, in ms since the epoch; a producer may send any 64-bit number.
TIME_MS_MIN = 946_684_800_000  # 2000-01-01
TIME_MS_MAX = 4_102_444_800_000  # 2100-01-01

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(instant: int | datetime) -> int:
    """Return milliseconds since the epoch, rounded down.

    >>> to_ms(datetime(2017, 1, 1, tzinfo=UTC))
    1483228800000
    """
    if isinstance(instant, int):
        return instant
    delta = instant - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def rfc3339(ms: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 in UTC.

    >>> rfc3339(1483228800000)
    '2017-01-01T00:00:00.000Z'
    """
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def encode(record: Struct) -> bytes:
    """Return a record as JSON, fields in declared order."""
    return msgspec.json.encode(record)
