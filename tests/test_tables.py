"""The bounded tables that candidates come from."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.tables import (
    CONTEXT_BYTES_MAX,
    CONTEXT_HALF_LIFE_S,
    CONTEXT_SIZE,
    DAY_S,
    ITEM_BYTES_MAX,
    NEIGHBOUR_HALF_LIFE_S,
    NEIGHBOURS_SIZE,
    NEWEST_SIZE,
    REPEAT_HALF_LIFE_S,
    REPEATS_BYTES_MAX,
    REPEATS_SIZE,
    TOP_BYTES_MAX,
    TOP_SIZE,
    ContextTop,
    ItemFacts,
    Repeats,
    TopLists,
)
from tests.conftest import START_MS

START_S = START_MS // 1000

# --- what a user buys again ---------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 79), st.integers(0, 20)), min_size=60, max_size=160))
def test_repeats_lose_the_lowest_decayed_count(purchases: Sequence[tuple[int, int]]) -> None:
    """At most 50 items stay; the one that leaves for another has the lowest decayed count."""
    repeats = Repeats.decode(b"")
    model: dict[int, list[int]] = {}  # of each item the seconds of its purchases
    second = START_S

    def decayed(item: int) -> float:
        return math.fsum(2.0 ** ((at - second) / REPEAT_HALF_LIFE_S) for at in model[item])

    for item, days in purchases:
        second += days * DAY_S + 3_601
        repeats.update(item, second)
        held = set(repeats.items)
        if item not in model and len(model) == REPEATS_SIZE:
            (left,) = model.keys() - held
            assert decayed(left) <= min(map(decayed, model)) * (1 + 1e-5)
            del model[left]
        model.setdefault(item, []).append(second)
        assert held == model.keys()
        assert len(repeats.items) == len(held) <= REPEATS_SIZE
    last = dict(zip(repeats.items, repeats.last_s, strict=True))
    assert last == {item: at[-1] for item, at in model.items()}
    for item, count, at in zip(repeats.items, repeats.counts, repeats.last_s, strict=True):
        faded = count * 2.0 ** ((at - second) / REPEAT_HALF_LIFE_S)
        assert math.isclose(faded, decayed(item), rel_tol=1e-4)
    assert len(repeats.encode()) <= REPEATS_BYTES_MAX


def test_repeats_ties_go_by_hash() -> None:
    """Of equal counts the item with the lowest hash leaves, in whatever order they came."""
    repeats = Repeats.decode(b"")
    for item in range(REPEATS_SIZE, 0, -1):
        repeats.update(item, START_S)
    repeats.update(99, START_S)
    assert set(repeats.items) == {*range(2, REPEATS_SIZE + 1), 99}


def test_repeats_count_a_shopping_trip_once() -> None:
    """Purchases of an item within an hour count once; gaps are averaged towards the newest."""
    repeats = Repeats.decode(b"")
    for second in (0, 3_600, 4 * DAY_S, 4 * DAY_S + 60, 14 * DAY_S):
        repeats.update(7, START_S + second)
    faded = 2.0 ** (-4 / 60)
    expected = (1.0 * faded + 1.0) * 2.0 ** (-10 / 60) + 1.0
    assert math.isclose(repeats.counts[0], expected, rel_tol=1e-6)
    assert math.isclose(repeats.gaps[0], 4 + 0.3 * (10 - 4), rel_tol=1e-6)


def test_repeats_of_a_late_purchase() -> None:
    """A purchase older than the last counts for what is left of it, and the last stays the last."""
    repeats = Repeats.decode(b"")
    repeats.update(7, START_S + 60 * DAY_S)
    repeats.update(7, START_S)
    assert (repeats.counts[0], repeats.last_s[0]) == (1.5, START_S + 60 * DAY_S)
    assert repeats.gaps[0] == -1


# --- what users went on to from an item ---------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), max_size=90))
def test_neighbours_are_bounded(transitions: Sequence[tuple[int, int]]) -> None:
    """An item has at most 20 neighbours, their weights make up no more than the total."""
    facts = ItemFacts.decode(b"")
    facts.item_id = "\U0001f600" * 128
    day = 0
    for item, days in transitions:
        day += days
        facts.went_on_to(item, START_S + day * DAY_S // 4, 0.5)
        assert len(facts.neighbours) == len(set(facts.neighbours)) <= NEIGHBOURS_SIZE
        assert item in facts.neighbours
        assert sum(facts.weights) <= facts.outgoing[0] * (1 + 1e-5)
        assert math.isfinite(facts.outgoing[0])
    data = facts.encode()
    assert len(data) <= ITEM_BYTES_MAX
    assert ItemFacts.decode(data).encode() == data


def test_neighbours_share_the_transitions() -> None:
    """Neighbour weights halve in ninety days, relative to newer ones."""
    facts = ItemFacts.decode(b"")
    facts.went_on_to(1, START_S, 1.0)
    facts.went_on_to(2, START_S + NEIGHBOUR_HALF_LIFE_S, 1.0)
    shares = [weight / facts.outgoing[0] for weight in facts.weights]
    assert shares == pytest.approx([1 / 3, 2 / 3])


def test_neighbour_that_comes_in_brings_its_own_weight() -> None:
    """The lightest neighbour gives its place to a newcomer, and none of its weight."""
    facts = ItemFacts.decode(b"")
    for item in range(NEIGHBOURS_SIZE):
        facts.went_on_to(item, START_S, 1.0 if item == 7 else 2.0)
    facts.went_on_to(99, START_S, 0.5)
    assert facts.neighbours[7] == 99
    assert facts.weights[7] == 0.5
    assert facts.outgoing[0] == 2.0 * (NEIGHBOURS_SIZE - 1) + 1.0 + 0.5


def test_neighbours_after_decades() -> None:
    """Rescaling keeps weights finite and shares right over the century that times may span."""
    facts = ItemFacts.decode(b"")
    for years in range(0, 100, 2):
        facts.went_on_to(years, 946_684_800 + years * 365 * DAY_S, 1.0)
    assert math.isfinite(facts.outgoing[0])
    newest = facts.weights[facts.neighbours.index(98)] / facts.outgoing[0]
    assert newest == pytest.approx(1 - 2.0 ** (-730 / 90), rel=1e-3)


# --- what is wanted: the lists against brute force stand in the tests of stage 7 ----------------


def listed(count: int) -> TopLists:
    """Return top lists that have counted so many items once, all in the same second."""
    top = TopLists.decode(b"")
    for item in range(count):
        top.count(item, ItemFacts.decode(b""), START_S, 1.0)
    return top


def test_top_lists_ties_go_by_hash() -> None:
    """Of equal scores the highest hashes stay, in whatever order they come."""
    top = listed(TOP_SIZE + 5)
    assert top.popular.keys() == top.trending.keys() == set(range(5, TOP_SIZE + 5))
    for item in range(5):
        top.count(item, ItemFacts.decode(b""), START_S, 1.0)
    assert top.popular.keys() == set(range(5, TOP_SIZE + 5))


def test_top_lists_without_an_item() -> None:
    """A removed item leaves both lists, and one that is not listed does no harm."""
    top = listed(3)
    top.remove(1)
    top.remove(99)
    assert top.popular.keys() == top.trending.keys() == {0, 2}


# --- what is wanted in a context ----------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2 * DAY_S)), min_size=1, max_size=300),
    st.sampled_from([0.1, 1.0]),
)
def test_context_top_keeps_what_is_wanted_most(
    events: Sequence[tuple[int, int]], weight: float
) -> None:
    """Counts are of all events since an item came in last; the lowest leaves for one that is not.

    Shares are of all that was ever counted, and never too high.
    """
    top = ContextTop.decode(b"")
    second, everything = START_S, 0.0
    since, ever = dict[int, float](), dict[int, float]()
    for number, gap_s in events:
        item = number * number // 60  # some are wanted far more often
        second += gap_s
        unit = weight * 2.0 ** ((second - START_S) / CONTEXT_HALF_LIFE_S)
        everything += unit
        ever[item] = ever.get(item, 0.0) + unit
        if item not in since and len(since) == CONTEXT_SIZE:
            scores = {other: top.scores[other] for other in since}
            del since[min(since, key=lambda other: (scores[other], other))]
        since[item] = since.get(item, 0.0) + unit
        top.count(item, second, weight)
        assert top.scores.keys() == since.keys()
        assert len(top.scores) <= CONTEXT_SIZE
    shares = top.shares()
    assert shares == pytest.approx({item: count / everything for item, count in since.items()})
    assert all(share <= ever[item] / everything + 1e-9 for item, share in shares.items())
    assert len(top.encode()) <= CONTEXT_BYTES_MAX
    assert ContextTop.decode(top.encode()) == top


def test_context_top_of_equal_counts() -> None:
    """Of equal counts that of the lowest hash leaves, in whatever order they came."""
    for order in (range(CONTEXT_SIZE), reversed(range(CONTEXT_SIZE))):
        top = ContextTop.decode(b"")
        for item in order:
            top.count(item, START_S, 1.0)
        top.count(99, START_S, 1.0)
        assert top.scores.keys() == {*range(1, CONTEXT_SIZE), 99}
        assert top.shares()[99] == pytest.approx(1 / (CONTEXT_SIZE + 1))


def test_newest_ties_go_by_hash() -> None:
    """Of the items that came in one second the highest hashes stay; an older one does not enter."""
    top = TopLists.decode(b"")
    for item in reversed(range(NEWEST_SIZE + 5)):
        top.enter(item, START_S)
    top.enter(10_000, START_S - 1)
    assert top.newest == dict.fromkeys(range(5, NEWEST_SIZE + 5), START_S)
    assert len(top.encode()) <= TOP_BYTES_MAX
    assert TopLists.decode(top.encode()) == top
    top.remove(7)
    assert 7 not in top
    assert 8 in top
