"""Stage 5: which events count for which prediction, and what is learned and forgotten."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app import learners
from stream_app.config import DAY_MS, StageSettings
from stream_app.hashing import event_hash
from stream_app.learners import Learner
from stream_app.schedule import DAYS_LABELS, SESSION_LABELS, ItemTimers, Timers, UserTimers
from stream_app.stages.behavior import (
    BYTES_MAX,
    DAYS,
    DAYS_VECTOR,
    SESSION,
    SESSION_VECTOR,
    TARGETS,
    Foresight,
    Outlook,
    days_values,
    decode_days,
    decode_session,
    foresee,
    session_values,
)
from stream_app.stages.features import NOBODY
from stream_app.stages.timers import advance
from stream_app.steps import Admitted, Due, Forecast, Judged, Received, Step, Tick
from tests.conftest import MINUTE_MS, START_MS, admitted, event, lenient, sections

LEARN_ALL = lenient(learn_share=1.0, learn_share_session=1.0)
LATE_MS = LEARN_ALL.lateness_ms_max
HORIZON_MS = 7 * DAY_MS
SESSION_MS = 30 * MINUTE_MS


class Partition:
    """The timers and this stage of one partition; nothing is known of its users."""

    def __init__(self, given_: StageSettings = LEARN_ALL) -> None:
        self.settings = given_
        self.timers = Timers(
            sections("user", UserTimers.decode), sections("item", ItemTimers.decode)
        )
        self.state = Foresight(
            sections("behavior", Outlook.decode, BYTES_MAX),
            sections("session", decode_session),
            sections("days", decode_days),
        )
        self.forecasts: list[Forecast] = []
        self.judged: list[Judged] = []
        self._count = 0
        self.view = NOBODY

    def pass_through(self, *received: Received) -> list[Step]:
        """Take in a batch."""
        steps = advance(self.timers, received, self.settings)
        views = [self.view] * len(steps)
        forecasts, judged = foresee(self.state, steps, views, self.settings)
        self.forecasts += forecasts
        self.judged += judged
        return steps

    def see(self, kind: str, at_ms: int = START_MS, **over: Any) -> list[Step]:
        """Take in one event with an id of its own; its log time is its own unless given."""
        self._count += 1
        fields: dict[str, Any] = {"type": kind, "timestamp": at_ms, "log_ms": at_ms}
        return self.pass_through(admitted(**(fields | {"event_id": f"e-{self._count}"} | over)))

    def tick(self, log_ms: int) -> None:
        """Let log time pass."""
        self.pass_through(Tick(0, log_ms))

    def close(self, at_ms: int = START_MS) -> dict[str, bool]:
        """Close what was predicted at an event without a session, and return what came of it."""
        before = len(self.judged)
        self.tick(at_ms + HORIZON_MS + LATE_MS)
        return {one.target: one.happened for one in self.judged[before:]}

    def learner(self, name: str = DAYS) -> Learner:
        """Return one of the learners."""
        return (self.state.days if name == DAYS else self.state.session).touch(name)

    def samples(self, name: str = DAYS) -> int:
        """Return how much a learner has seen."""
        return self.learner(name).samples

    def rows(self, live_max: int = 100) -> list[dict[str, bytes]]:
        """Return all rows as they are stored, and keep so many of them decoded."""
        found = []
        for each in (self.state.users, self.state.session, self.state.days):
            each._rows.live_max = live_max
            each._rows.changes()
            found.append(dict(each._rows.encoded))
        return found

    def waiting(self, user: str = "u-1") -> int:
        """Return how many predictions of a user wait."""
        outlook = self.state.users.get(user)
        return len(outlook.pending) if outlook is not None else 0


@pytest.fixture
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a learner predict from the start, so that everything is judged."""
    monkeypatch.setattr(learners, "WARM_EACH", 0)


warm = pytest.mark.usefixtures("_warm")
NOTHING = dict.fromkeys(TARGETS, False)


# --- labels ---------------------------------------------------------------------------------------


