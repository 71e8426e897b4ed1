"""The page of a report on all that is learned, in Markdown, with pictures and figures beside it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from models import evaluation_pictures, report
from models import evaluation_tables as tables
from models import evaluation_words as words
from models.evaluation import Evaluation, Judged
from models.evaluation_behavior import BASE_RATE, CHURN, STREAM, TRUTH, Judgement, Quality
from models.evaluation_networks import BASELINES, PERSONAL, Networks
from models.evaluation_ranking import BEST, Interval, Rankings
from models.evaluation_tables import day
from models.export import NAME
from models.train import Epoch
from stream_app.judge import Kind
from stream_app.ops.words import foretold, span

PAGE, FIGURES = "index.md", "evaluation.json"
RANKER_PICTURES = ("recall.png", "parts.png")
NETWORKS_PICTURES = ("networks-recall.png", "networks-parts.png")
LEARNING, TRAINING = "networks-learning.png", "training.png"
RANKER_AXES = {
    "activity": "orders of the user before",
    "age": "since the item was first bought",
    "popularity": "times the item was bought before",
}
NETWORKS_AXES = {
    "activity": "items of the user before",
    "age": "since anybody first had the item",
    "popularity": "users who had the item before",
}


def write(found: Evaluation, folder: Path) -> list[str]:
    """Write page, pictures and figures into a folder; return the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, pictures = evaluation_pictures, list[str]()
    if found.ranker is not None:
        pictures += draw.rankings(found.ranker.rankings, folder, RANKER_PICTURES, RANKER_AXES)
        report.curves(found.ranker.epochs, folder / TRAINING)
        pictures.append(TRAINING)
    if found.networks is not None:
        own = found.networks
        pictures += draw.rankings(own.rankings, folder, NETWORKS_PICTURES, NETWORKS_AXES)
        pictures.append(draw.learning(own.epochs, folder / LEARNING))
    for each in found.judgements:
        pictures.append(draw.behavior(each, folder / _picture(each.kind)))
    text = msgspec.json.format(msgspec.json.encode(found.figures()), indent=1)
    (folder / FIGURES).write_bytes(text + b"\n")
    (folder / PAGE).write_text(page(found), "utf-8")
    return [PAGE, FIGURES, *pictures]


def page(found: Evaluation) -> str:
    """Return the page in Markdown."""
    sections = [words.PAGE.format(summary=tables.table(_SUMMARY, list(_summary(found))))]
    if found.ranker is not None:
        sections.append(_ranker(found.ranker))
    if found.networks is not None:
        sections.append(_networks(found.networks))
    sections += map(_behavior, found.judgements)
    sections += (
        f"## {_title(kind)}: {shop}\n\nToo few cases with either outcome: not judged.\n"
        for shop, kind in found.unjudged
    )
    if found.ranker is not None:
        rows = [_epoch(number, each) for number, each in enumerate(found.ranker.epochs, 1)]
        sections.append(words.TRAINING.format(epochs="\n".join(rows)))
    return "\n".join(sections)


# --- what is best ---------------------------------------------------------------------------------

_SUMMARY = ("", "best", "", "ahead of", "by", "95 %")


def _summary(found: Evaluation) -> Iterator[list[str]]:
    """Yield what is best at each task, and by how much."""
    if found.ranker is not None:
        yield ["ranking the stream's candidates", *_best(found.ranker.rankings)]
    if found.networks is not None:
        yield ["a network or a baseline ranking all items", *_best(found.networks.rankings)]
    for each in found.judgements:
        areas = {name: own.roc_auc for name, own in each.figures.models.items()}
        rivals = {name: area for name, area in areas.items() if name not in {TRUTH, BASE_RATE}}
        best = max(rivals, key=lambda name: rivals[name])
        other = max(areas.keys() - {best, TRUTH}, key=lambda name: areas[name])
        gap = f"{areas[best] - areas[other]:+.4f}"
        if TRUTH in areas:  # there is no rule, and a lead over a base rate says little
            other, gap = f"{TRUTH}, which nobody beats", f"{areas[best] - areas[TRUTH]:+.4f}"
        yield [_heading(each), best, f"ROC AUC {areas[best]:.4f}", other, gap, ""]


def _best(ranking: Rankings) -> list[str]:
    """Return the best way, and how far it is ahead of the base; a base, of the next best."""
    best, base = ranking.best, ranking.base
    lead, other = ranking.models[best].lead[BEST], base
    if best == base:
        rest = {name: each for name, each in ranking.models.items() if name != base}
        other = max(rest, key=lambda name: rest[name].measures[BEST].value or 0.0)
        lead = _turned(rest[other].lead[BEST])
    figure = f"NDCG@10 {tables.number(ranking.models[best].measures[BEST])}"
    return [best, figure, other, tables.number(lead, sign="+"), tables.ends(lead, "+")]


