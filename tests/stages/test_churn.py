"""Stage 6: who is looked at when, what counts as staying away, and when an alert is due."""

import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from stream_app import learners
from stream_app.config import DAY_MS, StageSettings
from stream_app.learners import Learner
from stream_app.schedule import CHURN_LABELS, ItemTimers, Timers, UserTimers
from stream_app.stages.churn import (
    _REASONS,
    BYTES_MAX,
    FEATURES,
    LEARNER,
    LEVELS,
    REASONS_MAX,
    VECTOR,
    Watch,
    Watchlist,
    assess,
    decode_learner,
    explain,
    level_of,
    vector,
)
from stream_app.stages.features import NOBODY
from stream_app.stages.timers import advance
from stream_app.steps import (
    Admitted,
    Alarm,
    Due,
    Forecast,
    Judged,
    Received,
    Step,
    Tick,
    UserView,
)
from tests.conftest import SETTINGS, START_MS, admitted, lenient, sections

EXACT = lenient(timer_jitter_minutes=0)
SUNDAY_MS = START_MS + 6 * DAY_MS
WEEK_MS = 7 * DAY_MS
HORIZON_MS = SETTINGS.churn_horizon_days * DAY_MS
CLOSED_MS = HORIZON_MS + SETTINGS.lateness_ms_max
SOMEBODY = msgspec.structs.replace(
    NOBODY, orders=5, order_gap_days=8.0, order_age_days=30.0, tenure_days=120.0
)


def watchlist() -> Watchlist:
    """Return this stage of a partition that has seen nobody."""
    return Watchlist(sections("churn", Watch.decode, BYTES_MAX), sections("churn", decode_learner))


class Partition:
    """The timers and this stage of one partition; all users look the same."""

    def __init__(self, given: StageSettings = EXACT) -> None:
        self.settings = given
        self.timers = Timers(
            sections("user", UserTimers.decode), sections("item", ItemTimers.decode)
        )
        self.state = watchlist()
        self.forecasts: list[Forecast] = []
        self.alarms: list[Alarm] = []
        self.judged: list[Judged] = []

    def pass_through(self, *received: Received) -> list[Step]:
        """Take in a batch."""
        steps = advance(self.timers, received, self.settings)
        found = assess(self.state, steps, [SOMEBODY] * len(steps), self.settings)
        self.forecasts += found.forecasts
        self.alarms += found.alarms
        self.judged += found.judged
        return steps

    def see(self, kind: str, at_ms: int, **over: Any) -> None:
        """Take in one event; its log time is its own unless given."""
        fields: dict[str, Any] = {
            "type": kind,
            "timestamp": at_ms,
            "log_ms": at_ms,
            "event_id": f"{kind}-{at_ms}",
        }
        self.pass_through(admitted(**(fields | over)))

    def tick(self, log_ms: int) -> None:
        """Let log time pass."""
        self.pass_through(Tick(0, log_ms))

    @property
    def learner(self) -> Learner:
        """The learner."""
        return self.state.learners.touch(LEARNER)

    def waiting(self) -> int:
        """Return how many risks of the first user wait."""
        watch = self.state.users.get("u-1")
        return len(watch.pending) if watch is not None else 0


@pytest.fixture
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a learner predict from the start, so that everything is judged."""
    monkeypatch.setattr(learners, "WARM_EACH", 0)


warm = pytest.mark.usefixtures("_warm")

# --- when a risk is predicted, and what comes of it -----------------------------------------------


@warm
def test_risk_is_predicted_each_sunday() -> None:
    """An active user's risk goes out each Sunday 00:00 UTC until 56 days have passed."""
    partition = Partition()
    partition.see("purchase", START_MS)
    partition.tick(START_MS + 200 * DAY_MS)
    assert [each.time_ms for each in partition.forecasts] == [
        SUNDAY_MS + week * WEEK_MS for week in range(8)
    ]
    first = partition.forecasts[0]
    assert (first.user_id, first.horizon_ms) == ("u-1", HORIZON_MS)
    assert set(first.probabilities) == {"churn"}


