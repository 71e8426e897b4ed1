"""The pictures of the report, as SVG: one look, colours that the colour-blind can tell apart.

Backgrounds are clear and text is dark; where the reader prefers dark pages, the page inverts it.
The same figures give the same bytes.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from stream_app.ops.report_series import Windows

# Okabe & Ito, "Color Universal Design", 2008; its yellow is too light for a line.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#999999",
)
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
_TEXT = "#333333"
_INCHES = (5.3, 3.1)  # a phone makes it half as wide, and the text must still be read
_TICKS = 4
_LABEL_CHARACTERS = 30
_OTHERS = "others"
_PERCENT = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}%")
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": _TEXT,
    "axes.edgecolor": GREY,
    "axes.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#cccccc",
    "grid.linewidth": 0.6,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.hashsalt": "stream-app",
    # A title of the catalogue is text, never a formula.
    "text.parse_math": False,
}


class Picture:
    """A picture while it is drawn: ``axes`` to draw on, and ``svg`` when done.

    Parameters
    ----------
    height
        In inches.
    """

    def __init__(self, height: float = _INCHES[1]) -> None:
        with mpl.rc_context(_STYLE):
            self.figure = Figure(figsize=(_INCHES[0], height), layout="constrained")
            self.axes: Axes = self.figure.add_subplot()

    def svg(self) -> bytes:
        """Return the picture."""
        out = BytesIO()
        with mpl.rc_context(_STYLE):
            self.figure.savefig(
                out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        return out.getvalue()

    def legend(self, columns: int = 3) -> None:
        """Put the names above."""
        if self.axes.get_legend_handles_labels()[0]:
            with mpl.rc_context(_STYLE):
                self.figure.legend(loc="outside upper left", ncols=columns)

    def over(self, windows: Windows) -> None:
        """Let the first axis be time."""
        labels = windows.labels()
        step = max(-(-len(labels) // _TICKS), 1)
        places = list(range(0, len(labels), step))
        days = {label[:10] for label in labels}
        short = [labels[place][11:] if len(days) == 1 else labels[place] for place in places]
        self.axes.set_xticks(places, [each.replace(" ", "\n") for each in short])
        self.axes.set_xlim(-0.6, len(labels) - 0.4)
        self.axes.grid(visible=False, axis="x")
        if len(days) == 1 and labels[0][11:]:
            self.axes.set_xlabel(labels[0][:10])

    def counts(self, name: str) -> None:
        """Let the second axis be counts of something."""
        self.axes.set_ylabel(name)
        self.axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

    def percent(self, name: str) -> None:
        """Let the second axis be shares."""
        self.axes.set_ylabel(name)
        self.axes.yaxis.set_major_locator(MaxNLocator(5))
        self.axes.yaxis.set_major_formatter(_PERCENT)


def fewest(rows: Mapping[str, Sequence[int]], most: int) -> dict[str, list[int]]:
    """Return the first rows, and the sum of the others as one, so that there are ``most`` at most.

    >>> fewest({"a": [3, 3], "b": [2, 0], "c": [1, 0]}, 2)
    {'a': [3, 3], 'others': [3, 0]}
    """
    if len(rows) <= most:
        return {name: list(row) for name, row in rows.items()}
    names = list(rows)
    kept = {name: list(rows[name]) for name in names[: most - 1]}
    columns = zip(*(rows[name] for name in names[most - 1 :]), strict=True)
    return {**kept, _OTHERS: [sum(column) for column in columns]}


def stacked(
    windows: Windows,
    rows: Mapping[str, Sequence[int]],
    unit: str,
    colours: Mapping[str, str] | None = None,
) -> bytes:
    """Draw counts over time, one upon the other."""
    picture = Picture()
    below = [0] * windows.count
    edges = [place - 0.5 for place in range(windows.count + 1)]
    for place, (name, row) in enumerate(fewest(rows, len(PALETTE)).items()):
        colour = (colours or {}).get(name) or PALETTE[place % len(PALETTE)]
        top = [low + high for low, high in zip(below, row, strict=True)]
        # One shape for each name: a bar for each window takes ten times as long to draw.
        picture.axes.stairs(
            top, edges, baseline=below, fill=True, label=_short(name), color=colour, linewidth=0
        )
        below = top
    picture.over(windows)
    picture.counts(f"{unit} a {windows.name}")
    picture.legend()
    return picture.svg()


def lines(  # noqa: PLR0913 - how a line can look
    windows: Windows,
    rows: Mapping[str, Sequence[float | None]],
    unit: str,
    *,
    percent: bool = True,
    level: float | None = None,
    dimmed_until: int = 0,
) -> bytes:
    """Draw values over time; where there is none, the line is broken.

    ``level`` is drawn across; windows before ``dimmed_until`` have a grey ground.
    """
    picture = Picture()
    axes = picture.axes
    if dimmed_until:
        axes.axvspan(-0.6, dimmed_until - 0.5, color="#bbbbbb", alpha=0.35, linewidth=0)
    if level is not None:
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.5)
    marks = ("o", "s", "^", "D", "v", "P")
    for place, (name, row) in enumerate(rows.items()):
        values = [float("nan") if value is None else value for value in row]
        axes.plot(
            range(windows.count),
            values,
            label=_short(name),
            color=PALETTE[place % len(PALETTE)],
            marker=marks[place % len(marks)],
            markersize=4,
            linewidth=1.8,
        )
    picture.over(windows)
    if percent:
        picture.percent(unit)
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylabel(unit)
    picture.legend(2)
    return picture.svg()


def across(
    values: Mapping[str, float],
    unit: str,
    *,
    percent: bool = False,
    notes: Sequence[str] = (),
    colours: Sequence[str] = (BLUE,),
) -> bytes:
    """Draw one bar for each name, from top to bottom, with its value or a note beside it."""
    picture = Picture(0.9 + 0.36 * max(len(values), 2))
    axes = picture.axes
    fill = [colours[place % len(colours)] for place in range(len(values))]
    bars = axes.barh(range(len(values)), list(values.values()), 0.7, color=fill)
    axes.set_yticks(range(len(values)), [_short(name) for name in values])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    said = notes or [f"{v:.1%}" if percent else f"{v:,.0f}" for v in values.values()]
    axes.bar_label(bars, list(said), padding=3, fontsize=10)
    axes.margins(x=0.22)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=not percent))
    if percent:
        axes.xaxis.set_major_formatter(_PERCENT)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return picture.svg()


def side_by_side(
    names: Sequence[str], rows: Mapping[str, Sequence[float]], name: str, unit: str
) -> bytes:
    """Draw shares, a group of bars for each name."""
    picture = Picture()
    width = 0.8 / max(len(rows), 1)
    for place, (label, row) in enumerate(rows.items()):
        at = [number - 0.4 + width * (place + 0.5) for number in range(len(names))]
        picture.axes.bar(at, row, width * 0.94, label=label, color=PALETTE[place % len(PALETTE)])
    picture.axes.set_xticks(range(len(names)), list(names))
    picture.axes.set_xlabel(name)
    picture.axes.grid(visible=False, axis="x")
    picture.percent(unit)
    picture.legend()
    return picture.svg()


def calibration(series: Mapping[str, Sequence[tuple[int, float, float]]]) -> bytes:
    """Draw what was predicted against what happened; the greater a mark, the more cases."""
    picture = Picture(3.8)
    axes = picture.axes
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.5)
    most = max((count for bins in series.values() for count, _, _ in bins), default=1)
    for place, (name, bins) in enumerate(series.items()):
        colour = PALETTE[place % len(PALETTE)]
        predicted = [each[1] for each in bins]
        true = [each[2] for each in bins]
        sizes = [12 + 150 * (each[0] / most) ** 0.5 for each in bins]
        axes.plot(predicted, true, color=colour, linewidth=1.2, alpha=0.7, label=_short(name))
        axes.scatter(predicted, true, sizes, color=colour, alpha=0.85, linewidth=0)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("predicted")
    axes.xaxis.set_major_formatter(_PERCENT)
    picture.percent("happened")
    picture.legend(2)
    return picture.svg()


def columns(
    names: Sequence[str], counts: Sequence[int], name: str, unit: str, colour: str = BLUE
) -> bytes:
    """Draw one upright bar for each name."""
    picture = Picture()
    picture.axes.bar(range(len(names)), counts, 0.85, color=colour, linewidth=0)
    step = max(-(-len(names) // 10), 1)
    picture.axes.set_xticks(range(0, len(names), step), list(names[::step]))
    picture.axes.set_xlabel(name)
    picture.axes.grid(visible=False, axis="x")
    picture.counts(unit)
    return picture.svg()


def _short(text: str) -> str:
    """Return a name that fits; a name that begins with an underscore would not be shown."""
    text = " ".join(text.split()) or "?"
    text = f" {text}" if text.startswith("_") else text
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "…"
