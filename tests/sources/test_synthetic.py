"""The seeded shop: the same everywhere, faults as set, and a truth that is true."""

import hashlib
import os
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from stream_app.config import StageSettings, load
from stream_app.errors import ConfigError
from stream_app.event import Cause, Event, Item, RankedItem, Recommendation, Target, encode
from stream_app.ops.broker import EmbeddedBroker
from stream_app.ops.produce import Order, run
from stream_app.runtime.topics import create
from stream_app.sources.synthetic import CASE_DAYS, CHURN_DAYS, SyntheticShop
from stream_app.sources.synthetic_faults import BREAKS, broken
from stream_app.sources.synthetic_shop import DAY_MS, FIRST, MINUTE_MS, SECOND, SHOPS, START_MS
from stream_app.sources.synthetic_truth import TARGETS, Case, Law, after, churn
from stream_app.stages.decode import decode
from stream_app.steps import Arrival, Reject
from tests.conftest import Record

HORIZON_MS = 30 * MINUTE_MS
ALL: tuple[Target, ...] = (*TARGETS, "churn")
CASE_TYPES = {"view", "cart", "purchase", "comment", "share", "search", "click"}
FIRST_DIGEST = "36ceab6cd049fa3f"


def time_of(event: Event) -> int:
    """Return an event's time, which this source writes in milliseconds."""
    assert isinstance(event.timestamp, int)
    return event.timestamp


@cache
def play(name: str, seed: int = 0) -> tuple[list[Event], list[Case]]:
    """Return all that happens in a shop, and the truth."""
    events, cases = [], []
    for entry in SyntheticShop(SHOPS[name], seed).journal():
        if isinstance(entry, Event):
            events.append(entry)
        else:
            cases.append(entry)
    return events, cases


