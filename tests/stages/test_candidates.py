"""Stage 7: what follows what, what is wanted, when to recommend, and what is proposed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.config import StageSettings
from stream_app.event import Item
from stream_app.hashing import id_hash
from stream_app.shelves import Shelves
from stream_app.stages.candidates import LOOKBACK, POOL_SIZE, WEIGHTS, Tables, propose
from stream_app.stages.features import Profile, describe
from stream_app.steps import FEATURE_NAMES, SOURCES, Due, Request, Step
from stream_app.tables import (
    DAY_S,
    POPULAR_HALF_LIFE_S,
    REPEATS_SIZE,
    TOP_BYTES_MAX,
    TOP_SIZE,
    TRENDING_HALF_LIFE_S,
    HeavyHitters,
    ItemFacts,
    Repeats,
    TopLists,
)
from tests.conftest import SETTINGS, START_MS, admitted, lenient, sections

START_S = START_MS // 1000
DAY_MS = 1000 * DAY_S


class Partition:
    """The tables of one partition, fed with steps and the views that stage 4 makes of them."""

    def __init__(self, settings: StageSettings = SETTINGS, items: Iterable[Item] = ()) -> None:
        self.settings = settings
        self.shelves = Shelves(items)
        self.users = sections("features", Profile.decode)
        self.tables = Tables(
            sections("repeats", Repeats.decode),
            sections("items", ItemFacts.decode),
            sections("contexts", HeavyHitters.decode),
            sections("top", TopLists.decode),
            "p",
        )

    def feed(self, *steps: Step) -> list[Request]:
        """Return the requests that steps give rise to."""
        views = describe(self.users, steps, self.settings)
        return propose(self.tables, steps, views, self.settings, self.shelves)

    def facts(self, item_id: str) -> ItemFacts:
        """Return what is known of an item."""
        facts: ItemFacts | None = self.tables.items.get(id_hash(item_id))
        assert facts is not None
        return facts


def bought(item_id: str, day: float = 0, user_id: str = "u-1", **over: Any) -> Step:
    """Return a purchase, so many days after the start."""
    log_ms = START_MS + int(day * DAY_MS)
    return admitted(type="purchase", item_id=item_id, user_id=user_id, log_ms=log_ms, **over)


def ask(day: float = 0, user_id: str = "u-1", **over: Any) -> Step:
    """Return a request for recommendations, so many days after the start."""
    log_ms = START_MS + int(day * DAY_MS)
    return admitted(type="recommend", item_id=None, user_id=user_id, log_ms=log_ms, **over)


# --- what users went on to ----------------------------------------------------------------------


def test_neighbours_are_the_items_that_came_next() -> None:
    """An item is a neighbour of the last ten others, once each, and of nothing older."""
    partition = Partition()
    for n in range(LOOKBACK + 2):
        partition.feed(bought(f"i-{n}", n / 100))
    last = id_hash(f"i-{LOOKBACK + 1}")
    assert last not in partition.facts("i-0").neighbours
    for n in range(1, LOOKBACK + 1):
        assert last in partition.facts(f"i-{n}").neighbours
    assert id_hash("i-1") in partition.facts("i-0").neighbours
    assert not partition.facts(f"i-{LOOKBACK + 1}").neighbours


def test_neighbours_of_a_late_event() -> None:
    """A late event says nothing of what came next."""
    partition = Partition()
    partition.feed(bought("i-1"), bought("i-2", 1, timestamp=START_MS, late=True))
    assert not partition.facts("i-1").neighbours


# --- what is wanted -----------------------------------------------------------------------------

Wants = Sequence[tuple[int, str, int]]  # number of the item, type of event, hours since the last


def top_by_brute_force(wants: Wants, half_life_s: float) -> tuple[dict[int, float], float]:
    """Return every item's decayed count, all terms added up, and the total, at the last event."""
    counts: dict[int, float] = {}
    now_s = sum(hours for _, _, hours in wants) * 3_600
    second = 0
    for number, kind, hours in wants:
        second += hours * 3_600
        item = id_hash(f"i-{number}")
        weight = WEIGHTS[kind] * 2.0 ** ((second - now_s) / half_life_s)
        counts[item] = counts.get(item, 0.0) + weight
    return counts, sum(counts.values())


