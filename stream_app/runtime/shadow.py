"""A model in the shadow: it ranks what the serving one ranks, answers nobody, and is compared.

It scores the requests of committed batches, after the commit, so answers do not wait for it; the
next batch does, by the time of a run for each request compared.
"""

from collections import OrderedDict

import msgspec

from stream_app import metrics
from stream_app.config import Settings
from stream_app.hashing import unit_hash
from stream_app.pipeline import Outputs
from stream_app.runtime.task import World
from stream_app.stages.rerank import rerank
from stream_app.stages.score import score
from stream_app.steps import Admitted, Ranked

USERS_MAX = 10_000  # whose last two rankings are remembered, to be compared with what they buy


class _Pair(msgspec.Struct, frozen=True):
    """The items that the two models recommended for one request."""

    served: frozenset[str]
    shadow: frozenset[str]


class Shadow:
    """Compares the model in the shadow of a :class:`World` with the one that ranks.

    Parameters
    ----------
    settings
        Of the program.
    world
        Its ``shadow`` may come and go.
    """

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings, self._world = settings, world
        self._pairs: OrderedDict[str, _Pair] = OrderedDict()

    def committed(self, outputs: Outputs) -> None:
        """Compare the rankings of a batch, and what users buy with the rankings before it."""
        if self._world.shadow is None:
            self._pairs.clear()
            return
        self._judge(outputs)
        for ranked in outputs.answers.ranked:
            if ranked.places:
                self._compare(ranked)

    def _judge(self, outputs: Outputs) -> None:
        """Count whose last ranking had the items that are bought."""
        for step in outputs.steps:
            if not isinstance(step, Admitted) or step.arrival.event.type != "purchase":
                continue
            event = step.arrival.event
            pair = self._pairs.get(event.user_id)
            if pair is None or event.item_id is None:
                continue
            served, shadow = event.item_id in pair.served, event.item_id in pair.shadow
            found_by = {
                (True, True): "both",
                (True, False): "served",
                (False, True): "shadow",
                (False, False): "neither",
            }[served, shadow]
            metrics.SHADOW_PURCHASES.labels(found_by).inc()

    def _compare(self, ranked: Ranked) -> None:
        request, settings = ranked.request, self._settings.stages_in_effect
        event = request.arrival.event
        if unit_hash(settings.seed + "/shadow", event.event_id) >= self._settings.shadow_share:
            return
        (scored,) = score([request], self._world.shadow)
        if scored.fallback_level is not None:
            metrics.SHADOW_REQUESTS.labels("failed").inc()
            return
        (other,) = rerank([request], [scored], self._world.shelves.catalog, settings)
        pair = _Pair(_items(ranked), _items(other))
        metrics.SHADOW_REQUESTS.labels("compared").inc()
        common = len(pair.served & pair.shadow) / len(pair.served)
        metrics.SHADOW_COMMON_SHARE.observe(common)
        self._pairs[event.user_id] = pair
        self._pairs.move_to_end(event.user_id)
        if len(self._pairs) > USERS_MAX:
            self._pairs.popitem(last=False)


def _items(ranked: Ranked) -> frozenset[str]:
    return frozenset(ranked.request.item_ids[place] for place in ranked.places)
