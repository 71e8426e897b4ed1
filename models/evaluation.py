"""One report on all that is learned: a page in Markdown, its pictures, and every figure as JSON."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models import evaluation_behavior, evaluation_pictures, evaluation_ranking, report
from models.data import Requests
from models.evaluate import DEPTHS, MEASURES
from models.evaluation_behavior import BASE_RATE, CHURN, STREAM, Cases, Judgement, Quality
from models.evaluation_ranking import LEAD, Interval, Rankings, Shop
from models.train import Epoch
from stream_app.judge import Kind
from stream_app.ops.words import foretold, span

PAGE, FIGURES = "index.md", "evaluation.json"
_NOVELTY = "novelty@10"
_LINES = {
    "activity": "orders of the user before the request, in thirds of the requests",
    "age": "time since anybody first bought the item",
    "popularity": "how often the item was bought before these weeks",
}


class Evaluation(msgspec.Struct, frozen=True):
    """What the report is made of; ``unjudged`` are kinds of predictions with too few outcomes."""

    from_ms: int
    until_ms: int
    partitions: int
    rankings: Rankings
    judgements: list[Judgement]
    unjudged: list[str]
    epochs: Sequence[Epoch]

    def figures(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        return {
            "ranking": msgspec.to_builtins(self.rankings),
            "behavior": [msgspec.to_builtins(each.figures) for each in self.judgements],
            "unjudged": self.unjudged,
            "training": [
                {
                    "encoder_loss": each.encoder_loss,
                    "head_loss": each.head_loss,
                    "recall_at_10": each.validation.recall_at_10 if each.validation else None,
                    "ndcg_at_10": each.validation.ndcg_at_10 if each.validation else None,
                }
                for each in self.epochs
            ],
        }


def judge(  # noqa: PLR0913, PLR0917 - each is a part of its own
    judged: Requests,
    scores: Mapping[str, npt.NDArray[np.floating]],
    shop: Shop,
    cases: Mapping[Kind, Cases],
    behavior_from_ms: int,
    epochs: Sequence[Epoch],
    partitions: int,
) -> Evaluation:
    """Judge every way to rank, and every kind of prediction from a time on.

    The first of ``scores`` is what the others are compared to.
    """
    found = {
        kind: evaluation_behavior.judge(kind, own, behavior_from_ms) for kind, own in cases.items()
    }
    return Evaluation(
        int(judged.time_ms[0]),
        int(judged.time_ms[-1]),
        partitions,
        evaluation_ranking.judge(judged, scores, shop),
        [each for each in found.values() if each is not None],
        [_title(kind) for kind, each in found.items() if each is None],
        epochs,
    )


def write(found: Evaluation, folder: Path) -> list[str]:
    """Write page, pictures and figures into a folder; return the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = evaluation_pictures.rankings(found.rankings, folder)
    for each in found.judgements:
        pictures.append(evaluation_pictures.behavior(each, folder / _picture(each.kind)))
    report.curves(found.epochs, folder / "training.png")
    text = msgspec.json.format(msgspec.json.encode(found.figures()), indent=1)
    (folder / FIGURES).write_bytes(text + b"\n")
    (folder / PAGE).write_text(page(found), "utf-8")
    return [PAGE, FIGURES, *pictures, "training.png"]


# --- the page -------------------------------------------------------------------------------------


