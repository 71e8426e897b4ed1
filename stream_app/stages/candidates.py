"""Stage 7: whether to recommend, and a bounded pool of candidates with their features.

Sources: what the user buys again and again, what other users of the partition went on to (forward
co-visitation), what is trending, and what is popular.

Popularity is kept by forward decay (Cormode et al., "Forward Decay", ICDE 2009) as log2 of the sum of
2^(t / half-life): it needs no upkeep, and items compare without a common time, so a list of the top 100
stays exact while counts only grow.
"""

import math
from array import array
from collections.abc import Sequence
from heapq import nlargest
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.config import StageSettings
from stream_app.event import Event
from stream_app.hashing import id_hash
from stream_app.steps import SOURCES, Admitted, Due, Request, Step, UserView

REPEATS_SIZE = 50
NEIGHBOURS_SIZE = 20
LOOKBACK = 10  # distinct items back that a new item becomes a neighbour of
TOP_SIZE = 100
POOL_NEIGHBOURS, POOL_TRENDING, POOL_POPULAR, POOL_SIZE = 20, 10, 20, 80

_DAY_S = 86_400
# Chosen on the baskets of completejourney before 2017-11-05: see docs/results/completejourney.md.
REPEAT_HALF_LIFE_S = 60 * _DAY_S
NEIGHBOUR_HALF_LIFE_S = 90 * _DAY_S
POPULAR_HALF_LIFE_S = 30 * _DAY_S
TRENDING_HALF_LIFE_S = 2 * _DAY_S
TRIP_S = 3_600  # purchases of an item within one shopping trip count once
GAP_WEIGHT = 0.3  # of the newest gap in a personal gap

# How much an event says that its item is wanted, in purchases.
WEIGHTS = {"purchase": 1.0, "cart": 0.5, "click": 0.2, "view": 0.1}

_REPEAT, _NEIGHBOUR, _TRENDING, _POPULAR = SOURCES

_ITEM = Struct("<ddIfBH")  # popular, trending, reference second, outgoing, neighbours, id's bytes
ITEM_BYTES_MAX = _ITEM.size + 4 * 128 + NEIGHBOURS_SIZE * 12
_REPEATS = Struct("<q")
REPEATS_BYTES_MAX = _REPEATS.size + REPEATS_SIZE * 20
_TOP = Struct("<ddHH")
_TOP_ENTRY = Struct("<Qd")
TOP_BYTES_MAX = _TOP.size + 2 * TOP_SIZE * _TOP_ENTRY.size
# Neighbour weights grow as 2^(t / half-life) from a row's reference second; single precision ends at
# 2^127, so a row is rescaled long before.
_RESCALE_HALF_LIVES = 32


class Repeats(msgspec.Struct):
    """What a user buys again: at most 50 items, the lowest decayed count leaves.

    For each item its count, decayed to its last purchase, the second of that, and the mean gap
    between purchases in days (-1 before there is one). ``answered_ms`` is the event time of the last
    recommendation that nobody asked for.

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
        """Enter a purchase; one that is older than the item's last counts for what is left of it."""
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
        gap_days, mean = gap_s / _DAY_S, self.gaps[place]
        self.gaps[place] = gap_days if mean < 0 else mean + GAP_WEIGHT * (gap_days - mean)
        self.last_s[place] = second

    def _enter(self, item: int, second: int) -> None:
        if len(self.items) == REPEATS_SIZE:
            _, _, lowest = min(
                (math.log2(count) + last_s / REPEAT_HALF_LIFE_S, other, place)
                for place, (other, count, last_s) in enumerate(
                    zip(self.items, self.counts, self.last_s, strict=True)
                )
            )
            for column in (self.items, self.counts, self.last_s, self.gaps):
                del column[lowest]
        self.items.append(item)
        self.counts.append(1.0)
        self.last_s.append(second)
        self.gaps.append(-1.0)