@warm
def test_risk_of_who_never_bought_is_not_predicted() -> None:
    """Who only looks is not a customer that could leave."""
    partition = Partition()
    partition.see("view", START_MS)
    partition.tick(START_MS + 200 * DAY_MS)
    assert (partition.forecasts, partition.alarms, partition.judged) == ([], [], [])


@warm
def test_silence_gives_no_prediction() -> None:
    """A look on a day of silence may alert, but is no weekly risk, and is not learned from."""
    partition = Partition()
    partition.see("purchase", START_MS)
    silences = [
        step
        for step in partition.pass_through(Tick(0, START_MS + 300 * DAY_MS))
        if isinstance(step, Due) and step.kind == "silence"
    ]
    assert len(silences) == len(SETTINGS.silence_days)
    assert len(partition.forecasts) == partition.learner.samples == 8


@warm
@pytest.mark.parametrize(
    ("after_ms", "stays"),
    [(0, False), (1, True), (HORIZON_MS, True), (HORIZON_MS + 1, False)],
)
def test_label_at_the_edges_of_the_horizon(after_ms: int, stays: bool) -> None:  # noqa: FBT001
    """Churn is that no purchase comes later than the Sunday, and up to 28 days after it."""
    partition = Partition()
    partition.see("purchase", START_MS)
    partition.tick(SUNDAY_MS)
    partition.see("purchase", SUNDAY_MS + after_ms)
    partition.tick(SUNDAY_MS + CLOSED_MS)
    assert partition.judged[0].target == "churn"
    assert partition.judged[0].happened is not stays
    assert partition.learner.positives[0] == len([1 for one in partition.judged if one.happened])


@warm
def test_label_counts_purchases_only() -> None:
    """Views, carts and comments do not make a customer stay."""
    partition = Partition()
    partition.see("purchase", START_MS)
    for n, kind in enumerate(("view", "cart", "comment", "share", "search")):
        partition.see(kind, SUNDAY_MS + 1 + n)
    partition.tick(SUNDAY_MS + CLOSED_MS)
    assert [one.happened for one in partition.judged] == [True]


@warm
def test_label_counts_late_purchases_in_time() -> None:
    """A late purchase counts by its own time until the horizon has closed, and then no more."""
    for log_ms, stays in ((SUNDAY_MS + CLOSED_MS - 1, True), (SUNDAY_MS + CLOSED_MS, False)):
        partition = Partition()
        partition.see("purchase", START_MS)
        partition.tick(SUNDAY_MS)
        partition.see("purchase", SUNDAY_MS + 5, log_ms=log_ms, late=True)
        partition.tick(SUNDAY_MS + CLOSED_MS)
        assert partition.judged[0].happened is not stays


def test_cold_learner_says_nothing() -> None:
    """While too little has been seen nobody is said to leave, but what comes of it is learned."""
    partition = Partition()
    for n in range(30):
        partition.see("purchase", START_MS + n, user_id=f"u-{n}")
    partition.tick(SUNDAY_MS + CLOSED_MS)
    assert (partition.forecasts, partition.alarms, partition.judged) == ([], [], [])
    assert partition.learner.samples == partition.learner.positives[0] == 30


def test_both_classes_are_learned_alike() -> None:
    """Who stays is learned as who leaves: the risk of a coin is predicted as it is."""
    partition = Partition()
    for n in range(400):
        partition.see("purchase", START_MS + n, user_id=f"u-{n}")
    partition.tick(SUNDAY_MS)
    for n in range(0, 400, 4):
        partition.see("purchase", SUNDAY_MS + DAY_MS + n, user_id=f"u-{n}")
    partition.tick(SUNDAY_MS + CLOSED_MS - 1)
    assert partition.forecasts == []
    partition.tick(SUNDAY_MS + CLOSED_MS)
    learner = partition.learner
    assert (learner.samples, learner.positives) == (400, [300])
    features = stored(SOMEBODY)
    assert 0.5 < learner.predict(features)[0] < 0.95


