"""Stage 9: what may be shown, how much of a kind, and what is explored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.config import StageSettings
from stream_app.event import Item
from stream_app.stages.rerank import VARIANT_EXPLOIT, VARIANT_EXPLORE, rerank
from stream_app.steps import Ranked, Request, Scored
from tests.conftest import NO_ITEMS, SETTINGS, START_MS, lenient, request


def ranked(
    asked: Request,
    catalog: Mapping[str, Item] = NO_ITEMS,
    settings: StageSettings = SETTINGS,
    scores: Sequence[float] | None = None,
) -> Ranked:
    """Return the ranking of a request whose candidates score the lower, the later they stand."""
    falling = tuple(-float(n) for n in range(len(asked.items)))
    scored = Scored(tuple(scores or falling), "model", "1", None)
    (answer,) = rerank([asked], [scored], catalog, settings)
    return answer


def shown(asked: Request, *catalog: Item, **over: Any) -> list[str]:
    """Return the ids of what is recommended, given a catalogue and settings."""
    answer = ranked(asked, {item.item_id: item for item in catalog}, lenient(**over))
    return [asked.item_ids[place] for place in answer.places]


def test_rerank_orders_by_score() -> None:
    """The best scores come first, at most as many as settings say."""
    answer = ranked(request(5), settings=lenient(top_k=3), scores=[1.0, 5.0, 2.0, 4.0, 3.0])
    assert answer.places == (1, 3, 4)
    assert answer.variant == VARIANT_EXPLOIT


def test_rerank_of_equal_scores() -> None:
    """Equal scores go by the hash of the item's id."""
    asked = request(9)
    answer = ranked(asked, scores=[0.5] * 9)
    hashes = [asked.items[place] for place in answer.places]
    assert hashes == sorted(asked.items)


def test_rerank_of_nothing() -> None:
    """A request without candidates gets an empty ranking, exploring or not."""
    assert ranked(request(0), settings=lenient(exploration_share=0.5)).places == ()


@pytest.mark.parametrize(
    "over",
    [
        {"hidden": True},
        {"blocked": True},
        {"stock": 0},
        {"available_from": START_MS + 1},
        {"available_until": START_MS},
    ],
    ids=str,
)
def test_rerank_leaves_out_what_must_not_be_shown(over: dict[str, Any]) -> None:
    """Hidden, blocked, sold out, not yet or no longer available: never shown, nor explored."""
    asked = request(3)
    assert shown(asked, Item(item_id="c-1", **over)) == ["c-0", "c-2"]
    for n in range(40):
        other = request(3, event_id=f"e-{n}")
        got = shown(other, Item(item_id="c-1", **over), top_k=1, exploration_share=1.0)
        assert got == ["c-2"]


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"stock": 1},
        {"available_from": START_MS},
        {"available_until": START_MS + 1},
        {"available_from": START_MS - 9, "available_until": START_MS + 9},
    ],
    ids=str,
)
def test_rerank_shows_what_may_be_shown(over: dict[str, Any]) -> None:
    """An item in its window, with stock or of unknown stock, is shown; so is an unknown item."""
    assert shown(request(2), Item(item_id="c-1", **over)) == ["c-0", "c-1"]


def test_rerank_leaves_out_what_caused_it() -> None:
    """Nobody is recommended the item that they have just dealt with."""
    asked = request(3, type="view", item_id="c-0")
    assert shown(asked) == ["c-1", "c-2"]
    assert shown(asked, top_k=1, exploration_share=1.0) == ["c-2"]


def test_rerank_without_repeats() -> None:
    """Where repeats are not wanted, what the user has bought is left out."""
    asked = request(4, bought=(0, 2))
    assert shown(asked, allow_repeat=False) == ["c-1", "c-3"]
    assert shown(asked) == ["c-0", "c-1", "c-2", "c-3"]


CATEGORIES = st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=20)


@given(CATEGORIES, st.integers(0, 3), st.integers(0, 3), st.integers(1, 12))
def test_caps_hold(kinds: Sequence[str], category: int, merchant: int, top_k: int) -> None:
    """Caps keep the best of each category and merchant; what has none is never one too many."""
    asked = request(len(kinds))
    items = [
        Item(
            item_id=f"c-{n}",
            category=["all", kind] if kind else [],
            merchant_id=f"m-{n % 3}" if n % 4 else None,
        )
        for n, kind in enumerate(kinds)
    ]
    got = shown(asked, *items, category_cap=category, merchant_cap=merchant, top_k=top_k)
    counts: Counter[str] = Counter()
    expected = []
    for item in items:
        kind, shop = (item.category or [""])[-1], item.merchant_id or ""
        too_many = (category and kind and counts[kind] == category) or (
            merchant and shop and counts[shop] == merchant
        )
        if not too_many:
            counts[kind] += 1
            counts[shop] += 1
            expected.append(item.item_id)
    assert got == expected[:top_k]


def test_caps_hold_while_exploring() -> None:
    """What is explored comes from below the cut and within the caps."""
    items = [Item(item_id=f"c-{n}", category=["a" if n < 6 else "b"]) for n in range(12)]
    for n in range(60):
        asked = request(12, event_id=f"e-{n}")
        got = shown(asked, *items, category_cap=2, top_k=3, exploration_share=1.0)
        assert got == ["c-0", "c-1", "c-7"]


def variants(share: float, seed: str = "stream-app", count: int = 4_000) -> list[Ranked]:
    """Return the rankings of many requests, of twenty candidates each."""
    settings = lenient(exploration_share=share, seed=seed)
    return [ranked(request(20, event_id=f"e-{n}"), settings=settings) for n in range(count)]


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_exploration_share_is_kept(share: float) -> None:
    """About as many requests explore as settings say, each place below the cut about as often."""
    answers = [answer for answer in variants(share) if answer.variant == VARIANT_EXPLORE]
    assert abs(len(answers) / 4_000 - share) < 4 * (share * (1 - share) / 4_000) ** 0.5
    drawn = Counter(answer.places[-1] for answer in answers)
    assert set(drawn) == set(range(10, 20))
    mean = len(answers) / 10
    assert all(abs(count - mean) < 4 * mean**0.5 for count in drawn.values())


def test_exploration_changes_the_last_place_only() -> None:
    """An exploring answer differs from the best one in its last place and in its variant."""
    for answer in variants(0.5, count=200):
        if answer.variant == VARIANT_EXPLORE:
            assert answer.places[:9] == tuple(range(9))
            assert answer.places[9] >= 10
        else:
            assert answer.places == tuple(range(10))


def test_exploration_is_drawn_from_the_event() -> None:
    """The same event explores the same way each time; another seed draws others."""
    once = variants(0.3, count=200)
    assert once == variants(0.3, count=200)
    others = variants(0.3, "another", count=200)
    assert [answer.variant for answer in once] != [answer.variant for answer in others]
    assert all(answer.variant == VARIANT_EXPLOIT for answer in variants(0.0, count=200))
