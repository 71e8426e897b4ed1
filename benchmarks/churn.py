"""How good the predictions are: who stays away, and who buys within a week, on completejourney.

Fed by nothing but what the stream emitted: weekly risks, predictions at purchases, alerts. Churn is
measured each Sunday from 2017-10-01 to 2017-12-03 on every household with a purchase in the last 56
days; one that buys nothing in the next 28 has churned. ``make evaluate`` runs it beside the next
baskets, over the same streams.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.emitted import Alert, Emitted
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import Event
from stream_app.hashing import partition_for
from stream_app.stages.churn import TARGET

WEEKS = tuple(1_506_816_000_000 + 7 * DAY_MS * week for week in range(10))  # from 2017-10-01
# Sundays from 2017-03-05 whose outcome was known by then, for the reference that is fitted.
EARLIER = tuple(1_488_672_000_000 + 7 * DAY_MS * week for week in range(26))
ACTIVE_MS, HORIZON_MS, SOON_MS = 56 * DAY_MS, 28 * DAY_MS, 7 * DAY_MS
# Baskets whose next seven days are known: 2017-10-01 to 2017-12-24.
SOON_FROM_MS, SOON_TO_MS = 1_506_816_000_000, 1_514_073_600_000
DRAWS = 1_000  # of the bootstrap
BINS = 10  # of the calibration error, with equally many cases in each
_NEWTON_STEPS = 10
_LEAST = 1e-4  # a probability is cut to [least, 1 - least] before its logarithm is taken

Floats = npt.NDArray[np.float64]
Orders = Mapping[str, npt.NDArray[np.int64]]  # times in ms of a household's purchases, rising


class Cases(msgspec.Struct, frozen=True):
    """Households at moments, and for each whether it happened; parallel arrays."""

    households: list[str]
    times_ms: npt.NDArray[np.int64]
    happened: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.households)


class Quality(msgspec.Struct, frozen=True):
    """How good probabilities are; the interval holds 95 % of the draws of households."""

    roc_auc: float
    roc_auc_interval: tuple[float, float]
    log_loss: float | None = None
    calibration_error: float | None = None


class AlertQuality(msgspec.Struct, frozen=True):
    """How good alerting is: over cases at the threshold, and over the alerts that were sent.

    A lapse is a silence of over 28 days that begins in the measured weeks; it is foreseen when an
    alert came at most 28 days before its last purchase or 28 days after it. The lead time runs from
    the first such alert to the 28th day.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    alerts: int
    alerts_right: float
    lapses: int
    lapses_foreseen: float
    lead_days_median: float


class Part(msgspec.Struct, frozen=True):
    """The cases of one partition, judged apart: its learner has seen no others."""

    cases: int
    positive: float
    roc_auc: float
    log_loss: float
    calibration_error: float


class ChurnResult(msgspec.Struct, frozen=True):
    """Churn on one stream; ``missing`` counts cases that the stream said nothing of."""

    cases: int
    positive: float
    missing: int
    quality: Quality
    alerts: AlertQuality
    by_partition: list[Part]


class SoonResult(msgspec.Struct, frozen=True):
    """Purchase within seven days of a purchase, on one stream."""

    cases: int
    positive: float
    missing: int
    quality: Quality
    by_partition: list[Part]


# --- what happened --------------------------------------------------------------------------------


def read_orders(lines: Iterable[Event]) -> Orders:
    """Return the distinct purchase times of each household."""
    times: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        assert isinstance(line.timestamp, int)
        times[line.user_id].add(line.timestamp)
    return {household: np.array(sorted(each)) for household, each in times.items()}


def churn_cases(orders: Orders, weeks: Sequence[int] = WEEKS) -> Cases:
    """Return each Sunday's active households, and which of them stayed away."""
    found = []
    for household, times in orders.items():
        for now_ms in weeks:
            place = int(np.searchsorted(times, now_ms, "right"))
            if place and times[place - 1] >= now_ms - ACTIVE_MS:
                stays = place < len(times) and times[place] <= now_ms + HORIZON_MS
                found.append((household, now_ms, not stays))
    return _cases(found)


def soon_cases(orders: Orders) -> Cases:
    """Return each purchase in the window, and whether another followed within seven days."""
    found = []
    for household, times in orders.items():
        within = np.append(np.diff(times) <= SOON_MS, False)
        for now_ms, soon in zip(times.tolist(), within.tolist(), strict=True):
            if SOON_FROM_MS <= now_ms < SOON_TO_MS:
                found.append((household, now_ms, soon))
    return _cases(found)


