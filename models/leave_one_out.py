"""How high a recommender ranks the item that came next, among all items.

Nothing is sampled: metrics of sampled negatives order models wrongly (Krichene & Rendle, KDD 2020).
"""

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from models.sequences import Items, Sequences

Scores = npt.NDArray[np.float32]
USERS_MAX = 512  # scored at once
CELLS_MAX = 1 << 23  # scores that lie in memory at once (32 MB)
VALIDATED_MAX = 20_000  # users that say when to stop; the test is always that of all


class Recommender(Protocol):
    """What is judged: it learns from histories and scores all items for others."""

    def fit(self, data: Sequences) -> Self:
        """Learn from ``data.learned``; ``data.validation`` may say when to stop, the test never."""
        ...

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return how well each item fits as the next; n histories -> (n, items)."""
        ...


class Quality(msgspec.Struct, frozen=True):
    """Means over the judged users."""

    recall_at_5: float
    ndcg_at_5: float
    recall_at_10: float
    ndcg_at_10: float


def judge(
    scores: Callable[[Sequence[Items]], Scores],
    histories: Sequence[Items],
    targets: Items,
    items: int,
) -> Quality:
    """Return how high the targets rank among what is not in the histories; n of each.

    Users are scored by the length of their histories, so that those of a batch are alike.
    """
    above, equal = np.zeros((2, len(targets)), np.int64)
    for users in batches(histories, items):
        seen = [histories[user] for user in users]
        found = np.array(scores(seen))  # a copy, which is changed
        above[users], equal[users] = rank(found, seen, targets[users])
    return quality(above, equal)


def validation_ndcg(scores: Callable[[Sequence[Items]], Scores], data: Sequences) -> float:
    """Return NDCG@10 of the validation items; of very many users, of some evenly spaced ones."""
    count = len(data.judged)
    some = np.linspace(0, count - 1, min(count, VALIDATED_MAX)).astype(int)
    histories = [data.learned[user] for user in data.judged[some]]
    return judge(scores, histories, data.validation[some], data.items).ndcg_at_10


def batches(histories: Sequence[Items], items: int) -> list[npt.NDArray[np.intp]]:
    """Return the places of histories in batches, by length; the scores of one fit into memory.

    A batch has a power of two of them, to which networks fill it up anyway.
    """
    order = np.argsort([len(history) for history in histories], kind="stable")
    size = max(min(USERS_MAX, CELLS_MAX // items), 1)
    size = 1 << (size.bit_length() - 1)
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def rank(
    scores: Scores, histories: Sequence[Items], targets: Items
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return how many other items score more than the target, and how many the same; (n,) each.

    Items of the history are not counted, unless it is the target itself. A score that is no number
    ranks last, so that a network that went astray looks as bad as it is. ``scores`` are changed.
    """
    rows = np.arange(len(targets))
    wanted = scores[rows, targets][:, None]
    seen = np.repeat(rows, [len(history) for history in histories])
    scores[seen, np.concatenate(histories)] = -np.inf
    scores[rows, targets] = -np.inf
    above = (scores > wanted).sum(axis=1)
    above[np.isnan(wanted[:, 0])] = scores.shape[1]
    return above, (scores == wanted).sum(axis=1)


def quality(above: npt.NDArray[np.integer], equal: npt.NDArray[np.integer]) -> Quality:
    """Return the metrics; items of equal score count as the mean over all their orders."""
    found = []
    for top in (5, 10):
        first, last = np.minimum(above, top), np.minimum(above + equal + 1, top)
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(top) + 2.0))])
        found.append(((last - first) / (equal + 1)).mean())
        found.append(((gains[last] - gains[first]) / (equal + 1)).mean())
    return Quality(*(round(float(each), 5) for each in found))
