"""What the judge says of predictions is what their definitions say, case by case."""

import math
import random
from collections.abc import Sequence

import pytest

from stream_app.config import DAY_MS, StageSettings
from stream_app.judge import CALIBRATION_BINS, Figures, Judge, Kind
from stream_app.steps import Judged

HORIZON_MS = 30 * 60_000
LONG_MS = 7 * DAY_MS
SETTINGS = StageSettings()
PURCHASE = Kind("purchase", HORIZON_MS)
CHURN = Kind("churn", 28 * DAY_MS)

Case = tuple[float, bool]


def judged(cases: Sequence[Case], kind: Kind = PURCHASE, delay_ms: int = 1_000) -> list[Judged]:
    """Return cases as the stages hand them on."""
    return [Judged(*kind, probability, happened, delay_ms) for probability, happened in cases]


def figures(cases: Sequence[Case], kind: Kind = PURCHASE) -> Figures:
    """Return what the judge says of cases."""
    judge = Judge(SETTINGS)
    judge.take(0, judged(cases, kind))
    return judge.figures()[kind]


def draw(count: int, seed: int = 1, steps: int = 64) -> list[Case]:
    """Return cases with many ties whose probabilities are nearly right."""
    rng = random.Random(seed)
    probabilities = [rng.randrange(1, steps) / steps for _ in range(count)]
    return [(probability, rng.random() < probability**1.2) for probability in probabilities]


def auc(cases: Sequence[Case]) -> float:
    """Return the share of pairs, one of each outcome, that are in the right order; ties half."""
    hits = [probability for probability, happened in cases if happened]
    misses = [probability for probability, happened in cases if not happened]
    right = sum((hit > miss) + (hit == miss) / 2 for hit in hits for miss in misses)
    return right / (len(hits) * len(misses))


def log_loss(cases: Sequence[Case]) -> float:
    """Return the mean surprise, in nats."""
    return -math.fsum(math.log(p if happened else 1 - p) for p, happened in cases) / len(cases)


def calibration_error(cases: Sequence[Case]) -> float:
    """Return how far the shares of the bins are from what was predicted, weighed by cases."""
    bins: list[list[Case]] = [[] for _ in range(CALIBRATION_BINS)]
    for case in cases:
        bins[min(int(case[0] * CALIBRATION_BINS), CALIBRATION_BINS - 1)].append(case)
    gaps = [
        abs(math.fsum(p for p, _ in each) / len(each) - sum(y for _, y in each) / len(each))
        * len(each)
        for each in bins
        if each
    ]
    return math.fsum(gaps) / len(cases)


def test_judge_is_exact() -> None:
    """AUC, log loss and calibration error are those of their definitions, ties and all."""
    cases = draw(2_000)
    said = figures(cases)
    assert said.cases == len(cases)
    assert said.base_rate == sum(happened for _, happened in cases) / len(cases)
    assert said.auc == pytest.approx(auc(cases), abs=1e-12)
    assert said.log_loss == pytest.approx(log_loss(cases), abs=1e-12)
    assert said.calibration_error == pytest.approx(calibration_error(cases), abs=1e-12)


def test_judge_by_hand() -> None:
    """Four cases, worked out on paper."""
    said = figures([(0.75, True), (0.5, False), (0.25, True), (0.25, False)])
    assert said.auc == 2.5 / 4
    assert said.calibration_error == (0.25 + 0.5 + 0.5) / 4
    assert said.log_loss == pytest.approx(-math.log(0.75 * 0.5 * 0.25 * 0.75) / 4)
    assert (said.precision, said.recall, said.f1) == (0.5, 0.5, 0.5)
    assert said.delay_seconds == 1.0


def test_judge_counts_what_is_at_the_threshold_as_predicted() -> None:
    """Behaviour is predicted from one half on, churn from the risk of an alert on."""
    cases = [(0.5, True), (0.4, True), (0.4, False), (0.1, False)]
    behavior, churn = figures(cases), figures(cases, CHURN)
    assert (behavior.threshold, behavior.precision, behavior.recall) == (0.5, 1.0, 0.5)
    assert (churn.threshold, churn.precision, churn.recall) == (SETTINGS.churn_watch, 2 / 3, 1.0)
    assert churn.f1 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("cases", "unknown"),
    [
        ([(0.25, False), (0.125, False)], {"auc", "precision", "recall", "f1"}),
        ([(0.25, True)], {"auc", "precision"}),
        ([(0.75, False)], {"auc", "recall"}),
        ([(0.0, True), (1.0, False)], set()),
    ],
)
def test_judge_leaves_out_what_cases_cannot_tell(cases: list[Case], unknown: set[str]) -> None:
    """A figure without the cases that it needs is none, and no figure is without limit."""
    said = figures(cases)
    values = {name: getattr(said, name) for name in said.__struct_fields__}
    assert {name for name, value in values.items() if value is None} == unknown
    assert all(math.isfinite(value) for value in values.values() if value is not None)


def test_judge_keeps_kinds_and_partitions_apart() -> None:
    """Targets, horizons and partitions are judged apart, and all partitions together."""
    judge = Judge(SETTINGS)
    long = Kind("purchase", LONG_MS)
    first, second, third = draw(50, 1), draw(40, 2), draw(30, 3)
    judge.take(0, judged(first) + judged(second, long))
    judge.take(1, judged(third))
    assert judge.figures(0)[PURCHASE] == figures(first)
    assert judge.figures(0)[long].cases == 40
    assert judge.figures(1) == {PURCHASE: figures(third)}
    assert judge.figures()[PURCHASE] == figures(first + third)


def test_judge_forgets_a_partition_and_keeps_the_whole() -> None:
    """A partition that was given up is gone, what it added to the whole is not."""
    judge = Judge(SETTINGS)
    judge.take(0, judged(draw(50)))
    judge.forget(0)
    assert judge.figures(0) == {}
    assert judge.figures()[PURCHASE].cases == 50


def test_judge_finds_drift() -> None:
    """Errors that grow are drift for the worse, and errors that stay are none."""
    rng = random.Random(7)
    judge = Judge(SETTINGS)
    steady = [(0.25, rng.random() < 0.25) for _ in range(5_000)]
    assert judge.take(0, judged(steady)) == []
    changed = [(0.25, rng.random() < 0.75) for _ in range(1_000)]
    assert judge.take(0, judged(changed)) == [(PURCHASE, "worse")]
    settled = [(0.75, rng.random() < 0.75) for _ in range(3_000)]
    assert (PURCHASE, "better") in judge.take(0, judged(settled))
