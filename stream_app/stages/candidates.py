"""Stage 7: whether to recommend, and a bounded pool of candidates with their features.

Sources: what the user buys again and again, what other users of the partition went on to (forward
co-visitation), what is trending, and what is popular. :mod:`stream_app.tables` keeps the numbers.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from stream_app.codec import Sections
from stream_app.config import StageSettings
from stream_app.hashing import id_hash
from stream_app.steps import SOURCES, Admitted, Due, Request, Step, UserView
from stream_app.tables import DAY_S, REPEAT_HALF_LIFE_S, ItemFacts, Repeats, TopLists

LOOKBACK = 10  # distinct items back that a new item becomes a neighbour of
POOL_NEIGHBOURS, POOL_TRENDING, POOL_POPULAR, POOL_SIZE = 20, 10, 20, 80

# How much an event says that its item is wanted, in purchases.
WEIGHTS = {"purchase": 1.0, "cart": 0.5, "click": 0.2, "view": 0.1}

_PERCENT_MAX = 3.0  # of popular_percent and trending_percent

_REPEAT, _NEIGHBOUR, _TRENDING, _POPULAR = SOURCES


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
    facts = tables.items.touch(item)
    facts.item_id = event.item_id
    tables.top.touch(tables.top_key).count(item, facts, second, weight)
    if step.arrival.late:
        return
    items = tables.items
    for other in last_items(view, LOOKBACK + 1):
        if other != item and items.get(other) is not None:
            items.touch(other).went_on_to(item, second, weight)


def last_items(view: UserView, count: int) -> list[int]:
    """Return the last distinct items of a history, the newest first.

    The newest of a history that has just been updated is the event's own item, so a caller who
    wants ten others asks for eleven.
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
        tables.top.touch(tables.top_key).remove(item)


def _pool(tables: Tables, place: int, step: Admitted, view: UserView) -> Request:
    """Gather the candidates: repeats, neighbours, trending, popular; at most 80, in that order."""
    now_s = step.arrival.time_ms // 1000
    top = tables.top.get(tables.top_key) or TopLists.decode(b"")
    sources: dict[int, int] = {}
    repeats = tables.repeats.get(step.key) if step.profiled else None
    followers = _followers(tables, view) if step.profiled else {}
    if repeats is not None:
        sources = dict.fromkeys(repeats.items, _REPEAT)
    fresh = {item: share for item, share in followers.items() if item not in sources}
    for item in _best(fresh, POOL_NEIGHBOURS):
        sources[item] = 0
    if step.profiled:
        for item in _best(top.trending, POOL_TRENDING):
            sources[item] = sources.get(item, 0) | _TRENDING
    for item in _best(top.popular, POOL_POPULAR):
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
        rows.append(_features(facts, top, follow, personal.get(item, _STRANGER)))
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


def _best(scores: dict[int, float], count: int) -> list[int]:
    """Return the items with the highest scores, the best first; ties by the hash."""
    pairs: Iterable[tuple[float, int]] = zip(scores.values(), scores, strict=True)
    if len(scores) > count:
        # Sorting plain numbers first, and pairs only down to the last that counts, is faster.
        least = sorted(scores.values())[-count]
        pairs = [pair for pair in pairs if pair[0] >= least]
    return [item for _, item in sorted(pairs, reverse=True)[:count]]


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


# Features of an item in the repeat table: log_count, which comes first in a row of features; and
# has_gap, due, overdue, in_repeat, recency_days and gap_days, which come last.
_Personal = tuple[float, tuple[float, ...]]
_STRANGER: _Personal = (0.0, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def _personal_features(repeats: Repeats, now_s: int) -> dict[int, _Personal]:
    """Return the features of each repeat."""
    personal: dict[int, _Personal] = {}
    columns = zip(repeats.items, repeats.counts, repeats.last_s, repeats.gaps, strict=True)
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


def _features(
    facts: ItemFacts, top: TopLists, follow: float, personal: _Personal
) -> tuple[float, ...]:
    """Return one candidate's features, in the order of :data:`stream_app.steps.FEATURE_NAMES`."""
    popular_percent = 100.0 * 2.0 ** (facts.popular - top.popular_total)
    trending = 2.0 ** (facts.trending - top.trending_total)
    trending_percent = 100.0 * trending
    log_count, rest = personal
    # No min() here: this runs for each candidate, and two calls are a third of its cost.
    return (
        log_count,
        popular_percent if popular_percent < _PERCENT_MAX else _PERCENT_MAX,  # noqa: FURB136
        trending_percent if trending_percent < _PERCENT_MAX else _PERCENT_MAX,  # noqa: FURB136
        math.log1p(1000.0 * trending),
        math.log1p(20.0 * follow) if follow else 0.0,
        *rest,
    )