@warm
@pytest.mark.parametrize(("order", "expected"), [("o-1", False), ("o-2", True)])
def test_rest_of_an_order_that_had_begun_is_no_label(order: str, expected: bool) -> None:  # noqa: FBT001
    """A line of the order that was the user's newest at the prediction says nothing new."""
    partition = Partition()
    partition.view = msgspec.structs.replace(NOBODY, order=event_hash("o-1"))
    partition.see("view")
    partition.see("purchase", START_MS + 1, order_id=order)
    assert partition.close()["purchase"] is expected


@warm
@pytest.mark.parametrize("target", TARGETS)
def test_label_is_what_happens_within_the_horizon(target: str) -> None:
    """What a user does after the event is what came of its prediction, each target for itself."""
    partition = Partition()
    partition.see("view")
    partition.see(target, START_MS + DAY_MS)
    assert partition.close() == NOTHING | {target: True}


@warm
@pytest.mark.parametrize(
    ("after_ms", "counts"),
    [(0, False), (1, True), (HORIZON_MS, True), (HORIZON_MS + 1, False)],
)
@pytest.mark.parametrize("target", TARGETS)
def test_label_at_the_edges_of_the_horizon(target: str, after_ms: int, counts: bool) -> None:  # noqa: FBT001
    """An event counts if it is later than the prediction, and no later than its horizon."""
    partition = Partition()
    partition.see("view")
    partition.see(target, START_MS + after_ms)
    assert partition.close()[target] is counts


@warm
def test_label_counts_a_late_event_in_time() -> None:
    """An event that is late counts by its own time, as long as the horizon has not closed."""
    partition, end_ms = Partition(), START_MS + HORIZON_MS
    partition.see("view")
    partition.see("share", START_MS + 1, log_ms=end_ms, late=True)
    partition.see("comment", end_ms, log_ms=end_ms + LATE_MS - 1, late=False)
    assert partition.close() == {"purchase": False, "comment": True, "share": True}


@warm
def test_label_does_not_count_what_comes_too_late() -> None:
    """Once the horizon has closed, nothing changes what was learned."""
    partition, closed_ms = Partition(), START_MS + HORIZON_MS + LATE_MS
    partition.see("view")
    partition.see("purchase", START_MS + 5, log_ms=closed_ms, late=True)
    assert [one.happened for one in partition.judged] == [False] * len(TARGETS)
    learned = partition.learner(DAYS).encode()
    partition.see("purchase", START_MS + 6, log_ms=closed_ms + 1, late=True)
    assert partition.learner(DAYS).encode() == learned


@warm
@pytest.mark.parametrize(
    ("first", "second", "after_ms", "counts"),
    [
        ("o-1", "o-1", 5_000, False),
        ("o-1", "o-2", 5_000, True),
        (None, None, 999, False),
        (None, None, 1_000, True),
        ("o-1", None, 5_000, True),
    ],
)
def test_label_is_a_later_order(
    first: str | None,
    second: str | None,
    after_ms: int,
    counts: bool,  # noqa: FBT001
) -> None:
    """A line of the order that was predicted at does not count; without an id a second is one."""
    partition = Partition()
    partition.see("purchase", order_id=first)
    partition.see("purchase", START_MS + after_ms, order_id=second)
    assert partition.close()["purchase"] is counts


@warm
def test_label_of_all_lines_of_an_order_is_the_next_order() -> None:
    """Lines that come one by one are each predicted at, and none is the other's label."""
    partition = Partition()
    for line in range(3):
        partition.see("purchase", START_MS + line, order_id="o-1")
    partition.see("purchase", START_MS + DAY_MS, order_id="o-2")
    partition.tick(START_MS + 2 + HORIZON_MS + LATE_MS)
    assert [one.happened for one in partition.judged if one.target == "purchase"] == [True] * 3


@warm
def test_label_is_of_the_same_user() -> None:
    """What another user does is no label."""
    partition = Partition()
    partition.see("view")
    partition.see("purchase", START_MS + 1, user_id="u-2")
    assert partition.close()["purchase"] is False


