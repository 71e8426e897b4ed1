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
from stream_app.shelves import NEW_DAYS, Shelves
from stream_app.stages.candidates import (
    CONTEXT_BUCKETS,
    LOOKBACK,
    POOL_CONTENT,
    POOL_HERE,
    POOL_MODEL,
    POOL_NEIGHBOURS,
    POOL_NEW,
    POOL_SIZE,
    SEEDS,
    WEIGHTS,
    Tables,
    propose,
)
from stream_app.stages.features import Profile, describe
from stream_app.steps import FEATURE_NAMES, SOURCES, Due, Request, Scorer, Step
from stream_app.tables import (
    CONTEXT_SIZE,
    DAY_S,
    NEIGHBOURS_PRIOR,
    NEWEST_SIZE,
    POPULAR_HALF_LIFE_S,
    REPEATS_SIZE,
    TOP_BYTES_MAX,
    TOP_SIZE,
    TRENDING_HALF_LIFE_S,
    ContextTop,
    ItemFacts,
    Repeats,
    TopLists,
)
from tests.conftest import SETTINGS, START_MS, admitted, lenient, sections

START_S = START_MS // 1000
DAY_MS = 1000 * DAY_S


class Partition:
    """The tables of one partition, fed with steps and the views that stage 4 makes of them."""

    def __init__(
        self,
        settings: StageSettings = SETTINGS,
        items: Iterable[Item] = (),
        ranker: Scorer | None = None,
    ) -> None:
        self.settings, self.ranker = settings, ranker
        self.shelves = Shelves(items)
        self.users = sections("features", Profile.decode)
        self.tables = Tables(
            sections("repeats", Repeats.decode),
            sections("items", ItemFacts.decode),
            sections("contexts", ContextTop.decode),
            sections("top", TopLists.decode),
            "p",
        )

    def feed(self, *steps: Step) -> list[Request]:
        """Return the requests that steps give rise to."""
        views = describe(self.users, steps, self.settings)
        return propose(self.tables, steps, views, self.settings, self.shelves, self.ranker)

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
    over = {"item_id": None, "log_ms": START_MS + int(day * DAY_MS)} | over
    return admitted(type="recommend", user_id=user_id, **over)


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


def test_nearer_items_are_closer_neighbours() -> None:
    """A pair weighs 1 / distance, in places of the history, each item once."""
    partition = Partition()
    partition.feed(*(bought(item, n / 1e6) for n, item in enumerate(["a", "b", "b", "c", "d"])))
    weights = {
        (before, after): facts.weights[facts.neighbours.index(id_hash(after))]
        for before in "abc"
        for after in "bcd"
        if id_hash(after) in (facts := partition.facts(before)).neighbours
    }
    assert weights == pytest.approx(
        {
            ("a", "b"): 1.0 + 1.0,
            ("a", "c"): 1 / 2,
            ("a", "d"): 1 / 3,
            ("b", "c"): 1.0,
            ("b", "d"): 1 / 2,
            ("c", "d"): 1.0,
        },
        rel=1e-4,
    )


def test_newer_items_of_a_history_say_more() -> None:
    """The k-th newest item of a history speaks with a weight of 1 / k."""
    partition = Partition()
    partition.feed(*(bought(item, n / 1e6, "u-1") for n, item in enumerate(["a", "x"])))
    partition.feed(*(bought(item, n / 1e6, "u-2") for n, item in enumerate(["b", "y"])))
    partition.feed(*(bought(item, n / 1e6, "u-3") for n, item in enumerate("ab")))
    (request,) = partition.feed(ask(1e-4, "u-3"))
    follow = {
        item: features[FEATURE_NAMES.index("log_neighbour")]
        for item, features in zip(request.item_ids, request.features, strict=True)
    }
    # From b one went on to y; from a, which is older, one to x, and u-3 itself to b.
    prior = NEIGHBOURS_PRIOR
    assert follow["y"] == pytest.approx(math.log1p(20.0 / (1.0 + prior)), rel=1e-4)
    assert follow["x"] == pytest.approx(math.log1p(20.0 / (2.0 + prior) / 2), rel=1e-4)


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
    """However much there is to choose from, a pool has at most 100 different items."""
    partition = Partition()
    for n in range(150):
        partition.feed(*(bought(f"i-{n}-{user}", n, f"u-{user}") for user in range(3)))
    (request,) = partition.feed(ask(151))
    assert REPEATS_SIZE < len(request.items) <= POOL_SIZE
    assert len(set(request.items)) == len(request.items)
    assert [id_hash(item_id) for item_id in request.item_ids] == list(request.items)
    assert all(len(row) == len(FEATURE_NAMES) for row in request.features)
    assert all(math.isfinite(number) for row in request.features for number in row)