def page(found: Evaluation) -> str:
    """Return the page in Markdown."""
    ranking = found.rankings
    names = list(ranking.models)
    parts = "\n".join(f"By {_LINES[kind]}:\n\n{_parts(ranking, kind)}\n" for kind in ranking.parts)
    behavior = "\n".join(map(_behavior, found.judgements))
    for title in found.unjudged:
        behavior += f"\n## {title}\n\nToo few cases with either outcome: not judged.\n"
    return _PAGE.format(
        since=_day(found.from_ms),
        until=_day(found.until_ms),
        partitions=found.partitions,
        requests=ranking.requests,
        users=ranking.users,
        reachable=ranking.reachable,
        known=ranking.known,
        base=names[0],
        main=_main(ranking),
        depths=_depths(ranking),
        leads=_leads(ranking),
        parts=parts,
        behavior=behavior,
        epochs="\n".join(_epoch(number, each) for number, each in enumerate(found.epochs, 1)),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _main(ranking: Rankings) -> str:
    head = ["", "Recall@10", "95 %", "NDCG@10", "95 %", "MRR@10", "95 %"]
    return _table(
        [*head, "coverage@10", "novelty@10, bits"],
        [
            [
                name,
                *(
                    text
                    for key in ("recall@10", "ndcg@10", "mrr@10")
                    for text in (_number(each.measures[key]), _ends(each.measures[key]))
                ),
                f"{each.coverage:.1%}",
                _number(each.measures[_NOVELTY], 2),
            ]
            for name, each in ranking.models.items()
        ],
    )


def _depths(ranking: Rankings) -> str:
    names = [f"{measure}@{depth}" for measure in MEASURES for depth in DEPTHS]
    rows = [
        [name, *(_number(each.measures[key]) for key in names)]
        for name, each in ranking.models.items()
    ]
    return _table(["", *names], rows)


def _leads(ranking: Rankings) -> str:
    first, *others = ranking.models
    rows = [
        [
            name,
            *(
                text
                for key in LEAD
                for text in (
                    _number(ranking.models[name].lead[key], sign="+"),
                    _ends(ranking.models[name].lead[key], sign="+"),
                )
            ),
        ]
        for name in others
    ]
    return _table([f"more than {first}", "Recall@10", "95 %", "NDCG@10", "95 %"], rows)


def _parts(ranking: Rankings, kind: str) -> str:
    counts = ranking.parts[kind]
    head = ["", *(f"{part} ({count:,})" for part, count in counts.items())]
    rows = [
        [name, *(_number(each) for each in getattr(ways, kind).values())]
        for name, ways in ranking.models.items()
    ]
    return _table(head, rows)


def _behavior(judgement: Judgement) -> str:
    found = judgement.figures
    rule = (
        "the threshold of an alert, `churn_watch`"
        if found.target == CHURN
        else "from which on it counts as foretold"
    )
    rows = [[name, *_quality(each)] for name, each in found.models.items()]
    head = ["", "ROC AUC", "95 %", "average precision", "log loss", "Brier"]
    at = ["accuracy", "precision", "recall", "F1"]
    return _BEHAVIOR.format(
        title=_title(judgement.kind),
        cases=found.cases,
        users=found.users,
        base_rate=found.base_rate,
        since=_day(int(judgement.judged.time_ms[0])),
        until=_day(int(judgement.judged.time_ms[-1])),
        fitted_on=found.fitted_on,
        stream=STREAM,
        base=BASE_RATE,
        threshold=found.threshold,
        rule=rule,
        table=_table([*head, *at], rows),
        picture=_picture(judgement.kind),
    )


def _quality(each: Quality) -> list[str]:
    low, high = each.roc_auc_interval
    values = each.average_precision, each.log_loss, each.brier
    at = each.accuracy, each.precision, each.recall, each.f1
    return [
        f"{each.roc_auc:.4f}",
        f"{low:.4f} to {high:.4f}",
        *(f"{value:.4f}" for value in values),
        *(f"{value:.3f}" for value in at),
    ]


def _epoch(number: int, epoch: Epoch) -> str:
    own = epoch.validation
    cells = (f"{own.recall_at_10:.4f}", f"{own.ndcg_at_10:.4f}") if own is not None else ("", "")
    return f"| {number} | {epoch.encoder_loss} | {epoch.head_loss} | {' | '.join(cells)} |"


def _title(kind: Kind) -> str:
    words = foretold(kind.target, span(kind.horizon_ms))
    return words[0].upper() + words[1:]


def _picture(kind: Kind) -> str:
    return f"{kind.target}-{kind.horizon}.png"


def _number(figure: Interval, digits: int = 4, sign: str = "") -> str:
    return "" if figure.value is None else f"{figure.value:{sign}.{digits}f}"


def _ends(figure: Interval, sign: str = "") -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.low:{sign}.4f} to {figure.high:{sign}.4f}"


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


_BEHAVIOR = """\
## {title}

{cases:,} predictions to {users:,} users from {since} to {until}, as the stream made and judged them
itself; it happened in {base_rate:.1%}. *{stream}* learns on the way, from each case after it was
judged. The others are logistic regressions on what they are named after, in days, fitted to the
{fitted_on:,} earlier cases whose outcome was known by then; *{base}* says the same of everyone.
Accuracy, precision, recall and F1 are those at {threshold:g}, {rule}.

{table}

![ROC, precision and recall, calibration, gain, lift, and loss over time]({picture})
"""

_PAGE = """\
# All that is learned, judged

Made by `python -m models evaluate --report`, from a shop's events and the ranker that
`python -m models train` left; all figures are in [evaluation.json](evaluation.json). Intervals are
95 % percentile intervals of a bootstrap that draws users, each with all that is theirs.

## Ranking

Before each of {requests:,} baskets of {users:,} users from {since} to {until}, the stream was asked
what to recommend, with {partitions} partitions. Every way ranks all of the same candidates, those
that the stream proposed; none are sampled. They hold {reachable:.4f} of a basket on average, which
bounds the recall. Nothing was trained on these weeks.

{main}

- *coverage* is the share of the {known:,} items that had been bought before these weeks which stand
  among the first ten at least once; *novelty* the mean of -log2 of an item's share of the purchases
  before.
- *formula* is what the stream answers with when it has no model.
- *popularity*, *personal frequency* and *co-visitation* go by one thing that the stream counts, all
  of them decayed: a share of all purchases (at most 3 %, more are equal), the user's own, and what
  came after the user's last ten items; ties go by popularity.
- *logistic regression* and *boosted trees* were fitted to the candidates of the four weeks before,
  on the features that the ranker sees.
- *SASRec alone* is the ranker's encoder without the head that weighs it with these features; it
  cannot tell apart items without a name.
- *ranker and online re-scorer* goes on learning after each basket; it is not served.

![recall at k of each way](recall.png)

How much each is ahead, on the same draws of users:

{leads}

At every depth; a basket's precision divides by the places shown:

{depths}

### For whom, and of which items

Recall@10 by the user's activity, and the share of a basket's items that are among the first ten by
the item's age and popularity; in parentheses how many requests or items there are. The shop's data
begin with its year, so no item is known to be older.

![accuracy by activity, age and popularity](parts.png)

{parts}
{behavior}
## Training of the ranker

| epoch | encoder's loss | head's loss | validation Recall@10 | validation NDCG@10 |
|---|---|---|---|---|
{epochs}

![losses and validation NDCG over the epochs](training.png)
"""