@given(
    st.lists(
        st.tuples(st.integers(0, 140), st.sampled_from(sorted(WEIGHTS)), st.integers(0, 20)),
        min_size=110,
        max_size=220,
    )
)
def test_top_lists_are_exact(wants: Wants) -> None:
    """The top lists hold the 100 items with the highest decayed counts, and those counts."""
    partition = Partition()
    hour = 0
    for number, kind, hours in wants:
        hour += hours
        log_ms = START_MS + hour * 3_600_000
        partition.feed(admitted(type=kind, item_id=f"i-{number}", log_ms=log_ms))
    top = partition.tables.top.get("p")
    assert isinstance(top, TopLists)
    for listed, total, half_life_s in (
        (top.popular, top.popular_total, POPULAR_HALF_LIFE_S),
        (top.trending, top.trending_total, TRENDING_HALF_LIFE_S),
    ):
        counts, everything = top_by_brute_force(wants, half_life_s)
        now = (START_S + hour * 3_600) / half_life_s
        assert len(listed) == min(TOP_SIZE, len(counts))
        assert total - now == pytest.approx(math.log2(everything), abs=1e-6)
        for item, score in listed.items():
            assert score - now == pytest.approx(math.log2(counts[item]), abs=1e-6)
        outside = [counts[item] for item in counts.keys() - listed.keys()]
        lowest = min(counts[item] for item in listed)
        assert all(count <= lowest * (1 + 1e-6) for count in outside)
    data = top.encode()
    assert len(data) <= TOP_BYTES_MAX
    assert TopLists.decode(data).encode() == data


@pytest.mark.parametrize("kind", ["expiry", "evict"])
def test_item_that_leaves_is_forgotten(kind: str) -> None:
    """An item that expires or makes room leaves its row, the top lists and all answers."""
    partition = Partition()
    partition.feed(bought("i-1"), bought("i-2"))
    item = id_hash("i-1")
    partition.feed(Due("item", item, kind, START_MS, START_MS))
    assert partition.tables.items.get(item) is None
    top = partition.tables.top.get("p")
    assert isinstance(top, TopLists)
    assert top.popular.keys() == top.trending.keys() == {id_hash("i-2")}
    (request,) = partition.feed(ask())
    assert request.item_ids == ("i-2",)


def test_user_who_expires_is_forgotten() -> None:
    """A user's repeats end with the user, while what was learnt of the items stays."""
    partition = Partition()
    partition.feed(bought("i-1"), Due("user", "u-1", "expiry", START_MS, START_MS))
    assert partition.tables.repeats.get("u-1") is None
    assert partition.facts("i-1").item_id == "i-1"


# --- whether to recommend -----------------------------------------------------------------------


@given(st.lists(st.integers(0, 150), max_size=30), st.sampled_from([0, 60]))
def test_recommendations_are_debounced(gaps: Sequence[int], debounce: int) -> None:
    """A user gets an unasked recommendation unless one came less than the debounce before."""
    partition = Partition(lenient(debounce_seconds=debounce))
    partition.feed(bought("i-0", -1, user_id="another"))
    second, answered, expected, got = 0, -debounce, [], []
    for gap in gaps:
        second += gap
        step = admitted(log_ms=START_MS + 1000 * second)
        got += [request.arrival.time_ms for request in partition.feed(step)]
        if second >= answered + debounce:
            answered = second
            expected.append(START_MS + 1000 * second)
    assert got == expected


@pytest.mark.parametrize("kind", ["search", "comment", "share", "click", "impression"])
def test_recommendations_follow_no_other_events(kind: str) -> None:
    """Nothing but what settings name prompts a recommendation that nobody asked for."""
    partition = Partition()
    assert partition.feed(bought("i-1", -1), admitted(type=kind))[1:] == []
    none = Partition(lenient(recommend_on=frozenset()))
    assert none.feed(admitted(type="view"), admitted(type="purchase")) == []


