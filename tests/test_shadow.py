"""A model in the shadow is compared with the one that ranks, and changes no output."""

import math
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from stream_app.config import Settings, load
from stream_app.pipeline import next_batch, process
from stream_app.runtime import shadow as module
from stream_app.runtime.shadow import Shadow
from stream_app.runtime.task import World
from stream_app.steps import Admitted, OutputRecord
from tests.conftest import TOPIC, batch, context, fresh

LOG = batch(400, seed=3)
PURCHASES = ("both", "served", "shadow", "neither")


class Other:
    """A scorer that turns the order of the formula's first feature around, or gives one answer."""

    name, version = "other", "1"

    def __init__(self, answer: float | None = None) -> None:
        self.answer = answer

    def propose(self, history: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002
        """Return no proposals."""
        return ()

    def scores(
        self,
        history: Sequence[int],  # noqa: ARG002 - the protocol has it
        items: Sequence[int],
        features: Sequence[Sequence[float]],
    ) -> tuple[float, ...]:
        """Return a score for each item."""
        if self.answer is not None:
            return (self.answer,) * len(items)
        return tuple(-row[0] for row in features)


def value(name: str, **labels: str) -> float:
    """Return what a metric of shadows stands at."""
    return REGISTRY.get_sample_value(f"stream_app_shadow_{name}", labels) or 0.0


def stand() -> dict[str, float]:
    """Return all that the metrics of shadows say."""
    return {
        "compared": value("requests_total", outcome="compared"),
        "failed": value("requests_total", outcome="failed"),
        "shares": value("common_share_count"),
        "share": value("common_share_sum"),
        **{each: value("purchases_total", found_by=each) for each in PURCHASES},
    }


def stream(
    world: World, settings: Settings, shadow: Shadow | None
) -> tuple[list[OutputRecord], dict[str, float], int]:
    """Return what comes out of the log, what the metrics moved by, and how many were ranked."""
    state, place, ranked = fresh(), 0, 0
    before, records = stand(), []
    while place < len(LOG):
        taken = next_batch(state, TOPIC, 0, LOG[place : place + 16], 16)
        outputs = process(state, taken, context(settings.stages, shelves=world.shelves))
        state.changes()
        place += len(taken.records)
        records += outputs.records
        ranked += len(outputs.answers.ranked)
        if shadow is not None:
            shadow.committed(outputs)
    moved = {name: now - before[name] for name, now in stand().items()}
    return records, moved, ranked


def test_shadow_changes_no_output_and_sees_every_request() -> None:
    """Each request is compared once, and what comes out is what comes out without a shadow."""
    settings = load()
    world = World(shadow=Other())
    alone, still, _ = stream(world, settings, None)
    records, moved, ranked = stream(world, settings, Shadow(settings, world))
    assert records == alone
    assert not any(still.values())
    assert moved["compared"] == ranked > 50
    assert moved["failed"] == 0
    assert 0 < moved["share"] < moved["shares"] <= ranked


def test_shadow_that_ranks_alike_has_all_in_common() -> None:
    """A shadow that scores like the model that serves would recommend the same items."""
    settings = load()

    class Same(Other):
        def scores(
            self,
            history: Sequence[int],  # noqa: ARG002 - the protocol has it
            items: Sequence[int],
            features: Sequence[Sequence[float]],
        ) -> tuple[float, ...]:
            from stream_app.stages.score import _formula  # noqa: PLC0415

            assert len(items) == len(features)
            return _formula(features)

    world = World(shadow=Same())
    _, moved, _ = stream(world, settings, Shadow(settings, world))
    assert moved["share"] == pytest.approx(moved["shares"])
    assert moved["shares"] > 50
    assert moved["served"] == moved["shadow"] == 0
    assert moved["both"] > 0


def test_purchases_are_counted_by_whose_ranking_had_them() -> None:
    """Every purchase after a compared request of the same user counts once."""
    settings = load()
    world = World(shadow=Other())
    shadow = Shadow(settings, world)
    state, place, expected, asked = fresh(), 0, 0, set[str]()
    before = stand()
    while place < len(LOG):
        taken = next_batch(state, TOPIC, 0, LOG[place : place + 16], 16)
        outputs = process(state, taken, context(settings.stages, shelves=world.shelves))
        state.changes()
        place += len(taken.records)
        for step in outputs.steps:
            if isinstance(step, Admitted):
                event = step.arrival.event
                expected += event.type == "purchase" and event.user_id in asked
        asked |= {each.request.arrival.event.user_id for each in outputs.answers.ranked}
        shadow.committed(outputs)
    now = stand()
    assert sum(now[each] - before[each] for each in PURCHASES) == expected > 20


def test_shadow_that_cannot_answer_is_counted() -> None:
    """A score that is no number is a failure, not a comparison."""
    settings = load()
    world = World(shadow=Other(math.nan))
    _, moved, ranked = stream(world, settings, Shadow(settings, world))
    assert (moved["failed"], moved["compared"]) == (ranked, 0)


def test_a_share_of_the_requests_is_compared() -> None:
    """`shadow_share` of the requests are compared, the same ones each time."""
    settings = load(shadow_share=0.3)
    world = World(shadow=Other())
    _, moved, ranked = stream(world, settings, Shadow(settings, world))
    _, again, _ = stream(world, settings, Shadow(settings, world))
    assert moved["compared"] == again["compared"]
    assert 0.1 * ranked < moved["compared"] < 0.5 * ranked


def test_memory_of_a_shadow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the users seen last are remembered, and nobody once the shadow is gone."""
    monkeypatch.setattr(module, "USERS_MAX", 2)
    settings = load()
    world = World(shadow=Other())
    shadow = Shadow(settings, world)
    stream(world, settings, shadow)
    assert len(shadow._pairs) == 2
    world.shadow = None
    stream(world, settings, shadow)
    assert not shadow._pairs
