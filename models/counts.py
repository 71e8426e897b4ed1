"""Baselines that count: nothing is trained by descent, so nothing excuses a network below them.

- :class:`Popularity`: what most users have.
- :class:`PersonalFrequency`: what the user has most often, then what is popular.
- :class:`CoVisitation`: what other users went on to, after the items of this history.
- :class:`EASE`: a linear model of the set of items, in closed form.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.linalg import lapack

from models.leave_one_out import Scores, judge
from models.sequences import Items, Sequences

LOOKBACK = 20  # items back that a new item becomes a neighbour of, and that are compared with
EASE_ITEMS_MAX = (
    25_000  # with the most users: a matrix of all pairs, 2.5 GB, is inverted; 2.8 in all
)
EASE_ITEMS_TRIED = 3_000  # with the most users, which the regularization is chosen on
EASE_REGULARIZATIONS = (15.0, 30.0, 60.0, 125.0, 250.0, 500.0, 1000.0)
BLOCK = 512  # rows of that matrix of which there is a second copy


class Popularity:
    """The share of users who have an item."""

    def fit(self, data: Sequences) -> Self:
        """Count the users of every item."""
        users = (matrix(data.learned, data.items) > 0).sum(axis=0)
        self.shares = np.asarray(users, np.float32).ravel() / np.float32(len(data.learned))
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return the same for everyone; n histories -> (n, items)."""
        return np.tile(self.shares, (len(histories), 1))


class PersonalFrequency:
    """How often the user had an item, and below 1 its popularity.

    Where what a user had already is not ranked, as in leave-one-out, only the popularity remains.
    """

    def fit(self, data: Sequences) -> Self:
        """Count the users of every item."""
        self.popularity = Popularity().fit(data)
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return how often each item is in the history; n histories -> (n, items)."""
        popular = self.popularity.scores(histories)
        found: Scores = popular + matrix(histories, popular.shape[1]).toarray()
        return found


class CoVisitation:
    """Forward co-visitation: item -> the items that users went on to, nearer ones count more.

    A pair weighs 1 / distance in each history, and the k-th newest item of a history speaks with a
    weight of 1 / k. Counts are not normalised: on a public set of toys their NDCG@10 for validation
    was .0748, as shares of an item's followers .0702, as cosines .0636.
    """

    def __init__(self, lookback: int = LOOKBACK) -> None:
        self.lookback = lookback

    def fit(self, data: Sequences) -> Self:
        """Count what follows what."""
        size = data.items, data.items
        self.followers = sp.csr_array(size, dtype=np.float32)
        for distance in range(1, self.lookback + 1):
            pairs = [(each[:-distance], each[distance:]) for each in data.learned]
            before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
            weights = np.full(len(before), 1 / distance, np.float32)
            self.followers += sp.coo_array((weights, (before, after)), size).tocsr()
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return the weighted counts of what followed; n histories -> (n, items)."""
        newest = [history[: -self.lookback - 1 : -1] for history in histories]
        weights = [1 / np.arange(1, len(each) + 1) for each in newest]
        found: Scores = (
            matrix(newest, self.followers.shape[0], weights) @ self.followers
        ).toarray()
        return found


class EASE:
    """An item is a weighted sum of the others (Steck, WWW 2019), and of none of itself.

    "Embarrassingly Shallow Autoencoders for Sparse Data". ``regularization`` is what is added to
    the diagonal of the matrix of pairs; where it is not given, :meth:`fit` chooses it. Of more than
    25,000 items those with the fewest users have no weights: they rank below the others, by
    popularity.
    """

    def __init__(self, regularization: float | None = None) -> None:
        self.regularization = regularization

    def fit(self, data: Sequences) -> Self:
        """Solve for the weights."""
        if self.regularization is None:
            self.regularization = _regularization(data)
        self.shares = Popularity().fit(data).shares
        self.common = _common(self.shares, EASE_ITEMS_MAX)
        known = _renamed(data.learned, self.common, data.items)
        self.weights = _ease_weights(known, len(self.common), self.regularization)
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return the sums of the history's weights; n histories -> (n, items)."""
        items = len(self.shares)
        known = _ease_scores(_renamed(histories, self.common, items), self.weights)
        if len(self.common) == items:
            return known
        found: Scores = known.min(axis=1, keepdims=True) - 2 + self.shares  # of 1 at most
        found[:, self.common] = known
        return found