# --- predictions ----------------------------------------------------------------------------------


@warm
def test_one_prediction_for_a_user_and_timestamp() -> None:
    """Lines of one moment share the first one's prediction; another user has one of his own."""
    partition = Partition()
    for _ in range(3):
        partition.see("purchase", order_id="o-1")
    partition.see("view", user_id="u-2")
    partition.see("view", START_MS + 1)
    assert [(each.user_id, each.time_ms) for each in partition.forecasts] == [
        ("u-1", START_MS),
        ("u-2", START_MS),
        ("u-1", START_MS + 1),
    ]
    assert (partition.waiting("u-1"), partition.waiting("u-2")) == (2, 1)


@warm
def test_late_event_gets_no_prediction() -> None:
    """A late event is a label, but nothing is predicted at it and nothing waits."""
    partition = Partition()
    partition.see("view", START_MS - DAY_MS, log_ms=START_MS, late=True)
    assert (partition.forecasts, partition.waiting()) == ([], 0)


def test_cold_learner_emits_nothing() -> None:
    """While too little has been seen, nothing goes out or is judged, but all is learned."""
    partition = Partition()
    for n in range(30):
        partition.see("view", START_MS + n * DAY_MS, user_id=f"u-{n}")
    partition.tick(START_MS + 99 * DAY_MS)
    assert (partition.forecasts, partition.judged) == ([], [])
    assert partition.samples() == 30


def test_forecast_has_the_targets_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target is predicted once both its outcomes have been seen, whatever of the others."""
    monkeypatch.setattr(learners, "WARM_EACH", 2)
    partition = Partition()
    for n in range(4):
        partition.see("view", START_MS + n, user_id=f"u-{n}")
        if n % 2:
            partition.see("purchase", START_MS + DAY_MS + n, user_id=f"u-{n}")
    partition.tick(START_MS + 20 * DAY_MS)
    assert partition.forecasts == []
    partition.see("view", START_MS + 20 * DAY_MS, user_id="u-9")
    (forecast,) = partition.forecasts
    assert set(forecast.probabilities) == {"purchase"}
    assert forecast.horizon_ms == HORIZON_MS
    partition.tick(START_MS + 40 * DAY_MS)
    assert [(one.target, one.happened) for one in partition.judged] == [("purchase", False)]
    assert partition.judged[0].probability == forecast.probabilities["purchase"]


@warm
def test_sessions_and_days_are_apart() -> None:
    """Events with a session and without have horizons and learners of their own."""
    partition = Partition()
    partition.see("view", session_id="s")
    partition.see("purchase", START_MS + SESSION_MS, session_id="s")
    partition.tick(START_MS + SESSION_MS + LATE_MS)
    assert (partition.samples(SESSION), partition.samples(DAYS)) == (1, 0)
    first = partition.judged[: len(TARGETS)]
    assert {(one.target, one.horizon_ms, one.happened) for one in first} == {
        ("purchase", SESSION_MS, True),
        ("comment", SESSION_MS, False),
        ("share", SESSION_MS, False),
    }
    partition.see("view", START_MS + DAY_MS)
    assert [each.horizon_ms for each in partition.forecasts] == [SESSION_MS] * 2 + [HORIZON_MS]
    before = partition.learner(SESSION).encode()
    partition.tick(START_MS + 30 * DAY_MS)
    assert (partition.samples(SESSION), partition.samples(DAYS)) == (2, 1)
    assert partition.learner(SESSION).encode() == before


@warm
def test_session_edges_are_those_of_the_short_horizon() -> None:
    """In a session an event counts up to 30 minutes after, to the millisecond."""
    for after_ms, counts in ((SESSION_MS, True), (SESSION_MS + 1, False)):
        partition = Partition()
        partition.see("view", session_id="s")
        partition.see("share", START_MS + after_ms, session_id="s")
        partition.tick(START_MS + SESSION_MS + LATE_MS)
        assert [one.happened for one in partition.judged if one.target == "share"] == [counts]


@warm
def test_judged_is_what_was_predicted() -> None:
    """What is judged is the probability that went out, not what the learner would say by then."""
    partition = Partition()
    for n in range(60):
        partition.see("cart" if n % 2 else "view", START_MS + n * 1_000, user_id=f"u-{n}")
        if n % 2:
            partition.see("purchase", START_MS + DAY_MS + n, user_id=f"u-{n}", log_ms=START_MS)
    partition.tick(START_MS + 20 * DAY_MS)
    said = [each.probabilities[target] for each in partition.forecasts for target in TARGETS]
    assert sorted(one.probability for one in partition.judged) == sorted(said)


# --- learning -------------------------------------------------------------------------------------


def test_both_classes_are_learned_alike() -> None:
    """What did not happen is learned as what did: the rate of a coin is predicted as it is."""
    partition = Partition()
    for n in range(600):
        at_ms = START_MS + n * MINUTE_MS
        partition.see("view", at_ms, user_id=f"u-{n}")
        if n % 4 == 0:
            partition.see("share", at_ms + 30_000, user_id=f"u-{n}")
    partition.tick(START_MS + 30 * DAY_MS)
    learner = partition.learner(DAYS)
    shares = learner.positives[TARGETS.index("share")]
    assert (learner.samples, shares) == (600 + 150, 150)  # the shares are predicted at, too
    partition.see("view", START_MS + 30 * DAY_MS, user_id="new")
    assert 0.15 < partition.forecasts[-1].probabilities["share"] < 0.35


def test_what_tells_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where carts lead to purchases and views do not, a cart makes a purchase likelier."""
    monkeypatch.setattr(learners, "WARM_EACH", 10)
    partition = Partition()
    for n in range(800):
        at_ms, user = START_MS + n * MINUTE_MS, f"u-{n}"
        partition.see("cart" if n % 2 else "view", at_ms, user_id=user, session_id="s")
        if n % 2:
            # Late, so that nothing is predicted at the purchases.
            partition.see("purchase", at_ms + 1, user_id=user, session_id="s", late=True)
    end_ms = START_MS + DAY_MS
    partition.tick(end_ms)
    partition.see("view", end_ms, user_id="a", session_id="s")
    partition.see("cart", end_ms, user_id="b", session_id="s")
    view, cart = (each.probabilities["purchase"] for each in partition.forecasts[-2:])
    assert view < 0.5 < cart


