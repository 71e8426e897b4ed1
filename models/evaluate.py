"""How good a ranking of candidates is: recall, hit rate and NDCG at k, averaged over requests."""

import msgspec
import numpy as np
import numpy.typing as npt

TOP = 10
DRAWS = 2_000  # of the bootstrap


class Quality(msgspec.Struct, frozen=True):
    """Means over requests, with the ends of the 95 % interval of the recall."""

    requests: int
    recall_at_10: float
    recall_interval: tuple[float, float]
    hit_rate_at_10: float
    ndcg_at_10: float


def top(
    scores: npt.NDArray[np.floating], candidates: npt.NDArray[np.uint64]
) -> npt.NDArray[np.intp]:
    """Return the places of the ten best candidates as stage 9 ranks them; (n, N) -> (n, 10).

    Equal scores stand by the hash of the item; a hash of 0 is padding and comes last.
    """
    masked = np.where(candidates == 0, -np.inf, scores)
    return np.lexsort((candidates, -masked), axis=-1)[:, :TOP]


def gains(
    scores: npt.NDArray[np.floating],
    candidates: npt.NDArray[np.uint64],
    bought: npt.NDArray[np.bool_],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return recall, hit and NDCG of each request; (n, 3).

    ``bought`` (n, N) marks the candidates that are in the basket, ``sizes`` (n,) counts its items.
    """
    right = np.take_along_axis(bought, top(scores, candidates), axis=1)  # (n, 10)
    discounts = 1.0 / np.log2(np.arange(TOP) + 2.0)
    ideal = np.cumsum(discounts)[np.minimum(sizes, TOP) - 1]
    hits = right.sum(axis=1)
    return np.column_stack((hits / sizes, hits > 0, right @ discounts / ideal))


def bootstrap(
    sums: npt.NDArray[np.float64],
) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Return means over requests, and the ends of their 95 % percentile intervals.

    ``sums`` (users, k + 1) has what each user's requests come to, and in the last column how many
    they are; users are drawn, each with all requests, since those of a user are alike.
    """
    count = len(sums)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    rows = np.vstack((sums.sum(axis=0), draws @ sums))  # (1 + draws, k + 1)
    means = rows[:, :-1] / rows[:, -1:]
    low, high = np.percentile(means[1:], [2.5, 97.5], axis=0).round(5).tolist()
    return means[0].round(5).tolist(), (low, high)


def quality(each: npt.NDArray[np.float64], users: npt.NDArray[np.int32]) -> Quality:
    """Return the means of :func:`gains`; the interval is that of :func:`bootstrap`."""
    _, own = np.unique(users, return_inverse=True)
    columns = [np.bincount(own, column) for column in each.T]
    (recall, hit_rate, ndcg), (low, high) = bootstrap(np.column_stack((*columns, np.bincount(own))))
    return Quality(len(each), recall, (low[0], high[0]), hit_rate, ndcg)
