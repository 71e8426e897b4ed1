"""The bounded tables that candidates come from: of users, items, contexts and the partition.

Popularity is kept by forward decay (Cormode et al., "Forward Decay", ICDE 2009) as log2 of the sum
of 2^(t / half-life): it needs no upkeep, and items compare without a common time, so a list of the
top 100 stays exact while counts only grow.
"""

import math
from array import array
from operator import add
from struct import Struct

import msgspec

REPEATS_SIZE = 50
NEIGHBOURS_SIZE = 20
NEIGHBOURS_PRIOR = 10.0  # transitions, in purchases, that are taken to have gone nowhere
TOP_SIZE = 100
NEWEST_SIZE = 50
CONTEXT_SIZE = 20

DAY_S = 86_400
# Chosen on the baskets of completejourney before 2017-11-05: see docs/results/completejourney.md.
REPEAT_HALF_LIFE_S = 60 * DAY_S
NEIGHBOUR_HALF_LIFE_S = 90 * DAY_S
POPULAR_HALF_LIFE_S = 30 * DAY_S
TRENDING_HALF_LIFE_S = 2 * DAY_S
CONTEXT_HALF_LIFE_S = 30 * DAY_S
TRIP_S = 3_600  # purchases of an item within one shopping trip count once
GAP_WEIGHT = 0.3  # of the newest gap in a personal gap

# popular, trending, first and reference second, outgoing, number of neighbours, bytes of the id
_ITEM = Struct("<ddIIfBH")
ITEM_BYTES_MAX = _ITEM.size + 4 * 128 + NEIGHBOURS_SIZE * 12
_REPEATS = Struct("<q")
REPEATS_BYTES_MAX = _REPEATS.size + REPEATS_SIZE * 20
_TOP = Struct("<ddHH")
_TOP_ENTRY = Struct("<Qd")
_NEWEST_ENTRY = Struct("<QI")
TOP_BYTES_MAX = _TOP.size + 2 * TOP_SIZE * _TOP_ENTRY.size + NEWEST_SIZE * _NEWEST_ENTRY.size
_CONTEXT = Struct("<d")
CONTEXT_BYTES_MAX = _CONTEXT.size + CONTEXT_SIZE * _TOP_ENTRY.size
# Neighbour weights grow as 2^(t / half-life) from a row's reference second; single precision ends
# at 2^127, so a row is rescaled long before.
_RESCALE_HALF_LIVES = 32