class ItemFacts(msgspec.Struct):
    """An item's id, how much it is wanted, and what users went on to from it.

    ``popular`` and ``trending`` are log2 of forward-decayed counts. ``outgoing`` is the weight of all
    transitions, ``weights`` that of each neighbour, in units of 2^((t - reference_s) / half-life).
    """

    item_id: str
    popular: float
    trending: float
    reference_s: int
    outgoing: "array[float]"
    neighbours: "array[int]"
    weights: "array[float]"

    @classmethod
    def decode(cls, data: bytes) -> "ItemFacts":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            empty = array("f", (0.0,)), array("Q"), array("f")
            return cls("", -math.inf, -math.inf, 0, *empty)
        popular, trending, reference_s, outgoing, n, length = _ITEM.unpack_from(data)
        start = _ITEM.size + length
        return cls(
            data[_ITEM.size : start].decode(),
            popular,
            trending,
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
            self.reference_s,
            self.outgoing[0],
            len(self.neighbours),
            len(name),
        )
        return header + name + self.neighbours.tobytes() + self.weights.tobytes()

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
    """

    popular_total: float
    trending_total: float
    popular: dict[int, float]
    trending: dict[int, float]

    @classmethod
    def decode(cls, data: bytes) -> "TopLists":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(-math.inf, -math.inf, {}, {})
        popular_total, trending_total, n, _ = _TOP.unpack_from(data)
        middle = _TOP.size + n * _TOP_ENTRY.size
        return cls(
            popular_total,
            trending_total,
            dict(_TOP_ENTRY.iter_unpack(data[_TOP.size : middle])),
            dict(_TOP_ENTRY.iter_unpack(data[middle:])),
        )

    def encode(self) -> bytes:
        """Return the section as bytes, entries by hash."""
        head = _TOP.pack(
            self.popular_total, self.trending_total, len(self.popular), len(self.trending)
        )
        entries = [*sorted(self.popular.items()), *sorted(self.trending.items())]
        return head + b"".join([_TOP_ENTRY.pack(*entry) for entry in entries])


class Tables(msgspec.Struct, frozen=True):
    """What this stage keeps: repeats of users, facts of items, the partition's top lists."""

    repeats: Sections[str, Repeats]
    items: Sections[int, ItemFacts]
    top: Sections[str, TopLists]
    top_key: str


def propose(
    tables: Tables, steps: Sequence[Step], views: Sequence[UserView], settings: StageSettings
) -> list[Request]:
    """Learn from each step, and return a request for each that calls for a recommendation.

    One for every ``recommend``; else at most one per user per ``debounce_seconds`` of event time,
    after the types in ``recommend_on``. Without consent only popular items, and only if asked.
    """
    requests: list[Request] = []
    for place, (step, view) in enumerate(zip(steps, views, strict=True)):
        if type(step) is Admitted:
            _learn(tables, step, view)
            if _is_called_for(tables, step, settings):
                request = _pool(tables, place, step, view)
                if request.items or request.asked:
                    requests.append(request)
        elif type(step) is Due:
            _forget(tables, step)
    return requests


def _learn(tables: Tables, step: Admitted, view: UserView) -> None:
    event = step.arrival.event
    if not step.profiled:
        if not step.untouchable:
            tables.repeats.clear(event.user_id)
            tables.repeats.clear(step.key)
        return
    weight = WEIGHTS.get(event.type)
    if weight is None or event.item_id is None:
        return
    item, second = id_hash(event.item_id), step.arrival.time_ms // 1000
    if event.type == "purchase":
        tables.repeats.touch(step.key).update(item, second)
    _count(tables, item, event, second, weight)
    if step.arrival.late:
        return
    for other in last_items(view, LOOKBACK + 1):
        if other != item and tables.items.get(other) is not None:
            tables.items.touch(other).went_on_to(item, second, weight)


def _count(tables: Tables, item: int, event: Event, second: int, weight: float) -> None:
    """Count an event towards what is popular and what is trending."""
    facts, top = tables.items.touch(item), tables.top.touch(tables.top_key)
    facts.item_id = event.item_id or ""
    now, lift = second / POPULAR_HALF_LIFE_S, math.log2(weight)
    facts.popular = _log_add(facts.popular, now + lift)
    top.popular_total = _log_add(top.popular_total, now + lift)
    _rank(top.popular, item, facts.popular)
    now = second / TRENDING_HALF_LIFE_S
    facts.trending = _log_add(facts.trending, now + lift)
    top.trending_total = _log_add(top.trending_total, now + lift)
    _rank(top.trending, item, facts.trending)


def _log_add(a: float, b: float) -> float:
    """Return log2(2^a + 2^b)."""
    high, low = (a, b) if a > b else (b, a)
    return high + math.log2(1.0 + 2.0 ** (low - high))


def _rank(top: dict[int, float], item: int, score: float) -> None:
    """Enter an item's new score into a top list, whose lowest leaves for a higher one."""
    if item in top or len(top) < TOP_SIZE:
        top[item] = score
        return
    lowest = min(zip(top.values(), top, strict=True))
    if (score, item) > lowest:
        del top[lowest[1]]
        top[item] = score


def last_items(view: UserView, count: int) -> list[int]:
    """Return the last distinct items of a history, the newest first.

    The newest of a history that has just been updated is the event's own item, so a caller who wants
    ten others asks for eleven.
    """
    found: dict[int, None] = {}
    for item in reversed(view.items):
        found[item] = None
        if len(found) == count:
            break
    return list(found)


