"""Requests as arrays, and the vocabulary."""

from pathlib import Path

import numpy as np
import pytest

from models import data
from models.data import (
    SERVED,
    Requests,
    Vocabulary,
    collect,
    count_items,
    merge,
    replay,
    vocabulary,
)
from models.replay import baskets, questioned
from stream_app.event import Event
from stream_app.hashing import id_hash
from stream_app.manifest import FIRST_ITEM, PADDING, UNKNOWN
from stream_app.pipeline import Context
from stream_app.steps import FEATURE_NAMES
from tests.training.shop import requests

MONDAY_MS = 1_500_000_000_000
HOUR_MS = 3_600_000


def line(user: str, item: str, hour: int) -> Event:
    """Return a purchase; one order an hour."""
    return Event(
        event_id=f"{user}-{item}-{hour}",
        type="purchase",
        user_id=user,
        timestamp=MONDAY_MS + hour * HOUR_MS,
        item_id=item,
        order_id=f"{user}-{hour}",
    )


EVENTS = [
    line("1", "milk", 0),
    line("1", "bread", 0),
    line("2", "milk", 5),
    line("1", "milk", 30),
    line("1", "eggs", 30),
]


def test_baskets_keep_their_lines_together() -> None:
    """Lines of an order make a basket."""
    assert [(b.user, len(b.lines)) for b in baskets(EVENTS)] == [("1", 2), ("2", 1), ("1", 2)]


def test_questions_come_before_their_baskets_from_a_time_on() -> None:
    """A question stands 1 ms before its basket, and only where one is asked for."""
    from_ms = MONDAY_MS + 5 * HOUR_MS
    kinds = [(event.type, time_ms) for event, time_ms, _ in questioned(baskets(EVENTS), from_ms)]
    asked = [time_ms for kind, time_ms in kinds if kind == "recommend"]
    assert asked == [from_ms - 1, MONDAY_MS + 30 * HOUR_MS - 1]
    assert kinds[2] == ("recommend", from_ms - 1)


def test_a_request_knows_the_past_and_not_its_basket() -> None:
    """What is collected: the history before the basket, its candidates, and which were bought."""
    pairs = list(replay(baskets(EVENTS), 0, Context(SERVED, 1), MONDAY_MS + 1))
    found = collect(pairs).before_baskets()
    assert len(found) == 2
    milk, bread, eggs = map(id_hash, ("milk", "bread", "eggs"))
    last = found.history[1]
    assert last[-2:].tolist() == [milk, bread]
    assert not last[:-2].any()
    pool = found.candidates[1].tolist()
    assert {milk, bread} <= set(pool)
    assert eggs not in pool
    assert found.bought[1].nonzero()[0].tolist() == [pool.index(milk)]
    assert set(found.targets[found.starts[1] :].tolist()) == {milk, eggs}
    row = dict(zip(FEATURE_NAMES, found.features[1, pool.index(milk)].tolist(), strict=True))
    assert row["in_repeat"] == 1.0
    assert abs(row["recency_days"] - 30 / 24) < 1e-3


def test_a_first_purchase_prompts_a_request_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows what was just bought, and wants what is left; one line leaves nothing."""
    monkeypatch.setattr(data, "PROMPTED_SHARE", 1.0)
    pairs = list(replay(baskets(EVENTS), 0, Context(SERVED, 1), MONDAY_MS + 1))
    assert [request.asked for request, _ in pairs] == [True, True, False]
    found = collect(pairs)
    milk, eggs = map(id_hash, ("milk", "eggs"))
    assert found.history[2, -1] == milk
    assert found.targets[found.starts[2] :].tolist() == [eggs]
    assert not found.bought[2, found.candidates[2].tolist().index(milk)]


def test_requests_survive_the_disk_and_being_cut_and_joined(tmp_path: Path) -> None:
    """Saved and loaded, cut in two and joined, taken apart and merged, they are the same."""
    whole = requests(20)
    whole.save(tmp_path / "requests.npz")
    early, late = whole.between(0, 9_000), whole.between(9_000, 99_000)
    assert (len(early), len(late)) == (9, 11)
    for other in (
        Requests.load(tmp_path / "requests.npz"),
        early.followed_by(late),
        merge([late, early]),
    ):
        for name in whole.__struct_fields__:
            assert np.array_equal(getattr(whole, name), getattr(other, name)), name


def test_tokens_of_known_unknown_and_no_items() -> None:
    """Items have tokens by their place; others share one; padding has its own."""
    words = Vocabulary(["b", "a"])
    hashes = np.array([[id_hash("a"), id_hash("b"), id_hash("c"), 0]], np.uint64)
    assert words.tokens(hashes).tolist() == [[FIRST_ITEM + 1, FIRST_ITEM, UNKNOWN, PADDING]]
    assert words.size == 4


def test_vocabulary_takes_what_was_bought_often_enough() -> None:
    """The most bought come first, ties by id; rare items are left out."""
    counts = count_items(EVENTS)
    assert counts == {"milk": 3, "bread": 1, "eggs": 1}
    assert vocabulary(counts, least=1).item_ids == ["milk", "bread", "eggs"]
    assert vocabulary(counts, least=2).item_ids == ["milk"]