def names(request: Request, item_id: str) -> set[str]:
    """Return the sources of a candidate."""
    bits = request.sources[request.item_ids.index(item_id)]
    return {name for bit, name in SOURCES.items() if bits & bit}


def described(request: Request, item_id: str) -> dict[str, float]:
    """Return the features of a candidate by their names."""
    row = request.features[request.item_ids.index(item_id)]
    return dict(zip(FEATURE_NAMES, row, strict=True))


def counted(request: Request, source: str) -> int:
    """Return how many candidates come from a source."""
    (bit,) = [bit for bit, name in SOURCES.items() if name == source]
    return sum(bool(bits & bit) for bits in request.sources)


def test_sources_fit_a_byte() -> None:
    """The bits of all sources fit the byte that a note keeps of each item."""
    assert sum(SOURCES) < 256
    assert len(set(SOURCES)) == len(SOURCES) == 8


def test_heavy_user_gets_all_sources() -> None:
    """With more in every source than there is room for, the pool is full, and each has a part."""
    shelf = [Item(item_id=f"content-{n}", category=["a", "b"]) for n in range(40)]
    shelf += [Item(item_id="mine", category=["a", "b"])]
    dated = [Item(item_id=f"new-{n}", available_from=START_MS + 16 * DAY_MS) for n in range(9)]
    partition = Partition(items=[*shelf, *dated])
    for n in range(60):
        partition.feed(*[bought(f"popular-{n}", 1, f"u-{user}") for user in range(2, 7)])
        partition.feed(*[bought(f"trending-{n}", 15.9, f"v-{user}") for user in range(2)])
        partition.feed(bought(f"here-{n}", 10, f"w-{n}", category="drinks"))
    for n in range(30, 60):
        followed = [f"own-{n}", *(f"next-{n}-{m}" for m in range(3))]
        partition.feed(*[bought(item, 5 + n / 100, "x") for item in followed])
    partition.feed(*[bought(f"own-{n}", 15 + n / 100) for n in range(60)], bought("mine", 16))
    (request,) = partition.feed(ask(16.1, category="drinks"))
    assert len(request.items) == len(set(request.items)) == POOL_SIZE
    counts = {source: counted(request, source) for source in SOURCES.values()}
    assert counts["repeat"] == REPEATS_SIZE
    assert counts["co-visitation"] >= POOL_NEIGHBOURS
    assert (counts["here"], counts["content"], counts["new"]) == (POOL_HERE, POOL_CONTENT, POOL_NEW)


# --- the catalogue --------------------------------------------------------------------------------

MILK = ["food", "dairy", "milk"]


def test_content_of_a_cold_item() -> None:
    """A catalogue's item that nobody here ever wanted is proposed for its likeness, with zeros."""
    stock = [Item(item_id=name, category=MILK, price=2.0, brand="b") for name in ("i-1", "cold")]
    partition = Partition(items=[*stock, Item(item_id="far", category=["toys"])])
    partition.feed(bought("i-1", -20))
    (request,) = partition.feed(ask())
    assert set(request.item_ids) == {"i-1", "cold"}
    assert names(request, "cold") == {"content"}
    assert request.items[request.item_ids.index("cold")] == id_hash("cold")
    features = described(request, "cold")
    assert features.pop("content") == pytest.approx(1.0)
    assert set(features.values()) == {0.0}
    assert described(request, "i-1")["content"] == 0.0  # not like itself


