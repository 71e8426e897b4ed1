"""The measurement of cold items keeps them out of what is learned, and ranks all of them."""

import numpy as np

from benchmarks.cold_items import Shop, Window, by_group, recall, window

# Household 0 buys product 0 and 1, then the cold 2; household 1 buys 1 and the cold 3.
SHOP = Shop(
    household=np.array([0, 0, 1, 0, 1, 0, 1]),
    basket=np.array([0, 0, 1, 2, 3, 4, 5]),
    item=np.array([0, 1, 1, 2, 1, 2, 3]),
    time_ms=np.array([10, 10, 20, 30, 110, 120, 130]),
    texts=["a", "b", "c", "d"],
    category=np.array([0, 1, 0, 1]),
    type=np.array([0, 1, 0, 1]),
    drawn=np.zeros(4),
)
COLD = np.array([False, False, True, True])


def judged() -> Window:
    """Return the window from 100 on."""
    return window(SHOP, 100, 200, COLD, COLD)


def test_purchases_of_cold_items_are_neither_learned_nor_known_of() -> None:
    """What happened with cold items is seen in what is judged alone, and nothing of later."""
    found = judged()
    assert found.learned.tolist() == [True, True, True, False, False, False, False]
    assert found.pairs.tolist() == [[0, 0], [1, 1]]
    assert found.profile.toarray().tolist() == [[1, 1, 0, 0], [0, 2, 0, 0]]
    assert found.cold.tolist() == [2, 3]


def test_households_without_judged_baskets_shift_no_place() -> None:
    """Baskets are found by their own numbers where some are left out of the data."""
    assert window(SHOP, 130, 200, COLD, COLD).profile.toarray().tolist() == [[0, 2, 0, 0]]


def test_equal_scores_count_as_the_mean_over_all_orders() -> None:
    """Of a score that 20 cold items share, ten are in the first ten by chance: half a hit."""
    found = judged()
    wide = Window(found.learned, found.warm, np.arange(20), found.pairs, found.profile)
    assert recall(wide, lambda rows: np.zeros((len(rows), 20))) == 0.5
    assert recall(wide, lambda rows: np.tile(np.arange(20.0), (len(rows), 1))) == 0.0
    assert recall(wide, lambda rows: -np.tile(np.arange(20.0), (len(rows), 1))) == 1.0


def test_groups_rank_by_their_purchases() -> None:
    """Popularity is of what was learned, and a household's own of what it bought before."""
    found = judged()
    assert by_group(SHOP, found, SHOP.category, personal=False) == 1.0
    assert by_group(SHOP, found, SHOP.category, personal=True) == 1.0