def _cases(found: Sequence[tuple[str, int, bool]]) -> Cases:
    households, times, happened = zip(*found, strict=True) if found else ((), (), ())
    return Cases(list(households), np.array(times, np.int64), np.array(happened, np.bool_))


# --- how good it is -------------------------------------------------------------------------------


def roc_auc(
    happened: npt.NDArray[np.bool_], scores: Floats, weights: Floats | None = None
) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative.

    Ties count half (Mann & Whitney, 1947). ``weights`` counts each case so many times.

    >>> roc_auc(np.array([True, False, True, False]), np.array([0.9, 0.1, 0.4, 0.4]))
    0.875
    """
    weights = np.ones(len(scores)) if weights is None else weights
    _, places = np.unique(scores, return_inverse=True)
    size = int(places.max()) + 1
    positives = np.bincount(places, weights * happened, size)
    negatives = np.bincount(places, weights * ~happened, size)
    below = np.cumsum(negatives) - negatives
    won = float(np.sum(positives * (below + negatives / 2)))
    return won / float(positives.sum() * negatives.sum())


def interval(cases: Cases, scores: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of the AUC, drawing households with all their cases."""
    names, owner = np.unique(cases.households, return_inverse=True)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    areas = [roc_auc(cases.happened, scores, draw[owner].astype(float)) for draw in draws]
    low, high = np.percentile(areas, [2.5, 97.5]).round(5).tolist()
    return low, high


def quality(cases: Cases, scores: Floats, *, probabilities: bool = True) -> Quality:
    """Return how good scores are; those that are no probabilities are judged by order alone."""
    area = round(roc_auc(cases.happened, scores), 5)
    if not probabilities:
        return Quality(area, interval(cases, scores))
    sure = np.clip(np.where(cases.happened, scores, 1 - scores), _LEAST, 1.0)
    error = calibration_error(cases.happened, scores)
    return Quality(
        area,
        interval(cases, scores),
        round(float(-np.mean(np.log(sure))), 5),
        round(error, 5),
    )


