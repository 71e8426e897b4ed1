"""Stage 6: how likely a user is to stay away, and when to say so.

Each Sunday the risk of every active user is predicted: that no purchase comes within
``churn_horizon_days``. When that horizon closes, it is judged and learned from. Users who have
fallen silent are looked at on set days too. An alert is raised when the risk reaches a level that
the user is not at already; a level ends when the risk has fallen clearly below it, and between two
alerts of a user lies a cooldown, unless it gets graver.
"""

import math
from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple, get_args

import msgspec

from stream_app.codec import Sections
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import Target
from stream_app.learners import MODEL, Learner, Vector
from stream_app.schedule import CHURN_LABELS
from stream_app.steps import Admitted, Alarm, Due, Forecast, Judged, Level, Step, UserView

TARGET: Target = "churn"
LEARNER = "churn"
LEVELS: tuple[Level, ...] = get_args(Level)

FEATURES = (
    "recency",  # log(1 + days since the last order)
    "usual_gap",  # log(1 + usual days between orders; the time known, with one order)
    "recency_ratio",  # days since the last order / (1 + usual days), at most 8
    "weeks_of_12",  # share of the last 12 weeks with an order
    "weeks_of_4",  # the same of 4
    "idle_share",  # log of the share of time beyond 14 days of silence
    "return_odds",  # log of the share of such silences that went on for 28 days more
    "lines_month",  # log(1 + decayed count of lines bought)
    "tenure",  # log(1 + days since the first order)
    "visit_age",  # log(1 + days since the last event)
    "visit_gap",  # log(1 + usual days between visits)
    "visit_ratio",  # days since the last event / (1 + usual days), at most 8
    "orders_of_visits",  # log of the share of visits with an order
)
VECTOR = Vector(FEATURES)
REASONS_MAX = 3
_RATIO_MAX = 8.0
_PURCHASES_MONTH = 5  # where the 30-day count of purchases stands in a view's activity

# Silences are told apart by how many of these they exceed: LONG_GAPS_DAYS in whole days.
_SILENCES_DAYS = (3.0, 7.5, 14.5, 28.0, 42.0)
_MORE_DAYS = 28

_PENDING = Struct("<qeB")  # when the horizon closes, what was predicted, whether the user bought
_PENDING_BYTES = _PENDING.size + VECTOR.bytes
_HEADER = Struct("<qBB")  # when the last alert was raised, its level, level now
BYTES_MAX = _HEADER.size + len(CHURN_LABELS) * _PENDING_BYTES


class Pending(msgspec.Struct):
    """A risk whose horizon is open, and whether the user has bought since."""

    closes_ms: int
    risk: float
    bought: bool
    features: bytes


class Watch(msgspec.Struct):
    """A user's section of this stage: the risks that wait, and the level of the last alert.

    ``level`` counts from 1 in :data:`LEVELS`, 0 for none; ``alerted`` is that of the last alert,
    and ``alerted_ms`` when it was, 0 for never.
    """

    alerted_ms: int
    alerted: int
    level: int
    pending: list[Pending]

    @classmethod
    def decode(cls, data: bytes) -> "Watch":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(0, 0, 0, [])
        pending = []
        for start in range(_HEADER.size, len(data), _PENDING_BYTES):
            closes_ms, risk, bought = _PENDING.unpack_from(data, start)
            features = data[start + _PENDING.size : start + _PENDING_BYTES]
            pending.append(Pending(closes_ms, risk, bool(bought), features))
        alerted_ms, alerted, level = _HEADER.unpack_from(data)
        return cls(alerted_ms, alerted, level, pending)

    def encode(self) -> bytes:
        """Return the section as bytes."""
        if not (self.pending or self.alerted_ms):
            return b""
        return _HEADER.pack(self.alerted_ms, self.alerted, self.level) + b"".join(
            [
                _PENDING.pack(each.closes_ms, each.risk, each.bought) + each.features
                for each in self.pending
            ]
        )


def decode_learner(data: bytes) -> Learner:
    """Return the learner that ``data`` holds, a fresh one for no data."""
    return Learner(VECTOR, (TARGET,)).load(data)


class Watchlist(msgspec.Struct, frozen=True):
    """What this stage keeps: what is known of each user's leaving, and the learner."""

    users: Sections[str, Watch]
    learners: Sections[str, Learner]


class Assessed(msgspec.Struct, frozen=True):
    """What a batch comes to: weekly risks, alerts, and the risks that have been judged."""

    forecasts: list[Forecast]
    alarms: list[Alarm]
    judged: list[Judged]