def _common(shares: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.intp]:
    """Return the items that most users have: all, if there are no more."""
    if len(shares) <= most:
        return np.arange(len(shares))
    return np.argsort(-shares, kind="stable")[:most]


def _renamed(
    histories: Sequence[Items], common: npt.NDArray[np.intp], items: int
) -> Sequence[Items]:
    """Return what of histories is common, each item as its place there."""
    if len(common) == items:
        return histories
    places = np.full(items, -1, np.int32)
    places[common] = np.arange(len(common))
    return [found[found >= 0] for found in (places[each] for each in histories)]


def _ease_scores(histories: Sequence[Items], weights: npt.NDArray[np.float32]) -> Scores:
    found: Scores = (matrix(histories, len(weights)) > 0).astype(np.float32) @ weights
    return found


def _ease_weights(
    histories: Sequence[Items], items: int, regularization: float
) -> npt.NDArray[np.float32]:
    """Return how much an item of a history counts for every other; (items, items)."""
    users = (matrix(histories, items) > 0).astype(np.float32)
    owners = users.T.tocsr()
    gram = np.zeros((items, items), np.float32)
    for begin in range(0, items, BLOCK):
        rows = slice(begin, begin + BLOCK)
        (owners[rows] @ users).toarray(out=gram[rows])
    gram[np.diag_indices_from(gram)] += regularization
    weights = _inverse(gram)
    weights /= -np.diag(weights)  # the minus makes it a copy, which does not change meanwhile
    np.fill_diagonal(weights, 0.0)
    return weights


def _regularization(data: Sequences) -> float:
    """Return the value of the grid that ranks the validation items best, by NDCG@10.

    From the middle it goes the way that gets better, until it gets worse. Every value needs an
    inversion, so it is tried on the items that most users have, and on the users whose validation
    item is one of them.
    """
    common = _common(Popularity().fit(data).shares, EASE_ITEMS_TRIED)
    learned = _renamed(data.learned, common, data.items)
    within = np.isin(data.validation, common)
    (targets,) = _renamed([data.validation[within]], common, data.items)
    histories = [learned[user] for user in data.judged[within]]
    grid, known = EASE_REGULARIZATIONS, dict[int, float]()

    def quality_at(place: int) -> float:
        if place not in known:
            weights = _ease_weights(learned, len(common), grid[place])
            known[place] = judge(
                lambda asked: _ease_scores(asked, weights),
                histories,
                targets,
                len(common),
            ).ndcg_at_10
        return known[place]

    best = len(grid) // 2
    for way in (1, -1):
        while 0 <= best + way < len(grid) and quality_at(best + way) > quality_at(best):
            best += way
    return grid[best]


def _inverse(gram: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the inverse of a positive definite matrix, in its place.

    Half the work of any matrix's, and no second matrix: LAPACK fills a half, the other is mirrored.
    """
    factor, failed = lapack.spotrf(gram.T, lower=0, overwrite_a=1)  # LAPACK's order is columns
    assert failed == 0, "a sum of squares and a positive diagonal"
    upper, failed = lapack.spotri(factor, lower=0, overwrite_c=1)
    assert failed == 0, "what was factored can be inverted"
    found: npt.NDArray[np.float32] = upper.T  # in rows again: its lower half is known
    for begin in range(0, len(found), BLOCK):
        block, end = slice(begin, begin + BLOCK), begin + BLOCK
        found[block, end:] = found[end:, block].T
        corner = np.tril(found[block, block])
        found[block, block] = corner + np.tril(corner, -1).T
    return found


def matrix(
    histories: Sequence[Items],
    items: int,
    weights: Sequence[npt.NDArray[np.floating]] | None = None,
) -> sp.csr_array:
    """Return histories as rows: the weights of their items, or how often they occur."""
    starts = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    columns = np.concatenate([*histories, np.zeros(0, np.int32)])
    given = np.ones(len(columns)) if weights is None else np.concatenate([*weights, np.zeros(0)])
    found = sp.csr_array((given.astype(np.float32), columns, starts), (len(histories), items))
    found.sum_duplicates()
    return found
