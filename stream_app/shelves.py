"""The live catalogue on shelves: what is like an item, and what has just become available.

All that is told is a function of the catalogue's contents, whatever order they came in. It comes
from outside the log: stages 7 to 10 may use it, and no state may depend on it.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping

import msgspec

from stream_app.config import DAY_MS
from stream_app.event import Catalog, Item
from stream_app.hashing import id_hash

NEW_DAYS = 14  # for so long an item is new
WINDOW = 12  # items looked at on either side of an item's place on a shelf
NEAR = 10  # items like another; fewer on the shelf of its leaf, and its parent's is looked at, too

# What makes up the similarity of two items; set by hand, and 1 together.
_CATEGORY, _BRAND, _PRICE = 0.5, 0.2, 0.3
_SIBLING = 0.25  # in place of _CATEGORY where only the parents of the leaves are the same
_NEUTRAL = 0.5  # the share of what is unknown

NEW_MS = NEW_DAYS * DAY_MS
_NO_PRICE = -1.0
_HASH_END = 2**64
_NEAR_MAX = 20_000  # items whose likes are remembered
Place = tuple[float, int]  # on a shelf: price, and hash of the id


class Shelved(msgspec.Struct, frozen=True, gc=False):
    """What the shelves keep of an item.

    ``item`` is the hash of its id, ``leaf`` that of its category path and ``aisle`` that of the
    parent's, the leaf's own where there is none; both are 0 without a category. ``price`` is -1
    where it is unknown; ``from_ms`` is when the item became available, 0 where the catalogue does
    not say. Nobody is shown an item that is hidden, blocked or out of stock.
    """

    item: int
    item_id: str
    leaf: int
    aisle: int
    brand: str | None
    price: float
    currency: str | None
    from_ms: int
    shown: bool

    @classmethod
    def of(cls, item: Item) -> "Shelved":
        """Return what is kept of an item."""
        path = item.category
        return cls(
            id_hash(item.item_id),
            item.item_id,
            _path_hash(path),
            _path_hash(path[:-1] or path),
            item.brand,
            _NO_PRICE if item.price is None else item.price,
            item.currency,
            item.available_from or 0,
            not (item.hidden or item.blocked or item.stock == 0),
        )


class Shelves:
    """The catalogue's items by category, by price within it, and by when they became available.

    An item stands on two shelves: that of its leaf, and that of the leaf's parent. Each is sorted,
    so what is near an item is found by bisection, at a cost that does not grow with the shelf.

    Parameters
    ----------
    items
        What the catalogue holds to begin with.

    Attributes
    ----------
    catalog
        Each item by its id, for reading.
    known
        What is kept of each item, by the hash of its id, for reading.

    Examples
    --------
    >>> shop = [Item(item_id=name, category=["food", "milk"], price=1.0) for name in "abc"]
    >>> shelves = Shelves([*shop, Item(item_id="pen", category=["office"])])
    >>> sorted(shelves.known[item].item_id for item in shelves.near(id_hash("a")))
    ['b', 'c']
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items: dict[str, Item] = {}
        self._known: dict[int, Shelved] = {}
        self.catalog: Catalog = self._items
        self.known: Mapping[int, Shelved] = self._known
        self._leaves: dict[int, list[Place]] = {}
        self._aisles: dict[int, list[Place]] = {}
        self._arrivals: list[tuple[int, int]] = []  # when it became available, hash of the id
        self._near: dict[int, dict[int, float]] = {}  # until something changes on a shelf
        for item in items:
            self.put(item)

    def put(self, item: Item) -> None:
        """Enter an item, or what has become of it."""
        new = Shelved.of(item)
        self._items[item.item_id] = item
        old = self._known.get(new.item)
        if old == new:
            return
        if old is not None:
            self._clear(old)
        self._near.clear()
        self._known[new.item] = new
        if not new.shown:
            return
        if new.leaf:
            insort(self._leaves.setdefault(new.leaf, []), (new.price, new.item))
            insort(self._aisles.setdefault(new.aisle, []), (new.price, new.item))
        if new.from_ms:
            insort(self._arrivals, (new.from_ms, new.item))

    def remove(self, item_id: str) -> None:
        """Strike an item; one that is not there does no harm."""
        if self._items.pop(item_id, None) is not None:
            self._clear(self._known.pop(id_hash(item_id)))
            self._near.clear()

    def _clear(self, old: Shelved) -> None:
        """Take an item off its shelves; an empty shelf ceases to be."""
        if not old.shown:
            return
        if old.leaf:
            for shelves, path in ((self._leaves, old.leaf), (self._aisles, old.aisle)):
                shelf = shelves[path]
                del shelf[bisect_left(shelf, (old.price, old.item))]
                if not shelf:
                    del shelves[path]
        if old.from_ms:
            del self._arrivals[bisect_left(self._arrivals, (old.from_ms, old.item))]

    def near(self, item: int) -> dict[int, float]:
        """Return the 10 items that are most like one, the most similar first, for reading.

        They are chosen from the nearest by price on the shelf of its leaf; on that of the leaf's
        parent, too, where fewer than 10 are found. An item that is not shown is not among them.
        """
        found = self._near.get(item)
        if found is None:
            if len(self._near) == _NEAR_MAX:
                self._near.clear()
            found = self._near[item] = self._find(item)
        return found

    def _find(self, item: int) -> dict[int, float]:
        own = self._known.get(item)
        if own is None or not own.leaf:
            return {}
        found = _around(self._leaves.get(own.leaf, []), own)
        if len(found) <= NEAR:  # it may be among them
            found = [*found, *_around(self._aisles.get(own.aisle, []), own)]
        known = self._known
        alike = {other: similarity(own, known[other]) for _, other in found if other != item}
        return dict(sorted(alike.items(), key=lambda entry: (-entry[1], entry[0]))[:NEAR])

    def newest(self, now_ms: int, count: int) -> list[int]:
        """Return so many of the items that are new at a time, the newest first."""
        end = bisect_right(self._arrivals, (now_ms, _HASH_END))
        latest = self._arrivals[max(end - count, 0) : end]
        return [item for from_ms, item in reversed(latest) if is_new(from_ms, now_ms)]


def similarity(one: Shelved, other: Shelved) -> float:
    """Return how alike two items of the same aisle are, from 0 to 1; of two aisles, 0.

    By leaf, brand and the ratio of the prices (of which 1 is added to each, so that a price of 0
    is one). A brand or a price that is unknown, or in another currency, counts as neither near nor
    far.
    """
    if one.aisle != other.aisle or not one.aisle:
        return 0.0
    value = _CATEGORY if one.leaf == other.leaf else _SIBLING
    if one.brand is None or other.brand is None:
        value += _BRAND * _NEUTRAL
    elif one.brand == other.brand:
        value += _BRAND
    low, high = one.price, other.price
    if low > high:
        low, high = high, low
    if low < 0 or one.currency != other.currency:
        return value + _PRICE * _NEUTRAL
    return value + _PRICE * (1.0 + low) / (1.0 + high)


def _path_hash(path: list[str]) -> int:
    return id_hash("\x1f".join(path)) if path else 0


def is_new(from_ms: int, now_ms: int) -> bool:
    """Tell whether what became available at a time is new at another, both in ms."""
    return 0 <= now_ms - from_ms < NEW_MS


def _around(shelf: list[Place], own: Shelved) -> list[Place]:
    """Return what stands on either side of an item's place."""
    place = bisect_left(shelf, (own.price, own.item))
    return shelf[max(place - WINDOW, 0) : place + WINDOW + 1]
