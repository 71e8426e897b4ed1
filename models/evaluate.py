"""How good a ranking of candidates is: what of the basket is found, how early, how varied.

All of a request's candidates are ranked, none are drawn. What is averaged over requests comes with
the interval of a bootstrap that draws users.
"""

import msgspec
import numpy as np
import numpy.typing as npt

TOP = 10
DEPTHS = (5, 10, 20)
MEASURES = ("recall", "precision", "f1", "ndcg", "mrr")  # the columns of `accuracy`
DRAWS = 2_000  # of the bootstrap

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]


class Quality(msgspec.Struct, frozen=True):
    """Means over requests, with the ends of the 95 % interval of the recall."""

    requests: int
    recall_at_10: float
    recall_interval: tuple[float, float]
    hit_rate_at_10: float
    ndcg_at_10: float


def top(
    scores: npt.NDArray[np.floating], candidates: Hashes, count: int = TOP
) -> npt.NDArray[np.intp]:
    """Return the places of the best candidates as stage 9 ranks them; (n, N) -> (n, count).

    Equal scores stand by the hash of the item; a hash of 0 is padding and comes last.
    """
    masked = np.where(candidates == 0, -np.inf, scores)
    return np.lexsort((candidates, -masked), axis=-1)[:, :count]


def accuracy(right: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64], depth: int) -> Floats:
    """Return the :data:`MEASURES` of each request's first ``depth`` places; (n, 5).

    ``right`` (n, places) says which places, best first, hold an item of the basket, ``sizes`` (n,)
    counts the basket's items. Precision divides by ``depth``; the reciprocal rank is that of the
    first right place, 0 without one; an ideal ranking, to which NDCG compares, begins with as many
    right places as the basket has items.
    """
    right = right[:, :depth]
    hits = right.sum(axis=1)
    discounts = 1.0 / np.log2(np.arange(depth) + 2.0)
    ideal = np.cumsum(discounts)[np.minimum(sizes, depth) - 1]
    ndcg = right @ discounts[: right.shape[1]] / ideal
    rank = np.where(hits > 0, 1.0 / (right.argmax(axis=1) + 1.0), 0.0)
    return np.column_stack((hits / sizes, hits / depth, 2 * hits / (depth + sizes), ndcg, rank))


def gains(
    scores: npt.NDArray[np.floating],
    candidates: Hashes,
    bought: npt.NDArray[np.bool_],
    sizes: npt.NDArray[np.int64],
) -> Floats:
    """Return recall, hit and NDCG of each request; (n, 3).

    ``bought`` (n, N) marks the candidates that are in the basket, ``sizes`` (n,) counts its items.
    """
    right = np.take_along_axis(bought, top(scores, candidates), axis=1)  # (n, 10)
    recall, _, _, ndcg, _ = accuracy(right, sizes, TOP).T
    return np.column_stack((recall, recall > 0, ndcg))


def coverage(shown: Hashes, known: Hashes) -> float:
    """Return the share of the known items, none twice, that are among those shown."""
    return float(np.isin(known, shown).mean())


def self_information(lines: npt.NDArray[np.int64], total: int) -> Floats:
    """Return how surprising an item is, in bits: -log2 of its share of all purchases.

    One that was never bought counts as if once (Zhou et al., PNAS 107, 2010).
    """
    found: Floats = -np.log2(np.maximum(lines, 1) / total)
    return found


def ratios(above: Floats, below: Floats) -> tuple[Floats, Floats, Floats]:
    """Return ratios of sums over users, and the ends of their 95 % percentile intervals; (k,) each.

    ``above`` and ``below`` (users, k) have what each user's requests come to; users are drawn, each
    with all requests, since those of a user are alike. NaN is a ratio to nothing.
    """
    count = len(above)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    rows = np.vstack((np.ones(count), draws))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (rows @ above) / (rows @ below)  # (1 + draws, k)
    low, high = np.full((2, above.shape[1]), np.nan)
    held = below.any(axis=0)  # of the others there is nothing to draw
    low[held], high[held] = np.nanpercentile(found[1:, held], [2.5, 97.5], axis=0)
    return found[0].round(5), low.round(5), high.round(5)


def bootstrap(sums: Floats) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Return means over requests, and the ends of their intervals, as :func:`ratios` has them.

    ``sums`` (users, k + 1) has what each user's requests come to, and in the last column how many
    they are.
    """
    counts = np.repeat(sums[:, -1:], sums.shape[1] - 1, axis=1)
    means, low, high = ratios(sums[:, :-1], counts)
    return means.tolist(), (low.tolist(), high.tolist())


def quality(each: Floats, users: npt.NDArray[np.int32]) -> Quality:
    """Return the means of :func:`gains`; the interval is that of :func:`bootstrap`."""
    _, own = np.unique(users, return_inverse=True)
    columns = [np.bincount(own, column) for column in each.T]
    (recall, hit_rate, ndcg), (low, high) = bootstrap(np.column_stack((*columns, np.bincount(own))))
    return Quality(len(each), recall, (low[0], high[0]), hit_rate, ndcg)