def assess(
    state: Watchlist, steps: Sequence[Step], views: Sequence[UserView], settings: StageSettings
) -> Assessed:
    """Assess, alert, judge and learn as the timers say.

    Expiry, erasure and withdrawn consent empty a user's section; what was waiting is not learned
    from.
    """
    found = Assessed([], [], [])
    for place, (step, view) in enumerate(zip(steps, views, strict=True)):
        if type(step) is Admitted:
            if step.profiled:
                if step.arrival.event.type == "purchase":
                    _count(state, step, settings)
            elif not step.untouchable:
                state.users.clear(step.arrival.event.user_id)
                state.users.clear(step.key)
        elif type(step) is Due and step.scope == "user":
            if step.kind in ("churn", "silence"):
                _look(state, _Case(place, step, view), settings, found)
            elif step.kind == "churn-label":
                found.judged.extend(_close(state, step, settings))
            elif step.kind == "expiry":
                state.users.clear(str(step.key))
    return found


def vector(view: UserView) -> tuple[float, ...]:
    """Return the features, in the order of :data:`FEATURES`, as of the view's moment."""
    log, log1p = math.log, math.log1p
    age, tenure, gaps = view.order_age_days, view.tenure_days, view.long_gaps
    usual = _usual_days(view)
    weeks = view.order_weeks >> 1  # of the current week is nothing to be seen yet
    long, longer = _silences(age)
    idle = view.idle_days + max(age - 14.0, 0.0)
    return (
        log1p(age),
        log1p(usual),
        min(age / (usual + 1.0), _RATIO_MAX),
        (weeks & 0xFFF).bit_count() / 12,
        (weeks & 0xF).bit_count() / 4,
        log((idle + 2.0) / (max(tenure - 14.0, 0.0) + 20.0)),
        log((gaps[longer] + 0.3) / (gaps[long] + 2.0)),
        log1p(view.activity[_PURCHASES_MONTH]),
        log1p(tenure),
        log1p(view.visit_age_days),
        log1p(view.visit_gap_days),
        min(view.visit_age_days / (view.visit_gap_days + 1.0), _RATIO_MAX),
        log((view.orders + 1.0) / (view.visits + 2.0)),
    )


def _silences(age_days: float) -> tuple[int, int]:
    """Return the places in `long_gaps` for a silence so far, and for one 28 days longer."""
    return (
        sum(age_days > edge for edge in _SILENCES_DAYS),
        sum(age_days + _MORE_DAYS > edge for edge in _SILENCES_DAYS),
    )


def _usual_days(view: UserView) -> float:
    return view.order_gap_days if view.orders > 1 else max(view.tenure_days, 1.0)


class _Reason(NamedTuple):
    """What to say of a feature that raised the risk by being high (1) or low (-1)."""

    sign: int
    say: Callable[[UserView], str | None]


def _say_silence(view: UserView) -> str:
    return f"no purchase for {_days(view.order_age_days)}"


def _say_gap(view: UserView) -> str | None:
    return f"orders only every {_days(view.order_gap_days)}" if view.orders > 1 else None


def _say_ratio(view: UserView) -> str | None:
    times = view.order_age_days / (view.order_gap_days + 1.0)
    known = view.orders > 1 and times >= 1
    return f"no purchase for {times:.1f} times as long as usual" if known else None


def _say_weeks(weeks: int) -> Callable[[UserView], str | None]:
    def say(view: UserView) -> str | None:
        if view.tenure_days < 7 * weeks:
            return None
        with_order = (view.order_weeks >> 1 & (1 << weeks) - 1).bit_count()
        return f"ordered in {with_order} of the last {weeks} weeks"

    return say


def _say_idle(view: UserView) -> str | None:
    idle = round(view.idle_days)
    return f"earlier silences went on for {_days(idle)} beyond two weeks" if idle else None


def _say_return(view: UserView) -> str | None:
    long, longer = _silences(view.order_age_days)
    such = view.long_gaps[long]
    if such:
        return f"{view.long_gaps[longer]} of {such} such silences went on for {_MORE_DAYS} days"
    return "never silent for so long before" if view.orders > 1 else None


def _say_visit(view: UserView) -> str | None:
    days = round(view.visit_age_days)
    return f"no visit for {_days(days)}" if days and days != round(view.order_age_days) else None


def _say_visit_gap(view: UserView) -> str | None:
    days = round(view.visit_gap_days)
    return f"visits only every {_days(days)}" if view.visits > 1 and days else None


def _say_visit_ratio(view: UserView) -> str | None:
    times = view.visit_age_days / (view.visit_gap_days + 1.0)
    known = view.visits > 1 and times >= 1
    return f"no visit for {times:.1f} times as long as usual" if known else None


def _say_share(view: UserView) -> str | None:
    if view.orders >= view.visits:
        return None
    return f"{view.orders} order{'s' * (view.orders != 1)} in {view.visits} visits"


_REASONS = {
    "recency": _Reason(1, _say_silence),
    "usual_gap": _Reason(1, _say_gap),
    "recency_ratio": _Reason(1, _say_ratio),
    "weeks_of_12": _Reason(-1, _say_weeks(12)),
    "weeks_of_4": _Reason(-1, _say_weeks(4)),
    "idle_share": _Reason(1, _say_idle),
    "return_odds": _Reason(1, _say_return),
    "lines_month": _Reason(-1, lambda _: "has bought little in the last weeks"),
    "visit_age": _Reason(1, _say_visit),
    "visit_gap": _Reason(1, _say_visit_gap),
    "visit_ratio": _Reason(1, _say_visit_ratio),
    "orders_of_visits": _Reason(-1, _say_share),
}