def _is_called_for(tables: Tables, step: Admitted, settings: StageSettings) -> bool:
    event = step.arrival.event
    if event.type == "recommend":
        return True
    if event.type not in settings.recommend_on or step.arrival.late or not step.profiled:
        return False
    repeats = tables.repeats.get(step.key)
    time_ms = step.arrival.time_ms
    if repeats is not None and time_ms < repeats.answered_ms + settings.debounce_seconds * 1000:
        return False
    tables.repeats.touch(step.key).answered_ms = time_ms
    return True


def _forget(tables: Tables, due: Due) -> None:
    """Empty the sections of a user who has expired, or of an item that has expired or made room."""
    if due.scope == "user":
        if due.kind == "expiry":
            tables.repeats.clear(str(due.key))
        return
    item = int(due.key)
    tables.items.clear(item)
    top = tables.top.get(tables.top_key)
    if top is not None and (item in top.popular or item in top.trending):
        top = tables.top.touch(tables.top_key)
        top.popular.pop(item, None)
        top.trending.pop(item, None)


def _pool(tables: Tables, place: int, step: Admitted, view: UserView) -> Request:
    """Gather the candidates: repeats, neighbours, trending, popular; at most 80, in that order."""
    now_s = step.arrival.time_ms // 1000
    top = tables.top.get(tables.top_key) or TopLists.decode(b"")
    sources: dict[int, int] = {}
    repeats = tables.repeats.get(step.key) if step.profiled else None
    followers = _followers(tables, view) if step.profiled else {}
    if repeats is not None:
        sources = dict.fromkeys(repeats.items, _REPEAT)
    fresh = [item for item in followers if item not in sources]
    for item in nlargest(POOL_NEIGHBOURS, fresh, key=lambda i: (followers[i], -i)):
        sources[item] = 0
    if step.profiled:
        for item in nlargest(POOL_TRENDING, top.trending, key=lambda i: (top.trending[i], -i)):
            sources[item] = sources.get(item, 0) | _TRENDING
    for item in nlargest(POOL_POPULAR, top.popular, key=lambda i: (top.popular[i], -i)):
        sources[item] = sources.get(item, 0) | _POPULAR
    items, item_ids, rows, bits = [], [], [], []
    personal = _personal_features(repeats, now_s) if repeats is not None else {}
    for item in list(sources)[:POOL_SIZE]:
        facts = tables.items.get(item)
        if facts is None:
            continue
        follow = followers.get(item, 0.0)
        items.append(item)
        item_ids.append(facts.item_id)
        rows.append(_features(facts, top, follow, personal.get(item)))
        bits.append(sources[item] | (_NEIGHBOUR if follow else 0))
    return Request(
        place,
        step.arrival,
        step.key,
        step.profiled,
        view,
        tuple(items),
        tuple(item_ids),
        tuple(rows),
        tuple(bits),
        tuple([bool(bit & _REPEAT) for bit in bits]),
    )


def _followers(tables: Tables, view: UserView) -> dict[int, float]:
    """Return the neighbours of the last 10 items, with their summed shares of the transitions."""
    followers: dict[int, float] = {}
    for item in last_items(view, LOOKBACK):
        facts = tables.items.get(item)
        if facts is not None and facts.neighbours:
            scale = 1.0 / facts.outgoing[0]
            for other, weight in zip(facts.neighbours, facts.weights, strict=True):
                followers[other] = followers.get(other, 0.0) + weight * scale
    return followers


_STRANGER = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _personal_features(repeats: Repeats, now_s: int) -> dict[int, tuple[float, ...]]:
    """Return log_count, has_gap, due, overdue, in_repeat, recency and gap for each repeat."""
    personal = {}
    columns = zip(repeats.items, repeats.counts, repeats.last_s, repeats.gaps, strict=True)
    for item, count, last_s, gap_days in columns:
        age_s = max(now_s - last_s, 0)
        age_days = age_s / _DAY_S
        log_count = math.log1p(count * 2.0 ** (-age_s / REPEAT_HALF_LIFE_S))
        if gap_days > 0:
            ratio = age_days / max(gap_days, 0.5)
            overdue = min(max(ratio - 1.0, 0.0), 3.0)
            personal[item] = (log_count, 1.0, min(ratio, 1.0), overdue, 1.0, age_days, gap_days)
        else:
            personal[item] = (log_count, 0.0, 0.0, 0.0, 1.0, age_days, 0.0)
    return personal


def _features(
    facts: ItemFacts, top: TopLists, follow: float, personal: tuple[float, ...] | None
) -> tuple[float, ...]:
    """Return one candidate's features, in the order of :data:`stream_app.steps.FEATURE_NAMES`."""
    popular = 2.0 ** (facts.popular - top.popular_total)
    trending = 2.0 ** (facts.trending - top.trending_total)
    log_count, *rest = personal or _STRANGER
    return (
        log_count,
        min(100.0 * popular, 3.0),
        min(100.0 * trending, 3.0),
        math.log1p(1000.0 * trending),
        math.log1p(20.0 * follow),
        *rest,
    )
