"""Figures of rankings and predictions by hand, and the report that is made of them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models import evaluation, evaluation_page, report
from models.baselines import BASELINES
from models.data import Requests
from models.evaluate import (
    MEASURES,
    accuracy,
    coverage,
    gains,
    quality,
    ratios,
    self_information,
    top,
)
from models.evaluation import Evaluation
from models.evaluation_behavior import (
    FORETELLING,
    STREAM,
    TRUTH,
    Case,
    Cases,
    Watcher,
    best_threshold,
    synthetic,
)
from models.evaluation_behavior import judge as judge_behavior
from models.evaluation_behavior import quality as behavior_quality
from models.evaluation_ranking import judge as judge_ranking
from models.evaluation_ranking import read_shop
from models.replay import Partition
from models.train import Epoch, TrainSettings, build
from stream_app.config import DAY_MS
from stream_app.event import Event, encode, to_ms
from stream_app.hashing import id_hash
from stream_app.judge import Judge, Kind
from stream_app.pipeline import Context, Outputs
from stream_app.sources.synthetic import SyntheticShop
from stream_app.steps import FEATURE_NAMES
from tests.training.shop import ITEMS, VOCABULARY, requests


def purchase(user: str, day: float, item: str = "a") -> Event:
    """Return a purchase; a day is one since the epoch."""
    return Event(
        event_id=f"{user}-{day}",
        type="purchase",
        user_id=user,
        timestamp=int(day * DAY_MS),
        item_id=item,
        order_id=f"{user}-{day}",
    )


# --- rankings -------------------------------------------------------------------------------------


def test_gains_by_hand() -> None:
    """Two of four items bought stand at places 1 and 3 of the ranking."""
    candidates = np.arange(1, 13, dtype=np.uint64)[None]
    scores = -np.arange(12.0)[None]
    bought = np.zeros((1, 12), np.bool_)
    bought[0, [0, 2, 11]] = True
    recall, hit, ndcg = gains(scores, candidates, bought, np.array([4]))[0]
    assert (recall, hit) == (0.5, 1.0)
    ideal = sum(1 / np.log2(place + 2) for place in range(4))
    assert abs(ndcg - (1 + 1 / 2) / ideal) < 1e-12


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [
        # The right places are 2 and 4, the basket has three items: 1 / log2(3) = .63093.
        (2, (1 / 3, 1 / 2, 2 / 5, 0.63093 / (1 + 0.63093), 1 / 2)),
        (4, (2 / 3, 2 / 4, 4 / 7, (0.63093 + 0.43068) / (1 + 0.63093 + 0.5), 1 / 2)),
        # Fewer candidates than places: precision still divides by the depth.
        (5, (2 / 3, 2 / 5, 4 / 8, (0.63093 + 0.43068) / (1 + 0.63093 + 0.5), 1 / 2)),
        (1, (0.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_accuracy_by_hand(depth: int, wanted: tuple[float, ...]) -> None:
    """Recall, precision, F1, NDCG and reciprocal rank are what they come to on paper."""
    right = np.array([[False, True, False, True]])
    assert accuracy(right, np.array([3]), depth)[0] == pytest.approx(wanted, abs=1e-5)


def test_coverage_and_novelty_by_hand() -> None:
    """Two of the four known items are shown; one bought in 2 of 16 purchases has 3 bits."""
    shown = np.array([[7, 8], [7, 99]], np.uint64)
    assert coverage(shown, np.array([6, 7, 8, 9], np.uint64)) == 0.5
    assert self_information(np.array([2, 16, 0]), 16).tolist() == [3.0, 0.0, 4.0]


def test_ties_go_by_hash_and_padding_is_last() -> None:
    """Equal scores stand by the hash; a place without an item never comes before one with."""
    candidates = np.array([[5, 3, 0, 9]], np.uint64)
    assert top(np.array([[1.0, 1.0, 7.0, 2.0]]), candidates).tolist() == [[3, 1, 0, 2]]


def test_interval_holds_the_mean_and_draws_users() -> None:
    """With one user there is nothing to draw, so the interval is the mean."""
    each = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    one = quality(each, np.array([4, 4], np.int32))
    assert one.recall_at_10 == 0.5
    assert one.recall_interval == (0.5, 0.5)
    two = quality(each, np.array([4, 5], np.int32))
    assert two.recall_interval == (0.0, 1.0)


def test_ratio_to_nothing_is_nan() -> None:
    """A part that no user has a request in has no figure, and does not spoil the others."""
    value, low, high = ratios(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 0.0]] * 2))
    assert (value[0], low[0], high[0]) == (0.5, 0.5, 0.5)
    assert np.isnan([value[1], low[1], high[1]]).all()


def two_requests() -> Requests:
    """Return one of user 1 for a basket of a and b, and one of user 2 for c; e is not proposed."""
    a, b, c, d, e = (id_hash(name) for name in "abcde")
    candidates = np.array([[a, b, c, d], [a, b, c, 0]], np.uint64)
    return Requests(
        user=np.array([1, 2], np.int32),
        time_ms=np.array([40 * DAY_MS, 41 * DAY_MS]) - 1,  # just before the baskets
        asked=np.ones(2, np.bool_),
        history=np.zeros((2, 50), np.uint64),
        candidates=candidates,
        features=np.zeros((2, 4, len(FEATURE_NAMES)), np.float32),
        bought=np.array([[True, True, False, False], [False, False, True, False]]),
        targets=np.array([a, b, e, c], np.uint64),
        starts=np.array([0, 3, 4]),
    )


def test_rankings_by_hand() -> None:
    """Who is active, how old an item is, and what is popular come from the shop's purchases."""
    events = [
        *(purchase("1", day, "a") for day in range(11)),  # a is 40 days old, bought 11 times
        purchase("1", 20, "b"),
        purchase("1", 40, "e"),  # in the basket itself
        purchase("2", 35, "d"),
        purchase("2", 41, "c"),
    ]
    shop = read_shop(events, until_ms=40 * DAY_MS)
    judged = two_requests()
    scores = {
        "first": np.array([[4.0, 3, 2, 1], [4, 3, 2, 1]]),
        "last": np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]]),
    }
    found = judge_ranking(judged, scores, shop)
    first, last = found.models["first"], found.models["last"]
    assert (found.requests, found.users, found.known) == (2, 2, 3)
    assert found.reachable == pytest.approx((2 / 3 + 1) / 2, abs=1e-5)
    assert first.measures["recall@10"].value == pytest.approx((2 / 3 + 1) / 2, abs=1e-5)
    assert first.measures["mrr@5"].value == pytest.approx((1 + 1 / 3) / 2, abs=1e-5)
    assert last.measures["mrr@5"].value == pytest.approx((1 / 3 + 1) / 2, abs=1e-5)
    assert first.curve["1"].value == pytest.approx((1 / 3 + 0) / 2, abs=1e-5)
    assert first.lead["recall@10"].value == last.lead["recall@10"].value == 0.0
    assert first.coverage == 1.0
    # Of 13 purchases before, a has 11, b and d one each; c, never bought before, counts as one.
    bits = [np.log2(13 / 11), *[np.log2(13)] * 3, np.log2(13 / 11), *[np.log2(13)] * 2]
    assert first.measures["novelty@10"].value == pytest.approx(np.mean(bits), abs=1e-5)
    assert found.parts["activity"] == {"up to 4": 1, "over 8": 1}
    assert first.activity["over 8"].value == pytest.approx(2 / 3, abs=1e-5)
    ages = {"never before": 2, "< 4 weeks": 1, "4-12 weeks": 1, "12-26 weeks": 0, "> 26 weeks": 0}
    assert found.parts["age"] == ages
    assert first.age["never before"].value == 0.5, "c is proposed, e is not"
    assert first.age["> 26 weeks"].value is None
    assert {name: each for name, each in found.parts["popularity"].items() if each} == {
        "0": 2,
        "1-9": 1,
        "10-99": 1,
    }


