"""The catalogue on shelves: what is alike, what is new, whatever order the items came in."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app import shelves as module
from stream_app.config import DAY_MS
from stream_app.event import Item
from stream_app.hashing import id_hash
from stream_app.shelves import NEAR, NEW_DAYS, WINDOW, Shelved, Shelves, similarity
from tests.conftest import START_MS


def item(number: int, **over: Any) -> Item:
    """Return an item of the one shelf, at a price of its own, unless told otherwise."""
    fields: dict[str, Any] = {
        "item_id": f"i-{number}",
        "category": ["food", "dairy", "milk"],
        "price": float(number),
        "brand": "b",
    }
    return Item(**(fields | over))


def ids(shelves: Shelves, items: Iterable[int]) -> list[str]:
    """Return the ids behind hashes."""
    return [shelves.known[each].item_id for each in items]


def near(shelves: Shelves, number: int) -> list[str]:
    """Return the ids of what is like an item, the most similar first."""
    return ids(shelves, shelves.near(id_hash(f"i-{number}")))


ITEMS = st.builds(
    item,
    st.integers(0, 30),
    category=st.sampled_from([[], ["food"], ["food", "tea"], ["food", "dairy", "milk"]]),
    price=st.sampled_from([None, 0.0, 1.0, 5.0]),
    brand=st.sampled_from([None, "b", "c"]),
    hidden=st.booleans(),
    available_from=st.sampled_from([None, START_MS, START_MS - DAY_MS, START_MS + 1]),
)


@given(st.lists(st.tuples(ITEMS, st.booleans()), max_size=60), st.randoms(use_true_random=False))
def test_shelves_depend_on_contents_alone(
    updates: Sequence[tuple[Item, bool]], rng: random.Random
) -> None:
    """Shelves kept up with items that come, change and go are those of the items that are left."""
    live = Shelves()
    left: dict[str, Item] = {}
    for each, goes in updates:
        live.put(each)
        live.near(id_hash(each.item_id))  # nothing that was remembered may outlive a change
        left[each.item_id] = each
        if goes:
            live.remove(each.item_id)
            del left[each.item_id]
    shuffled = list(left.values())
    rng.shuffle(shuffled)
    fresh = Shelves(shuffled)
    assert live.catalog == fresh.catalog == left
    assert live.known == fresh.known
    for shelf in ("_leaves", "_aisles", "_arrivals"):
        assert getattr(live, shelf) == getattr(fresh, shelf)
    for item_id in left:
        found, again = live.near(id_hash(item_id)), fresh.near(id_hash(item_id))
        assert list(found.items()) == list(again.items())
    assert live.newest(START_MS, 9) == fresh.newest(START_MS, 9)


@given(st.lists(ITEMS, max_size=WINDOW, unique_by=lambda each: each.item_id))
def test_near_is_exact_on_small_shelves(stock: Sequence[Item]) -> None:
    """Where no shelf is longer than the window, the most similar of the leaf come, all shown."""
    shelves = Shelves(stock)
    for own in shelves.known.values():
        others = [each for each in shelves.known.values() if each.shown and each is not own]
        leaf = [each for each in others if own.leaf and each.leaf == own.leaf]
        aisle = [each for each in others if own.aisle and each.aisle == own.aisle]
        wanted = leaf if len(leaf) >= NEAR else aisle
        wanted.sort(key=lambda each: (-similarity(own, each), each.item))
        found = shelves.near(own.item)
        assert list(found) == [each.item for each in wanted[:NEAR]]
        assert all(0.0 < value <= 1.0 for value in found.values())


def test_near_looks_at_few_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shelf of 10,000 a look costs no more than the two windows, and finds the nearest."""
    shelves = Shelves(item(number) for number in range(10_000))
    looked: list[Shelved] = []

    def counted(one: Shelved, other: Shelved) -> float:
        looked.append(other)
        return similarity(one, other)

    monkeypatch.setattr(module, "similarity", counted)
    assert set(near(shelves, 5_000)) == {f"i-{n}" for n in range(4_995, 5_006)} - {"i-5000"}
    assert len(looked) <= 2 * (2 * WINDOW + 1)
    looked.clear()
    near(shelves, 5_000)
    assert looked == []  # it is remembered