def test_content_of_the_last_items() -> None:
    """What is like one of the last three items is proposed, what is like an older one is not."""
    stock = [Item(item_id=f"i-{n}", category=[f"c-{n}"]) for n in range(SEEDS + 1)]
    stock += [Item(item_id=f"like-{n}", category=[f"c-{n}"]) for n in range(SEEDS + 1)]
    partition = Partition(items=stock)
    partition.feed(*(bought(f"i-{n}", n / 100) for n in range(SEEDS + 1)))
    (request,) = partition.feed(ask(1))
    proposed = {item_id for item_id in request.item_ids if item_id.startswith("like")}
    assert proposed == {f"like-{n}" for n in range(1, SEEDS + 1)}
    (request,) = partition.feed(ask(1, item_id="i-0"))
    assert "content" in names(request, "like-0")  # asked beside that item


class Proposing:
    """A model that always proposes the same items."""

    name, version = "proposing", "1"

    def __init__(self, *item_ids: str) -> None:
        self._items = tuple(map(id_hash, item_ids))
        self.asked: list[tuple[int, ...]] = []

    def propose(self, history: Sequence[int]) -> tuple[int, ...]:
        """Note the history, and return the items."""
        self.asked.append(tuple(history))
        return self._items

    def scores(
        self,
        history: Sequence[int],  # noqa: ARG002 - a model is given them
        items: Sequence[int],
        features: Sequence[Sequence[float]],  # noqa: ARG002
    ) -> tuple[float, ...]:
        """Return zeros."""
        return (0.0,) * len(items)


def sources_of(request: Request) -> dict[str, set[str]]:
    """Return the sources of each candidate."""
    return {
        item: {name for bit, name in SOURCES.items() if bits & bit}
        for item, bits in zip(request.item_ids, request.sources, strict=True)
    }


def test_model_proposes_what_is_known() -> None:
    """Items of the model are candidates if the log or the catalogue knows them."""
    ranker = Proposing("other", "shelved", "unheard-of", "own")
    partition = Partition(items=[Item(item_id="shelved")], ranker=ranker)
    partition.feed(bought("other", 0, "u-2"), bought("own", 0, "u-1"))
    (request,) = partition.feed(ask(1, "u-1"))
    found = sources_of(request)
    assert {item for item, names in found.items() if "model" in names} == {
        "other",
        "shelved",
        "own",
    }
    assert "repeat" in found["own"]
    assert ranker.asked[-1] == (id_hash("own"),)


def test_model_proposes_so_many_at_most() -> None:
    """Of a longer list the first count."""
    names = [f"m-{n}" for n in range(POOL_MODEL + 5)]
    partition = Partition(items=[Item(item_id=name) for name in names], ranker=Proposing(*names))
    partition.feed(bought("own"))
    (request,) = partition.feed(ask(1))
    assert {item for item, found in sources_of(request).items() if "model" in found} == set(
        names[:POOL_MODEL]
    )


def test_model_proposes_nothing_to_strangers() -> None:
    """Without consent or without a history the model is not asked."""
    ranker = Proposing("other")
    partition = Partition(ranker=ranker)
    partition.feed(bought("other", 0, "u-2"))
    ranker.asked.clear()
    partition.feed(ask(1, "u-1"), ask(1, "u-2", profiled=False))
    assert ranker.asked == []


def test_what_must_not_be_repeated_takes_no_place() -> None:
    """Without repeats the pool is left to others; what was bought is known as such all the same."""
    settings = lenient(allow_repeat=False)
    partition = Partition(settings)
    partition.feed(*(bought(f"r-{n}", n / 1e3) for n in range(3)), bought("other", 0, "u-2"))
    (request,) = partition.feed(ask(1))
    assert not any("repeat" in found for found in sources_of(request).values())
    assert dict(zip(request.item_ids, request.bought, strict=True))["r-0"]
    assert not dict(zip(request.item_ids, request.bought, strict=True))["other"]


def test_content_marks_what_others_propose() -> None:
    """A popular item that is like the last one has both sources, and its similarity."""
    stock = [Item(item_id=name, category=MILK) for name in ("a", "b")]
    partition = Partition(items=stock)
    partition.feed(bought("b", user_id="u-2"), bought("a", 0.1))
    (request,) = partition.feed(ask(0.2))
    assert names(request, "b") >= {"popular", "content"}
    assert described(request, "b")["content"] == pytest.approx(0.5 + 0.1 + 0.15)


