"""The ranker beside what it must beat: a table, curves, and the page in docs/results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import msgspec
import numpy as np
import numpy.typing as npt
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.baselines import BASELINES
from models.data import Requests, Vocabulary
from models.evaluate import Quality, gains, quality
from models.online import rescore
from models.ranker_network import Ranker
from models.train import Epoch, examples, predict

RESULTS = Path("docs/results")
FORMULA, ENCODER, RANKER = "formula", "SASRec alone", "ranker"
ONLINE = "ranker and online re-scorer"


class Comparison(msgspec.Struct, frozen=True):
    """How good each way of ranking the same candidates is, and the best that any could reach.

    ``prompted`` tells the same of requests after the first purchase of a basket.
    """

    quality: dict[str, Quality]
    pool_recall: float
    prompted: dict[str, Quality]

    def of(self, name: str) -> Quality:
        """Return the quality of one of them."""
        return self.quality[name]

    def figures(self) -> dict[str, Any]:
        """Return it as plain data."""
        found: dict[str, Any] = msgspec.to_builtins(self.quality)
        prompted = msgspec.to_builtins(self.prompted)
        return found | {"pool_recall": self.pool_recall, "prompted": prompted}

    def table(self) -> Table:
        """Return it as a table."""
        table = Table("", title="Ranking the candidates of baskets never trained on")
        for name in ("Recall@10", "95 % interval", "HitRate@10", "NDCG@10"):
            table.add_column(name, justify="right")
        for name, each in self.quality.items():
            table.add_row(name, *_cells(each))
        return table


class EncoderAlone(Ranker):
    """A ranker without its head: what its encoder alone says of the candidates."""

    def __init__(self, whole: Ranker) -> None:
        nnx.Module.__init__(self)
        self.encoder = whole.encoder

    def head(self, state: jax.Array, candidates: jax.Array, _: jax.Array) -> jax.Array:
        """Return the scores; the features count for nothing."""
        return self.encoder.scores(state, candidates)


def score(
    model: Ranker, vocabulary: Vocabulary, earlier: Requests, judged: Requests
) -> dict[str, npt.NDArray[np.floating]]:
    """Return the scores (n, N) of the judged requests by every way to rank; the formula first.

    Baselines are fitted to the earlier requests, the four weeks before; the online re-scorer learns
    through these too, and then through what is judged. Both are of requests before baskets.
    """
    found: dict[str, npt.NDArray[np.floating]] = {}
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        for name, fit in bar.track(BASELINES.items(), description="baselines"):
            found[name] = fit(earlier, judged)
        task = bar.add_task("ranker", total=3)
        both = []
        for each in earlier, judged:
            both.append(predict(model, examples(each, vocabulary, seed=0)))
            bar.advance(task)
        found[ENCODER] = predict(EncoderAlone(model), examples(judged, vocabulary, seed=0))
        found[RANKER] = both[1]
        mean, scale = np.asarray(model.mean[...]), np.asarray(model.scale[...])
        joined = earlier.followed_by(judged)
        found[ONLINE] = rescore(joined, np.concatenate(both), mean, scale)[len(earlier) :]
        bar.advance(task)
    return found


def compare(
    model: Ranker,
    vocabulary: Vocabulary,
    later: Requests,
    scores: Mapping[str, npt.NDArray[np.floating]],
) -> Comparison:
    """Judge ways to rank by the scores of those of the later requests that baskets follow."""
    judged = later.before_baskets()
    found = {
        name: quality(
            gains(each, judged.candidates, judged.bought, judged.basket_sizes), judged.user
        )
        for name, each in scores.items()
    }
    reachable = float((judged.bought.sum(axis=1) / judged.basket_sizes).mean())
    return Comparison(found, round(reachable, 5), _prompted(model, vocabulary, later))


def _prompted(model: Ranker, vocabulary: Vocabulary, later: Requests) -> dict[str, Quality]:
    """Judge ranker and formula on requests that a purchase prompts, whose item stage 9 drops."""
    judged = later.take(np.flatnonzero(~later.asked))
    own = judged.candidates == judged.history[:, -1:]
    ways: dict[str, Any] = {
        FORMULA: BASELINES[FORMULA](judged, judged),
        RANKER: predict(model, examples(judged, vocabulary, seed=0)),
    }
    return {
        name: quality(
            gains(
                np.where(own, -np.inf, scores),
                judged.candidates,
                judged.bought,
                judged.basket_sizes,
            ),
            judged.user,
        )
        for name, scores in ways.items()
    }


def curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Draw losses and validation NDCG over the epochs."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    numbers = range(1, len(epochs) + 1)
    left.plot(numbers, [each.encoder_loss for each in epochs], marker="o", label="encoder")
    other = left.twinx()
    other.plot(numbers, [each.head_loss for each in epochs], marker="s", color="C1", label="head")
    left.set(xlabel="epoch", ylabel="encoder's loss, nats", title="training loss")
    other.set_ylabel("head's loss, nats")
    ndcg = [each.validation.ndcg_at_10 for each in epochs if each.validation is not None]
    right.plot(range(1, len(ndcg) + 1), ndcg, marker="o")
    right.set(xlabel="epoch", ylabel="NDCG@10", title="validation")
    for axis in (left, right):
        axis.set_xticks(list(numbers))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(found: Comparison, figures: Mapping[str, Any], epochs: Sequence[Epoch]) -> None:
    """Write the page, its figures and the curves into docs/results."""
    rows = [f"| {name} | {' | '.join(_cells(each))} |" for name, each in found.quality.items()]
    gain = found.of(ONLINE).recall_at_10 - found.of(RANKER).recall_at_10
    (RESULTS / "ranker.md").write_text(
        _PAGE.format(
            rows="\n".join(rows),
            requests=found.of(RANKER).requests,
            pool=found.pool_recall,
            prompted="\n".join(
                f"| {name} | {' | '.join(_cells(each))} |" for name, each in found.prompted.items()
            ),
            prompts=found.prompted[RANKER].requests,
            minutes=figures["train_seconds"] / 60,
            epochs="\n".join(
                f"| {number} | {each.encoder_loss} | {each.head_loss} "
                f"| {each.validation.recall_at_10} | {each.validation.ndcg_at_10} |"
                for number, each in enumerate(epochs, 1)
                if each.validation is not None
            ),
            gain=gain,
            partitions=figures["partitions"],
        ),
        "utf-8",
    )
    text = msgspec.json.format(msgspec.json.encode(figures), indent=1)
    (RESULTS / "ranker.json").write_bytes(text + b"\n")
    curves(epochs, RESULTS / "ranker_curves.png")


def _cells(each: Quality) -> list[str]:
    low, high = each.recall_interval
    return [
        f"{each.recall_at_10:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{each.hit_rate_at_10:.4f}",
        f"{each.ndcg_at_10:.4f}",
    ]


_PAGE = """\
# The ranker, on baskets that it never saw

