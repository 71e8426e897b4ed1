"""Stage 5: what a user is about to do: purchase, comment or share within a horizon.

At each event that ``timers`` marks, one vector of features is built and every target predicted from
it. Some predictions wait, with their features, in the user's row. When the horizon of one closes it
is judged and then learned from, whether anything happened or not: labels that come late, or are
only the rest of an order that had begun, do not count.

Sessions and shops without them differ in the horizon and in what tells, so each has a learner.
"""

import math
from collections.abc import Sequence
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.config import StageSettings
from stream_app.event import EVENT_TYPES, Event, Target
from stream_app.hashing import event_hash
from stream_app.learners import MODEL, Learner, Vector
from stream_app.schedule import DAYS_LABELS, SESSION_LABELS
from stream_app.steps import Admitted, Due, Forecast, Judged, Step, UserView

TARGETS: tuple[Target, ...] = ("purchase", "comment", "share")
SESSION, DAYS = "behavior-session", "behavior-days"  # names of the learners

SESSION_VECTOR = Vector(
    (
        "is_cart",
        "is_purchase",
        "is_search",
        "cart_waits",  # put into the cart and nothing bought since, in this session
        "untold",  # bought and nothing commented on since, in this session
        "views",  # in this session, of three
        "orders_of_visits",  # log of their share, and of 2.4 in 8 before them
        "comments_of_views",  # the same of decayed counts, and 2.4 in 40
        "shares_of_views",  # the same, and 2 in 40
        "carts_of_views",  # the same, and 4 in 40
        "price",  # log(1 + the last price seen in this session)
        "priced",  # whether there was one: 1, else 0
    )
)
# A count is log(1 + count), over a month or a week it decays with a half-life of 30, 28 or 7 days;
# gaps are log(1 + days).
DAYS_VECTOR = Vector(
    (
        "is_cart",
        "is_purchase",
        "is_comment",
        "is_share",
        "views_month",
        "carts_month",
        "comments_month",
        "shares_month",
        "orders_week",
        "orders_month",
        "usual_gap",
        "mean_gap",
        "last_gap",
        "short_gaps",  # log odds that two days with an order are a week apart or less
    )
)

# When the horizon closes, hash of the event's order, flags, what was predicted; then the features.
_PENDING = Struct("<qIB3e")
BYTES_MAX = len(SESSION_LABELS) * (_PENDING.size + SESSION_VECTOR.bytes) + len(DAYS_LABELS) * (
    _PENDING.size + DAYS_VECTOR.bytes
)
_ORDER_MASK = 0xFFFF_FFFF
_IN_SESSION = 1 << len(TARGETS)
_CART, _PURCHASE, _COMMENT = (EVENT_TYPES.index(kind) for kind in ("cart", "purchase", "comment"))
_VIEWS_MAX = 3
_UNKNOWN_GAP_DAYS = 14.0


class Pending(msgspec.Struct):
    """A prediction whose horizon is open: in ``flags`` what has happened, a bit for each target."""

    closes_ms: int
    order: int
    flags: int
    probabilities: tuple[float, ...]
    features: bytes

    @property
    def in_session(self) -> bool:
        """Whether it was made in a session, so that its horizon is short."""
        return bool(self.flags & _IN_SESSION)


class Outlook(msgspec.Struct):
    """A user's section of this stage: the predictions that wait, oldest first."""

    pending: list[Pending]

    @classmethod
    def decode(cls, data: bytes) -> "Outlook":
        """Return the section that ``data`` holds, a fresh one for no data."""
        pending, start = [], 0
        while start < len(data):
            closes_ms, order, flags, *probabilities = _PENDING.unpack_from(data, start)
            start += _PENDING.size
            end = start + (SESSION_VECTOR if flags & _IN_SESSION else DAYS_VECTOR).bytes
            features = data[start:end]
            pending.append(Pending(closes_ms, order, flags, tuple(probabilities), features))
            start = end
        return cls(pending)

    def encode(self) -> bytes:
        """Return the section as bytes."""
        return b"".join(
            [
                _PENDING.pack(each.closes_ms, each.order, each.flags, *each.probabilities)
                + each.features
                for each in self.pending
            ]
        )