def test_unseen_user_who_views_an_item() -> None:
    """A user without any history gets neighbours of the item that is viewed."""
    stock = [Item(item_id=f"i-{n}", category=MILK) for n in range(3)]
    partition = Partition(items=stock)
    (request,) = partition.feed(admitted(item_id="i-0"))
    assert counted(request, "content") == 2
    assert set(request.item_ids) == {"i-0", "i-1", "i-2"}


def test_order_of_the_catalogue_changes_nothing() -> None:
    """Catalogues with the same items give the same requests, whatever order these came in."""
    stock = [
        Item(
            item_id=f"i-{n}",
            category=["a", f"c-{n % 3}"],
            price=float(n % 5),
            available_from=START_MS - n % 4 * DAY_MS,
        )
        for n in range(60)
    ]
    one, other = Partition(items=stock), Partition(items=stock[::-1])
    other.shelves.put(Item(item_id="gone", category=["a", "c-0"]))
    other.shelves.remove("gone")
    steps = [bought(f"i-{n % 7}", n / 10, category="a") for n in range(20)] + [ask(3)]
    assert one.feed(*steps) == other.feed(*steps)


def test_items_not_shown_are_no_content() -> None:
    """What the catalogue hides is proposed neither for its likeness nor as new."""
    over: dict[str, Any] = {"category": MILK, "available_from": START_MS}
    stock = [Item(item_id="seed", **over), Item(item_id="hidden", hidden=True, **over)]
    partition = Partition(items=stock)
    (request,) = partition.feed(bought("seed", 1))
    assert request.item_ids == ("seed",)


# --- new items ------------------------------------------------------------------------------------


def test_new_items_of_the_catalogue() -> None:
    """An item that has just become available is proposed though nobody ever wanted it."""
    stock = [
        Item(item_id=f"{day} days", available_from=START_MS - day * DAY_MS)
        for day in (-1, 0, 3, NEW_DAYS - 1, NEW_DAYS)
    ]
    partition = Partition(items=stock)
    (request,) = partition.feed(ask())
    assert request.item_ids == ("0 days", "3 days", "13 days")
    assert all(names(request, item_id) == {"new"} for item_id in request.item_ids)
    assert described(request, "3 days")["is_new"] == 1.0


def test_new_items_of_the_log() -> None:
    """What was first wanted within 14 days is new, unless the catalogue says that it is older."""
    stock = [Item(item_id="old", available_from=START_MS - 90 * DAY_MS)]
    partition = Partition(items=stock)
    partition.feed(*(bought(f"i-{n}", n, user_id="u-2") for n in range(20)))
    partition.feed(bought("i-0", 20, user_id="u-2"), bought("old", 20, user_id="u-2"))
    (request,) = partition.feed(ask(20))
    newest = {item_id for item_id in request.item_ids if "new" in names(request, item_id)}
    assert newest == {"old", "i-19", "i-18", "i-17", "i-16"}  # as the log has it
    is_new = {name for name in request.item_ids if described(request, name)["is_new"]}
    assert is_new == {f"i-{n}" for n in range(7, 20)}


def test_newest_items_are_bounded() -> None:
    """The log's newest 50 items are kept, each by its first event, and one that expires leaves."""
    partition = Partition()
    for n in range(NEWEST_SIZE + 20):
        partition.feed(bought(f"i-{n}", n / 100), bought("i-0", n / 100))
    top = partition.tables.top.get("p")
    assert isinstance(top, TopLists)
    assert top.newest == {
        id_hash(f"i-{n}"): START_S + int(n / 100 * DAY_MS) // 1000 for n in range(20, 70)
    }
    partition.feed(Due("item", id_hash("i-69"), "expiry", START_MS, START_MS))
    assert id_hash("i-69") not in top.newest


# --- what is wanted in a context ------------------------------------------------------------------