def test_features_are_in_the_order_of_their_names() -> None:
    """Each vector has a finite value for each name; of a type of event the one that says so."""
    for names, values_of in (
        (SESSION_VECTOR.names, session_values),
        (DAYS_VECTOR.names, days_values),
    ):
        for kind in ("view", "cart", "purchase", "comment", "share", "search"):
            values = dict(zip(names, values_of(event(type=kind), NOBODY), strict=True))
            assert all(map(math.isfinite, values.values()))
            flags = {name for name in names if name.startswith("is_") and values[name]}
            assert flags == ({f"is_{kind}"} & set(names))


# --- what is forgotten ----------------------------------------------------------------------------


@warm
@pytest.mark.parametrize(
    "end",
    [
        {"kind": "consent", "profiled": False},
        {"kind": "view", "profiled": False},
        {"kind": "erase", "profiled": False, "key": "hash"},
    ],
)
def test_pending_ends_with_consent_and_with_the_user(end: dict[str, Any]) -> None:
    """After consent is withdrawn or the user erased nothing waits, and nothing is learned."""
    partition = Partition()
    partition.see("view")
    assert partition.waiting() == 1
    partition.see(**(end | {"at_ms": START_MS + 1}))
    assert partition.waiting() == 0
    assert partition.close() == {}
    assert partition.samples() == 0


@warm
def test_pending_ends_with_expiry() -> None:
    """When a user's row ends before the horizon, what waited goes unlearned."""
    partition = Partition(lenient(user_ttl_days=8, horizon_days=20))
    partition.see("view")
    partition.tick(START_MS + 8 * DAY_MS)
    assert partition.waiting() == 0
    partition.tick(START_MS + 60 * DAY_MS)
    assert (partition.judged, partition.samples()) == ([], 0)


