"""How right the stream's own predictions are: purchase and churn, judged as it judges itself.

A shop's events run through :func:`stream_app.pipeline.process`. Each prediction that waits for its
outcome becomes a case once the stream has judged it, before it learned from it; beside it stands
what a simple rule would have gone by. Rules are logistic regressions on one or two such numbers,
fitted to the cases whose outcome was known before those that are judged. Where a shop is made up,
the probabilities that its events were drawn by stand beside them too: nobody can do better.
"""

import math
import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn import config_context, metrics
from sklearn.linear_model import LogisticRegression

from models.replay import Partition
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import Event, Target, encode, to_ms
from stream_app.hashing import partition_for
from stream_app.judge import BEHAVIOR_THRESHOLD, Kind
from stream_app.pipeline import Context, Outputs
from stream_app.sources import Record
from stream_app.sources.completejourney import SOURCE, CompleteJourney
from stream_app.sources.synthetic import SyntheticShop
from stream_app.steps import Admitted, Due, Forecast, Judged

# Nothing is recommended, which changes no prediction.
FORETELLING = StageSettings(recommend_on=frozenset(), timer_jitter_minutes=0)
STREAM, BASE_RATE, TRUTH = "the stream's learner", "base rate", "the truth"
CHURN = "churn"
# By target: what each rule goes by, columns of `Cases.days`.
RULES: dict[str, dict[str, list[int]]] = {
    CHURN: {"recency": [0], "recency and mean gap": [0, 2]},
    "purchase": {"last gap": [1], "last and mean gap": [1, 2]},
}
SYNTHETIC_EVENTS = 60_000  # of the made-up shop
DRAWS = 200  # of the bootstrap: scikit-learn takes a while for each
_CASES_MIN = 20  # of each outcome, or there is nothing to judge
_LABELS = ("label", "churn-label")  # kinds of timers that judge: of stage 5 and of stage 6

Floats = npt.NDArray[np.float64]
_Days = tuple[float, float, float]
_Known = tuple[Forecast, _Days]


class Case(NamedTuple):
    """A prediction and what came of it; days since the last order, of the last and the mean gap."""

    user: str
    time_ms: int
    probability: float
    happened: bool
    days: _Days
    truth: float = math.nan


class Cases(msgspec.Struct, frozen=True):
    """Cases of one kind in the order of time; arrays of n, and (n, 3) for ``days``.

    ``truth`` has the probabilities that a made-up shop drew by; NaN where nobody knows them.
    """

    user: npt.NDArray[np.str_]
    time_ms: npt.NDArray[np.int64]
    probability: Floats
    happened: npt.NDArray[np.bool_]
    days: Floats
    truth: Floats

    @classmethod
    def of(cls, cases: Iterable[Case]) -> "Cases":
        """Return cases as arrays."""
        own = sorted(cases, key=lambda case: (case.time_ms, case.user))
        user, time_ms, probability, happened, days, truth = zip(*own, strict=True)
        return cls(
            np.array(user),
            np.array(time_ms, np.int64),
            np.array(probability, np.float64),
            np.array(happened, np.bool_),
            np.array(days, np.float64),
            np.array(truth, np.float64),
        )

    def take(self, mask: npt.NDArray[np.bool_]) -> "Cases":
        """Return those that the mask has."""
        return Cases(*(getattr(self, name)[mask] for name in self.__struct_fields__))


# --- what the stream judged -----------------------------------------------------------------------


class _Orders:
    """A user's orders so far."""

    def __init__(self, time_ms: int) -> None:
        self.first_ms = self.last_ms = time_ms
        self.gap_ms = 0
        self.count = 1

    def add(self, time_ms: int) -> None:
        """Take in a purchase; those of one time are one order."""
        if time_ms > self.last_ms:
            self.gap_ms, self.last_ms, self.count = time_ms - self.last_ms, time_ms, self.count + 1

    def days(self, now_ms: int) -> _Days:
        """Return the days since the last order, of the last gap, and time known / orders."""
        known = now_ms - self.first_ms
        gap_ms = self.gap_ms if self.count > 1 else known
        return (now_ms - self.last_ms) / DAY_MS, gap_ms / DAY_MS, known / self.count / DAY_MS