# Features of an item in the repeat table: log_count, which comes first in a row of features; and
# has_gap, due, overdue, in_repeat, recency_days and gap_days, which come sixth.
Personal = tuple[float, tuple[float, ...]]
STRANGER: Personal = (0.0, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


class Repeats(msgspec.Struct):
    """What a user buys again: at most 50 items, the lowest decayed count leaves.

    For each item its count, decayed to its last purchase, the second of that, and the mean gap
    between purchases in days (-1 before there is one). ``answered_ms`` is the event time of the
    last recommendation that nobody asked for.

    >>> repeats = Repeats.decode(b"")
    >>> repeats.update(7, 0), repeats.update(7, 86_400 * 6)
    (None, None)
    >>> round(repeats.counts[0], 3), repeats.gaps[0]
    (1.933, 6.0)
    """

    answered_ms: int
    items: "array[int]"
    counts: "array[float]"
    last_s: "array[int]"
    gaps: "array[float]"

    @classmethod
    def decode(cls, data: bytes) -> "Repeats":
        """Return the section that ``data`` holds, a fresh one for no data."""
        (answered_ms,) = _REPEATS.unpack_from(data) if data else (0,)
        columns = data[_REPEATS.size :]
        n = len(columns) // 20
        return cls(
            answered_ms,
            array("Q", columns[: 8 * n]),
            array("f", columns[8 * n : 12 * n]),
            array("I", columns[12 * n : 16 * n]),
            array("f", columns[16 * n :]),
        )

    def encode(self) -> bytes:
        """Return the section as bytes, a column after the other."""
        columns = (self.items, self.counts, self.last_s, self.gaps)
        return _REPEATS.pack(self.answered_ms) + b"".join([c.tobytes() for c in columns])

    def update(self, item: int, second: int) -> None:
        """Enter a purchase; one older than the item's last counts for what is left of it."""
        if item not in self.items:
            self._enter(item, second)
            return
        place = self.items.index(item)
        gap_s = second - self.last_s[place]
        if abs(gap_s) <= TRIP_S:
            return
        faded = 2.0 ** (-abs(gap_s) / REPEAT_HALF_LIFE_S)
        if gap_s < 0:
            self.counts[place] += faded
            return
        self.counts[place] = self.counts[place] * faded + 1.0
        gap_days, mean = gap_s / DAY_S, self.gaps[place]
        self.gaps[place] = gap_days if mean < 0 else mean + GAP_WEIGHT * (gap_days - mean)
        self.last_s[place] = second

    def features(self, now_s: int) -> dict[int, Personal]:
        """Return the features of each repeat, as of a time."""
        personal: dict[int, Personal] = {}
        columns = zip(self.items, self.counts, self.last_s, self.gaps, strict=True)
        for item, count, last_s, gap_days in columns:
            age_s = now_s - last_s if now_s > last_s else 0
            age_days = age_s / DAY_S
            rest = (0.0, 0.0, 0.0, 1.0, age_days, 0.0)
            if gap_days > 0:
                ratio = age_days / max(gap_days, 0.5)
                due, overdue = (ratio, 0.0) if ratio < 1.0 else (1.0, min(ratio - 1.0, 3.0))
                rest = (1.0, due, overdue, 1.0, age_days, gap_days)
            personal[item] = math.log1p(count * 2.0 ** (-age_s / REPEAT_HALF_LIFE_S)), rest
        return personal

    def _enter(self, item: int, second: int) -> None:
        if len(self.items) == REPEATS_SIZE:
            # log2 of the count as of any common time, so the order needs no time at all.
            ages = [last_s / REPEAT_HALF_LIFE_S for last_s in self.last_s]
            logs = list(map(add, map(math.log2, self.counts), ages))
            least = min(logs)
            lowest = min(
                (place for place, log in enumerate(logs) if log == least),
                key=self.items.__getitem__,
            )
            for column in (self.items, self.counts, self.last_s, self.gaps):
                del column[lowest]
        self.items.append(item)
        self.counts.append(1.0)
        self.last_s.append(second)
        self.gaps.append(-1.0)


class ItemFacts(msgspec.Struct):
    """An item's id, how much it is wanted, and what users went on to from it.

    ``popular`` and ``trending`` are log2 of forward-decayed counts. ``first_s`` is the second of
    the first event in the partition; an empty ``item_id`` says that there was none. ``outgoing`` is
    the weight of all transitions, ``weights`` that of each neighbour, in units of
    2^((t - reference_s) / half-life).
    """

    item_id: str
    popular: float
    trending: float
    first_s: int
    reference_s: int
    outgoing: "array[float]"
    neighbours: "array[int]"
    weights: "array[float]"

    @classmethod
    def decode(cls, data: bytes) -> "ItemFacts":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            empty = array("f", (0.0,)), array("Q"), array("f")
            return cls("", -math.inf, -math.inf, 0, 0, *empty)
        popular, trending, first_s, reference_s, outgoing, n, length = _ITEM.unpack_from(data)
        start = _ITEM.size + length
        return cls(
            data[_ITEM.size : start].decode(),
            popular,
            trending,
            first_s,
            reference_s,
            array("f", (outgoing,)),
            array("Q", data[start : start + 8 * n]),
            array("f", data[start + 8 * n :]),
        )

    def encode(self) -> bytes:
        """Return the section as bytes."""
        name = self.item_id.encode()
        header = _ITEM.pack(
            self.popular,
            self.trending,
            self.first_s,
            self.reference_s,
            self.outgoing[0],
            len(self.neighbours),
            len(name),
        )
        return header + name + self.neighbours.tobytes() + self.weights.tobytes()

    def share_of_one(self, second: int) -> float:
        """Return the share of the transitions that a weight of 1 is, as of a time.

        Some more are counted that went nowhere, so that a few transitions make no large share.
        """
        unit: float = 2.0 ** ((second - self.reference_s) / NEIGHBOUR_HALF_LIFE_S)
        return 1.0 / (self.outgoing[0] + NEIGHBOURS_PRIOR * unit)

    def went_on_to(self, item: int, second: int, weight: float) -> None:
        """Count a transition; of more than 20 neighbours the lightest gives way."""
        exponent = (second - self.reference_s) / NEIGHBOUR_HALF_LIFE_S
        if not self.neighbours:
            self.reference_s, exponent = second, 0.0
        elif exponent > _RESCALE_HALF_LIVES:
            factor = 2.0**-exponent
            self.outgoing[0] *= factor
            self.weights = array("f", [w * factor for w in self.weights])
            self.reference_s, exponent = second, 0.0
        gain = weight * 2.0**exponent
        self.outgoing[0] += gain
        weights = self.weights
        if item in self.neighbours:
            weights[self.neighbours.index(item)] += gain
        elif len(weights) < NEIGHBOURS_SIZE:
            self.neighbours.append(item)
            weights.append(gain)
        else:
            place = weights.index(min(weights))
            self.neighbours[place] = item
            weights[place] = gain


class TopLists(msgspec.Struct):
    """The partition's 100 most wanted items, over a long and a short half-life, and the totals.

    Scores are log2 of forward-decayed counts, so the share of an item is 2^(score - total).
    ``newest`` are the 50 items that came last, each with the second of its first event.
    """

    popular_total: float
    trending_total: float
    popular: dict[int, float]
    trending: dict[int, float]
    newest: dict[int, int]

    @classmethod
    def decode(cls, data: bytes) -> "TopLists":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(-math.inf, -math.inf, {}, {}, {})
        popular_total, trending_total, populars, trendings = _TOP.unpack_from(data)
        middle = _TOP.size + populars * _TOP_ENTRY.size
        end = middle + trendings * _TOP_ENTRY.size
        return cls(
            popular_total,
            trending_total,
            dict(_TOP_ENTRY.iter_unpack(data[_TOP.size : middle])),
            dict(_TOP_ENTRY.iter_unpack(data[middle:end])),
            dict(_NEWEST_ENTRY.iter_unpack(data[end:])),
        )

    def count(self, item: int, facts: ItemFacts, second: int, weight: float) -> None:
        """Count an event towards what is popular and what is trending."""
        lift = math.log2(weight)
        now = second / POPULAR_HALF_LIFE_S + lift
        facts.popular = _log_add(facts.popular, now)
        self.popular_total = _log_add(self.popular_total, now)
        _rank(self.popular, item, facts.popular)
        now = second / TRENDING_HALF_LIFE_S + lift
        facts.trending = _log_add(facts.trending, now)
        self.trending_total = _log_add(self.trending_total, now)
        _rank(self.trending, item, facts.trending)

    def enter(self, item: int, second: int) -> None:
        """Enter an item that has come; of more than 50 the oldest leaves, ties by the hash."""
        self.newest[item] = second
        if len(self.newest) > NEWEST_SIZE:
            del self.newest[min(zip(self.newest.values(), self.newest, strict=True))[1]]

    def remove(self, item: int) -> None:
        """Strike an item that is no more; the lists stay short until others rise."""
        self.popular.pop(item, None)
        self.trending.pop(item, None)
        self.newest.pop(item, None)

    def __contains__(self, item: int) -> bool:
        return item in self.popular or item in self.trending or item in self.newest

    def encode(self) -> bytes:
        """Return the section as bytes, entries by hash."""
        head = _TOP.pack(
            self.popular_total, self.trending_total, len(self.popular), len(self.trending)
        )
        entries = [*sorted(self.popular.items()), *sorted(self.trending.items())]
        newest = [_NEWEST_ENTRY.pack(*entry) for entry in sorted(self.newest.items())]
        return head + b"".join([*(_TOP_ENTRY.pack(*entry) for entry in entries), *newest])


class ContextTop(msgspec.Struct):
    """The 20 most wanted items of a context, and the total, as log2 of forward-decayed counts.

    An item that is not counted takes the place of the lowest and starts anew, so a count may be too
    low, never too high. To take over the lowest count (Space-Saving) was measured and is worse: see
    docs/decisions/0012-contexts-are-hashed-buckets.md.
    """

    total: float
    scores: dict[int, float]

    @classmethod
    def decode(cls, data: bytes) -> "ContextTop":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(-math.inf, {})
        (total,) = _CONTEXT.unpack_from(data)
        return cls(total, dict(_TOP_ENTRY.iter_unpack(data[_CONTEXT.size :])))

    def encode(self) -> bytes:
        """Return the section as bytes, entries by hash."""
        entries = [_TOP_ENTRY.pack(*entry) for entry in sorted(self.scores.items())]
        return _CONTEXT.pack(self.total) + b"".join(entries)

    def count(self, item: int, second: int, weight: float) -> None:
        """Count an event."""
        now = second / CONTEXT_HALF_LIFE_S + math.log2(weight)
        self.total = _log_add(self.total, now)
        score = self.scores.get(item)
        if score is not None:
            self.scores[item] = _log_add(score, now)
            return
        if len(self.scores) == CONTEXT_SIZE:
            del self.scores[min(zip(self.scores.values(), self.scores, strict=True))[1]]
        self.scores[item] = now

    def shares(self) -> dict[int, float]:
        """Return each item's share of what is wanted in the context."""
        return {item: 2.0 ** (score - self.total) for item, score in self.scores.items()}


def _log_add(a: float, b: float) -> float:
    """Return log2(2^a + 2^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high + math.log2(1.0 + 2.0 ** (low - high))


def _rank(top: dict[int, float], item: int, score: float) -> None:
    """Enter an item's new score into a top list, whose lowest leaves for a higher one."""
    if item in top or len(top) < TOP_SIZE:
        top[item] = score
        return
    if score < min(top.values()):
        return
    lowest = min(zip(top.values(), top, strict=True))
    if (score, item) > lowest:
        del top[lowest[1]]
        top[item] = score
