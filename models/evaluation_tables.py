"""Figures of rankings as tables in Markdown, whatever was ranked."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from models.evaluate import DEPTHS, MEASURES
from models.evaluation_ranking import LEAD, Interval, Rankings

_NOVELTY = "novelty@10"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(ranking: Rankings) -> str:
    """Return how good each way is, with intervals; coverage and novelty."""
    head = ["", "Recall@10", "95 %", "NDCG@10", "95 %", "MRR@10", "95 %"]
    return table(
        [*head, "coverage@10", "novelty@10, bits"],
        [
            [
                name,
                *_pairs(each.measures[key] for key in (*LEAD, "mrr@10")),
                f"{each.coverage:.1%}",
                number(each.measures[_NOVELTY], 2),
            ]
            for name, each in ranking.models.items()
        ],
    )


def depths(ranking: Rankings) -> str:
    """Return all measures at every depth."""
    names = [f"{measure}@{depth}" for measure in MEASURES for depth in DEPTHS]
    rows = [
        [name, *(number(each.measures[key]) for key in names)]
        for name, each in ranking.models.items()
    ]
    return table(["", *names], rows)


def leads(ranking: Rankings) -> str:
    """Return how much each way is ahead of the base."""
    rows = [
        [name, *_pairs((each.lead[key] for key in LEAD), sign="+")]
        for name, each in ranking.models.items()
        if name != ranking.base
    ]
    return table([f"more than {ranking.base}", "Recall@10", "95 %", "NDCG@10", "95 %"], rows)


def parts(ranking: Rankings, kind: str) -> str:
    """Return the figures of the parts of a kind; the empty ones are left out."""
    counts = {part: count for part, count in ranking.parts[kind].items() if count}
    head = ["", *(f"{part} ({count:,})" for part, count in counts.items())]
    rows = [
        [name, *(number(getattr(ways, kind)[part]) for part in counts)]
        for name, ways in ranking.models.items()
    ]
    return table(head, rows)


def _pairs(figures: "Iterator[Interval]", sign: str = "") -> list[str]:
    return [text for each in figures for text in (number(each, sign=sign), ends(each, sign))]


def number(figure: Interval, digits: int = 4, sign: str = "") -> str:
    """Return a figure in words; nothing where there is none."""
    return "" if figure.value is None else f"{figure.value:{sign}.{digits}f}"


def ends(figure: Interval, sign: str = "") -> str:
    """Return the ends of its interval."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:{sign}.4f} to {figure.high:{sign}.4f}"


def day(ms: int) -> str:
    """Return the day of a time."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