def calibration_error(happened: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Return the mean distance of predicted from observed shares, in bins of equally many cases."""
    bins = np.array_split(np.argsort(scores, kind="stable"), BINS)
    return sum(abs(float(np.sum(happened[b] - scores[b]))) for b in bins) / len(scores)


def emitted_scores(cases: Cases, emitted: Mapping[tuple[str, int], float]) -> tuple[Floats, int]:
    """Return what the stream said of each case, and of how many it said nothing; those get 0.5."""
    keys = zip(cases.households, cases.times_ms.tolist(), strict=True)
    said = [emitted.get(key) for key in keys]
    missing = sum(each is None for each in said)
    return np.array([0.5 if each is None else each for each in said]), missing


def judge_parts(cases: Cases, scores: Floats, partitions: int) -> list[Part]:
    """Return how good probabilities are within each partition."""
    places = np.array([partition_for(each.encode(), partitions) for each in cases.households])
    parts = []
    for number in range(partitions):
        happened, own = cases.happened[places == number], scores[places == number]
        sure = np.clip(np.where(happened, own, 1 - own), _LEAST, 1.0)
        parts.append(
            Part(
                len(own),
                round(float(happened.mean()), 5),
                round(roc_auc(happened, own), 5),
                round(float(-np.mean(np.log(sure))), 5),
                round(calibration_error(happened, own), 5),
            )
        )
    return parts


def judge_churn(orders: Orders, cases: Cases, emitted: Emitted, partitions: int) -> ChurnResult:
    """Return how good the weekly risks and the alerts of a stream are."""
    scores, missing = emitted_scores(cases, emitted.tables.get(TARGET, {}))
    return ChurnResult(
        len(cases),
        round(float(cases.happened.mean()), 5),
        missing,
        quality(cases, scores),
        judge_alerts(orders, cases, scores, emitted.alerts),
        judge_parts(cases, scores, partitions),
    )


def judge_soon(cases: Cases, emitted: Emitted, partitions: int) -> SoonResult:
    """Return how good a stream's predictions of the next seven days are."""
    scores, missing = emitted_scores(cases, emitted.tables.get("purchase", {}))
    positive = round(float(cases.happened.mean()), 5)
    parts = judge_parts(cases, scores, partitions)
    return SoonResult(len(cases), positive, missing, quality(cases, scores), parts)


def judge_alerts(
    orders: Orders, cases: Cases, scores: Floats, alerts: Sequence[Alert]
) -> AlertQuality:
    """Return how good alerting is, at the default threshold and as it was sent."""
    threshold = StageSettings().churn_watch
    said = scores >= threshold
    hits = int(np.sum(said & cases.happened))
    precision, recall = hits / max(int(said.sum()), 1), hits / int(cases.happened.sum())
    first_ms, last_ms = WEEKS[0], WEEKS[-1]
    sent = [alert for alert in alerts if first_ms <= alert.timestamp <= last_ms]
    right = [_stays_away(orders[alert.user_id], alert.timestamp) for alert in sent]
    by_user: dict[str, list[int]] = defaultdict(list)
    for alert in alerts:
        by_user[alert.user_id].append(alert.timestamp)
    leads: list[float | None] = []
    for household, times in orders.items():
        ends = np.append(times[1:], np.iinfo(np.int64).max)
        began = times[(ends - times > HORIZON_MS) & (times >= first_ms) & (times <= last_ms)]
        leads += [_lead_days(each, by_user.get(household, [])) for each in began.tolist()]
    foreseen = [lead for lead in leads if lead is not None]
    return AlertQuality(
        threshold,
        round(precision, 4),
        round(recall, 4),
        round(2 * precision * recall / max(precision + recall, 1e-9), 4),
        len(sent),
        round(float(np.mean(right)) if right else 0.0, 4),
        len(leads),
        round(len(foreseen) / max(len(leads), 1), 4),
        round(float(np.median(foreseen)) if foreseen else 0.0, 1),
    )


def _stays_away(times: npt.NDArray[np.int64], now_ms: int) -> bool:
    place = int(np.searchsorted(times, now_ms, "right"))
    return not (place < len(times) and times[place] <= now_ms + HORIZON_MS)


def _lead_days(began_ms: int, alerts_ms: Sequence[int]) -> float | None:
    near = [at for at in alerts_ms if began_ms - HORIZON_MS <= at < began_ms + HORIZON_MS]
    return (began_ms + HORIZON_MS - min(near)) / DAY_MS if near else None


# --- what it is compared to -----------------------------------------------------------------------


def references(orders: Orders, cases: Cases) -> dict[str, Floats]:
    """Return simple scores of each case, the higher the likelier that the household stays away.

    Recency and mean gap in days; and the two together, by a logistic regression that is fitted
    once, on the Sundays whose outcome was known before the first case.
    """
    recency, gap = _recency_and_gap(orders, cases)
    earlier = churn_cases(orders, EARLIER)
    known = np.column_stack(_recency_and_gap(orders, earlier))
    weights = fit_logistic(known, earlier.happened)
    together = np.column_stack((recency, gap)) @ weights[1:] + weights[0]
    return {"recency": recency, "mean_gap": gap, "recency_and_mean_gap": together}


def _recency_and_gap(orders: Orders, cases: Cases) -> tuple[Floats, Floats]:
    """Return days since the last purchase, and days between purchases: time known / purchases."""
    recency, gap = [], []
    for household, now_ms in zip(cases.households, cases.times_ms.tolist(), strict=True):
        times = orders[household]
        place = int(np.searchsorted(times, now_ms, "right"))
        recency.append((now_ms - times[place - 1]) / DAY_MS)
        gap.append((now_ms - times[0]) / DAY_MS / place)
    return np.array(recency), np.array(gap)


def fit_logistic(features: Floats, happened: npt.NDArray[np.bool_]) -> Floats:
    """Return intercept and weights of a logistic regression, by Newton's method."""
    rows = np.column_stack((np.ones(len(features)), features))
    weights = np.zeros(rows.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-rows @ weights))
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows
        weights += np.linalg.solve(curvature, rows.T @ (happened - chance))
    return weights


def soon_references(orders: Orders, cases: Cases) -> dict[str, Floats]:
    """Return simple scores of each purchase, the higher the likelier that another follows soon.

    The last gap, and the mean gap so far, both in days and negated.
    """
    last, mean = [], []
    for household, now_ms in zip(cases.households, cases.times_ms.tolist(), strict=True):
        times = orders[household]
        place = int(np.searchsorted(times, now_ms))
        known = place > 0
        last.append(-(now_ms - times[place - 1]) / DAY_MS if known else -56.0)
        mean.append(-(now_ms - times[0]) / DAY_MS / place if known else -56.0)
    return {"last_gap": np.array(last), "mean_gap": np.array(mean)}
