"""Every way to rank beside every other: accuracy, variety, and for whom and which items it holds.

A request is a question before a basket; what it should show are the basket's items. Figures come
with 95 % intervals of a bootstrap that draws users.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.data import Requests, user_number
from models.evaluate import (
    DEPTHS,
    MEASURES,
    TOP,
    Floats,
    Hashes,
    accuracy,
    coverage,
    ratios,
    self_information,
    top,
)
from stream_app.config import DAY_MS
from stream_app.event import Event
from stream_app.hashing import id_hash

NAMES = tuple(f"{measure}@{depth}" for depth in DEPTHS for measure in MEASURES)
MAIN = "recall@10"
LEAD = (MAIN, "ndcg@10")
# Where the parts begin that items are put into, the first apart, and what all are called.
AGES_DAYS = (0, 28, 84, 182)
AGES = ("never bought", "< 4 weeks", "4-12 weeks", "12-26 weeks", "> 26 weeks")
PURCHASES = (1, 10, 100, 1_000)
POPULARITIES = ("0", "1-9", "10-99", "100-999", "1,000 or more")

Masks = dict[str, npt.NDArray[np.bool_]]


class Shop(msgspec.Struct, frozen=True):
    """What a shop's purchases tell of items and users.

    ``items`` (I,) are hashes, rising; ``first_ms`` (I,) when each was first bought, ``lines`` (I,)
    how often before the requests that are judged; ``orders`` has the times of each user's orders,
    rising, by the number that the requests give the user.
    """

    items: Hashes
    first_ms: npt.NDArray[np.int64]
    lines: npt.NDArray[np.int64]
    orders: Mapping[int, npt.NDArray[np.int64]]

    def places(self, hashes: Hashes) -> npt.NDArray[np.intp]:
        """Return where items stand, one behind the last for those that nobody ever bought."""
        found = np.searchsorted(self.items, hashes)
        inside = found.clip(max=len(self.items) - 1)
        return np.where(self.items[inside] == hashes, inside, len(self.items))


class Interval(msgspec.Struct, frozen=True):
    """A figure and the ends of its 95 % interval; None where there is nothing to judge."""

    value: float | None
    low: float | None
    high: float | None


class Ranking(msgspec.Struct, frozen=True):
    """How good one way to rank is.

    ``measures`` are named ``recall@5``; ``novelty@10`` is the mean self-information, in bits, of
    the items among the first ten, ``coverage`` the share of the known items that ever stand there.
    ``lead`` is what it has more of than the first way; ``curve`` the recall at 1, 2, ... places.
    ``activity`` is the Recall@10 of requests by how often the user had ordered before; ``age`` and
    ``popularity`` the share of such items of the baskets that are among the first ten.
    """

    coverage: float
    measures: dict[str, Interval]
    lead: dict[str, Interval]
    curve: dict[str, Interval]
    activity: dict[str, Interval]
    age: dict[str, Interval]
    popularity: dict[str, Interval]


class Rankings(msgspec.Struct, frozen=True):
    """All ways by name, what they ranked, and how many requests or items each part has.

    ``reachable`` is the share of a basket that is among the candidates, the mean over requests;
    ``known`` counts the items bought before.
    """

    requests: int
    users: int
    reachable: float
    known: int
    parts: dict[str, dict[str, int]]
    models: dict[str, Ranking]


def read_shop(events: Iterable[Event], until_ms: int) -> Shop:
    """Return what purchases tell, in time order; ``lines`` counts those before ``until_ms``."""
    first: dict[str, int] = {}
    lines: dict[str, int] = {}
    orders: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        time_ms, item = event.timestamp, event.item_id
        assert isinstance(time_ms, int)
        if item is None or event.type != "purchase":
            continue
        first.setdefault(item, time_ms)
        lines[item] = lines.get(item, 0) + (time_ms < until_ms)
        own = orders[event.user_id]
        if not own or own[-1] != time_ms:
            own.append(time_ms)
    hashes = np.array([id_hash(item) for item in first], np.uint64)
    order = np.argsort(hashes)
    return Shop(
        hashes[order],
        np.array(list(first.values()), np.int64)[order],
        np.array([lines[item] for item in first], np.int64)[order],
        {user_number(user): np.array(each, np.int64) for user, each in orders.items()},
    )


def judge(judged: Requests, scores: Mapping[str, npt.NDArray[np.floating]], shop: Shop) -> Rankings:
    """Judge every way to rank the candidates of requests, by their scores (n, N)."""
    of_requests = {"activity": _terciles(_orders_before(judged, shop))}
    of_targets = _item_parts(judged, shop)
    known = shop.items[shop.lines > 0]
    found: dict[str, Ranking] = {}
    base: Floats | None = None
    for name, each in scores.items():
        shown = top(each, judged.candidates, DEPTHS[-1])  # (n, 20)
        right = np.take_along_axis(judged.bought, shown, axis=1)
        items = np.take_along_axis(judged.candidates, shown[:, :TOP], axis=1)  # (n, 10)
        main = np.hstack([accuracy(right, judged.basket_sizes, depth) for depth in DEPTHS])
        base = main if base is None else base
        sums = _Sums(judged)
        _add_measures(sums, judged, right, main, main - base)
        _add_novelty(sums, items, shop)
        sums.add_parts(of_requests, main[:, NAMES.index(MAIN)])
        sums.add_parts(of_targets, (items[sums.owner] == judged.targets[:, None]).any(axis=1))
        found[name] = Ranking(coverage=round(coverage(items, known), 5), **sums.intervals())
    return Rankings(
        len(judged),
        len(np.unique(judged.user)),
        round(float((judged.bought.sum(axis=1) / judged.basket_sizes).mean()), 5),
        len(known),
        {
            kind: {part: int(mask.sum()) for part, mask in masks.items()}
            for kind, masks in (of_requests | of_targets).items()
        },
        found,
    )


# --- sums over users ------------------------------------------------------------------------------


class _Sums:
    """Sums over users of what figures are ratios of, by group and name, for one bootstrap of all.

    ``owner`` has for each item of a basket the place of its request.
    """

    def __init__(self, judged: Requests) -> None:
        self.owner = np.repeat(np.arange(len(judged)), judged.basket_sizes)
        _, self._user = np.unique(judged.user, return_inverse=True)
        self._names: list[tuple[str, str]] = []
        self._above: list[npt.NDArray[Any]] = []
        self._below: list[npt.NDArray[Any]] = []

    def add(
        self, group: str, name: str, values: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> None:
        """Add the mean of values, each for as much as it weighs: of requests, or of their items."""
        user = self._user if len(values) == len(self._user) else self._user[self.owner]
        self._names.append((group, name))
        counted = np.asarray(weights, np.float64)
        self._above.append(np.bincount(user, values * counted))
        self._below.append(np.bincount(user, counted))

    def add_parts(self, parts: Mapping[str, Masks], values: npt.NDArray[Any]) -> None:
        """Add the mean of values within each part."""
        for kind, masks in parts.items():
            for part, mask in masks.items():
                self.add(kind, part, values, mask)

    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Return all means with their intervals, by group and name."""
        found: defaultdict[str, dict[str, Interval]] = defaultdict(dict)
        rows = np.column_stack(ratios(np.column_stack(self._above), np.column_stack(self._below)))
        for (group, name), row in zip(self._names, rows.tolist(), strict=True):
            found[group][name] = Interval(*(None if math.isnan(each) else each for each in row))
        return found