@warm
def test_pendings_are_bounded() -> None:
    """Five risks of a user wait at most, and their bytes fit the budget."""
    partition = Partition()
    for week in range(12):
        partition.see("purchase", START_MS + week * WEEK_MS)
        partition.tick(SUNDAY_MS + week * WEEK_MS)
        assert partition.waiting() == min(week + 1, len(CHURN_LABELS))
        partition.tick(SUNDAY_MS + week * WEEK_MS + DAY_MS)
    watch = partition.state.users.touch("u-1")
    assert len(watch.encode()) == BYTES_MAX - (BYTES_MAX - 9) // len(CHURN_LABELS)
    assert Watch.decode(watch.encode()) == watch


@warm
@pytest.mark.parametrize(
    "end",
    [
        {"kind": "consent", "profiled": False},
        {"kind": "erase", "profiled": False, "key": "hash"},
    ],
)
def test_watch_ends_with_consent_and_with_the_user(end: dict[str, Any]) -> None:
    """After consent is withdrawn or the user erased nothing is said, learned or remembered."""
    partition = Partition()
    partition.see("purchase", START_MS)
    partition.tick(SUNDAY_MS)
    said = len(partition.alarms)
    assert (partition.waiting(), said) == (1, 1)
    partition.see(**({"at_ms": SUNDAY_MS + 1} | end))
    partition.tick(SUNDAY_MS + 100 * DAY_MS)
    assert partition.state.users.get("u-1") is None
    assert len(partition.forecasts) == len(partition.alarms) == 1
    assert (partition.judged, partition.learner.samples) == ([], 0)


@warm
def test_watch_ends_with_expiry() -> None:
    """When a user's row ends nothing is remembered, and what waited goes unlearned."""
    partition = Partition(lenient(timer_jitter_minutes=0, user_ttl_days=8))
    partition.see("purchase", START_MS)
    partition.tick(START_MS + 60 * DAY_MS)
    assert partition.state.users.get("u-1") is None
    assert len(partition.forecasts) == 1
    assert (partition.judged, partition.learner.samples) == ([], 0)


@warm
def test_watch_outlives_what_is_not_its_user() -> None:
    """Untouchable events, and the ends of other users and of items, leave a user's risk alone."""
    partition = Partition()
    partition.see("purchase", START_MS)
    partition.tick(SUNDAY_MS)
    old = admitted(timestamp=START_MS - DAY_MS, profiled=False, event_id="old")
    steps: list[Step] = [
        Admitted(old.arrival, "u-1", profiled=False, untouchable=True),
        Due("item", 7, "expiry", SUNDAY_MS, SUNDAY_MS),
        Due("user", "u-2", "expiry", SUNDAY_MS, SUNDAY_MS),
        Due("user", "u-1", "label", SUNDAY_MS + CLOSED_MS, SUNDAY_MS + CLOSED_MS),
    ]
    assess(partition.state, steps, [NOBODY] * len(steps), EXACT)
    assert partition.waiting() == 1


# --- alerts ---------------------------------------------------------------------------------------


def alerts_of(
    risks: Sequence[float], given: StageSettings = EXACT, days: int = 7, kind: str = "churn"
) -> list[str]:
    """Return the levels of the alerts that risks give, one each so many days; empty for none."""
    state = watchlist()
    levels: list[str] = []
    for n, risk in enumerate(risks):
        learner = state.learners.touch(LEARNER)
        learner.samples, learner.positives = 100, [50]
        learner.models[0].intercept = math.log(risk / (1 - risk))
        due_ms = SUNDAY_MS + n * days * DAY_MS
        step = Due("user", "u-1", kind, due_ms, due_ms)
        found = assess(state, [step], [SOMEBODY], given)
        for alarm in found.alarms:
            assert alarm.risk == pytest.approx(risk, abs=1e-3)
            assert (alarm.user_id, alarm.time_ms, alarm.step) == ("u-1", due_ms, 0)
            assert alarm.offer == given.offers.get(alarm.level)
        levels.append(found.alarms[0].level if found.alarms else "")
        section = state.users.get("u-1")
        if section is not None:
            assert Watch.decode(section.encode()) == section
    return levels


