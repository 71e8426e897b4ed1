"""How right the predictions were, and what became of users at risk of leaving."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.judge import BEHAVIOR_THRESHOLD, CALIBRATION_BINS, Figures, Kind, Tally, place_of
from stream_app.ops.report_events import KINDS, PURCHASE, Book, EventFigures, User
from stream_app.ops.report_series import Table, Windows
from stream_app.steps import Level

LEVELS: tuple[str, ...] = get_args(Level)
# In a window with fewer cases of either outcome, the area under the curve is chance.
OUTCOMES_MIN = 20
RISK_BINS = 10
_WINDOWS_MAX = 14  # a figure needs many cases
_TARGETS = frozenset((*KINDS, "churn"))
Places = npt.NDArray[np.uint16]  # cases, each by its place in a Tally


class _Cause(msgspec.Struct, frozen=True):
    partition: int
    offset: int


class _Prediction(msgspec.Struct, frozen=True):
    """What is read of a prediction."""

    user_id: str
    timestamp: int
    horizon_ms: int
    probabilities: dict[str, float]
    cause: _Cause | None


class _Alert(msgspec.Struct, frozen=True):
    """What is read of a churn alert."""

    user_id: str
    timestamp: int
    horizon_ms: int
    risk: float
    level: str
    offer: str | None


class Bin(msgspec.Struct, frozen=True):
    """Predictions of about the same probability: how many, their mean, how often it happened."""

    count: int
    predicted: float | None
    happened: float | None


class ForecastFigures(msgspec.Struct, frozen=True):
    """How right the predictions of one kind were: those of users kept whose horizon has closed.

    ``windows`` has cases, area under the curve and share that happened over ``time``, by when the
    prediction was made; None where there are too few.
    """

    target: str
    horizon_ms: int
    horizon: str
    sent: int
    figures: Figures | None
    bins: Sequence[Bin]
    time: Windows
    windows: Sequence[tuple[int, float | None, float | None]]


class Outcome(msgspec.Struct):
    """Alerts and the users they were about; of those whose horizon closed, who bought in it.

    ``risk`` is the sum of the risks that were told of those closed.
    """

    alerts: int = 0
    users: int = 0
    closed: int = 0
    back: int = 0
    risk: float = 0.0


class ChurnFigures(msgspec.Struct, frozen=True):
    """What is known of leaving. ``risks`` counts users by their newest risk, in bins of a tenth."""

    assessed: int
    risks: Sequence[int]
    alerts: int
    over_time: Mapping[str, Sequence[int]]
    levels: Mapping[str, Outcome]
    offers: Mapping[str, Outcome]


class Forecasts:
    """Takes in the predictions; the events must have been read before.

    Parameters
    ----------
    book
        What users did.
    events
        Its figures.
    """

    def __init__(self, book: Book, events: EventFigures) -> None:
        self._book, self._end_ms = book, events.end_ms
        self._windows = events.windows.coarse(_WINDOWS_MAX)
        self._sent: Counter[Kind] = Counter()
        self._cases: dict[Kind, list[array[int]]] = {}
        self._risks: dict[str, tuple[int, float]] = {}  # the newest of each user
        self._done: dict[tuple[int, int], int] = {}
        self._decode = msgspec.json.Decoder(_Prediction).decode

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Take in records; one with a cause that a crash has repeated counts once."""
        for record in records:
            try:
                told = self._decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if told.cause is not None:
                log = partition, told.cause.partition
                if told.cause.offset <= self._done.get(log, -1):
                    continue
                self._done[log] = told.cause.offset
            user = self._book.users.get(told.user_id)
            closed = told.timestamp + told.horizon_ms <= self._end_ms
            for target, probability in told.probabilities.items():
                kind = Kind(target, told.horizon_ms)
                self._sent[kind] += 1
                if user is None:
                    continue
                if target == "churn":
                    newest = self._risks.get(told.user_id)
                    if newest is None or newest[0] <= told.timestamp:
                        self._risks[told.user_id] = told.timestamp, probability
                if closed and target in _TARGETS and 0 <= probability <= 1:
                    self._enter(kind, told, user, probability)

    def _enter(self, kind: Kind, told: _Prediction, user: User, probability: float) -> None:
        cases = self._cases.get(kind)
        if cases is None:
            cases = self._cases[kind] = [array("H") for _ in range(self._windows.count)]
        offset = None if told.cause is None else told.cause.offset
        came_true = happened(user, kind, told.timestamp, offset)
        cases[self._windows.place(told.timestamp)].append(place_of(probability, came_true))

    def close(self, churn_threshold: float) -> list[ForecastFigures]:
        """Return the figures of each kind, most sent first."""
        found = []
        for kind, sent in sorted(self._sent.items(), key=lambda pair: (-pair[1], pair[0])):
            windows = self._cases.get(kind, [])
            threshold = churn_threshold if kind.target == "churn" else BEHAVIOR_THRESHOLD
            places = np.array(array("H", chain.from_iterable(windows)), np.uint16)
            found.append(
                ForecastFigures(
                    target=kind.target,
                    horizon_ms=kind.horizon_ms,
                    horizon=kind.horizon,
                    sent=sent,
                    figures=judge(places, threshold),
                    bins=calibration(places),
                    time=self._windows,
                    windows=[_window(np.array(each, np.uint16)) for each in windows],
                )
            )
        return found

    def risks(self) -> tuple[int, list[int]]:
        """Return how many users were assessed, and how many of them are at risk how much."""
        bins = [0] * RISK_BINS
        for _, risk in self._risks.values():
            bins[min(int(risk * RISK_BINS), RISK_BINS - 1)] += 1
        return len(self._risks), bins


