"""The pictures of an evaluation: rankings with intervals, curves of the stream's predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics
from sklearn.calibration import calibration_curve

from models.descent import Epoch
from models.evaluation_behavior import BASE_RATE, STREAM, Judgement
from models.evaluation_ranking import MAIN, Interval, Ranking, Rankings
from stream_app.config import DAY_MS
from stream_app.ops.report_pictures import GREY, PALETTE

_DPI = 90
_COLOURS = (*PALETTE, "#8B5A2B", "#000000", GREY)
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_BINS = 10


def rankings(
    found: Rankings, folder: Path, names: Sequence[str], axes: Mapping[str, str]
) -> list[str]:
    """Draw how good every way to rank is, and for whom; return the names of the files.

    ``names`` are those of both files, ``axes`` says what the parts of each kind go by.
    """
    recall, parts = (folder / name for name in names)
    with mpl.rc_context(_STYLE):
        return [_recall(found, recall), _parts(found, parts, axes)]


def learning(epochs: Mapping[str, Sequence[Epoch]], path: Path) -> str:
    """Draw loss and validation NDCG of every network over its epochs; losses differ in kind."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.8 * len(epochs), 4.8), layout="constrained")
        rows: Any = figure.subplots(2, len(epochs), sharex="col", squeeze=False)
        for place, (name, own) in enumerate(epochs.items()):
            numbers, (above, below) = range(1, len(own) + 1), rows[:, place]
            above.plot(numbers, [each.loss for each in own], **_look(place))
            above.set_title(name)
            ndcg = [each.ndcg_at_10 for each in own]
            below.plot(numbers, ndcg, **_look(place))
            best = int(np.argmax(ndcg))
            below.plot(best + 1, ndcg[best], "o", color="black", zorder=3)
            below.set(xlabel="epoch", ylim=(0, 1.1 * max(_highest(epochs), 1e-3)))
            below.set_xlim(0.5, len(own) + 0.5)
            below.xaxis.set_major_locator(MaxNLocator(integer=True))
        rows[0, 0].set_ylabel("training loss, each its own")
        rows[1, 0].set_ylabel("NDCG@10 of validation")
        return _save(figure, path)


def _highest(epochs: Mapping[str, Sequence[Epoch]]) -> float:
    return max(each.ndcg_at_10 for own in epochs.values() for each in own)


