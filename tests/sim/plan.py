"""What one seed draws before anything runs: sizes, settings, fault weights and the schedule."""

from collections import Counter
from random import Random

import msgspec
from msgspec import Struct

from stream_app.config import DAY_MS, Settings, StageSettings
from stream_app.event import Item
from stream_app.steps import Scorer
from tests.sim.workload import START_MS

# Faults of single requests, with the most likely weight of each: the chance a request has of it.
REQUEST_FAULTS = {
    "crash before": 0.02,
    "crash after": 0.02,
    "lost": 0.03,
    "landed": 0.03,
    "late": 0.03,
    "slow": 0.03,
    "aborted": 0.05,
}
# What happens to whole processes, drawn again and again; the numbers are relative.
PROCESS_FAULTS = {"kill": 1.0, "suspend": 1.5, "rebalance": 2.0, "bounce": 1.0, "compact": 1.0}
STEPS = {
    "exactly_once": ("begin", "outputs", "changelog", "offset", "commit", "fence"),
    "at_least_once": ("outputs", "changelog", "fence"),
}
# A stale chunk: what was fetched before a seek is delivered after it.
STALE = "stale delivery"
READ_FAILS = "read fails"


class Plan(Struct, kw_only=True):
    """Everything that is decided beforehand."""

    settings: Settings
    workers: int
    output_partitions: dict[str, int]
    first_offset: int
    events: int
    tick_ms: int
    warm_each: int
    produce_seconds: float
    faults_seconds: float
    process_fault_every_seconds: float
    latency_seconds: float
    restart_seconds: float
    weights: dict[str, float]
    static_names: bool
    catalog: dict[str, Item]
    ranker: Scorer | None = None


class Chance:
    """Draws faults while they are switched on, and counts them."""

    def __init__(self, rng: Random, weights: dict[str, float]) -> None:
        self.rng = rng
        self.weights = weights
        self.active = True
        self.counts: Counter[str] = Counter()

    def hit(self, fault: str) -> bool:
        """Tell whether a fault happens now."""
        weight = self.weights.get(fault, 0.0) if self.active else 0.0
        if not weight or self.rng.random() >= weight:
            return False
        self.counts[fault] += 1
        return True

    def pick(self, faults: dict[str, float]) -> str:
        """Return one of several faults by their weights, nothing when they are switched off."""
        weights = [self.weights.get(name, 0.0) * factor for name, factor in faults.items()]
        if not self.active or not any(weights):
            return ""
        fault = self.rng.choices(list(faults), weights)[0]
        self.counts[fault] += 1
        return fault


def draw(rng: Random) -> Plan:
    """Return the plan of a seed."""
    guarantee = rng.choice(("exactly_once", "exactly_once", "exactly_once", "at_least_once"))
    outputs = ("recommendations", "predictions", "churn-alerts", "dead-letter")
    return Plan(
        settings=_settings(rng, guarantee),
        workers=rng.randint(1, 3) if guarantee == "exactly_once" else 1,
        output_partitions={topic: rng.randint(1, 4) for topic in outputs},
        first_offset=rng.choice((0, 0, rng.randint(1, 10_000))),
        events=rng.choice((100, 200, 300, 300, 900)),
        tick_ms=rng.choice((5_000, 3_600_000, DAY_MS)),
        warm_each=rng.choice((0, 0, 0, 2)),
        produce_seconds=rng.uniform(0.5, 20.0),
        faults_seconds=rng.uniform(5.0, 60.0),
        process_fault_every_seconds=rng.choice((0.3, 1.0, 3.0, 10.0)),
        latency_seconds=rng.choice((0.001, 0.005, 0.05)),
        restart_seconds=rng.choice((0.1, 1.0, 10.0)),
        weights=_weights(rng, guarantee),
        static_names=rng.random() < 0.5,
        catalog=_catalog(rng),
    )


def without_faults(plan: Plan) -> Plan:
    """Return a plan in which nothing goes wrong."""
    return msgspec.structs.replace(plan, weights={}, faults_seconds=0.0)


def _settings(rng: Random, guarantee: str) -> Settings:
    session_seconds = rng.choice((2.0, 4.0, 8.0))
    watch, warning, critical = rng.choice(((0.3, 0.5, 0.7), (0.05, 0.3, 0.6)))
    stages = StageSettings(
        user_ttl_days=rng.choice((8, 30, 400, 400)),
        item_ttl_days=rng.choice((8, 30, 90, 400)),
        items_max=rng.choice((100, 100, 200_000)),
        record_bytes_max=2_048,
        debounce_seconds=rng.choice((0, 60, 600)),
        exploration_share=rng.choice((0.0, 0.5)),
        allow_repeat=rng.random() < 0.7,
        category_cap=rng.choice((0, 0, 2)),
        merchant_cap=rng.choice((0, 0, 2)),
        top_k=rng.choice((1, 10, 50)),
        lateness_ms_max=rng.choice((0, 600_000, 600_000)),
        session_horizon_minutes=rng.choice((1, 30)),
        horizon_days=rng.choice((1, 7)),
        learn_share_session=rng.choice((0.25, 1.0)),
        learn_share=rng.choice((0.5, 1.0)),
        churn_horizon_days=rng.choice((7, 7, 28)),
        churn_active_days=rng.choice((14, 56)),
        silence_days=rng.choice(((1, 2, 5), (3,), (10, 20, 30, 45))),
        timer_jitter_minutes=rng.choice((0, 360)),
        churn_watch=watch,
        churn_warning=warning,
        churn_critical=critical,
        churn_hysteresis=min(0.1, watch / 2),
        churn_cooldown_days=rng.choice((0, 14)),
    )
    return Settings(
        app="sim",
        guarantee=guarantee,
        partitions=rng.randint(1, 4),
        batch_records_max=rng.choice((1, 3, 16, 64, 128)),
        commit_interval_ms=rng.choice((0, 20, 200)),
        fetch_records_max=rng.choice((1, 5, 50, 1_000)),
        live_rows_max=rng.choice((0, 3, 20_000)),
        idle_tick_seconds=rng.choice((0, 5)),
        session_timeout_seconds=session_seconds,
        stall_seconds=60.0,
        stages=stages,
    )


def _weights(rng: Random, guarantee: str) -> dict[str, float]:
    """Return the weight of each fault; some are absent, some are rare, few are frequent."""
    weights = {}
    for step in STEPS[guarantee]:
        for fault, most in REQUEST_FAULTS.items():
            weights[f"{fault} {step}"] = most * rng.choice((0, 0, 0, 0.1, 0.1, 0.5, 2.0))
    for fault in PROCESS_FAULTS:
        weights[fault] = rng.choice((0.0, 0.2, 1.0))
    weights[STALE] = rng.choice((0.0, 0.5))
    weights[READ_FAILS] = rng.choice((0.0, 0.1))
    return weights


def _catalog(rng: Random) -> dict[str, Item]:
    """Return a catalogue that knows some of the items, some of them not for show."""
    catalog = {}
    for number in range(rng.choice((0, 40, 200))):
        item_id = f"item-{number}"
        catalog[item_id] = Item(
            item_id=item_id,
            category=["all", f"category-{number % 7}"],
            merchant_id=f"merchant-{number % 5}",
            brand=f"brand-{number % 3}",
            price=None if number % 4 == 0 else 1.5 * (number % 11),
            available_from=START_MS + (number - 20) * DAY_MS if number % 5 == 0 else None,
            stock=rng.choice((None, 0, 3)),
            hidden=rng.random() < 0.05,
            blocked=rng.random() < 0.05,
        )
    return catalog