class Watcher:
    """Joins what one partition of the stream foretells with how it is judged later."""

    def __init__(self) -> None:
        self._orders: dict[str, _Orders] = {}
        # By kind of the timer that judges it, user and when that falls due.
        self._waiting: dict[tuple[str, str, int], _Known] = {}

    def take(self, outputs: Outputs) -> Iterator[tuple[Kind, Case]]:
        """Yield what was judged in a batch; batches must come one after another."""
        made = {forecast.step: forecast for forecast in outputs.answers.forecasts}
        closed: dict[str, list[_Known]] = {kind: [] for kind in _LABELS}
        for place, step in enumerate(outputs.steps):
            forecast = made.get(place)
            if isinstance(step, Admitted):
                self._note(step)
                if forecast is not None and step.closes_ms:
                    self._wait("label", step.key, step.closes_ms, forecast)
            elif isinstance(step, Due) and step.scope == "user":
                if forecast is not None and step.closes_ms:
                    self._wait("churn-label", str(step.key), step.closes_ms, forecast)
                known = self._waiting.pop((step.kind, str(step.key), step.due_ms), None)
                if known is not None:
                    closed[step.kind].append(known)
        # Stage 5 judges before stage 6, each in the order of the steps.
        yield from _joined([each for kind in _LABELS for each in closed[kind]], outputs.judged)

    def _note(self, step: Admitted) -> None:
        event, time_ms = step.arrival.event, step.arrival.time_ms
        if event.type == "purchase":
            if event.user_id in self._orders:
                self._orders[event.user_id].add(time_ms)
            else:
                self._orders[event.user_id] = _Orders(time_ms)

    def _wait(self, kind: str, key: str, closes_ms: int, forecast: Forecast) -> None:
        orders = self._orders.get(key)
        days = orders.days(forecast.time_ms) if orders is not None else (0.0, 0.0, 0.0)
        self._waiting[kind, key, closes_ms] = forecast, days


def _joined(closed: Iterable[_Known], judged: Iterable[Judged]) -> Iterator[tuple[Kind, Case]]:
    said = [
        (forecast, days, target, probability)
        for forecast, days in closed
        for target, probability in forecast.probabilities.items()
    ]
    for (forecast, days, target, probability), verdict in zip(said, judged, strict=True):
        assert (verdict.target, verdict.probability) == (target, probability), "another's verdict"
        case = Case(forecast.user_id, forecast.time_ms, probability, verdict.happened, days)
        yield Kind(target, forecast.horizon_ms), case


def watch(records: Iterable[Record], partition: int, partitions: int) -> dict[Kind, list[Case]]:
    """Return the cases of one partition, whose records come in the order of time."""
    part, watcher = Partition(partition, Context(FORETELLING, partitions)), Watcher()
    found: defaultdict[Kind, list[Case]] = defaultdict(list)
    for outputs in _processed(part, records):
        for kind, case in watcher.take(outputs):
            found[kind].append(case)
    return dict(found)


def _processed(part: Partition, records: Iterable[Record]) -> Iterator[Outputs]:
    for record in records:
        yield from part.append(record)
    yield from part.run()


def completejourney(partitions: int, households: frozenset[str]) -> dict[Kind, Cases]:
    """Return the cases of the demo's shop, with a process for each of two halves of it."""
    found: defaultdict[Kind, list[Case]] = defaultdict(list)
    context = multiprocessing.get_context("spawn")
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with (
        ProcessPoolExecutor(2, mp_context=context) as pool,
        Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        ) as bar,
    ):
        jobs = [pool.submit(_partition, partitions, each, households) for each in range(partitions)]
        for job in bar.track(jobs, description="partitions of the stream"):
            for kind, cases in job.result().items():
                found[kind] += cases
    return {kind: Cases.of(cases) for kind, cases in found.items()}


def _partition(
    partitions: int, partition: int, households: frozenset[str]
) -> dict[Kind, list[Case]]:
    own = frozenset(h for h in households if partition_for(h.encode(), partitions) == partition)
    events = CompleteJourney().events(own)
    return watch(
        ((event.user_id.encode(), encode(event), int(event.timestamp)) for event in events),  # type: ignore[arg-type]
        partition,
        partitions,
    )