def happened(user: User, kind: Kind, time_ms: int, offset: int | None) -> bool:
    """Return whether a prediction has come true, as the worker judges it.

    An event counts that happened after ``time_ms``, up to and including the end of the horizon. Of
    a predicted purchase, one of the order that was the last at ``offset``, where the prediction's
    cause stands, does not count. The target churn is that nothing was bought.
    """
    churn = kind.target == "churn"
    wanted = PURCHASE if churn else KINDS.index(kind.target)
    order = None
    if wanted == PURCHASE and offset is not None:
        order = user.order_at(time_ms, offset)
        if order is None:
            order = user.order_before(time_ms, offset)
    did = any(
        user.kinds[place] == wanted and (wanted != PURCHASE or user.orders[place] != order)
        for place in user.within(time_ms, time_ms + kind.horizon_ms)
    )
    return did != churn


def judge(places: Places, threshold: float) -> Figures | None:
    """Return how right cases were that are given by their places; None without any."""
    if not len(places):
        return None
    tally = Tally()
    for place in places.tolist():
        tally.add(place, 0)
    return tally.figures(threshold)


def calibration(places: Places) -> list[Bin]:
    """Return how often what was predicted happened, in bins of equal width."""
    values = (places >> 1).view(np.float16).astype(np.float64)
    hits = places & 1
    into = np.minimum((values * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    counts, sums, right = (
        np.bincount(into, weights=weights, minlength=CALIBRATION_BINS)
        for weights in (np.ones(len(places)), values, hits)
    )
    return [
        Bin(int(count), float(total / count), float(of / count)) if count else Bin(0, None, None)
        for count, total, of in zip(counts, sums, right, strict=True)
    ]


def _window(places: Places) -> tuple[int, float | None, float | None]:
    count, hits = len(places), int((places & 1).sum())
    if not count:
        return 0, None, None
    share = hits / count
    if min(hits, count - hits) < OUTCOMES_MIN:
        return count, None, share
    found = judge(places, BEHAVIOR_THRESHOLD)
    return count, found.auc if found is not None else None, share


class Alerts:
    """Takes in the churn alerts; the events must have been read before.

    Parameters
    ----------
    book
        What users did.
    events
        Its figures.
    """

    def __init__(self, book: Book, events: EventFigures) -> None:
        self._book, self._end_ms = book, events.end_ms
        self._over_time = Table(events.windows)
        self._levels: dict[str, Outcome] = {level: Outcome() for level in LEVELS}
        self._offers: dict[str, Outcome] = {}
        self._users: set[tuple[str, str, str]] = set()
        self._count = 0
        self._decode = msgspec.json.Decoder(_Alert).decode

    def take(self, _partition: int, records: Sequence[Any]) -> None:
        """Take in records."""
        for record in records:
            try:
                alert = self._decode(record.value or b"")
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            self._count += 1
            self._over_time.add(alert.timestamp, alert.level)
            user = self._book.users.get(alert.user_id)
            if user is None:
                continue
            offer = alert.offer or "none"
            outcomes = (
                ("level", alert.level, self._levels.setdefault(alert.level, Outcome())),
                ("offer", offer, self._offers.setdefault(offer, Outcome())),
            )
            closed = alert.timestamp + alert.horizon_ms <= self._end_ms
            kind = Kind("churn", alert.horizon_ms)
            back = closed and not happened(user, kind, alert.timestamp, None)
            for by, name, outcome in outcomes:
                outcome.alerts += 1
                if (by, name, alert.user_id) not in self._users:
                    self._users.add((by, name, alert.user_id))
                    outcome.users += 1
                outcome.closed += closed
                outcome.back += back
                outcome.risk += alert.risk if closed else 0.0

    def close(self, assessed: int, risks: Sequence[int]) -> ChurnFigures:
        """Return the figures, with how many users were assessed and at what risk they are."""
        return ChurnFigures(
            assessed=assessed,
            risks=risks,
            alerts=self._count,
            over_time=self._over_time.rows(),
            levels=self._levels,
            offers=dict(sorted(self._offers.items(), key=lambda pair: (-pair[1].alerts, pair[0]))),
        )