class Judged(msgspec.Struct):
    """Cases of one target whose outcome is known: truth, outcome and user, side by side."""

    truth: npt.NDArray[np.float64]
    label: npt.NDArray[np.float64]
    users: list[str]

    @property
    def auc(self) -> float:
        """Return the area under the ROC curve of the truth: by ranks, the mean one for ties."""
        _, inverse, counts = np.unique(self.truth, return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        positive = self.label.sum()
        area = ranks[self.label == 1].sum() - positive * (positive + 1) / 2
        return float(area / (positive * (len(self.label) - positive)))

    def misfit(self, chosen: npt.NDArray[np.bool_]) -> float:
        """Return by how many standard errors the rate of outcomes is off the mean truth.

        The cases of a user overlap, so errors are summed up by user first. Where the truth is next
        to 0 or 1 that says nothing, and the variance is at least that of so many single draws.
        """
        sums: Counter[str] = Counter()
        for place in np.flatnonzero(chosen):
            sums[self.users[place]] += self.label[place] - self.truth[place]
        errors = np.array(list(sums.values()))
        single = (self.truth[chosen] * (1 - self.truth[chosen])).sum()
        return float(errors.sum() / np.sqrt(max((errors**2).sum(), single)))


@cache
def judge(name: str, target: Target) -> Judged:
    """Return the cases of a target, with labels made of the events as the definitions say."""
    events, cases = play(name)
    happened: dict[str, list[tuple[int, str | None]]] = {}
    for event in events:
        if event.type == ("purchase" if target == "churn" else target):
            happened.setdefault(event.user_id, []).append((time_of(event), event.order_id))
    orders = {event.event_id: event.order_id for event in events if event.type == "purchase"}
    horizon_ms = CHURN_DAYS * DAY_MS if target == "churn" else HORIZON_MS
    end_ms = START_MS + SHOPS[name].weeks * 7 * DAY_MS
    truth, labels, users = [], [], []
    for case in cases:
        probability = case.probabilities.get(target)
        if probability is None or case.timestamp + horizon_ms > end_ms:
            continue
        own = orders.get(case.event_id or "")
        times = happened.get(case.user_id, [])
        place = bisect_right(times, case.timestamp, key=lambda each: each[0])
        label = any(
            time_ms <= case.timestamp + horizon_ms and (own is None or order != own)
            for time_ms, order in times[place : place + 1]
        )
        truth.append(probability)
        labels.append(label != (target == "churn"))
        users.append(case.user_id)
    return Judged(np.array(truth), np.array(labels, dtype=float), users)


def digest(shop: SyntheticShop, limit: int) -> str:
    """Return a digest of the first records and of the truth beside them, to 9 places."""
    hashed = hashlib.sha256()

    def note(case: Case) -> None:
        numbers = [f"{case.probabilities[key]:.9f}" for key in sorted(case.probabilities)]
        hashed.update(f"{case.event_id} {case.user_id} {case.timestamp} {numbers}".encode())

    for key, value, time_ms in shop.records(limit, note):
        hashed.update(b"%s\0%s\0%d\n" % (key, value, time_ms or 0))
    return hashed.hexdigest()


def test_shop_is_the_same_on_every_machine() -> None:
    """Records and truth of a shop and a seed are those of the machine that this was written on."""
    assert digest(SyntheticShop(FIRST, 0), 20_000)[:16] == FIRST_DIGEST


def test_shop_does_not_depend_on_the_process() -> None:
    """Another order of hashes changes nothing."""
    code = (
        "from tests.sources.test_synthetic import *; print(digest(SyntheticShop(SECOND, 7), 3_000))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {digest(SyntheticShop(SECOND, 7), 3_000).encode() + b"\n"}


def test_seeds_and_shops_differ() -> None:
    """Another seed or another shop is another sequence of events."""
    shops = [SyntheticShop(FIRST, 0), SyntheticShop(FIRST, 1), SyntheticShop(SECOND, 0)]
    assert len({digest(shop, 500) for shop in shops}) == 3


def test_limits_only_cut() -> None:
    """What a limit lets through are the first events, cases and records of the whole."""
    shop = SyntheticShop(FIRST, 3)
    assert list(shop.events(700))[:300] == list(shop.events(300))
    assert list(shop.cases(700))[:300] == list(shop.cases(300))
    assert list(shop.records(700))[:300] == list(shop.records(300))


@pytest.mark.parametrize("name", SHOPS)
def test_events_are_in_order(name: str) -> None:
    """Events come by time, each with an id; of a user, only lines of an order share a moment."""
    events, _ = play(name)
    assert all(time_of(one) <= time_of(two) for one, two in pairwise(events))
    assert len({event.event_id for event in events}) == len(events)
    last: dict[str, Event] = {}
    for event in events:
        before = last.get(event.user_id)
        if before is not None and time_of(before) == time_of(event):
            assert event.order_id is not None
            assert event.order_id == before.order_id
        last[event.user_id] = event


@pytest.mark.parametrize("name", SHOPS)
def test_sessions_are_short_and_far_apart(name: str) -> None:
    """A session is over within 30 minutes, and the user's next is at least 31 minutes away."""
    spans: dict[str, dict[str, list[int]]] = {}
    for event in play(name)[0]:
        assert event.session_id is not None
        times = spans.setdefault(event.user_id, {}).setdefault(event.session_id, [])
        times.append(time_of(event))
    for sessions in spans.values():
        assert all(times[-1] - times[0] < HORIZON_MS for times in sessions.values())
        assert all(two[0] - one[-1] >= 31 * MINUTE_MS for one, two in pairwise(sessions.values()))


@pytest.mark.parametrize("name", SHOPS)
def test_users_come_over_time_and_every_type_is_seen(name: str) -> None:
    """New users keep coming, and all that the shop knows happens, in carts before in orders."""
    events, _ = play(name)
    assert len(events) >= 200_000
    assert {event.type for event in events} == CASE_TYPES | {"impression"}
    half = len(events) // 2
    assert {event.user_id for event in events[half:]} - {event.user_id for event in events[:half]}
    carts = {(event.session_id, event.item_id) for event in events if event.type == "cart"}
    bought = {(event.session_id, event.item_id) for event in events if event.type == "purchase"}
    assert bought <= carts
    told = {(event.session_id, event.item_id) for event in events if event.type == "comment"}
    assert told <= bought


@pytest.mark.parametrize("name", SHOPS)
def test_items_are_those_of_the_events(name: str) -> None:
    """Price and category of an event are those of its item, and wanted items come more often."""
    shop = SyntheticShop(SHOPS[name])
    items = {item.item_id: item for item in shop.items()}
    assert len(items) == SHOPS[name].items
    counts: Counter[str] = Counter()
    for event in play(name)[0]:
        if event.item_id is not None:
            item = items[event.item_id]
            assert (event.price, event.category) == (item.price, item.category[-1])
            counts[event.item_id] += 1
    tenth = len(items) // 10
    assert sum(count for _, count in counts.most_common(tenth)) > 0.4 * counts.total()
    decoder = msgspec.json.Decoder(Item)
    for key, value, time_ms in shop.item_records():
        assert (decoder.decode(value), time_ms) == (items[key.decode()], START_MS)


@pytest.mark.parametrize("name", SHOPS)
def test_cases_are_as_defined(name: str) -> None:
    """There is a case for each moment that something is done in, and for each buyer on Sundays."""
    events, cases = play(name)
    moments = {
        (event.user_id, time_of(event)): event.event_id
        for event in reversed(events)
        if event.type in CASE_TYPES
    }
    behaviour = {
        (case.user_id, case.timestamp): case.event_id for case in cases if case.event_id is not None
    }
    assert behaviour == moments
    sundays = [case for case in cases if case.event_id is None]
    assert len(behaviour) + len(sundays) == len(cases)
    bought = {(event.user_id, time_of(event)) for event in events if event.type == "purchase"}
    for time_ms, group in groupby(sundays, key=lambda case: case.timestamp):
        assert (time_ms // DAY_MS + 3) % 7 == 6  # 1970 began on a Thursday; 6 is Sunday
        assert time_ms % DAY_MS == 0
        since_ms = time_ms - CASE_DAYS * DAY_MS
        buyers = {user for user, at_ms in bought if since_ms <= at_ms < time_ms}
        assert sorted(case.user_id for case in group) == sorted(buyers)


@pytest.mark.parametrize("name", SHOPS)
@pytest.mark.parametrize("target", ALL)
def test_truth_is_calibrated(name: str, target: Target) -> None:
    """Outcomes are as frequent as the truth says, in all and in each tenth of it."""
    cases = judge(name, target)
    assert len(cases.truth) >= (5_000 if target == "churn" else 200_000)
    assert abs(cases.misfit(np.full(len(cases.truth), fill_value=True))) < 3
    edges = np.quantile(cases.truth, np.linspace(0, 1, 11))
    tenths = np.clip(np.searchsorted(edges, cases.truth, side="right") - 1, 0, 9)
    for tenth in set(tenths.tolist()):
        assert abs(cases.misfit(tenths == tenth)) < 4, f"tenth {tenth}"


@pytest.mark.parametrize("name", SHOPS)
@pytest.mark.parametrize("target", ALL)
def test_truth_tells_something_but_not_all(name: str, target: Target) -> None:
    """The Bayes-optimal AUC and the share of positive cases are as the shops were set up for."""
    cases = judge(name, target)
    low, high = {"purchase": (0.05, 0.2), "churn": (0.1, 0.36)}.get(target, (0.02, 0.1))
    assert 0.70 < cases.auc < 0.90
    assert low < cases.label.mean() < high


def test_truth_of_a_session_is_that_of_its_chain() -> None:
    """The dynamic programme is what summing over all ways to go on gives, where these are few."""
    shop = replace(FIRST, steps_max=5)
    law, kind = Law(shop), 137
    actions = ("end", "view", "search", "shelf", "cart", "purchase", "comment", "share")

    def by_hand(target: str, steps: int, phase: int) -> float:
        if steps == shop.steps_max:
            return 0.0
        sums = [0.0, *law.steps[kind][phase]]
        total = 0.0
        for action, (low, high) in zip(actions, pairwise(sums), strict=True):
            if action == target:
                total += high - low
            elif action != "end" and high > low:
                total += (high - low) * by_hand(target, steps + 1, after(phase, action))
        return total

    for target in TARGETS:
        for phase in (0, 1, 5, 9):
            found = law.probabilities(1, kind, phase)[target]
            assert found == pytest.approx(by_hand(target, 1, phase))


def test_truth_of_churn_is_that_of_two_slots() -> None:
    """After one silent slot, and for one to come, the formula is Bayes' rule written out."""
    leaves, comes, buys = 0.1, 0.3, 0.5
    silent_alive = 0.9 * 0.7
    lives = silent_alive / (leaves + silent_alive)
    expected = (1 - lives) + lives * (leaves + 0.9 * (1 - comes * buys))
    assert churn(leaves, comes, buys, 1, 1) == pytest.approx(expected)
    assert churn(leaves, comes, buys, 500, 1) == pytest.approx(1)


def decoded(records: Sequence[tuple[bytes, bytes, int | None]]) -> list[Arrival | Reject]:
    """Return what the first stage makes of records."""
    log = [Record(at, time_ms or 0, key, value) for at, (key, value, time_ms) in enumerate(records)]
    found = decode(log, 0, 0, 1, StageSettings())
    return [entry for entry in found if isinstance(entry, Arrival | Reject)]


def test_faults_come_at_their_rates() -> None:
    """Late, repeated and broken records are as frequent as set, and the rest are the events."""
    shop = replace(SECOND, late_rate=0.03, duplicate_rate=0.02, broken_rate=0.02, weeks=6)
    events = {event.event_id: event for event in SyntheticShop(shop).events()}
    records = list(SyntheticShop(shop).records())
    assert all((one[2] or 0) <= (two[2] or 0) for one, two in pairwise(records))
    found = decoded(records)
    arrivals = [entry for entry in found if isinstance(entry, Arrival)]
    rejects = [entry for entry in found if isinstance(entry, Reject)]
    assert {entry.event.event_id: entry.event for entry in arrivals} == events
    count = len(events)
    assert count > 30_000
    assert len(arrivals) - count == pytest.approx(0.02 * count, rel=0.15)
    assert len(rejects) == pytest.approx(0.02 * count, rel=0.15)
    late = {entry.event.event_id for entry in arrivals if entry.late}
    assert len(late) == pytest.approx(0.03 * count, rel=0.15)
    assert {entry.reason for entry in rejects} == {reason for reason, _ in BREAKS.values()}


def test_shop_without_faults_has_none() -> None:
    """With rates of 0 the records are the events at their own times, and all cases are told."""
    shop = SyntheticShop(replace(FIRST, late_rate=0.0, duplicate_rate=0.0, broken_rate=0.0))
    truth: list[Case] = []
    records = list(shop.records(5_000, truth.append))
    assert records == [(e.user_id.encode(), encode(e), e.timestamp) for e in shop.events(5_000)]
    assert truth == list(shop.cases(len(truth)))


def test_truth_leaves_out_what_is_late() -> None:
    """Cases are told before their events are sent, in time order, and late events are none."""
    shop = SyntheticShop(replace(FIRST, late_rate=0.2))
    truth: list[Case] = []
    sent: set[str] = set()
    late: set[str] = set()
    for record in shop.records(5_000, truth.append):
        for entry in decoded([record]):
            if isinstance(entry, Arrival):
                name = entry.event.event_id
                sent.add(name)
                if entry.late:
                    late.add(name)
    told = {case.event_id for case in truth}
    assert len(late) > 500
    assert not told & late
    assert told >= {
        event.event_id
        for event in shop.events(4_000)
        if event.event_id in sent - late and event.type not in {"impression", "purchase"}
    }
    assert all(one.timestamp <= two.timestamp for one, two in pairwise(truth))


@pytest.mark.parametrize("way", BREAKS)
def test_broken_records_are_rejected_for_their_reason(way: str) -> None:
    """The first stage rejects each kind of broken record, whatever event it is made of."""
    seen: dict[str, Event] = {event.type: event for event in SyntheticShop().events(5_000)}
    assert seen.keys() == CASE_TYPES | {"impression"}
    for event in seen.values():
        (entry,) = decoded([(*broken(event, way), time_of(event))])
        assert isinstance(entry, Reject), event.type
        assert entry.reason == BREAKS[way][0], event.type


def recommendation(number: int = 0, user_id: str = "u-1", category: int = 0) -> Recommendation:
    """Return ten recommended items of a category."""
    return Recommendation(
        recommendation_id=f"r-{number}",
        user_id=user_id,
        timestamp=START_MS,
        items=[
            RankedItem(f"i-{category}-{rank}", rank, 1 / rank, ["popular"], [])
            for rank in range(1, 11)
        ],
        cause=Cause("e-1", "events", 0, 0),
        model="m",
        model_version="1",
        fallback_level=None,
        service_level=0,
        variant="a",
        catalog_version="0",
    )


def test_reaction_is_the_same_each_time() -> None:
    """A recommendation gets the same answer from another instance, and another one another."""
    answers = [SyntheticShop(FIRST, 5).react(recommendation(7), "s-1") for _ in range(2)]
    assert answers[0] == answers[1]
    clicks = [
        tuple(event.item_id for event in SyntheticShop(FIRST, 5).react(recommendation(number)))
        for number in range(5)
    ]
    assert len(set(clicks)) > 1


def test_reaction_sees_every_place_and_may_click_and_buy() -> None:
    """Each item is seen at its place; clicks and purchases follow, and the worker accepts all."""
    shop = SyntheticShop()
    answers = [shop.react(recommendation(number), "s-1") for number in range(300)]
    for answer in answers:
        seen = [event for event in answer if event.type == "impression"]
        assert [(e.context or {})["position"] for e in seen] == list(range(1, 11))
        assert [event.item_id for event in seen] == [f"i-0-{rank}" for rank in range(1, 11)]
        assert all(time_of(one) <= time_of(two) for one, two in pairwise(answer))
        assert {event.session_id for event in answer} == {"s-1"}
    events = [event for answer in answers for event in answer]
    assert len({event.event_id for event in events}) == len(events)
    assert {event.type for event in events} == {"impression", "click", "purchase"}
    assert {event.recommendation_id for event in events} == {f"r-{n}" for n in range(300)}
    sent = [(event.user_id.encode(), encode(event), time_of(event)) for event in events]
    assert all(isinstance(entry, Arrival) for entry in decoded(sent))


def test_reaction_depends_on_place_and_taste() -> None:
    """First places get more clicks than last ones, and liked categories more than others."""
    shop = SyntheticShop()
    likings = shop.user("u-1").likings
    best, worst = likings.index(max(likings)), likings.index(min(likings))
    clicks: dict[int, Counter[object]] = {}
    for category in (best, worst):
        counts = clicks[category] = Counter()
        for number in range(200):
            answer = shop.react(recommendation(number, category=category))
            counts.update((e.context or {})["position"] for e in answer if e.type == "click")
    assert clicks[best].total() > 1.5 * clicks[worst].total()
    places = clicks[best] + clicks[worst]
    assert places[1] > 1.5 * places[10]


def test_reaction_to_unknown_items_and_users() -> None:
    """Items and users that are not the shop's are seen too; they are of usual taste."""
    odd = replace(
        recommendation(user_id="somebody"), items=[RankedItem("x", 1, 0.0, ["popular"], [])]
    )
    assert SyntheticShop().react(odd)[0].item_id == "x"
    assert SyntheticShop().react(replace(odd, items=[])) == []


def test_shop_with_long_sessions_is_refused() -> None:
    """Parameters that would make the truth wrong are an error."""
    with pytest.raises(ValueError, match="longer than 30 minutes"):
        replace(FIRST, name="long", steps_max=30)
    with pytest.raises(ValueError, match="a step must take more"):
        replace(FIRST, step_seconds_min=2)


def test_shop_is_produced_with_its_truth_beside(tmp_path: Path) -> None:
    """The command sends as many records as asked for, and writes down the truth, a case a line."""
    truth = tmp_path / "truth.jsonl"
    with EmbeddedBroker(tmp_path) as broker:
        settings = load(brokers=broker.address)
        create(settings)
        order = Order(source="synthetic", shop="second", seed=3, truth=truth, limit=1_000)
        assert run(settings, order).acknowledged == 1_000
    decoder = msgspec.json.Decoder(Case)
    written = [decoder.decode(line) for line in truth.read_bytes().splitlines()]
    told: list[Case] = []
    assert len(list(SyntheticShop(SECOND, 3).records(1_000, told.append))) == 1_000
    assert written == told
    assert len(written) > 700


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(source="synthetic", households=3), "households are for completejourney"),
        (Order(source="synthetic", file=Path("f")), "a file is for jsonl"),
        (Order(source="jsonl", seed=3), "a seed is for synthetic"),
        (Order(source="completejourney", shop="first"), "a shop is for synthetic"),
        (Order(source="jsonl", truth=Path("t")), "a truth is for synthetic"),
        (Order(source="synthetic", truth=Path("no/where")), "no/where: No such file"),
    ],
)
def test_options_of_other_sources_are_refused(order: Order, message: str) -> None:
    """An option that the source does not have, or a file that cannot be written, is named."""
    with pytest.raises(ConfigError, match=message):
        run(load(), order)