def synthetic(count: int = SYNTHETIC_EVENTS) -> tuple[dict[Kind, Cases], int]:
    """Return the cases within sessions of the made-up shop's first events, and the middle's time.

    Its records have no faults here.
    """
    truth: dict[tuple[str, int], Mapping[Target, float]] = {}
    records: list[Record] = []
    for entry in SyntheticShop().journal():
        time_ms = to_ms(entry.timestamp)
        if isinstance(entry, Event):
            if len(records) == count:
                break
            records.append((entry.user_id.encode(), encode(entry), time_ms))
        elif entry.event_id is not None:
            truth[entry.user_id, time_ms] = entry.probabilities
    horizon_ms = FORETELLING.horizon_ms(in_session=True)
    found = {
        kind: Cases.of(
            case._replace(truth=truth[case.user, case.time_ms][kind.target])  # type: ignore[index]
            for case in cases
        )
        for kind, cases in watch(records, 0, 1).items()
        if kind.horizon_ms == horizon_ms
    }
    return found, to_ms(records[len(records) // 2][2] or 0)


# --- how right it was -----------------------------------------------------------------------------


class Quality(msgspec.Struct, frozen=True):
    """How right probabilities are, by scikit-learn's metrics; log loss in nats.

    The interval of the AUC comes from a bootstrap that draws users; accuracy, precision, recall and
    F1 are those at the threshold.
    """

    roc_auc: float
    roc_auc_interval: tuple[float, float]
    average_precision: float
    log_loss: float
    brier: float
    accuracy: float
    precision: float
    recall: float
    f1: float


class Behavior(msgspec.Struct, frozen=True):
    """One kind of prediction of a shop beside simple rules, on the same cases.

    The threshold is that of the settings, or ``chosen``: which gave the stream the best F1 on the
    cases that rules are fitted to.
    """

    shop: str
    target: str
    horizon_ms: int
    cases: int
    users: int
    base_rate: float
    threshold: float
    chosen: bool
    fitted_on: int
    models: dict[str, Quality]


class Judgement(msgspec.Struct, frozen=True):
    """Figures, and what pictures are drawn from: all cases, those judged, probabilities by name."""

    kind: Kind
    figures: Behavior
    all_cases: Cases
    judged: Cases
    probabilities: Mapping[str, Floats]


def judge(kind: Kind, cases: Cases, from_ms: int, shop: str = SOURCE) -> Judgement | None:
    """Judge a kind on the cases from a time on; None where there are too few of either outcome.

    The rules are fitted to the cases whose horizon had closed by then. Where the truth is known it
    stands in their place, and the threshold is chosen: what happens in a session is rare, so that
    nothing is more likely than not.
    """
    earlier = cases.take(cases.time_ms + kind.horizon_ms < from_ms)
    judged = cases.take(cases.time_ms >= from_ms)
    for each in earlier, judged:
        if min(int(each.happened.sum()), int((~each.happened).sum())) < _CASES_MIN:
            return None
    said, true = {STREAM: judged.probability}, not np.isnan(judged.truth).any()
    rules = {} if true else RULES.get(kind.target, {})
    for name, columns in rules.items():
        rule = LogisticRegression()
        rule.fit(np.log1p(earlier.days[:, columns]), earlier.happened)
        said[name] = rule.predict_proba(np.log1p(judged.days[:, columns]))[:, 1]
    if true:
        said[TRUTH] = judged.truth
    said[BASE_RATE] = np.full(len(judged.happened), earlier.happened.mean())
    threshold = FORETELLING.churn_watch if kind.target == CHURN else BEHAVIOR_THRESHOLD
    threshold = best_threshold(earlier) if true else threshold
    figures = Behavior(
        shop,
        kind.target,
        kind.horizon_ms,
        len(judged.happened),
        len(np.unique(judged.user)),
        round(float(judged.happened.mean()), 5),
        threshold,
        true,
        len(earlier.happened),
        {name: quality(judged, each, threshold) for name, each in said.items()},
    )
    return Judgement(kind, figures, cases, judged, said)


def best_threshold(cases: Cases) -> float:
    """Return from which of the stream's probabilities on F1 is best; there must be a case."""
    precision, recall, thresholds = metrics.precision_recall_curve(
        cases.happened, cases.probability
    )
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return round(float(thresholds[int(np.argmax(f1[:-1]))]), 4)


def quality(cases: Cases, probabilities: Floats, threshold: float) -> Quality:
    """Return how right probabilities are; there must be both outcomes."""
    happened, told = cases.happened, probabilities >= threshold
    figures = {
        "roc_auc": metrics.roc_auc_score(happened, probabilities),
        "average_precision": metrics.average_precision_score(happened, probabilities),
        "log_loss": metrics.log_loss(happened, probabilities),
        "brier": metrics.brier_score_loss(happened, probabilities),
        "accuracy": metrics.accuracy_score(happened, told),
        "precision": metrics.precision_score(happened, told, zero_division=0.0),
        "recall": metrics.recall_score(happened, told),
        "f1": metrics.f1_score(happened, told),
    }
    rounded = {name: round(float(value), 5) for name, value in figures.items()}
    return Quality(roc_auc_interval=_interval(cases, probabilities), **rounded)


def _interval(cases: Cases, probabilities: Floats) -> tuple[float, float]:
    if np.ptp(probabilities) == 0:  # says the same of everyone, whoever is drawn
        return 0.5, 0.5
    _, owner = np.unique(cases.user, return_inverse=True)
    count = int(owner.max()) + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # twice as fast
        areas = [
            metrics.roc_auc_score(cases.happened, probabilities, sample_weight=draw[owner])
            for draw in draws
        ]
    low, high = np.percentile(areas, [2.5, 97.5]).round(5).tolist()
    return low, high