@pytest.mark.parametrize(
    ("risk", "level"), [(0.29, ""), (0.31, "watch"), (0.51, "warning"), (0.71, "critical")]
)
@pytest.mark.parametrize("kind", ["churn", "silence"])
def test_alert_has_the_level_of_the_risk(risk: float, level: str, kind: str) -> None:
    """A risk that reaches a level alerts, on a Sunday or on a day of silence."""
    assert alerts_of([risk], kind=kind) == [level]


def test_level_begins_at_its_threshold() -> None:
    """A risk that is exactly a threshold is of its level."""
    settings = lenient(churn_watch=0.25, churn_warning=0.5, churn_critical=0.75)
    at = [level_of(risk, settings) for risk in (0.2499, 0.25, 0.4999, 0.5, 0.7499, 0.75, 1.0)]
    assert at == [0, 1, 1, 2, 2, 3, 3]
    assert len(LEVELS) == 3


def test_alert_is_not_repeated() -> None:
    """A user who stays at a level, or falls within the hysteresis, is not alerted about again."""
    assert alerts_of([0.6, 0.6, 0.65, 0.45, 0.55, 0.6, 0.6]) == ["warning", *[""] * 6]


def test_alert_comes_again_after_the_level_ended() -> None:
    """Once the risk has fallen clearly below the level and rises again, there is another alert."""
    assert alerts_of([0.6, 0.1, 0.1, 0.6]) == ["warning", "", "", "warning"]
    assert alerts_of([0.35, 0.19, 0.19, 0.35]) == ["watch", "", "", "watch"]
    assert alerts_of([0.35, 0.21, 0.21, 0.35]) == ["watch", "", "", ""]


def test_alert_waits_for_the_cooldown() -> None:
    """Between two alerts lie 14 days: a level reached sooner alerts once they have passed."""
    assert alerts_of([0.6, 0.1, 0.6, 0.6], days=5) == ["warning", "", "", "warning"]
    assert alerts_of([0.6, 0.1, 0.6], days=7) == ["warning", "", "warning"]
    assert alerts_of([0.6, 0.1, 0.6, 0.1, 0.6], days=4) == ["warning", "", "", "", "warning"]


def test_alert_that_is_graver_does_not_wait() -> None:
    """A user who gets to a graver level than the last alert's is alerted about at once."""
    assert alerts_of([0.35, 0.6, 0.8], days=1) == ["watch", "warning", "critical"]
    assert alerts_of([0.35, 0.8, 0.6, 0.8], days=1) == ["watch", "critical", "", ""]
    assert alerts_of([0.35, 0.1, 0.9], days=1) == ["watch", "", "critical"]


def test_alert_that_is_as_grave_as_the_last_waits() -> None:
    """A user who falls and rises again within the cooldown is not alerted about twice."""
    assert alerts_of([0.8, 0.55, 0.8], days=1) == ["critical", "", ""]
    assert alerts_of([0.8, 0.55, 0.8], days=7) == ["critical", "", "critical"]


def test_alert_after_a_partial_fall() -> None:
    """A user who has come down a level is not alerted about for the one that is left."""
    assert alerts_of([0.8, 0.55, 0.55, 0.35], days=20) == ["critical", "", "", ""]


def test_alert_without_an_offer() -> None:
    """A level for which nothing is set has no offer."""
    given = lenient(offers={"critical": "call"})
    assert alerts_of([0.35, 0.8], given) == ["watch", "critical"]


# --- reasons --------------------------------------------------------------------------------------


def test_features_have_a_value_each() -> None:
    """The vector has a finite value for each name, whoever is looked at."""
    views = [NOBODY, SOMEBODY, msgspec.structs.replace(SOMEBODY, orders=1, order_gap_days=0.0)]
    for view in views:
        values = vector(view)
        assert len(values) == len(FEATURES)
        assert all(map(math.isfinite, values))