def decode_session(data: bytes) -> Learner:
    """Return the learner for sessions that ``data`` holds, a fresh one for no data."""
    return Learner(SESSION_VECTOR, TARGETS).load(data)


def decode_days(data: bytes) -> Learner:
    """Return the learner for what is outside sessions, a fresh one for no data."""
    return Learner(DAYS_VECTOR, TARGETS).load(data)


class Foresight(msgspec.Struct, frozen=True):
    """What this stage keeps: the predictions of users that wait, and the partition's learners.

    The learner for sessions is under the key :data:`SESSION`, the other under :data:`DAYS`.
    """

    users: Sections[str, Outlook]
    session: Sections[str, Learner]
    days: Sections[str, Learner]


def foresee(
    state: Foresight, steps: Sequence[Step], views: Sequence[UserView], settings: StageSettings
) -> tuple[list[Forecast], list[Judged]]:
    """Predict at each step that calls for it; judge and learn from those whose horizon closes.

    What is returned as a forecast has a probability for every target that is known: whose learner
    has seen some of both outcomes. Expiry, erasure and withdrawn consent empty a user's section;
    what was waiting is not learned from.
    """
    forecasts: list[Forecast] = []
    judged: list[Judged] = []
    for place, (step, view) in enumerate(zip(steps, views, strict=True)):
        if type(step) is Admitted:
            if not step.profiled:
                if not step.untouchable:
                    state.users.clear(step.arrival.event.user_id)
                    state.users.clear(step.key)
                continue
            _count(state, step, settings)
            if step.predicted:
                forecast = _predict(state, place, step, view, settings)
                if forecast is not None:
                    forecasts.append(forecast)
        elif type(step) is Due and step.scope == "user":
            if step.kind == "label":
                judged += _close(state, step, settings)
            elif step.kind == "expiry":
                state.users.clear(str(step.key))
    return forecasts, judged


def session_values(event: Event, view: UserView) -> tuple[float, ...]:
    """Return the features of :data:`SESSION_VECTOR`; the view has the event in it."""
    log, kind, kinds = math.log, event.type, view.kinds
    month = view.activity[1::2]  # in the order of ACTIVITY_EVENTS
    return (
        float(kind == "cart"),
        float(kind == "purchase"),
        float(kind == "search"),
        float(bool(view.session_carts) and kinds.rfind(_CART) > kinds.rfind(_PURCHASE)),
        float(bool(view.session_purchases) and kinds.rfind(_PURCHASE) > kinds.rfind(_COMMENT)),
        min(view.session_views, _VIEWS_MAX) / _VIEWS_MAX,
        log((view.orders + 2.4) / (view.visits + 8.0)),
        log((month[3] + 2.4) / (month[0] + 40.0)),
        log((month[4] + 2.0) / (month[0] + 40.0)),
        log((month[1] + 4.0) / (month[0] + 40.0)),
        math.log1p(view.session_price),
        float(view.session_price > 0),
    )


def days_values(event: Event, view: UserView) -> tuple[float, ...]:
    """Return the features of :data:`DAYS_VECTOR`; the view has the event in it."""
    log1p, kind, month = math.log1p, event.type, view.activity[1::2]
    gaps, later_orders = view.long_gaps, view.orders - 1
    week, four_weeks = view.recent_orders
    return (
        float(kind == "cart"),
        float(kind == "purchase"),
        float(kind == "comment"),
        float(kind == "share"),
        log1p(month[0]),
        log1p(month[1]),
        log1p(month[3]),
        log1p(month[4]),
        log1p(week),
        log1p(four_weeks),
        log1p(view.order_gap_days if later_orders > 0 else _UNKNOWN_GAP_DAYS),
        log1p(view.tenure_days / later_orders if later_orders > 0 else _UNKNOWN_GAP_DAYS),
        log1p(view.last_gap_days if later_orders > 0 else _UNKNOWN_GAP_DAYS),
        math.log((gaps[0] - gaps[2] + 3.0) / (gaps[2] + 1.0)),
    )