def in_two_places() -> Partition:
    """Return a partition where most buy beer and those in Rome, and in the bakery, buy bread."""
    partition = Partition()
    for n in range(40):
        partition.feed(bought("beer", n / 100, f"u-{n}", category="drinks"))
    for n in range(4):
        over: dict[str, Any] = {"category": "bakery", "context": {"place": "Rome", "x": 1}}
        partition.feed(bought("bread", n / 100, f"v-{n}", **over))
    return partition


@pytest.mark.parametrize("over", [{"category": "bakery"}, {"context": {"place": "Rome"}}])
@pytest.mark.parametrize("profiled", [True, False])
def test_unseen_user_in_a_context(over: dict[str, Any], *, profiled: bool) -> None:
    """Who has no history, or has not consented, is proposed what is popular in the context."""
    (request,) = in_two_places().feed(ask(1, "stranger", profiled=profiled, **over))
    assert names(request, "bread") >= {"here", "popular"}
    assert described(request, "bread")["log_here"] == pytest.approx(math.log1p(1000), abs=1e-3)
    assert names(request, "beer") == {"popular"} | ({"trending", "new"} if profiled else set())
    assert described(request, "beer")["log_here"] == 0.0
    assert request.item_ids[0] == "bread"


@pytest.mark.parametrize("over", [{}, {"category": "toys"}, {"context": {"x": "Rome"}}])
def test_unseen_user_without_a_known_context(over: dict[str, Any]) -> None:
    """Without a context, or in one that nothing is known of, the partition's lists answer."""
    (request,) = in_two_places().feed(ask(1, "stranger", **over))
    assert request.item_ids == ("beer", "bread")
    assert counted(request, "here") == 0
    assert counted(request, "popular") == counted(request, "trending") == 2


def test_context_of_no_place_is_the_category() -> None:
    """The category goes before the place; a category without rows leaves it to the place."""
    partition = in_two_places()
    both: dict[str, Any] = {"context": {"place": "Rome"}}
    (request,) = partition.feed(ask(1, category="drinks", **both))
    assert "here" in names(request, "beer")
    assert "here" not in names(request, "bread")
    (request,) = partition.feed(ask(1, category="toys", **both))
    assert "here" in names(request, "bread")


def test_context_field_is_a_setting() -> None:
    """Another field of the context can say where the user is; numbers will do."""
    partition = Partition(lenient(context_field="store"))
    partition.feed(bought("bread", 0, "v-1", context={"store": 7, "place": "Rome"}))
    (request,) = partition.feed(ask(1, "stranger", context={"store": 7}))
    assert "here" in names(request, "bread")
    (request,) = partition.feed(ask(1, "stranger", context={"place": "Rome"}))
    assert "here" not in names(request, "bread")


def test_contexts_are_bounded() -> None:
    """However many categories and places there are, 256 rows hold them, of 20 items each."""
    partition = Partition()
    buckets = set()
    for n in range(2_000):
        over: dict[str, Any] = {"category": f"c-{n}", "context": {"place": n}}
        partition.feed(bought(f"i-{n}", n / 1_000, **over))
    for bucket, wanted in partition.tables.contexts.scan():
        buckets.add(bucket)
        assert len(wanted.scores) <= CONTEXT_SIZE
    assert buckets <= set(range(CONTEXT_BUCKETS))
    assert len(buckets) > CONTEXT_BUCKETS * 0.9


def test_contexts_without_consent() -> None:
    """What users do who have not consented counts in no context."""
    partition = Partition()
    partition.feed(bought("bread", profiled=False, category="bakery"))
    assert list(partition.tables.contexts.scan()) == []


def test_candidates_without_consent_are_not_personal() -> None:
    """Without consent neither the event's item nor what is new is used: only what is popular."""
    stock = [Item(item_id=f"i-{n}", category=MILK, available_from=START_MS) for n in range(4)]
    partition = Partition(items=stock)
    partition.feed(bought("i-1", user_id="u-2", category="dairy"))
    (request,) = partition.feed(ask(1, profiled=False, item_id="i-0", category="dairy"))
    assert request.item_ids == ("i-1",)
    assert names(request, "i-1") == {"popular", "here"}
    assert described(request, "i-1")["content"] == 0.0
