"""The catalogue of the synthetic shops: shelves of items, one a category and level of price."""

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from msgspec import Struct

from stream_app.event import Item
from stream_app.hashing import unit_hash
from stream_app.sources.synthetic_shop import LEVELS, Shop

CURRENCY = "EUR"
_PRICE_JITTER = 0.2  # within a level, in log price
_DEPARTMENT_CATEGORIES = 4


class Shelf(Struct, frozen=True):
    """Items of one category and level of price, and their weights, summed up."""

    items: list[Item]
    sums: list[float]


class Catalog:
    """The items of a shop.

    Attributes
    ----------
    popularity, popularity_sums
        By category: its weight, and the weights summed up.
    shelves
        By category and level of price.
    level_sums
        By category: the weights of its shelves, summed up.
    items, places
        By item id: the item, and its category.

    Examples
    --------
    >>> from stream_app.sources.synthetic_shop import FIRST
    >>> catalog = Catalog(FIRST, "first/0")
    >>> len(catalog.places), [len(shelf.items) for shelf in catalog.shelves[0]]
    (2000, [34, 33, 33])
    """

    def __init__(self, shop: Shop, seed: str) -> None:
        self.popularity = zipf(shop.categories, shop.category_zipf)
        self.popularity_sums = running(self.popularity)
        each = shop.items // shop.categories
        weights = zipf(each, shop.item_zipf)
        self.shelves: list[list[Shelf]] = []
        self.items: dict[str, Item] = {}
        self.places: dict[str, int] = {}
        for category in range(shop.categories):
            items = [_item(shop, seed, category, rank) for rank in range(each)]
            self.items |= {item.item_id: item for item in items}
            self.places |= dict.fromkeys([item.item_id for item in items], category)
            self.shelves.append(
                [_shelf(items, weights, category, level) for level in range(LEVELS)]
            )
        self.level_sums = [running(shelf.sums[-1] for shelf in row) for row in self.shelves]

    def level_chances(self, category: int) -> list[float]:
        """Return how often what is wanted of a category is cheap, usual and dear."""
        sums = [0.0, *self.level_sums[category]]
        return [(high - low) / sums[-1] for low, high in pairwise(sums)]


def _shelf(items: list[Item], weights: list[float], category: int, level: int) -> Shelf:
    ranks = [rank for rank in range(len(items)) if _level(category, rank) == level]
    return Shelf([items[rank] for rank in ranks], running(weights[rank] for rank in ranks))


def _level(category: int, rank: int) -> int:
    """Return the level of price of an item: in turn, from another one in each category."""
    return (category + rank) % LEVELS


def _item(shop: Shop, seed: str, category: int, rank: int) -> Item:
    item_id = f"i-{category}-{rank}"
    jitter = _PRICE_JITTER * (2 * unit_hash(f"{seed}/price", item_id) - 1)
    ratio = shop.price_ratio ** (_level(category, rank) - LEVELS // 2)
    brand = f"brand-{int(shop.brands * unit_hash(f'{seed}/brand', item_id))}"
    return Item(
        item_id=item_id,
        title=f"{brand} product {category}-{rank}",
        category=[f"department-{category // _DEPARTMENT_CATEGORIES}", f"category-{category}"],
        brand=brand,
        price=round(shop.price * ratio * math.exp(jitter), 2),
        currency=CURRENCY,
    )


def zipf(count: int, exponent: float) -> list[float]:
    """Return the weights of so many ranks.

    >>> zipf(3, 1.0)
    [1.0, 0.5, 0.3333333333333333]
    """
    return [rank**-exponent for rank in range(1, count + 1)]


def running(weights: Iterable[float]) -> list[float]:
    """Return the sums of weights so far, for :func:`place`.

    >>> running([1.0, 0.0, 3.0])
    [1.0, 1.0, 4.0]
    """
    return list(accumulate(weights))


def place(sums: Sequence[float], rng: random.Random) -> int:
    """Return a place drawn by weights that are summed up; one of no weight never comes."""
    return min(bisect_right(sums, rng.random() * sums[-1]), len(sums) - 1)