def _add_measures(
    sums: _Sums, judged: Requests, right: npt.NDArray[np.bool_], main: Floats, ahead: Floats
) -> None:
    """Add accuracy at every depth, the lead over another way, and the curve of the recall."""
    one = np.ones(len(judged))
    for name, column, more in zip(NAMES, main.T, ahead.T, strict=True):
        sums.add("measures", name, column, one)
        if name in LEAD:
            sums.add("lead", name, more, one)
    for place, column in enumerate((right.cumsum(axis=1) / judged.basket_sizes[:, None]).T, 1):
        sums.add("curve", str(place), column, one)


def _add_novelty(sums: _Sums, items: Hashes, shop: Shop) -> None:
    """Add the mean self-information of the items shown."""
    lines = np.append(shop.lines, 0)
    bits = self_information(lines, max(int(lines.sum()), 1))[shop.places(items)]
    count = (items != 0).sum(axis=1)
    mean = np.where(items == 0, 0.0, bits).sum(axis=1) / np.maximum(count, 1)
    sums.add("measures", "novelty@10", mean, count)


# --- parts ----------------------------------------------------------------------------------------


def _orders_before(judged: Requests, shop: Shop) -> npt.NDArray[np.int64]:
    none = np.zeros(0, np.int64)
    return np.array(
        [
            np.searchsorted(shop.orders.get(user, none), time_ms)
            for user, time_ms in zip(judged.user.tolist(), judged.time_ms.tolist(), strict=True)
        ],
        np.int64,
    )


def _terciles(orders: npt.NDArray[np.int64]) -> Masks:
    """Return three parts with about as many requests each, by orders before."""
    low, high = np.quantile(orders, [1 / 3, 2 / 3]).astype(int).tolist()
    masks = {
        f"up to {low}": orders <= low,
        f"{low + 1} to {high}": (orders > low) & (orders <= high),
        f"over {high}": orders > high,
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def _item_parts(judged: Requests, shop: Shop) -> dict[str, Masks]:
    """Return parts of the items in the baskets, by age as of the request and by popularity."""
    places = shop.places(judged.targets)
    since = np.repeat(judged.time_ms, judged.basket_sizes)
    age = since - np.append(shop.first_ms, np.iinfo(np.int64).max)[places]
    return {
        "age": _binned(age / DAY_MS, AGES_DAYS, AGES),
        "popularity": _binned(np.append(shop.lines, 0)[places], PURCHASES, POPULARITIES),
    }


def _binned(values: npt.NDArray[Any], ends: Sequence[float], names: Sequence[str]) -> Masks:
    bins = np.digitize(values, ends)
    return {name: bins == number for number, name in enumerate(names)}
