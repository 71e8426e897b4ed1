"""The measurement of churn and of purchases soon: what is a case, and how it is judged."""

import numpy as np
import pytest

from benchmarks import churn, synthetic
from benchmarks.churn import HORIZON_MS, SOON_MS, WEEKS, Cases, churn_cases, roc_auc, soon_cases
from benchmarks.churn_report import judge
from benchmarks.emitted import Alert, Emitted, RunError
from benchmarks.synthetic import Past, read_past
from stream_app.config import DAY_MS
from stream_app.event import Event
from stream_app.sources.synthetic_shop import FIRST


def orders(**times: list[int]) -> dict[str, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """Return purchase times by household."""
    return {name: np.array(each, np.int64) for name, each in times.items()}


def test_churn_cases_are_active_households() -> None:
    """Active is a purchase within 56 days, that day included; a purchase on day 28 is a return."""
    now = WEEKS[0]
    cases = churn_cases(
        orders(
            gone=[now - 56 * DAY_MS],
            past=[now - 56 * DAY_MS - 1],
            back=[now - DAY_MS, now + HORIZON_MS],
            late=[now - DAY_MS, now + HORIZON_MS + 1],
        ),
        [now],
    )
    assert dict(zip(cases.households, cases.happened.tolist(), strict=True)) == {
        "gone": True,
        "back": False,
        "late": True,
    }


def test_soon_is_within_seven_days() -> None:
    """A purchase exactly seven days later counts, and nothing follows the last one."""
    first = churn.SOON_FROM_MS
    cases = soon_cases(orders(h=[first - 1, first, first + SOON_MS, first + 2 * SOON_MS + 1]))
    assert cases.times_ms.tolist() == [first, first + SOON_MS, first + 2 * SOON_MS + 1]
    assert cases.happened.tolist() == [True, False, False]


def test_roc_auc_counts_pairs() -> None:
    """It is the share of pairs in the right order, ties half, pairs weighted by their cases."""
    rng = np.random.default_rng(1)
    happened, scores = rng.random(60) < 0.4, rng.integers(0, 8, 60).astype(float)
    weights = rng.integers(0, 3, 60).astype(float)
    won = total = 0.0
    for i in np.flatnonzero(happened):
        for j in np.flatnonzero(~happened):
            pair = weights[i] * weights[j]
            won += pair * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
            total += pair
    assert roc_auc(happened, scores, weights) == pytest.approx(won / total)


def test_calibration_error_of_what_is_right_and_wrong() -> None:
    """Shares that are met have none; a tenth too high everywhere is a tenth."""
    happened = np.arange(1_000) % 2 == 0
    assert churn.calibration_error(happened, np.full(1_000, 0.5)) == pytest.approx(0, abs=1e-9)
    assert churn.calibration_error(happened, np.full(1_000, 0.6)) == pytest.approx(0.1)


def test_unsaid_cases_are_counted() -> None:
    """What the stream said nothing of gets one half, and is told."""
    cases = Cases(["a", "b"], np.array([1, 2]), np.array([True, False]))
    scores, missing = churn.emitted_scores(cases, {("a", 1): 0.9})
    assert (scores.tolist(), missing) == ([0.9, 0.5], 1)


def test_alerts_are_judged_by_what_followed() -> None:
    """Right is an alert before 28 days without a purchase; the lead runs to the 28th day."""
    now = WEEKS[0]
    bought = orders(
        lost=[now - 10 * DAY_MS, now], stays=[now + DAY_MS * day for day in range(-20, 100, 5)]
    )
    cases = churn_cases(bought)
    emitted = Emitted()
    emitted.alerts = [Alert("lost", now + 8 * DAY_MS), Alert("stays", now + 9 * DAY_MS)]
    found = churn.judge_alerts(bought, cases, np.full(len(cases), 0.1), emitted.alerts)
    assert (found.alerts, found.alerts_right) == (2, 0.5)
    assert (found.lapses, found.lapses_foreseen, found.lead_days_median) == (1, 1.0, 20.0)
    assert (found.precision, found.recall) == (0.0, 0.0)


def test_report_puts_the_fewest_partitions_first() -> None:
    """`churn.roc_auc` is that of one partition, others stand beside it, and a table has all."""
    rng = np.random.default_rng(3)
    start = WEEKS[0] - 250 * DAY_MS
    bought = {
        f"h-{n}": np.unique(start + np.cumsum(rng.exponential(1 + n, 400) * DAY_MS).astype(int))
        for n in range(40)
    }
    cases = churn_cases(bought)
    keys = list(zip(cases.households, cases.times_ms.tolist(), strict=True))
    right, wrong = Emitted(), Emitted()
    right.tables = {"churn": dict(zip(keys, cases.happened * 0.8 + 0.1, strict=True))}
    wrong.tables = {"churn": dict(zip(keys, 0.9 - cases.happened * 0.8, strict=True))}
    report = judge(bought, {4: wrong, 1: right})
    figures = report.figures()
    assert (figures["churn"]["partitions"], figures["churn"]["roc_auc"]) == (1, 1.0)
    assert figures["churn"]["other_partitions"]["4"]["roc_auc"] == 0.0
    assert figures["purchase_7_days"]["missing"] > 0
    parts = figures["churn"]["other_partitions"]["4"]["by_partition"]
    assert [part["roc_auc"] for part in parts] == [0.0] * 4
    assert sum(part["cases"] for part in parts) == len(cases)
    page = report.page()
    assert all(name in page for name, _ in report.rows())


def test_emitted_counts_rejects_only_if_expected() -> None:
    """A dead letter ends a run that should have none."""
    with pytest.raises(RunError, match="rejected"):
        Emitted().enter("dead_letter", b"x")
    expected = Emitted(rejects=True)
    expected.enter("dead_letter", b"x")
    assert expected.rejected == 1


def test_labels_leave_out_the_own_order() -> None:
    """What follows counts up to the horizon's end, other lines of the same order do not."""

    def event(number: int, time_ms: int, order: str) -> Event:
        return Event(
            event_id=str(number), type="purchase", user_id="u", timestamp=time_ms, order_id=order
        )

    past: Past = read_past([event(1, 10, "a"), event(2, 20, "a"), event(3, 30, "b")])
    assert not past.happens("u", "purchase", 10, 29, "a")
    assert past.happens("u", "purchase", 10, 30, "a")
    assert not past.happens("u", "purchase", 30, 99, "b")
    assert not past.happens("u", "share", 0, 99, "")


def test_short_run_on_a_seeded_shop() -> None:
    """All is told of what behaviour the stream predicts; for churn the stream is too short."""
    lines = synthetic.measure([FIRST], synthetic.Plan(records=24_000, learned=16_000, seeds=1))
    assert [(line.target, line.partitions) for line in lines] == [
        (target, count) for count in synthetic.PARTITIONS for target in synthetic.TARGETS[:3]
    ]
    assert all(line.missing == 0 and line.cases > 5_000 for line in lines)
    assert all(0.6 < line.roc_auc < line.bayes_roc_auc for line in lines)
    assert all(line.bayes_calibration_error < 0.03 for line in lines)