def behavior(found: Judgement, path: Path) -> str:
    """Draw ROC, precision and recall, calibration, gain, lift and loss over time of a kind."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        rows: Any = figure.subplots(2, 3)
        for axes, draw in zip(rows.flat, (_roc, _pr, _calibration, _gain, _lift), strict=False):
            draw(axes, found)
        _over_time(rows[1, 2], found)
        figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        return _save(figure, path)


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path.name


def _look(place: int) -> dict[str, Any]:
    """Return colour and mark of the way at a place."""
    colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
    return {"color": colour, "marker": mark, "markersize": 4}


# --- rankings -------------------------------------------------------------------------------------


def _recall(found: Rankings, path: Path) -> str:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, (name, ranking) in enumerate(found.models.items()):
        numbers = [int(number) for number in ranking.curve]
        look = _look(place)
        value, low, high = _columns(list(ranking.curve.values()))
        left.plot(numbers, value, label=name, **look)
        left.fill_between(numbers, low, high, color=look["color"], alpha=0.1, linewidth=0)
        value, low, high = _columns([ranking.measures[MAIN]])
        right.errorbar(value, [place], xerr=(value - low, high - value), capsize=3, **look)
    left.set(xlabel="k, places shown", ylabel="recall@k", title="Recall, 95 % interval shaded")
    left.set_xticks((1, 5, 10, 15, 20))
    left.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    right.set_yticks(range(len(found.models)), list(found.models))
    right.invert_yaxis()
    right.set(xlabel="recall@10", title="Recall@10, 95 % interval")
    return _save(figure, path)


def _parts(found: Rankings, path: Path, labels: Mapping[str, str]) -> str:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    shown: dict[str, Callable[[Ranking], dict[str, Interval]]] = {
        "activity": lambda each: each.activity,
        "age": lambda each: each.age,
        "popularity": lambda each: each.popularity,
    }
    every: Any = figure.subplots(1, 3)
    for axes, (kind, of) in zip(every, shown.items(), strict=True):
        parts = found.parts[kind]
        for place, (name, ranking) in enumerate(found.models.items()):
            value, low, high = _columns(list(of(ranking).values()))
            at = np.arange(len(parts)) + 0.07 * (place - (len(found.models) - 1) / 2)
            look = _look(place) | {"linestyle": "none"}
            axes.errorbar(at, value, (value - low, high - value), label=name, **look)
        axes.set_xticks(
            range(len(parts)),
            ["\n".join((*part.rsplit(" ", 1), f"({count:,})")) for part, count in parts.items()],
            fontsize=8,
        )
        axes.set_xlabel(labels[kind])
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    every[0].set_ylabel("recall@10, 95 % interval")
    every[1].set_ylabel("share of such items in the first ten")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return _save(figure, path)


def _columns(intervals: Sequence[Interval]) -> Any:
    """Return values, lows and highs; NaN where there is none."""
    rows = [[each.value, each.low, each.high] for each in intervals]
    return np.array(rows, np.float64).T


# --- behaviour ------------------------------------------------------------------------------------


def _shown(found: Judgement) -> Mapping[str, Any]:
    """Return the probabilities that have an order: the base rate has none."""
    return {name: each for name, each in found.probabilities.items() if name != BASE_RATE}


def _line(place: int) -> dict[str, Any]:
    return {"color": PALETTE[place % len(PALETTE)], "linewidth": 1.8}


def _roc(axes: Axes, found: Judgement) -> None:
    for place, (name, each) in enumerate(_shown(found).items()):
        false, true, thresholds = metrics.roc_curve(found.judged.happened, each)
        area = found.figures.models[name].roc_auc
        axes.plot(false, true, label=f"{name} (AUC {area:.3f})", **_line(place))
        if name == STREAM:
            at = int((thresholds >= found.figures.threshold).sum()) - 1
            axes.plot(
                false[at],
                true[at],
                "o",
                color="black",
                zorder=3,
                label=f"at the threshold of {found.figures.threshold:g}",
            )
    axes.plot((0, 1), (0, 1), ":", color=GREY)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")


def _pr(axes: Axes, found: Judgement) -> None:
    for place, each in enumerate(_shown(found).values()):
        precision, recall, _ = metrics.precision_recall_curve(found.judged.happened, each)
        axes.plot(recall, precision, **_line(place))
    own = found.figures.models[STREAM]
    axes.plot(own.recall, own.precision, "o", color="black", zorder=3)
    axes.axhline(found.figures.base_rate, linestyle=":", color=GREY)
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    axes.set_ylim(0, 1.03)


def _calibration(axes: Axes, found: Judgement) -> None:
    for place, each in enumerate(_shown(found).values()):
        happened, said = calibration_curve(
            found.judged.happened, each, n_bins=_BINS, strategy="quantile"
        )
        axes.plot(said, happened, marker="o", markersize=4, **_line(place))
    axes.plot((0, 1), (0, 1), ":", color=GREY)
    axes.set(
        xlabel="predicted, mean of each tenth",
        ylabel="share that happened",
        title="Calibration",
    )


def _reached(found: Judgement, probabilities: Any) -> tuple[Any, Any]:
    """Return the share of the cases that a threshold flags, and of what happens among them."""
    false, true, _ = metrics.roc_curve(
        found.judged.happened, probabilities, drop_intermediate=False
    )
    share = found.figures.base_rate
    return share * true + (1 - share) * false, true


def _gain(axes: Axes, found: Judgement) -> None:
    for place, each in enumerate(_shown(found).values()):
        axes.plot(*_reached(found, each), **_line(place))
    axes.plot((0, 1), (0, 1), ":", color=GREY)
    axes.set(
        xlabel="share of the cases, likeliest first", ylabel="share of what happens", title="Gain"
    )


def _lift(axes: Axes, found: Judgement) -> None:
    for place, each in enumerate(_shown(found).values()):
        flagged, true = _reached(found, each)
        kept = flagged >= 1 / 100  # of fewer cases it is noise
        axes.plot(flagged[kept], true[kept] / flagged[kept], **_line(place))
    axes.axhline(1, linestyle=":", color=GREY)
    axes.set(
        xlabel="share of the cases, likeliest first",
        ylabel="times as often as in all",
        title="Lift",
    )
    axes.set_ylim(bottom=0)


def _over_time(axes: Axes, found: Judgement) -> None:
    """Draw the log loss of each week since the beginning, beside what a constant would cost."""
    cases = found.all_cases
    weeks = (cases.time_ms - int(cases.time_ms[0])) // (7 * DAY_MS)
    lines: dict[str, list[float]] = {"own": [], "constant": []}
    numbers = np.unique(weeks)
    for week in numbers:
        own = cases.take(weeks == week)
        constant = np.full(len(own.happened), own.happened.mean())
        for name, each in ("own", own.probability), ("constant", constant):
            lines[name].append(metrics.log_loss(own.happened, each, labels=[False, True]))
    axes.plot(numbers, lines["own"], **_line(0))
    axes.plot(numbers, lines["constant"], ":", color=GREY, label="constant")
    axes.set(
        xlabel="weeks since the first prediction",
        ylabel="log loss, nats",
        title="Loss of each week\n(dotted: of its own base rate)",
    )
    axes.set_ylim(bottom=0)
