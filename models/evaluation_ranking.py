"""Every way to rank beside every other: accuracy, variety, and for whom and which items it holds.

A request is a question before a basket; what it should show are the basket's items. Where all items
are ranked, the basket is the one item held back. Figures come with 95 % intervals of a bootstrap
that draws users.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
MAIN, BEST = "recall@10", "ndcg@10"  # what parts are told by; by what one way is better
LEAD = (MAIN, BEST)
# Where the parts begin that items are put into, the first apart, and what all are called.
AGES_DAYS = (0, 28, 84, 182)
AGES = ("never before", "< 4 weeks", "4-12 weeks", "12-26 weeks", "> 26 weeks")
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


class Asked(msgspec.Struct, frozen=True):
    """Requests that every way answers, and what answers are weighed by.

    ``user`` (n,) is who asks, ``sizes`` (n,) how many items the basket has, ``targets`` its items,
    all baskets behind one another. ``items`` (I,) are hashes, rising, and ``lines`` (I,) how often
    each was bought before. Parts are of requests (n,) or of targets, by kind and name.
    """

    user: npt.NDArray[np.integer]
    sizes: npt.NDArray[np.int64]
    targets: Hashes
    items: Hashes
    lines: npt.NDArray[np.int64]
    of_requests: Mapping[str, Masks]
    of_targets: Mapping[str, Masks]

    def __len__(self) -> int:
        return len(self.user)


class Answers(NamedTuple):
    """What a way shows, best first, 0 for none, and whether it is in the basket; (n, places)."""

    items: Hashes
    right: npt.NDArray[np.bool_]


class Interval(msgspec.Struct, frozen=True):
    """A figure and the ends of its 95 % interval; None where there is nothing to judge."""

    value: float | None
    low: float | None
    high: float | None


class Ranking(msgspec.Struct, frozen=True):
    """How good one way to rank is.

    ``measures`` are named ``recall@5``; ``novelty@10`` is the mean self-information, in bits, of
    the items among the first ten, ``coverage`` the share of the known items that ever stand there.
    ``lead`` is what it has more of than the base; ``curve`` the recall at 1, 2, ... places.
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

    ``reachable`` is the share of a basket that is among what is ranked, the mean over requests;
    ``known`` counts the items bought before; ``base`` is the way that the others are compared to.
    """

    requests: int
    users: int
    reachable: float
    known: int
    base: str
    parts: dict[str, dict[str, int]]
    models: dict[str, Ranking]

    @property
    def best(self) -> str:
        """The way with the highest NDCG@10."""
        return max(self.models, key=lambda name: self.models[name].measures[BEST].value or 0.0)


def places(items: Hashes, hashes: Hashes) -> npt.NDArray[np.intp]:
    """Return where hashes stand among items, which rise; one behind the last for others."""
    found = np.searchsorted(items, hashes)
    inside = found.clip(max=len(items) - 1)
    return np.where(items[inside] == hashes, inside, len(items))


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
    """Judge every way to rank the candidates of requests, by their scores (n, N).

    The first is what the others are compared to.
    """
    asked = Asked(
        judged.user,
        judged.basket_sizes,
        judged.targets,
        shop.items,
        shop.lines,
        {"activity": terciles(_orders_before(judged, shop))},
        _item_parts(judged, shop),
    )
    answers = {}
    for name, each in scores.items():
        shown = top(each, judged.candidates, DEPTHS[-1])  # (n, 20)
        answers[name] = Answers(
            np.take_along_axis(judged.candidates, shown, axis=1),
            np.take_along_axis(judged.bought, shown, axis=1),
        )
    reachable = float((judged.bought.sum(axis=1) / judged.basket_sizes).mean())
    return compare(asked, answers, list(scores)[:1], reachable)


def compare(
    asked: Asked, answers: Mapping[str, Answers], bases: Collection[str], reachable: float = 1.0
) -> Rankings:
    """Judge answers by the name of who gave them.

    They are compared to the best of ``bases``, by NDCG@10.
    """
    main = {
        name: np.hstack([accuracy(each.right, asked.sizes, depth) for depth in DEPTHS])
        for name, each in answers.items()
    }
    base = max(bases, key=lambda name: float(main[name][:, NAMES.index(BEST)].mean()))
    known = asked.items[asked.lines > 0]
    found: dict[str, Ranking] = {}
    for name, each in answers.items():
        items = each.items[:, :TOP]  # (n, 10)
        sums = _Sums(asked)
        _add_measures(sums, asked, each.right, main[name], main[name] - main[base])
        _add_novelty(sums, items, asked)
        sums.add_parts(asked.of_requests, main[name][:, NAMES.index(MAIN)])
        sums.add_parts(asked.of_targets, (items[sums.owner] == asked.targets[:, None]).any(axis=1))
        found[name] = Ranking(coverage=round(coverage(items, known), 5), **sums.intervals())
    parts = {**asked.of_requests, **asked.of_targets}
    return Rankings(
        len(asked),
        len(np.unique(asked.user)),
        round(reachable, 5),
        len(known),
        base,
        {
            kind: {part: int(mask.sum()) for part, mask in masks.items()}
            for kind, masks in parts.items()
        },
        found,
    )


# --- sums over users ------------------------------------------------------------------------------


class _Sums:
    """Sums over users of what figures are ratios of, by group and name, for one bootstrap of all.

    ``owner`` has for each item of a basket the place of its request.
    """

    def __init__(self, asked: Asked) -> None:
        self.owner = np.repeat(np.arange(len(asked)), asked.sizes)
        _, self._user = np.unique(asked.user, return_inverse=True)
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
    sums: _Sums, asked: Asked, right: npt.NDArray[np.bool_], main: Floats, ahead: Floats
) -> None:
    """Add accuracy at every depth, the lead over another way, and the curve of the recall."""
    one = np.ones(len(asked))
    for name, column, more in zip(NAMES, main.T, ahead.T, strict=True):
        sums.add("measures", name, column, one)
        if name in LEAD:
            sums.add("lead", name, more, one)
    for place, column in enumerate((right.cumsum(axis=1) / asked.sizes[:, None]).T, 1):
        sums.add("curve", str(place), column, one)


def _add_novelty(sums: _Sums, items: Hashes, asked: Asked) -> None:
    """Add the mean self-information of the items shown."""
    lines = np.append(asked.lines, 0)
    bits = self_information(lines, max(int(lines.sum()), 1))[places(asked.items, items)]
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


def terciles(orders: npt.NDArray[np.int64]) -> Masks:
    """Return three parts with about as many requests each, by how much was ordered before."""
    low, high = np.quantile(orders, [1 / 3, 2 / 3]).astype(int).tolist()
    masks = {
        f"up to {low}": orders <= low,
        f"{low + 1} to {high}": (orders > low) & (orders <= high),
        f"over {high}": orders > high,
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def _item_parts(judged: Requests, shop: Shop) -> dict[str, Masks]:
    """Return parts of the items in the baskets, by age as of the request and by popularity."""
    own = places(shop.items, judged.targets)
    since = np.repeat(judged.time_ms, judged.basket_sizes)
    age_ms = since - np.append(shop.first_ms, np.iinfo(np.int64).max)[own]
    return item_parts(age_ms, np.append(shop.lines, 0)[own])


def item_parts(age_ms: npt.NDArray[np.int64], lines: npt.NDArray[np.int64]) -> dict[str, Masks]:
    """Return parts of items by their ages, negative for what is new, and by how often bought."""
    return {
        "age": _binned(age_ms / DAY_MS, AGES_DAYS, AGES),
        "popularity": _binned(lines, PURCHASES, POPULARITIES),
    }


def _binned(values: npt.NDArray[Any], ends: Sequence[float], names: Sequence[str]) -> Masks:
    bins = np.digitize(values, ends)
    return {name: bins == number for number, name in enumerate(names)}
