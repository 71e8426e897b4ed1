"""What passes between the stages: frozen structs, so that nobody changes what was handed on.

In order: a :class:`RawRecord` is decoded into an :class:`Arrival`, admitted as :class:`Admitted`,
joined by the :class:`Due` timers, described by a :class:`UserView`, turned into a :class:`Request`
for candidates, :class:`Scored`, :class:`Ranked` and emitted as an :class:`OutputRecord`.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from stream_app.event import Event, RejectReason, Target


class RawRecord(Protocol):
    """A Kafka record as the clients hand it out; ``timestamp`` in ms since the epoch."""

    @property
    def offset(self) -> int:
        """Where the record stands in its partition."""
        ...

    @property
    def timestamp(self) -> int:
        """When the record was made or appended, in ms since the epoch."""
        ...

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        ...

    @property
    def value(self) -> bytes | None:
        """The record's value."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The record's headers, in order."""
        ...


class Arrival(Struct, frozen=True):
    """A decoded event and where it stood in the log.

    ``time_ms`` is event time; ``log_ms`` the partition's log time at this record; ``late`` says
    that the event is older than the log time by more than the allowed lateness.
    """

    event: Event
    time_ms: int
    offset: int
    log_ms: int
    late: bool


class Admitted(Struct, frozen=True):
    """An arrival that is no repeat.

    ``key`` names the user's row; ``profiled`` says whether consent allows updating and using a
    profile; an ``untouchable`` event predates an erasure. ``timers`` says whether behaviour is
    ``predicted`` here, and when the horizon closes: ``closes_ms`` of log time, 0 where nobody waits
    for what comes of it.
    """

    arrival: Arrival
    key: str
    profiled: bool
    untouchable: bool = False
    predicted: bool = False
    closes_ms: int = 0

    @property
    def log_ms(self) -> int:
        """Log time at the record, in ms since the epoch."""
        return self.arrival.log_ms


class Duplicate(Struct, frozen=True):
    """A repeat of an event that the user's row still remembers."""

    offset: int
    log_ms: int


class Tick(Struct, frozen=True):
    """A record that only moves log time."""

    offset: int
    log_ms: int


class Reject(Struct, frozen=True):
    """A record that cannot be processed: the reason, a sentence for people, and its bytes."""

    reason: RejectReason
    detail: str
    record: RawRecord
    log_ms: int


class Due(Struct, frozen=True):
    """A timer that fired: of ``scope`` user or item, for the row ``key``, set to ``due_ms``.

    ``closes_ms`` is when the horizon of what it asks for closes, 0 where nobody waits for that.
    """

    scope: Literal["user", "item"]
    key: str | int
    kind: str
    due_ms: int
    log_ms: int
    closes_ms: int = 0


class OutputRecord(Struct, frozen=True):
    """A record to produce: logical topic name, key, value and headers."""

    topic: Literal["recommendations", "predictions", "churn_alerts", "dead_letter"]
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Batch(Struct, frozen=True):
    """A slice of one partition of the source topic; without records it only fires timers."""

    topic: str
    partition: int
    records: Sequence[RawRecord]
    fire_until_ms: int | None = None


SOURCES = {
    1: "repeat",
    2: "co-visitation",
    4: "trending",
    8: "popular",
    16: "content",
    32: "new",
    64: "here",
    128: "model",
}

FEATURE_NAMES = (
    "log_count",  # log(1 + decayed number of the user's purchases of it)
    "popular_percent",  # of the partition's purchases, 30-day half-life, at most 3
    "trending_percent",  # the same with a 2-day half-life
    "log_trending",  # log(1 + trending per mille)
    "log_neighbour",  # log(1 + 20 x summed share of the transitions from the last 10 items)
    "has_gap",  # bought at least twice: 1, else 0
    "due",  # time since the last purchase in personal gaps, at most 1
    "overdue",  # what exceeds one gap, at most 3
    "in_repeat",  # in the user's repeat table: 1, else 0
    "recency_days",  # since the user's last purchase of it; 0 without one
    "gap_days",  # the personal gap; 0 without one
    "content",  # similarity to the most similar of the user's last items, 0 to 1
    "is_new",  # came less than 14 days ago: 1, else 0
    "log_here",  # log(1 + per mille of what is wanted in the event's context, 30-day half-life)
)