def test_recommendations_follow_no_late_event() -> None:
    """A late event is counted and gets no unasked recommendation; an explicit request gets one."""
    partition = Partition()
    assert partition.feed(bought("i-1", late=True)) == []
    assert partition.facts("i-1").popular > 0
    assert len(partition.feed(ask(late=True))) == 1


def test_recommend_is_always_answered() -> None:
    """Every request is answered: at once, again, without consent, with nothing to recommend."""
    partition = Partition()
    (empty,) = partition.feed(ask())
    assert (empty.items, empty.item_ids) == ((), ())
    assert len(partition.feed(ask(), ask(), ask())) == 3
    first, second = partition.feed(bought("i-1"), ask())
    assert (first.step, second.step) == (0, 1)
    assert (first.asked, second.asked) == (False, True)
    (stranger,) = partition.feed(ask(profiled=False, user_id="u-2"))
    assert stranger.item_ids == ("i-1",)


def test_recommend_does_not_use_up_the_debounce() -> None:
    """An answer to a request does not put off the next recommendation that nobody asked for."""
    partition = Partition()
    partition.feed(bought("i-1", -1))
    assert len(partition.feed(ask(), admitted())) == 2


def test_candidates_without_consent() -> None:
    """Without consent there are popular items only, no profile, and no unasked recommendation."""
    partition = Partition()
    partition.feed(*(bought(f"i-{n}", n / 100, user_id="u-2") for n in range(5)))
    assert partition.feed(admitted(profiled=False)) == []
    (request,) = partition.feed(ask(profiled=False))
    assert set(request.sources) == {8}
    assert request.view.items == ()
    assert not any(request.bought)


# --- the candidates -----------------------------------------------------------------------------


def test_candidates_have_sources_and_features() -> None:
    """Each candidate says where it came from, with the features of that."""
    partition = Partition()
    partition.feed(*(bought(item, day, "u-2") for day, item in enumerate(["a", "b", "c"])))
    partition.feed(*(bought("a", day) for day in (10, 14, 18)))
    (request,) = partition.feed(ask(20))
    by_id = dict(zip(request.item_ids, request.sources, strict=True))
    names = {
        item: {name for bit, name in SOURCES.items() if bits & bit} for item, bits in by_id.items()
    }
    assert names == {
        "a": {"repeat", "trending", "popular"},
        "b": {"co-visitation", "trending", "popular"},
        "c": {"co-visitation", "trending", "popular"},
    }
    place = request.item_ids.index("a")
    features = dict(zip(FEATURE_NAMES, request.features[place], strict=True))
    assert request.bought[place]
    assert features["gap_days"] == pytest.approx(4.0)
    assert (features["has_gap"], features["in_repeat"]) == (1.0, 1.0)
    assert features["recency_days"] == pytest.approx(2.0)
    assert features["due"] == pytest.approx(0.5)
    assert features["overdue"] == 0.0
    count = sum(2.0 ** ((day - 20) / 60) for day in (10, 14, 18))
    assert features["log_count"] == pytest.approx(math.log1p(count), rel=1e-5)
    stranger = dict(zip(FEATURE_NAMES, request.features[1 - place], strict=True))
    assert stranger["log_neighbour"] > 0.0
    assert stranger["log_count"] == 0.0


def test_candidates_are_bounded_and_distinct() -> None:
    """However much there is to choose from, a pool has at most 80 different items."""
    partition = Partition()
    for n in range(150):
        partition.feed(*(bought(f"i-{n}-{user}", n, f"u-{user}") for user in range(3)))
    (request,) = partition.feed(ask(151))
    assert REPEATS_SIZE < len(request.items) <= POOL_SIZE
    assert len(set(request.items)) == len(request.items)
    assert [id_hash(item_id) for item_id in request.item_ids] == list(request.items)
    assert all(len(row) == len(FEATURE_NAMES) for row in request.features)
    assert all(math.isfinite(number) for row in request.features for number in row)
