"""Stage 9: rules, nothing but rules: what may be shown, how much of a kind, what is explored.

In order: items that must not be shown leave; the rest stand by score, equal scores by the hash of
the id; caps per category and merchant pass over what is one too many; in a share of the requests,
drawn by a keyed hash of the event's id, the last place goes to a candidate from below the cut.
"""

from collections import Counter
from collections.abc import Sequence

from stream_app.config import StageSettings
from stream_app.event import Catalog, Item
from stream_app.hashing import unit_hash
from stream_app.steps import Ranked, Request, Scored

VARIANT_EXPLOIT = "exploit"
VARIANT_EXPLORE = "explore"


def rerank(
    requests: Sequence[Request],
    scored: Sequence[Scored],
    catalog: Catalog,
    settings: StageSettings,
) -> list[Ranked]:
    """Return the ranking of each request by its scores and the rules."""
    return [
        _rank(request, scores, catalog, settings)
        for request, scores in zip(requests, scored, strict=True)
    ]


def _rank(request: Request, scored: Scored, catalog: Catalog, settings: StageSettings) -> Ranked:
    event = request.arrival.event
    order = [
        place
        for place, item_id in enumerate(request.item_ids)
        if item_id != event.item_id
        and (settings.allow_repeat or not request.bought[place])
        and _showable(catalog.get(item_id), request.arrival.time_ms)
    ]
    scores = scored.scores
    order.sort(key=lambda place: (-scores[place], request.items[place]))
    order = _cap(request, order, catalog, settings)
    places = order[: settings.top_k]
    variant = VARIANT_EXPLOIT
    below = order[settings.top_k :]
    if below and unit_hash(settings.seed + "/explore", event.event_id) < settings.exploration_share:
        drawn = int(unit_hash(settings.seed + "/which", event.event_id) * len(below))
        places[-1] = below[drawn]
        variant = VARIANT_EXPLORE
    return Ranked(request, scored, tuple(places), variant)


def _showable(item: Item | None, now_ms: int) -> bool:
    """Tell whether an item may be shown; one that the catalogue does not know may."""
    if item is None:
        return True
    return not (
        item.hidden
        or item.blocked
        or item.stock == 0
        or (item.available_from is not None and now_ms < item.available_from)
        or (item.available_until is not None and now_ms >= item.available_until)
    )


def _cap(
    request: Request, order: list[int], catalog: Catalog, settings: StageSettings
) -> list[int]:
    """Pass over the candidates that would be one too many of their category or merchant."""
    if not settings.category_cap and not settings.merchant_cap:
        return order
    categories: Counter[str] = Counter()
    merchants: Counter[str] = Counter()
    kept = []
    for place in order:
        item = catalog.get(request.item_ids[place])
        category = item.category[-1] if item and item.category else None
        merchant = item.merchant_id if item else None
        if category and settings.category_cap and categories[category] >= settings.category_cap:
            continue
        if merchant and settings.merchant_cap and merchants[merchant] >= settings.merchant_cap:
            continue
        if category:
            categories[category] += 1
        if merchant:
            merchants[merchant] += 1
        kept.append(place)
    return kept