def test_near_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered makes room, and comes out the same again."""
    monkeypatch.setattr(module, "_NEAR_MAX", 3)
    shelves = Shelves(item(number) for number in range(20))
    before = [near(shelves, number) for number in range(20)]
    assert len(shelves._near) <= 3
    assert [near(shelves, number) for number in range(20)] == before


def test_near_prefers_leaf_then_brand_then_price() -> None:
    """The leaf weighs more than the brand and the price together with the parent's."""
    other = item(2, brand="other", price=100.0)
    cousin = item(3, category=["food", "dairy", "butter"], price=1.0)
    stranger = item(4, category=["food", "tea"], price=1.0)
    shelves = Shelves([item(1), item(5), other, cousin, stranger])
    assert near(shelves, 1) == ["i-5", "i-3", "i-2"]


@pytest.mark.parametrize("over", [{"hidden": True}, {"blocked": True}, {"stock": 0}])
def test_items_not_shown_are_not_proposed(over: dict[str, Any]) -> None:
    """What is hidden, blocked or sold out leaves the shelves, and may come back to them."""
    dated = {"available_from": START_MS}
    shelves = Shelves([item(1), item(2, **dated)])
    shelves.put(item(2, **over, **dated))
    assert near(shelves, 1) == []
    assert shelves.newest(START_MS, 5) == []
    assert near(shelves, 2) == ["i-1"]
    shelves.put(item(2, **dated))
    assert near(shelves, 1) == ["i-2"]
    assert ids(shelves, shelves.newest(START_MS, 5)) == ["i-2"]
    shelves.remove("i-2")
    shelves.remove("never there")
    assert near(shelves, 1) == near(shelves, 2) == []
    assert shelves.newest(START_MS, 5) == []


def test_items_without_category_are_like_nothing() -> None:
    """An item without a category, or unknown, has no likes and is none."""
    shelves = Shelves([item(1, category=[]), item(2, category=[])])
    assert near(shelves, 1) == []
    assert shelves.near(id_hash("unknown")) == {}
    one, other = shelves.known.values()
    assert similarity(one, other) == 0.0


@pytest.mark.parametrize(
    ("over", "value"),
    [
        ({}, 1.0),
        ({"price": 9.0}, 0.7 + 0.3 * 0.5),  # (1 + 4) / (1 + 9)
        ({"price": None}, 0.7 + 0.15),
        ({"currency": "EUR"}, 0.7 + 0.15),
        ({"brand": "other"}, 0.8),
        ({"brand": None}, 0.9),
        ({"category": ["food", "dairy", "butter"]}, 0.75),
        ({"category": ["food", "dairy"]}, 0.0),
        ({"category": ["food", "tea", "milk"]}, 0.0),
    ],
)
def test_similarity(over: dict[str, Any], value: float) -> None:
    """Half of it is the leaf, a fifth the brand, the rest the price; what is unknown is neutral."""
    one, other = Shelved.of(item(4)), Shelved.of(msgspec.structs.replace(item(4), **over))
    assert similarity(one, other) == pytest.approx(value)
    assert similarity(other, one) == similarity(one, other)


def test_newest_are_those_of_the_last_days() -> None:
    """Items that became available within 14 days come, the newest first, and none of tomorrow."""
    days = {1: 0, 2: NEW_DAYS, 3: NEW_DAYS - 1, 4: -1, 5: 5}
    stock = [item(n, available_from=START_MS - day * DAY_MS) for n, day in days.items()]
    shelves = Shelves([*stock, item(6)])
    assert ids(shelves, shelves.newest(START_MS, 9)) == ["i-1", "i-5", "i-3"]
    assert ids(shelves, shelves.newest(START_MS, 2)) == ["i-1", "i-5"]
    assert ids(shelves, shelves.newest(START_MS - 1, 9)) == ["i-5", "i-3", "i-2"]