# --- predictions ----------------------------------------------------------------------------------


def loyal_and_lost() -> Iterator[Event]:
    """Yield purchases of 14 users; each buys every 3, 4, ... days, then rests for 40 days."""
    times: list[tuple[float, str]] = []
    for user in range(14):
        day, visits = 17_200.01 + user / 20, 0  # in 2017, never at midnight
        while day < 17_600:
            times.append((day, f"u{user}"))
            visits += 1
            day += 40 if visits % 6 == 0 else 3 + user % 7
    for at, name in sorted(times):
        yield purchase(name, at)


def processed() -> Iterator[Outputs]:
    """Yield what one partition of the stream makes of these purchases."""
    part = Partition(0, Context(FORETELLING, 1))
    for event in loyal_and_lost():
        assert isinstance(event.timestamp, int)
        yield from part.append((event.user_id.encode(), encode(event), event.timestamp))
    yield from part.run()


def test_cases_are_what_the_stream_judged() -> None:
    """They have the stream's own verdicts, each with what then happened and its user's days."""
    watcher, judge = Watcher(), Judge(FORETELLING)
    found: defaultdict[Kind, list[Case]] = defaultdict(list)
    for outputs in processed():
        judge.take(0, outputs.judged)
        for kind, case in watcher.take(outputs):
            found[kind].append(case)
    orders: defaultdict[str, list[int]] = defaultdict(list)
    for event in loyal_and_lost():
        assert isinstance(event.timestamp, int)
        orders[event.user_id].append(event.timestamp)
    assert {kind.target for kind in found} == {"purchase", "churn"}
    for kind, figures in judge.figures().items():
        own = found[kind]
        assert len(own) == figures.cases > 100
        ours = behavior_quality(Cases.of(own), Cases.of(own).probability, figures.threshold)
        assert ours.roc_auc == pytest.approx(figures.auc, abs=1e-5)
        assert ours.log_loss == pytest.approx(figures.log_loss, abs=1e-3)
        assert ours.f1 == pytest.approx(figures.f1, abs=1e-5)
        for case in own:
            before = [at for at in orders[case.user] if at <= case.time_ms]
            later = [at for at in orders[case.user] if at > case.time_ms]
            soon = bool(later) and later[0] <= case.time_ms + kind.horizon_ms
            assert case.happened == (soon if kind.target == "purchase" else not soon)
            assert case.days[0] == pytest.approx((case.time_ms - before[-1]) / DAY_MS)
            if len(before) > 1:
                assert case.days[1] == pytest.approx((before[-1] - before[-2]) / DAY_MS)


