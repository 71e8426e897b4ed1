"""What a stream serves: candidates of co-visitation and of a network, ranked by both.

Each part's scores become shares of a user; a candidate's score is the weighted sum of its shares,
and the weights are those that rank the validation items best.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from models.leave_one_out import Recommender, Scores, batches, quality, rank
from models.sequences import Items, Sequences
from stream_app.stages.candidates import POOL_SIZE

WEIGHTS = [place / 20 for place in range(21)]  # of the network, that are tried
_LEAST = 1e-9  # a sum that is divided by


class Combined:
    """Two fitted recommenders as one: ``counts`` proposes and ``network`` proposes, both score."""

    def __init__(self, counts: Recommender, network: Recommender, pool: int = POOL_SIZE) -> None:
        self.counts, self.network, self.pool = counts, network, pool
        self.weight = 0.5  # of the network

    def fit(self, data: Sequences) -> Self:
        """Choose the weight by the NDCG of the validation items; the parts are fitted already."""
        histories, targets = data.before_validation, data.validation
        above, equal = np.zeros((2, len(WEIGHTS), len(targets)), np.int64)
        for users in batches(histories, data.items):
            seen = [histories[user] for user in users]
            parts = self._shares(seen)
            for place, weight in enumerate(WEIGHTS):
                mixed = _mixed(*parts, weight)
                above[place, users], equal[place, users] = rank(mixed, seen, targets[users])
        found = [quality(*each).ndcg_at_10 for each in zip(above, equal, strict=True)]
        self.weight = WEIGHTS[int(np.argmax(found))]
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return the weighted shares of the candidates, 0 elsewhere; n histories -> (n, items)."""
        return _mixed(*self._shares(histories), self.weight)

    def _shares(self, histories: Sequence[Items]) -> tuple[Scores, Scores]:
        """Return the shares by counts and by the network, 0 for what is no candidate."""
        counts = np.array(self.counts.scores(histories))
        _forget(counts, histories)
        counts /= np.maximum(counts.sum(axis=1, keepdims=True), _LEAST)
        logits = self.network.scores(histories)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        _forget(chances, histories)
        chances /= np.maximum(chances.sum(axis=1, keepdims=True), _LEAST)
        pool = _best(counts, self.pool // 2) | _best(chances, self.pool // 2)
        return counts * pool, chances * pool


def _mixed(counts: Scores, chances: Scores, weight: float) -> Scores:
    return np.float32(1 - weight) * counts + np.float32(weight) * chances


def _forget(shares: Scores, histories: Sequence[Items]) -> None:
    """Take what the users had from the shares: it is no candidate."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    shares[rows, np.concatenate([*histories, np.zeros(0, np.int32)])] = 0.0


def _best(shares: Scores, count: int) -> npt.NDArray[np.bool_]:
    """Return which items have the ``count`` greatest shares of a row, if above 0; (n, items)."""
    last = max(shares.shape[1] - count, 0)
    least = np.partition(shares, last, axis=1)[:, last : last + 1]
    return (shares >= least) & (shares > 0)