def test_reasons_are_those_that_raised_the_risk() -> None:
    """Every reason is of a feature that adds to the risk by what is said, the strongest first."""
    rng = random.Random(4)
    lengths = set()
    for _ in range(100):
        learner = decode_learner(b"")
        for _ in range(20):
            learner.learn(stored(random_view(rng)), [rng.random() < 0.5])
        view = random_view(rng)
        features, weights = stored(view), learner.models[0].weights
        scaled = learner.scaler.transform_one(features)
        parts = {name: weights[name] * scaled[name] for name in _REASONS}
        raised = sorted((name for name in parts if parts[name] > 0), key=lambda name: -parts[name])
        said = explain(learner, features, view)
        words = [
            _REASONS[name].say(view) for name in raised if _REASONS[name].sign * scaled[name] > 0
        ]
        assert list(said) == list(dict.fromkeys(filter(None, words)))[:REASONS_MAX]
        assert all(said)
        lengths.add(len(said))
    assert REASONS_MAX in lengths
    assert set(_REASONS) <= set(FEATURES)


def test_nothing_untrue_is_said() -> None:
    """Of a newcomer with one order three days ago only what is known is said."""
    newcomer = msgspec.structs.replace(
        NOBODY, orders=1, order_age_days=3.0, tenure_days=3.0, visits=1, visit_age_days=3.0
    )
    said = {name: reason.say(newcomer) for name, reason in _REASONS.items()}
    del said["lines_month"]
    assert {name: words for name, words in said.items() if words} == {
        "recency": "no purchase for 3 days"
    }


def test_reasons_in_words() -> None:
    """Each reason says what is the case, with its numbers."""
    view = msgspec.structs.replace(
        NOBODY,
        orders=9,
        order_gap_days=9.0,
        order_age_days=30.0,
        tenure_days=200.0,
        order_weeks=0b1010000000000,
        idle_days=12.4,
        long_gaps=(8, 8, 6, 3, 2, 1),
        visits=20,
        visit_gap_days=4.0,
        visit_age_days=10.0,
    )
    assert {name: reason.say(view) for name, reason in _REASONS.items()} == {
        "recency": "no purchase for 30 days",
        "usual_gap": "orders only every 9 days",
        "recency_ratio": "no purchase for 3.0 times as long as usual",
        "weeks_of_12": "ordered in 2 of the last 12 weeks",
        "weeks_of_4": "ordered in 0 of the last 4 weeks",
        "idle_share": "earlier silences went on for 12 days beyond two weeks",
        "return_odds": "1 of 2 such silences went on for 28 days",
        "lines_month": "has bought little in the last weeks",
        "visit_age": "no visit for 10 days",
        "visit_gap": "visits only every 4 days",
        "visit_ratio": "no visit for 2.0 times as long as usual",
        "orders_of_visits": "9 orders in 20 visits",
    }


def stored(view: UserView) -> dict[str, float]:
    """Return the features of a view, as they are stored."""
    return VECTOR.unpack(VECTOR.pack(vector(view)))


def random_view(rng: random.Random) -> UserView:
    """Return a user of any kind."""
    orders = rng.randrange(1, 40)
    gaps = sorted((rng.randrange(orders) for _ in NOBODY.long_gaps), reverse=True)
    return msgspec.structs.replace(
        NOBODY,
        orders=orders,
        order_gap_days=rng.uniform(0, 40) if orders > 1 else 0.0,
        order_age_days=rng.uniform(0, 90),
        tenure_days=rng.uniform(90, 400),
        order_weeks=rng.randrange(1 << 16),
        idle_days=rng.uniform(0, 90),
        long_gaps=tuple(gaps),
    )


@warm
def test_alert_carries_its_reasons() -> None:
    """An alert has the reasons of the learner's own weights, and none that lowered the risk."""
    partition, rng = Partition(), random.Random(1)
    learner = partition.learner
    for _ in range(20):
        view = random_view(rng)
        learner.learn(stored(view), [view.order_age_days > 45])
    learner.models[0].intercept = 3.0
    partition.see("purchase", START_MS)
    partition.tick(SUNDAY_MS)
    (alarm,) = partition.alarms
    features = stored(SOMEBODY)
    assert 0 < len(alarm.reasons) <= REASONS_MAX
    assert alarm.reasons == explain(learner, features, SOMEBODY)