def cases(count: int = 400) -> Cases:
    """Return cases of a good learner: what it says is how likely it was."""
    rng = np.random.default_rng(0)
    chance = rng.random(count)
    return Cases(
        np.array([f"u{number % 20}" for number in range(count)]),
        np.arange(count) * DAY_MS // 4,
        chance,
        rng.random(count) < chance,
        np.column_stack([1 / (chance + 0.01), rng.random(count), rng.random(count)]),
        np.full(count, np.nan),
    )


def test_predictions_by_hand() -> None:
    """Four cases at a threshold of one half; both squares and logarithms are on paper."""
    few = Cases(
        np.array(["a", "a", "a", "a"]),
        np.arange(4),
        np.array([0.8, 0.6, 0.4, 0.2]),
        np.array([True, False, True, False]),
        np.zeros((4, 3)),
        np.full(4, np.nan),
    )
    found = behavior_quality(few, few.probability, 0.5)
    assert found.roc_auc == 0.75
    assert found.roc_auc_interval == (0.75, 0.75)
    assert (found.accuracy, found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5, 0.5)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)
    assert found.brier == pytest.approx((0.04 + 0.36 + 0.36 + 0.04) / 4)
    assert found.log_loss == pytest.approx(-np.log([0.8, 0.4, 0.4, 0.8]).mean(), abs=1e-5)
    # From 0.8 on it is 2/3, from 0.6 on 1/2, from 0.4 on 4/5, and 2/3 for all.
    assert best_threshold(few) == 0.4