def _count(state: Foresight, step: Admitted, settings: StageSettings) -> None:
    """Enter an event into the predictions whose horizon it lies in, whenever it comes."""
    event = step.arrival.event
    if event.type not in TARGETS:
        return
    outlook = state.users.get(step.key)
    if outlook is None:
        return
    order = _order(event, step.arrival.time_ms)
    bit = 1 << TARGETS.index(event.type)
    for place, pending in enumerate(outlook.pending):
        end_ms = pending.closes_ms - settings.lateness_ms_max
        start_ms = end_ms - settings.horizon_ms(in_session=pending.in_session)
        if start_ms < step.arrival.time_ms <= end_ms and not pending.flags & bit:
            if event.type == "purchase" and order == pending.order:
                continue
            state.users.touch(step.key).pending[place].flags |= bit


def _predict(
    state: Foresight, place: int, step: Admitted, view: UserView, settings: StageSettings
) -> Forecast | None:
    event, time_ms = step.arrival.event, step.arrival.time_ms
    in_session = event.session_id is not None
    if in_session:
        vector, values = SESSION_VECTOR, session_values(event, view)
        learner = state.session.get(SESSION) or decode_session(b"")
    else:
        vector, values = DAYS_VECTOR, days_values(event, view)
        learner = state.days.get(DAYS) or decode_days(b"")
    packed = vector.pack(values)
    probabilities = learner.predict(vector.unpack(packed))
    if step.closes_ms:
        flags = _IN_SESSION if in_session else 0
        own = event.type == "purchase"
        order = _order(event, time_ms) if own else view.order & _ORDER_MASK
        pending = Pending(step.closes_ms, order, flags, probabilities, packed)
        state.users.touch(step.key).pending.append(pending)
    known = {
        target: probability
        for target, probability in zip(TARGETS, probabilities, strict=True)
        if not math.isnan(probability)
    }
    if not known:
        return None
    horizon_ms = settings.horizon_ms(in_session=in_session)
    return Forecast(place, event.user_id, time_ms, horizon_ms, known, MODEL)


def _close(state: Foresight, due: Due, settings: StageSettings) -> list[Judged]:
    """Judge and learn from the prediction of a user that closes then; none after an erasure."""
    key = str(due.key)
    outlook = state.users.get(key)
    if outlook is None:
        return []
    judged: list[Judged] = []
    for pending in [each for each in outlook.pending if each.closes_ms == due.due_ms]:
        happened = [bool(pending.flags & 1 << bit) for bit in range(len(TARGETS))]
        horizon_ms = settings.horizon_ms(in_session=pending.in_session)
        delay_ms = due.log_ms - due.due_ms + horizon_ms + settings.lateness_ms_max
        judged += [
            Judged(target, horizon_ms, probability, label, delay_ms)
            for target, probability, label in zip(
                TARGETS, pending.probabilities, happened, strict=True
            )
            if not math.isnan(probability)
        ]
        if pending.in_session:
            learner, vector = state.session.touch(SESSION), SESSION_VECTOR
        else:
            learner, vector = state.days.touch(DAYS), DAYS_VECTOR
        learner.learn(vector.unpack(pending.features), happened)
        state.users.touch(key).pending.remove(pending)
    if not outlook.pending:
        state.users.clear(key)
    return judged


def _order(event: Event, time_ms: int) -> int:
    """Return 32 bits of the order's hash; without an ``order_id`` one second is an order."""
    order = event_hash(event.order_id) if event.order_id is not None else time_ms // 1000
    return order & _ORDER_MASK
