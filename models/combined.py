"""What a stream serves: candidates of co-visitation and of a network, ranked by both.

Each part's scores become shares of a user; a candidate's score is the weighted sum of its shares,
and the weights are those that rank the validation items best.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from models.leave_one_out import Recommender, Scores, judge
from models.sequences import Items, Sequences
from stream_app.stages.candidates import POOL_SIZE

WEIGHTS = np.linspace(0.0, 1.0, 11).tolist()  # of the network, that are tried


class Combined:
    """Two fitted recommenders as one: ``counts`` proposes and ``network`` proposes, both score."""

    def __init__(self, counts: Recommender, network: Recommender, pool: int = POOL_SIZE) -> None:
        self.counts, self.network, self.pool = counts, network, pool
        self.weight = 0.5  # of the network

    def fit(self, data: Sequences) -> Self:
        """Choose the weight by the NDCG of the validation items; the parts are fitted already."""
        found = {}
        for self.weight in WEIGHTS:
            found[self.weight] = judge(
                self.scores, data.before_validation, data.validation, data.items
            ).ndcg_at_10
        self.weight = max(found, key=lambda weight: found[weight])
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return the weighted shares of the candidates, 0 elsewhere; n histories -> (n, items)."""
        counts = self.counts.scores(histories)
        counts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
        logits = self.network.scores(histories)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        for part in (counts, chances):
            _forget(part, histories)
        pool = _best(counts, self.pool // 2) | _best(chances, self.pool // 2)
        found: Scores = pool * ((1 - self.weight) * counts + self.weight * chances)
        return found


def _forget(shares: Scores, histories: Sequence[Items]) -> None:
    """Take what the users had from the shares: it is no candidate."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    shares[rows, np.concatenate([*histories, np.zeros(0, np.int32)])] = 0.0


def _best(shares: Scores, count: int) -> npt.NDArray[np.bool_]:
    """Return which items have the ``count`` greatest shares of a row, if above 0; (n, items)."""
    last = max(shares.shape[1] - count, 0)
    least = np.partition(shares, last, axis=1)[:, last : last + 1]
    return (shares >= least) & (shares > 0)