class UserView(Struct, frozen=True):
    """A user as of one record, that record included; oldest history first.

    ``items`` are hashes of item ids, ``seconds`` event times since the epoch, ``kinds`` places in
    :data:`stream_app.event.EVENT_TYPES`. ``activity`` holds decayed counts, for each type of event
    one a half-life. Visits are sessions. Gaps, spans and ages are in days, spending in the shop's
    currency, decayed with a half-life of 30 days. ``recent_orders`` are decayed counts of orders
    (half-lives 7 and 28 days); ``order`` names the newest; ``order_weeks`` has a bit for each week
    with an order, this week's the lowest; ``idle_days`` sums what of each gap exceeded 14 days;
    ``long_gaps`` counts gaps by how long.
    """

    items: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    kinds: bytes = b""
    session_events: int = 0
    session_views: int = 0
    session_carts: int = 0
    session_purchases: int = 0
    session_seconds: int = 0
    session_price: float = 0.0
    visits: int = 0
    visit_gap_days: float = 0.0
    visit_age_days: float = 0.0
    activity: tuple[float, ...] = ()
    order: int = 0
    orders: int = 0
    order_gap_days: float = 0.0
    order_age_days: float = 0.0
    tenure_days: float = 0.0
    spend: float = 0.0
    last_order_value: float = 0.0
    last_gap_days: float = 0.0
    recent_orders: tuple[float, ...] = ()
    order_weeks: int = 0
    idle_days: float = 0.0
    long_gaps: tuple[int, ...] = ()


class Request(Struct, frozen=True):
    """Candidates for one answer, each a place in parallel tuples; ``step`` is the cause's place.

    ``features`` holds a row of :data:`FEATURE_NAMES` for each candidate, ``sources`` bits of
    :data:`SOURCES`; ``bought`` says whether the user bought it before.
    """

    step: int
    arrival: Arrival
    key: str
    profiled: bool
    view: UserView
    items: tuple[int, ...]
    item_ids: tuple[str, ...]
    features: tuple[tuple[float, ...], ...]
    sources: tuple[int, ...]
    bought: tuple[bool, ...]

    @property
    def asked(self) -> bool:
        """Whether a ``recommend`` event asks for the answer."""
        return self.arrival.event.type == "recommend"


SCORE_ABS_MAX = 1e6  # what a score may be at most, either way; no sound model comes near it


class Scorer(Protocol):
    """What scores the candidates of a request: a model that was trained elsewhere."""

    @property
    def name(self) -> str:
        """The model's name, as outputs and metrics give it."""
        ...

    @property
    def version(self) -> str:
        """The model's version, as outputs and metrics give it."""
        ...

    def propose(self, history: Sequence[int]) -> tuple[int, ...]:
        """Return the hashes of items that may follow a history, the best first; may be none.

        They depend on the history alone; nothing is raised.
        """
        ...

    def scores(
        self,
        history: Sequence[int],
        items: Sequence[int],
        features: Sequence[Sequence[float]],
    ) -> tuple[float, ...]:
        """Return a score for each of ``items``, in their order; the higher the better.

        It depends on the arguments alone, and raises nothing: what cannot be computed is NaN.

        Parameters
        ----------
        history
            Hashes of the user's last items, the oldest first; may be empty.
        items
            Hashes of the candidates.
        features
            A row of :data:`FEATURE_NAMES` for each candidate.
        """
        ...


class Scored(Struct, frozen=True):
    """The scores of a request's candidates, in their order, and what made them."""

    scores: tuple[float, ...]
    model: str
    model_version: str
    fallback_level: str | None


class Ranked(Struct, frozen=True):
    """What is recommended for a request: places in its candidate list, best first."""

    request: Request
    scored: Scored
    places: tuple[int, ...]
    variant: str


class Answers(Struct, frozen=True):
    """Everything that a batch gives rise to, each with the place of its step; to be emitted."""

    ranked: Sequence[Ranked] = ()
    forecasts: Sequence["Forecast"] = ()
    alarms: Sequence["Alarm"] = ()


class Outside(Struct, frozen=True):
    """What an output says of the world outside the log: catalogue and service level."""

    catalog_version: str = "0"
    service_level: int = 0


Level = Literal["watch", "warning", "critical"]


class Forecast(Struct, frozen=True):
    """Probabilities, by target, that something happens within ``horizon_ms`` of ``time_ms``.

    ``step`` is the place of what it was made at.
    """

    step: int
    user_id: str
    time_ms: int
    horizon_ms: int
    probabilities: dict[Target, float]
    model: str


class Alarm(Struct, frozen=True):
    """A user at risk of leaving: how grave, in words what raised the risk, and what to offer."""

    step: int
    user_id: str
    time_ms: int
    horizon_ms: int
    risk: float
    level: Level
    reasons: tuple[str, ...]
    offer: str | None
    model: str


class Judged(Struct, frozen=True):
    """A prediction whose horizon has closed: what was said, what came of it.

    ``horizon_ms`` tells apart predictions of one target for short and long; ``delay_ms`` is log
    time from the prediction until its outcome was known.
    """

    target: str
    horizon_ms: int
    probability: float
    happened: bool
    delay_ms: int = 0


class Joined(Struct, frozen=True):
    """An event that follows from a recommendation: what the user did with the item shown.

    ``place`` counts from 1; ``sources`` are bits of :data:`SOURCES`. A purchase that names no
    recommendation is joined by its item and has ``named`` false.
    """

    event_type: str
    place: int
    sources: int
    named: bool


Decoded = Arrival | Reject | Tick
Received = Admitted | Duplicate | Reject | Tick
Step = Admitted | Duplicate | Reject | Tick | Due