def _turned(lead: Interval) -> Interval:
    """Return a lead as seen from the other side."""
    value, low, high = (None if each is None else -each for each in msgspec.structs.astuple(lead))
    return Interval(value, high, low)


# --- rankings -------------------------------------------------------------------------------------


def _ranker(found: Judged) -> str:
    ranking = found.rankings
    same = found.version == found.packaged
    return words.RANKER.format(
        ranker=f"`{NAME}`, version {found.version}",
        packaged="the one that the package carries"
        if same
        else f"not the one that the package carries, {found.packaged}",
        since=day(found.from_ms),
        until=day(found.until_ms),
        partitions=found.partitions,
        requests=ranking.requests,
        users=ranking.users,
        reachable=ranking.reachable,
        known=ranking.known,
        main=tables.main(ranking),
        depths=tables.depths(ranking),
        leads=tables.leads(ranking),
        parts=_parts(ranking, words.RANKER_PARTS),
    )


def _networks(found: Networks) -> str:
    ranking, how = found.rankings, found.how
    names = list(found.epochs)
    rows = []
    for name in names:
        ndcg = [each.ndcg_at_10 for each in found.epochs[name]]
        best = int(np.argmax(ndcg))
        rows.append([name, str(len(ndcg)), str(best + 1), f"{ndcg[best]:.4f}"])
        rows[-1].append(f"{found.seconds[name]:.0f}")
    return words.NETWORKS.format(
        data=found.data,
        kinds=" or ".join(how.types),
        users=found.users,
        items=found.items,
        events=found.events,
        least=f", each had by at least {how.item_events_min} users"
        if how.item_events_min > 1
        else "",
        split=words.TEMPORAL.format(validation=day(found.validation_ms), test=day(found.test_ms))
        if how.split == "temporal"
        else words.LEAVE_ONE_OUT,
        judged=ranking.users,
        known=ranking.known,
        personal=PERSONAL,
        baselines=", ".join(BASELINES),
        base=ranking.base,
        recall_picture=NETWORKS_PICTURES[0],
        parts_picture=NETWORKS_PICTURES[1],
        learning_picture=LEARNING,
        main=tables.main(ranking),
        leads=tables.leads(ranking),
        depths=tables.depths(ranking),
        parts=_parts(ranking, words.NETWORKS_PARTS),
        epochs_max=how.epochs,
        learning=tables.table(["", "epochs", "best", "its NDCG@10 of validation", "seconds"], rows),
    )


def _parts(ranking: Rankings, titles: dict[str, str]) -> str:
    return "\n".join(
        f"By {titles[kind]}:\n\n{tables.parts(ranking, kind)}\n" for kind in ranking.parts
    )


# --- predictions ----------------------------------------------------------------------------------


def _behavior(judgement: Judgement) -> str:
    found = judgement.figures
    rule = "from which on it counts as foretold"
    if found.chosen:
        rule = f"which gave *{STREAM}* the best F1 on these earlier cases"
    elif found.target == CHURN:
        rule = "the threshold of an alert, `churn_watch`"
    rows = [[name, *_quality(each)] for name, each in found.models.items()]
    head = ["", "ROC AUC", "95 %", "average precision", "log loss", "Brier"]
    at = ["accuracy", "precision", "recall", "F1"]
    return words.BEHAVIOR.format(
        title=_heading(judgement),
        cases=found.cases,
        users=found.users,
        base_rate=found.base_rate,
        since=day(int(judgement.judged.time_ms[0])),
        until=day(int(judgement.judged.time_ms[-1])),
        others=(words.BESIDE_TRUTH if TRUTH in found.models else words.BESIDE_RULES).format(
            truth=TRUTH, fitted_on=found.fitted_on
        ),
        stream=STREAM,
        base=BASE_RATE,
        threshold=found.threshold,
        rule=rule,
        table=tables.table([*head, *at], rows),
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


def _heading(judgement: Judgement) -> str:
    return f"{_title(judgement.kind)}: {judgement.figures.shop}"


def _title(kind: Kind) -> str:
    told = foretold(kind.target, span(kind.horizon_ms))
    return told[0].upper() + told[1:]


def _picture(kind: Kind) -> str:
    return f"{kind.target}-{kind.horizon}.png"