@warm
def test_pending_outlives_what_is_not_its_user() -> None:
    """Untouchable events, other users' ends and items' ends leave what waits alone."""
    partition = Partition()
    partition.see("view")
    old = admitted(timestamp=START_MS - DAY_MS, profiled=False, event_id="old")
    partition.pass_through(Admitted(old.arrival, "u-1", profiled=False, untouchable=True))
    foresee(
        partition.state,
        [
            Due("item", 7, "expiry", START_MS, START_MS),
            Due("user", "u-2", "expiry", START_MS, START_MS),
            Due("user", "u-1", "churn-label", START_MS, START_MS),
        ],
        [NOBODY] * 3,
        LEARN_ALL,
    )
    partition.see("view", START_MS + 1, profiled=False, user_id="u-3")
    assert partition.waiting() == 1


@warm
def test_pendings_are_bounded() -> None:
    """So many predictions of a user wait as there are slots, and their bytes fit the budget."""
    partition = Partition()
    for n in range(20):
        partition.see("view", START_MS + n, session_id="s")
        assert partition.waiting() == min(n + 1, len(SESSION_LABELS))
    for n in range(20):
        partition.see("view", START_MS + 20 + n)
        assert partition.waiting() == len(SESSION_LABELS) + min(n + 1, len(DAYS_LABELS))
    outlook = partition.state.users.get("u-1")
    assert outlook is not None
    assert len(outlook.encode()) == BYTES_MAX
    assert len(partition.forecasts) == 40
    partition.tick(START_MS + 30 * DAY_MS)
    assert partition.waiting() == 0
    assert partition.samples(SESSION) == len(SESSION_LABELS)
    assert partition.samples(DAYS) == len(DAYS_LABELS)
    assert partition.state.users.get("u-1") is None


# --- batches --------------------------------------------------------------------------------------

Acts = Sequence[tuple[int, str, int, int]]  # user, type, minutes since the last one, minutes late
ACTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["view", "view", "cart", "purchase", "comment", "share", "withdraw"]),
        st.sampled_from([0, 1, 20, 45, 3_000, 20_000]),
        st.sampled_from([0, 0, 0, 2, 15]),
    ),
    max_size=60,
)


def received(acts: Acts) -> list[Received]:
    """Return the entries that acts become; every other user has sessions."""
    entries: list[Received] = []
    log_ms = START_MS
    for n, (user, kind, gap, late) in enumerate(acts):
        log_ms += gap * MINUTE_MS
        over: dict[str, Any] = {"type": "consent" if kind == "withdraw" else kind}
        entries.append(
            admitted(
                **over,
                event_id=f"e-{n}",
                user_id=f"u-{user}",
                timestamp=log_ms - late * MINUTE_MS,
                log_ms=log_ms,
                late=late * MINUTE_MS > LATE_MS,
                session_id="s" if user % 2 else None,
                order_id=f"o-{n // 2}",
                profiled=kind != "withdraw",
            )
        )
    return [*entries, Tick(0, log_ms + 40 * DAY_MS)]


@settings(max_examples=60)
@given(ACTS, st.integers(1, 9), st.integers(0, 1))
def test_batches_change_nothing(acts: Acts, size: int, live_max: int) -> None:
    """However entries are cut into batches, with rows read back between: all comes out the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learners, "WARM_EACH", 1)
        whole, pieces = Partition(), Partition()
        entries = received(acts)
        whole.pass_through(*entries)
        for place in range(0, len(entries), size):
            pieces.pass_through(*entries[place : place + size])
            pieces.rows(live_max)
        plain = [
            [(each.user_id, each.time_ms, each.horizon_ms, each.probabilities) for each in found]
            for found in (whole.forecasts, pieces.forecasts)
        ]
        assert plain[0] == plain[1]
        assert whole.judged == pieces.judged
        assert pieces.rows() == whole.rows()
