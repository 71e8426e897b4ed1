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
Quantity = Annotated[int, Meta(ge=0, le=1_000_000)]
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
Rating = Annotated[float, Meta(ge=0, le=5)]
Text = Annotated[str, Meta(max_length=10_000)]
Path = Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(max_length=128)]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a user did, as a producer sends it; Kafka's key is ``user_id``.

    ``timestamp`` is RFC 3339 with an offset, or milliseconds since the epoch. ``price`` is that of
    one piece, in ``currency`` (ISO 4217). ``rating`` is what a comment gave, 0 to 5.
    """

    event_id: Annotated[
        Id, Meta(description="names the event; a repeat of it by the same user is dropped")
    ]
    type: Annotated[str, Meta(description="what the user did, or asks for")]
    user_id: Annotated[Id, Meta(description="who; also the key of the record")]
    timestamp: Annotated[
        Instant,
        Meta(description="when it happened: RFC 3339 with an offset, or ms since the epoch"),
    ]
    session_id: Annotated[Id | None, Meta(description="the visit that it belongs to")] = None
    item_id: Annotated[Id | None, Meta(description="the product that it is about")] = None
    order_id: Annotated[
        Id | None, Meta(description="of a purchase: lines with the same id are one order")
    ] = None
    recommendation_id: Annotated[
        Id | None, Meta(description="the recommendation that it follows")
    ] = None
    price: Annotated[Amount | None, Meta(description="of one piece")] = None
    quantity: Annotated[Quantity | None, Meta(description="pieces")] = None
    currency: Annotated[Currency | None, Meta(description="ISO 4217")] = None
    category: Annotated[
        Path | None,
        Meta(description="the department; what is wanted in it is proposed to who asks in it"),
    ] = None
    rating: Annotated[Rating | None, Meta(description="of a comment: 0 to 5")] = None
    text: Annotated[Text | None, Meta(description="of a search or a comment")] = None
    source: Annotated[Name | None, Meta(description="the program or page that sent it")] = None
    consent: Annotated[
        bool | None, Meta(description="of the type `consent`: whether the user may be profiled")
    ] = None
    context: Annotated[
        dict[Name, Scalar] | None, Meta(description="where and how: names to scalars")
    ] = None


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One product of the catalogue; Kafka's key is ``item_id``, an empty value removes it.

    ``category`` is a path from the general to the particular. ``stock`` in pieces; none of it means
    unknown. ``available_from`` and ``available_until`` are milliseconds since the epoch.
    """

    item_id: Annotated[Id, Meta(description="also the key of the record")]
    title: Annotated[str | None, Meta(description="for people")] = None
    category: Annotated[list[str], Meta(description="from the general to the particular")] = []
    brand: Annotated[str | None, Meta(description="what is like another is told by it too")] = None
    price: Annotated[Amount | None, Meta(description="of one piece")] = None
    currency: Annotated[str | None, Meta(description="ISO 4217")] = None
    merchant_id: Annotated[str | None, Meta(description="who sells it")] = None
    stock: Annotated[int | None, Meta(description="pieces; none: unknown")] = None
    hidden: Annotated[bool, Meta(description="not recommended now")] = False
    blocked: Annotated[bool, Meta(description="never recommended")] = False
    available_from: Annotated[int | None, Meta(description="ms since the epoch")] = None
    available_until: Annotated[int | None, Meta(description="ms since the epoch")] = None
    embedding: Annotated[list[float] | None, Meta(description="a vector of the shop's own")] = None


class Cause(Struct, frozen=True):
    """What an output follows from: the event's id and where it stands in the log."""

    event_id: Annotated[str, Meta(description="of the event")]
    topic: Annotated[str, Meta(description="where the event is")]
    partition: Annotated[int, Meta(description="of the topic")]
    offset: Annotated[int, Meta(description="in the partition")]


class RankedItem(Struct, frozen=True):
    """One recommended item: its place from 1, its score, where it came from and why."""

    item_id: Annotated[str, Meta(description="of the catalogue")]
    rank: Annotated[int, Meta(description="place, from 1")]
    score: Annotated[float, Meta(description="comparable within one recommendation")]
    sources: Annotated[list[str], Meta(description="what proposed it")]
    reasons: Annotated[list[str], Meta(description="why, in words")]


class Recommendation(Struct, frozen=True, kw_only=True):
    """The items recommended to a user, best first. ``timestamp`` is event time in ms."""

    recommendation_id: Annotated[
        str, Meta(description="also `ce_id`; name it in the events that follow")
    ]
    user_id: Annotated[str, Meta(description="for whom; also the key of the record")]
    timestamp: Annotated[int, Meta(description="event time, ms since the epoch")]
    items: Annotated[list[RankedItem], Meta(description="best first")]
    cause: Annotated[Cause, Meta(description="the event that it answers")]
    model: Annotated[str, Meta(description="what ranked")]
    model_version: Annotated[str, Meta(description="of the model")]
    fallback_level: Annotated[
        str | None,
        Meta(description="the formula that ranked in place of a model; null where one did"),
    ]
    service_level: Annotated[
        int, Meta(description="always 0 today; kept for a service that does less under load")
    ]
    variant: Annotated[
        str, Meta(description="exploit, or explore where one place was given to chance")
    ]
    catalog_version: Annotated[str, Meta(description="of the catalogue that it was made with")]


Target = Literal["purchase", "comment", "share", "churn"]


class Prediction(Struct, frozen=True, kw_only=True):
    """How probable it is, by target, that a user does it within ``horizon_ms`` of ``timestamp``.

    The target ``churn`` is that the user buys nothing. A target that the model has not seen enough
    of is left out. A prediction without ``cause`` was due at its time.
    """

    prediction_id: Annotated[str, Meta(description="also `ce_id`")]
    user_id: Annotated[str, Meta(description="of whom; also the key of the record")]
    timestamp: Annotated[int, Meta(description="event time, ms since the epoch")]
    horizon_ms: Annotated[int, Meta(description="for so long from `timestamp` on")]
    probabilities: Annotated[dict[Target, float], Meta(description="by target, 0 to 1")]
    cause: Annotated[
        Cause | None,
        Meta(description="the event that prompted it; null where it was due at its time"),
    ]
    model: Annotated[str, Meta(description="what predicts")]
    model_version: Annotated[str, Meta(description="of the model")]


class ChurnAlert(Struct, frozen=True, kw_only=True):
    """A user at risk of leaving: how likely, how grave, why, and what to offer.

    ``risk`` is the probability that the user buys nothing within ``horizon_ms`` of ``timestamp``.
    """

    alert_id: Annotated[str, Meta(description="also `ce_id`")]
    user_id: Annotated[str, Meta(description="of whom; also the key of the record")]
    timestamp: Annotated[int, Meta(description="event time, ms since the epoch")]
    horizon_ms: Annotated[int, Meta(description="for so long from `timestamp` on")]
    risk: Annotated[float, Meta(description="probability of no purchase, 0 to 1")]
    level: Annotated[Literal["watch", "warning", "critical"], Meta(description="how grave")]
    reasons: Annotated[list[str], Meta(description="why, in words")]
    offer: Annotated[str | None, Meta(description="what to offer, by settings")]
    model: Annotated[str, Meta(description="what predicts")]
    model_version: Annotated[str, Meta(description="of the model")]


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