def _days(days: float) -> str:
    count = round(days)
    return f"{count} day" if count == 1 else f"{count} days"


def explain(learner: Learner, features: dict[str, float], view: UserView) -> tuple[str, ...]:
    """Return in words what raised the risk most, compared to the average user.

    A feature that raised it against its sense (a purchase that is unusually recent, say) is left
    out: it corrects another, and would mislead.
    """
    reasons = [
        reason.say(view)
        for name, distance in learner.raised(features)
        if (reason := _REASONS.get(name)) is not None and reason.sign * distance > 0
    ]
    return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))[:REASONS_MAX]


def level_of(risk: float, settings: StageSettings) -> int:
    """Return the level that a risk reaches: 0 for none, else its place in LEVELS, from 1."""
    return sum(risk >= threshold for threshold in _thresholds(settings))


def _thresholds(settings: StageSettings) -> tuple[float, float, float]:
    return settings.churn_watch, settings.churn_warning, settings.churn_critical


def _count(state: Watchlist, step: Admitted, settings: StageSettings) -> None:
    """Enter a purchase into the risks whose horizon it lies in."""
    watch = state.users.get(step.key)
    if watch is None:
        return
    time_ms = step.arrival.time_ms
    horizon_ms = settings.churn_horizon_ms
    for place, pending in enumerate(watch.pending):
        end_ms = pending.closes_ms - settings.lateness_ms_max
        if not pending.bought and end_ms - horizon_ms < time_ms <= end_ms:
            state.users.touch(step.key).pending[place].bought = True


class _Case(NamedTuple):
    """A user to look at: the timer's place among the steps, the timer, the user as of then."""

    place: int
    due: Due
    view: UserView


def _look(state: Watchlist, case: _Case, settings: StageSettings, found: Assessed) -> None:
    """Predict a user's risk, and raise an alert where the policy says so."""
    place, due, view = case
    key = str(due.key)
    learner = state.learners.get(LEARNER) or decode_learner(b"")
    packed = VECTOR.pack(vector(view))
    features = VECTOR.unpack(packed)
    (risk,) = learner.predict(features)
    if due.closes_ms:
        state.users.touch(key).pending.append(
            Pending(due.closes_ms, risk, bought=False, features=packed)
        )
    if math.isnan(risk):  # the learner has not seen enough yet
        return
    horizon_ms = settings.churn_horizon_ms
    if due.kind == "churn":
        found.forecasts.append(Forecast(place, key, due.due_ms, horizon_ms, {TARGET: risk}, MODEL))
    if _alerts(state, key, risk, due.due_ms, settings):
        level = LEVELS[level_of(risk, settings) - 1]
        reasons = explain(learner, features, view)
        found.alarms.append(
            Alarm(
                place,
                key,
                due.due_ms,
                horizon_ms,
                risk,
                level,
                reasons,
                settings.offers.get(level),
                MODEL,
            )
        )


def _alerts(state: Watchlist, key: str, risk: float, now_ms: int, settings: StageSettings) -> bool:
    """Return whether to alert, and note it; ends levels that the risk has fallen clearly below.

    Within the cooldown only what is graver than the last alert alerts.
    """
    watch = state.users.get(key) or Watch(0, 0, 0, [])
    reached = level_of(risk, settings)
    kept = sum(
        risk >= threshold - settings.churn_hysteresis
        for threshold in _thresholds(settings)[: watch.level]
    )
    cooled = now_ms - watch.alerted_ms >= settings.churn_cooldown_days * DAY_MS
    alerts = reached > kept and (cooled or reached > watch.alerted)
    level = reached if alerts else kept
    if alerts or level != watch.level:
        section = state.users.touch(key)
        section.level = level
        if alerts:
            section.alerted, section.alerted_ms = reached, now_ms
    return alerts


def _close(state: Watchlist, due: Due, settings: StageSettings) -> list[Judged]:
    """Judge and learn from the risk of a user that closes then; none after an erasure."""
    key = str(due.key)
    watch = state.users.get(key)
    if watch is None:
        return []
    judged: list[Judged] = []
    for pending in [each for each in watch.pending if each.closes_ms == due.due_ms]:
        if not math.isnan(pending.risk):
            horizon_ms = settings.churn_horizon_ms
            delay_ms = due.log_ms - due.due_ms + horizon_ms + settings.lateness_ms_max
            judged.append(Judged(TARGET, horizon_ms, pending.risk, not pending.bought, delay_ms))
        features = VECTOR.unpack(pending.features)
        state.learners.touch(LEARNER).learn(features, [not pending.bought])
        state.users.touch(key).pending.remove(pending)
    return judged