Made by `make model` and `python -m models evaluate --write`; trained in {minutes:.0f} minutes with
its data, figures in [ranker.json](ranker.json). What the stream itself answers with it stands on
[another page](completejourney.md).

Each way ranks the same candidates: those that stage 7 proposed, with {partitions} partitions,
1 ms before each of {requests:,} baskets from 2017-11-05 on. They held {pool:.4f} of a basket's
products on average, which bounds the recall.

| | Recall@10 | 95 % interval | HitRate@10 | NDCG@10 |
|---|---|---|---|---|
{rows}

- *formula*: what answers when there is no model.
- *popularity*, *personal frequency*, *co-visitation*: one of the features alone.
- *logistic regression*, *boosted trees*: fitted on the candidates of the four weeks before, on the
  same features.
- *SASRec alone*: the ranker's encoder without its head.
- *ranker*: SASRec and its head, trained on the weeks from 2017-03-01 to 2017-11-05; the last four
  of them decided when to stop, then it was trained again on all.
- *ranker and online re-scorer*: River's logistic regression behind the ranker, beginning as the
  ranker itself, which learns after each basket of these weeks and the four before.

The intervals come from 2,000 bootstrap draws of households.

After the first purchase of a basket, when the rest of it is to be guessed ({prompts:,} requests, a
drawn third):

| | Recall@10 | 95 % interval | HitRate@10 | NDCG@10 |
|---|---|---|---|---|
{prompted}

## Would an online re-scorer pay?

It changes Recall@10 by {gain:+.4f} here. It is not served.

## Training

| epoch | encoder's loss | head's loss | validation Recall@10 | validation NDCG@10 |
|---|---|---|---|---|
{epochs}

![curves](ranker_curves.png)
"""
