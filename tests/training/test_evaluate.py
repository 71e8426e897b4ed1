"""Recall, hit rate and NDCG by hand."""

import numpy as np

from models.evaluate import gains, quality, top


def test_gains_by_hand() -> None:
    """Two of four items bought stand at places 1 and 3 of the ranking."""
    candidates = np.arange(1, 13, dtype=np.uint64)[None]
    scores = -np.arange(12.0)[None]
    bought = np.zeros((1, 12), np.bool_)
    bought[0, [0, 2, 11]] = True
    recall, hit, ndcg = gains(scores, candidates, bought, np.array([4]))[0]
    assert (recall, hit) == (0.5, 1.0)
    ideal = sum(1 / np.log2(place + 2) for place in range(4))
    assert abs(ndcg - (1 + 1 / 2) / ideal) < 1e-12


def test_ties_go_by_hash_and_padding_is_last() -> None:
    """Equal scores stand by the hash; a place without an item never comes before one with."""
    candidates = np.array([[5, 3, 0, 9]], np.uint64)
    assert top(np.array([[1.0, 1.0, 7.0, 2.0]]), candidates).tolist() == [[3, 1, 0, 2]]


def test_interval_holds_the_mean_and_draws_users() -> None:
    """With one user there is nothing to draw, so the interval is the mean."""
    each = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    one = quality(each, np.array([4, 4], np.int32))
    assert one.recall_at_10 == 0.5
    assert one.recall_interval == (0.5, 0.5)
    two = quality(each, np.array([4, 5], np.int32))
    assert two.recall_interval == (0.0, 1.0)
