"""How right the predictions were that have come due: progressive figures, for each target.

Every prediction was made before its outcome was known, and is judged once. It is half precision, so
there are 15,361 different ones at most: how often each came true, and how often not, is all that is
kept, and what AUC, log loss, calibration error, precision, recall and F1 follow from exactly. (Of
River's, `ROCAUC` is off by 0.05 at 10 thresholds, by 0.025 at 100 and then costs 30 µs a case, and
`RollingROCAUC` needs 10 ms to say how it stands.) Drift is found by River's ADWIN: Bifet & Gavaldà,
"Learning from Time-Changing Data with Adaptive Windowing", SDM 2007.
"""

import struct
from array import array
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from river.drift import ADWIN

from stream_app.config import DAY_MS, StageSettings
from stream_app.steps import Judged

# From which probability on behaviour counts as predicted, for precision, recall and F1: more likely
# than not. Churn has a threshold of its own: that of an alert.
BEHAVIOR_THRESHOLD = 0.5
CALIBRATION_BINS = 10

_ONE = 0x3C00  # the bits of 1.0 in half precision; those of smaller numbers are smaller
_VALUES = np.arange(_ONE + 1, dtype=np.uint16).view(np.float16).astype(np.float64)
# What rounds to 0 or 1 is taken for this at most, or one case could cost without limit.
_LOWEST, _HIGHEST = 2.0**-25, 1 - 2.0**-12
_HALF, _BITS = struct.Struct("<e"), struct.Struct("<H")

Floats = npt.NDArray[np.float64]


def place_of(probability: float, happened: bool) -> int:  # noqa: FBT001
    """Return where a case counts: by the bits of its probability, misses even and hits odd."""
    bits: int = _BITS.unpack(_HALF.pack(probability))[0]
    return 2 * bits + happened


class Kind(NamedTuple):
    """What is judged apart: a target within a horizon."""

    target: str
    horizon_ms: int

    @property
    def horizon(self) -> str:
        """The horizon in words.

        >>> Kind("purchase", 1_800_000).horizon, Kind("churn", 28 * 86_400_000).horizon
        ('30m', '28d')
        """
        days, rest = divmod(self.horizon_ms, DAY_MS)
        return f"{self.horizon_ms // 60_000}m" if rest else f"{days}d"


class Drift(NamedTuple):
    """The error of a kind of prediction has changed: for the better or for the worse."""

    kind: Kind
    direction: Literal["better", "worse"]


class Figures(msgspec.Struct, frozen=True):
    """How right predictions of one kind were; None is what the cases so far cannot tell.

    ``calibration_error`` is the expected calibration error over 10 bins of equal width,
    ``log_loss`` in nats; ``precision``, ``recall`` and ``f1`` are those at ``threshold``;
    ``delay_seconds`` is the mean log time from a prediction until its outcome was known.
    """

    cases: int
    base_rate: float
    auc: float | None
    log_loss: float
    calibration_error: float
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    delay_seconds: float


class Tally:
    """The cases of one kind: how often each probability came true, and how often not.

    Examples
    --------
    >>> tally = Tally()
    >>> for probability, happened in (0.75, True), (0.5, False), (0.25, True), (0.25, False):
    ...     tally.add(place_of(probability, happened), delay_ms=1_000)
    >>> figures = tally.figures(threshold=0.5)
    >>> figures.auc, figures.calibration_error, figures.precision, figures.recall
    (0.625, 0.3125, 0.5, 0.5)
    """

    def __init__(self) -> None:
        self.cases = 0
        self._delay_ms = 0
        self._counts = array("Q", bytes(8 * 2 * (_ONE + 1)))  # misses and hits of each value

    def add(self, place: int, delay_ms: int) -> None:
        """Count a case, given by its place."""
        self._counts[place] += 1
        self.cases += 1
        self._delay_ms += delay_ms

    def figures(self, threshold: float) -> Figures:
        """Return how right they were; there must be a case."""
        counts = np.frombuffer(self._counts, np.uint64).reshape(-1, 2)
        seen = np.flatnonzero(counts[:, 0] | counts[:, 1])
        values = _VALUES[seen]
        misses, hits = counts[seen].T.astype(np.float64)
        positives = float(hits.sum())
        told = values >= threshold
        right = float(hits[told].sum())
        warned = right + float(misses[told].sum())
        return Figures(
            cases=self.cases,
            base_rate=positives / self.cases,
            auc=_auc(misses, hits),
            log_loss=_log_loss(values, misses, hits) / self.cases,
            calibration_error=_calibration(values, misses, hits) / self.cases,
            threshold=threshold,
            precision=right / warned if warned else None,
            recall=right / positives if positives else None,
            f1=2 * right / (warned + positives) if warned + positives else None,
            delay_seconds=self._delay_ms / self.cases / 1000,
        )