def test_rules_are_fitted_to_what_was_known() -> None:
    """Only cases whose horizon closed before the judged ones count; too few are not judged."""
    found = judge_behavior(Kind("churn", 28 * DAY_MS), cases(), from_ms=60 * DAY_MS)
    assert found is not None
    assert (found.figures.fitted_on, found.figures.cases) == (32 * 4, 160)
    assert found.figures.threshold == FORETELLING.churn_watch
    assert found.figures.models["base rate"].roc_auc == 0.5
    assert judge_behavior(Kind("churn", 28 * DAY_MS), cases(), from_ms=30 * DAY_MS) is None


def test_made_up_cases_know_the_truth() -> None:
    """What came of a comment or share foretold is in the events, and the truth tells it best."""
    found, middle_ms = synthetic(3_000)
    assert {kind.target for kind in found} == {"purchase", "comment", "share"}
    times: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for event in islice(SyntheticShop().events(), 3_000):
        times[event.user_id, event.type].append(to_ms(event.timestamp))
    for kind, own in found.items():
        assert kind.horizon == "30m"
        assert np.isfinite(own.truth).all()
        if kind.target != "purchase":  # of which the rest of an order does not count
            for user, time_ms, happened in zip(own.user, own.time_ms, own.happened, strict=True):
                soon = [at for at in times[user, kind.target] if 0 < at - time_ms <= 1_800_000]
                assert happened == bool(soon)
    (bought,) = (kind for kind in found if kind.target == "purchase")
    judged = judge_behavior(bought, found[bought], middle_ms, "a made-up shop")
    assert judged is not None
    assert judged.figures.chosen
    models = judged.figures.models
    assert models[TRUTH].roc_auc > models[STREAM].roc_auc > 0.5


# --- the report -----------------------------------------------------------------------------------


def test_report_has_every_model_and_picture(tmp_path: Path) -> None:
    """A tiny shop and an untrained network give a whole page, whose pictures are all there."""
    features = len(FEATURE_NAMES)
    model = build(
        TrainSettings(width=8, hidden=8),
        VOCABULARY.size,
        jnp.zeros(features),
        jnp.ones(features),
    )
    earlier, judged = requests(20, seed=1), requests(40, seed=2)
    with threadpool_limits(1):  # more of them wait for one another longer than they work
        scores = report.score(model, VOCABULARY, earlier, judged)
    assert set(scores) == {*BASELINES, report.ENCODER, report.RANKER, report.ONLINE}
    shop = read_shop((purchase("1", 0, item) for item in ITEMS), until_ms=DAY_MS)
    kinds = {Kind("purchase", 7 * DAY_MS): cases(), Kind("churn", 28 * DAY_MS): cases(20)}
    own = quality(
        gains(scores[report.RANKER], judged.candidates, judged.bought, judged.basket_sizes),
        judged.user,
    )
    epochs = [Epoch(8.0, 1.2, own), Epoch(7.0, 1.1, own)]
    versions = "2017-11-05.d4e5f6a7", "2017-11-05.0a1b2c3d"
    ranked = evaluation.judge_ranker(judged, scores, shop, epochs, 4, versions)
    judgements, few = evaluation.judge_behavior(kinds, 60 * DAY_MS, "shop")
    found = Evaluation(ranked, None, judgements, few)
    files = evaluation_page.write(found, tmp_path)
    page = (tmp_path / "index.md").read_text("utf-8")
    for name in (*scores, STREAM, "last and mean gap"):
        assert f"| {name} |" in page
    for measure in MEASURES:
        assert f"{measure}@20" in page
    assert "Buys nothing for 28 days: shop\n\nToo few cases" in page
    assert f"`sasrec-head`, version {versions[0]}, which" in page
    assert "not the one that the package carries, 2017-11-05.0a1b2c3d" in page
    assert f"| {ranked.rankings.best} | NDCG@10 " in page.split("\n## ")[0]
    pictures = set(re.findall(r"!\[.+?\]\((.+?)\)", page))
    assert pictures == {"recall.png", "parts.png", "purchase-7d.png", "training.png"}
    assert pictures < set(files)
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    figures: dict[str, Any] = json.loads((tmp_path / "evaluation.json").read_bytes())
    ranker = figures["ranking"]["models"][report.RANKER]
    assert ranker["measures"]["recall@10"]["value"] == own.recall_at_10
    assert figures["behavior"][0]["models"].keys() == judgements[0].figures.models.keys()