def _auc(misses: Floats, hits: Floats) -> float | None:
    """Return how often a hit was thought likelier than a miss, ties for half; None without both."""
    pairs = misses.sum() * hits.sum()
    if not pairs:
        return None
    return float((hits * (misses.cumsum() - misses / 2)).sum() / pairs)


def _log_loss(values: Floats, misses: Floats, hits: Floats) -> float:
    inside = values.clip(_LOWEST, _HIGHEST)
    return float(-(hits * np.log(inside) + misses * np.log1p(-inside)).sum())


def _calibration(values: Floats, misses: Floats, hits: Floats) -> float:
    """Return the sum over the bins of how far their hits are from what was predicted."""
    places = np.minimum((values * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    gaps = np.bincount(places, weights=values * (hits + misses) - hits)
    return float(np.abs(gaps).sum())


class _Detector:
    """Finds changes of the mean squared error."""

    def __init__(self) -> None:
        self._adwin = ADWIN()
        self._sum = 0.0  # of the errors since the last change
        self._count = 0

    def add(self, error: float) -> Literal["better", "worse"] | None:
        """Take in a squared error; say whether, and how, the errors have changed."""
        self._adwin.update(error)
        self._sum += error
        self._count += 1
        if not self._adwin.drift_detected:
            return None
        worse = self._adwin.estimation > self._sum / self._count
        self._sum, self._count = 0.0, 0
        return "worse" if worse else "better"


class _Bench(NamedTuple):
    """Where one kind of prediction of a partition is judged."""

    tally: Tally
    whole: Tally
    detector: _Detector


class Judge:
    """Judges the predictions of a process as they come due: each partition's, and all together.

    A partition has learners of its own, so drift is looked for in each. Nothing is kept beyond the
    process: after a restart it begins anew. A case costs 2 µs.

    Parameters
    ----------
    settings
        Of the stages.
    """

    def __init__(self, settings: StageSettings) -> None:
        self._churn_threshold = settings.churn_watch
        self._whole: dict[Kind, Tally] = {}
        self._partitions: dict[int, dict[Kind, _Bench]] = {}

    @property
    def partitions(self) -> list[int]:
        """The partitions of which predictions have been judged."""
        return list(self._partitions)

    def take(self, partition: int, judged: Iterable[Judged]) -> list[Drift]:
        """Take in what was judged in a batch, once that is committed; return the drifts found."""
        drifts = []
        benches = self._partitions.setdefault(partition, {})
        for case in judged:
            kind = Kind(case.target, case.horizon_ms)
            bench = benches.get(kind)
            if bench is None:
                whole = self._whole.setdefault(kind, Tally())
                bench = benches[kind] = _Bench(Tally(), whole, _Detector())
            place = place_of(case.probability, case.happened)
            bench.tally.add(place, case.delay_ms)
            bench.whole.add(place, case.delay_ms)
            direction = bench.detector.add((case.probability - case.happened) ** 2)
            if direction is not None:
                drifts.append(Drift(kind, direction))
        return drifts

    def figures(self, partition: int | None = None) -> dict[Kind, Figures]:
        """Return how right the predictions of a partition were; those of all without one."""
        if partition is None:
            tallies = self._whole
        else:
            benches = self._partitions.get(partition, {})
            tallies = {kind: bench.tally for kind, bench in benches.items()}
        return {
            kind: tally.figures(
                self._churn_threshold if kind.target == "churn" else BEHAVIOR_THRESHOLD
            )
            for kind, tally in tallies.items()
        }

    def forget(self, partition: int) -> None:
        """Forget a partition that is given up; what it added to the whole stays."""
        self._partitions.pop(partition, None)
