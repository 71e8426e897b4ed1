"""The whole pipeline: cutting changes nothing, nothing breaks it, and nothing is lost."""

import json
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_app import learners
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import Item
from stream_app.pipeline import STAGES, next_batch, process
from stream_app.shelves import Shelves
from stream_app.stages.timers import DUE_MAX, SLICE_MS_MAX
from stream_app.state import PartitionState
from stream_app.steps import (
    Admitted,
    Batch,
    Due,
    Duplicate,
    Outside,
    Reject,
    Step,
    Tick,
)
from tests.conftest import (
    START_MS,
    TOPIC,
    Passed,
    Record,
    batch,
    context,
    dues,
    fresh,
    lenient,
    record,
    restored,
    run,
    tick,
)

# Small enough that rows expire, make room and explore within a few hundred records.
TIGHT = lenient(
    user_ttl_days=8,
    item_ttl_days=8,
    items_max=6,
    exploration_share=0.3,
    top_k=3,
    debounce_seconds=30,
)
CATALOG = {
    f"i-{n}": Item(
        item_id=f"i-{n}",
        stock=n % 4,
        category=["a" if n % 4 else "b"],
        price=float(n),
        available_from=START_MS + n * DAY_MS // 8,
    )
    for n in range(0, 20, 2)
}
SHELVES = Shelves(CATALOG.values())


class Cutter:
    """Feeds a log in pieces of given sizes, restoring the state between some of them."""

    def __init__(self, sizes: Sequence[int], restore_every: int, live_max: int) -> None:
        self.sizes = sizes
        self.restore_every = restore_every
        self.live_max = live_max

    def run(self, log: Sequence[Record], given: StageSettings) -> tuple[Passed, PartitionState]:
        """Return what comes out and the state that is left."""
        state = fresh(self.live_max)
        passed = Passed()
        place = turn = 0
        while place < len(log):
            size = self.sizes[turn % len(self.sizes)]
            piece = next_batch(state, TOPIC, 0, log[place : place + 2 * size], size)
            assert len(piece.records) <= size
            done = process(state, piece, context(given, shelves=SHELVES))
            state.changes()
            place, turn = place + len(piece.records), turn + 1
            passed.add(done)
            if self.restore_every and turn % self.restore_every == 0:
                state = restored(state, self.live_max)
        return passed, state


# Users stay for months, learners predict early, alerts come soon.
LASTING = lenient(
    user_ttl_days=70,
    item_ttl_days=8,
    items_max=9,
    top_k=5,
    debounce_seconds=0,
    learn_share_session=0.7,
    churn_horizon_days=7,
    silence_days=(2, 3, 9),
    churn_cooldown_days=3,
    churn_watch=0.1,
    churn_warning=0.2,
    churn_critical=0.4,
)


@pytest.fixture
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let learners predict once they have seen two of each outcome."""
    monkeypatch.setattr(learners, "WARM_EACH", 2)


warm = pytest.mark.usefixtures("_warm")


@warm
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 128), min_size=1, max_size=6),
    restore_every=st.integers(0, 5),
    live_max=st.sampled_from([0, 1, 4, 1_000]),
    leaps=st.sampled_from([0.0, 0.03, 0.2]),
    given_=st.sampled_from([TIGHT, LASTING]),
)
def test_cutting_changes_nothing(  # noqa: PLR0913 - each is drawn
    *,
    seed: int,
    sizes: list[int],
    restore_every: int,
    live_max: int,
    leaps: float,
    given_: StageSettings,
) -> None:
    """However a log is cut, rows evicted and state restored: same outputs, steps and rows."""
    log = batch(200, seed, step_ms=DAY_MS // 2, leaps=leaps)
    expected, whole = Cutter([128], 0, 1_000).run(log, given_)
    got, state = Cutter(sizes, restore_every, live_max).run(log, given_)
    assert got.records == expected.records
    assert got.steps == expected.steps
    assert got.judged_by_stage == expected.judged_by_stage
    assert got.joined == expected.joined
    assert state.digest() == whole.digest()
    assert state.ledger == whole.ledger
    assert state.timers.item_count == whole.timers.item_count == state.sizes["item"]


@warm
def test_cutting_is_tested_on_all_that_comes_out() -> None:
    """Logs like those that are cut above give every kind of output, timer, judgement and join."""
    found, judged = Counter[str](), Counter[tuple[str, bool]]()
    dues_, joined = Counter[str](), Counter[tuple[str, bool, bool]]()
    for seed in range(16):
        out = run(fresh(), batch(200, seed, step_ms=DAY_MS // 2, leaps=0.03), LASTING)
        found += Counter(each.topic for each in out.records)
        judged += Counter((each.target, each.happened) for each in out.judged)
        dues_ += Counter(due.kind for due in dues(out.steps))
        joined += Counter((each.event_type, each.named, bool(each.place)) for each in out.joined)
    assert found.keys() == {"recommendations", "predictions", "churn_alerts", "dead_letter"}
    assert min(found.values()) > 20
    targets = ("purchase", "comment", "share", "churn")
    assert judged.keys() == {(target, label) for target in targets for label in (False, True)}
    assert dues_.keys() == {"expiry", "evict", "churn", "silence", "churn-label", "label"}
    kinds = ("impression", "click", "purchase")
    named = {(kind, True, place) for kind in kinds for place in (False, True)}
    assert joined.keys() == named | {("purchase", False, True)}


def crowded_log() -> list[Record]:
    """Return a log of 1,300 users and items that fall silent, all but one before nine come back."""
    log = [record(n, START_MS + n, user_id=f"u-{n}", item_id=f"i-{n}") for n in range(1_300)]
    back_ms = START_MS + 9 * DAY_MS
    log += [record(1_300, START_MS + 2 * DAY_MS, user_id="u-7", item_id="i-7")]
    log += [record(1_301 + n, back_ms + n, user_id=f"u-{n}", item_id="i-7") for n in range(9)]
    return log


@pytest.mark.parametrize(("sizes", "restore_every"), [([1], 0), ([3, 128, 40], 2)])
def test_cutting_changes_nothing_when_much_is_due(sizes: list[int], restore_every: int) -> None:
    """Thousands of timers due at once fire in bounded batches, and in the same order."""
    given_ = lenient(user_ttl_days=8, item_ttl_days=8)
    log = crowded_log()
    expected, whole = Cutter([128], 0, 10_000).run(log, given_)
    got, state = Cutter(sizes, restore_every, 100).run(log, given_)
    fired = dues(expected.steps)
    assert Counter((due.scope, due.kind) for due in fired) == {
        ("user", "expiry"): 1_299,
        ("item", "expiry"): 1_299,
        ("user", "label"): 1_300,
    }
    assert [due.due_ms for due in fired] == sorted(due.due_ms for due in fired)
    assert got == expected
    assert state.digest() == whole.digest()


def test_next_batch_is_bounded() -> None:
    """No batch fires more than 512 timers on its own, nor spans more than seven days."""
    state, given_ = fresh(), lenient(user_ttl_days=8, item_ttl_days=8)
    log, place, batches = crowded_log(), 0, []
    while place < len(log):
        piece = next_batch(state, TOPIC, 0, log[place:], 128)
        done = process(state, piece, context(given_))
        state.changes()
        place += len(piece.records)
        batches.append((piece, len(dues(done.steps))))
    alone = [count for piece, count in batches if piece.fire_until_ms is not None]
    assert max(alone) == DUE_MAX
    for piece, count in batches:
        assert count <= DUE_MAX
        times = [raw.timestamp for raw in piece.records]
        assert not times or max(times) - min(times) < SLICE_MS_MAX
        assert (piece.fire_until_ms is None) == bool(times)


def test_process_of_timers_alone_keeps_the_position() -> None:
    """A batch of timers moves no offset, so that a crash after it loses and repeats nothing."""
    state = fresh()
    run(state, [record(0)])
    until_ms = START_MS + 500 * DAY_MS
    done = process(state, Batch(TOPIC, 0, [], fire_until_ms=until_ms), context())
    assert [step.kind for step in dues(done.steps)] == ["label", "expiry", "expiry"]
    assert len(done.steps) == 3
    assert (state.ledger.position, state.ledger.log_ms) == (1, START_MS)


def test_process_laps_once_a_stage() -> None:
    """The clock that the caller passes is told of every stage, in the order of the map."""
    laps: list[str] = []
    process(fresh(), Batch(TOPIC, 0, [record(0)]), context(lap=laps.append))
    assert tuple(laps) == STAGES


@warm
def test_outputs_have_unique_ids() -> None:
    """No two outputs share an id, be they caused by a record or by a timer."""
    out = run(fresh(), batch(600, seed=8, step_ms=DAY_MS // 2), LASTING)
    ids = [dict(each.headers)["ce_id"] for each in out.records]
    assert len(ids) == len(set(ids)) > 100
    topics = Counter(each.topic for each in out.records)
    assert topics.keys() == {"recommendations", "predictions", "churn_alerts", "dead_letter"}


def test_catalog_and_service_level_change_no_learning() -> None:
    """What comes from outside the log leaves all rows as they are but for the notes."""
    log = batch(300, seed=9)
    one, other = fresh(), fresh()
    run(one, log)
    run(other, log, outside=Outside("2", 1), shelves=SHELVES)
    for key in one.rows():
        if key[:1] == b"u":
            user = key[1:].decode()
            one.notes.clear(user)
            other.notes.clear(user)
    one.changes()
    other.changes()
    assert one.digest() == other.digest()


# --- anything at all ----------------------------------------------------------------------------


def odd_values(rng: random.Random) -> object:
    """Return a JSON value that no producer should send where it stands."""
    deep: object = "bottom"
    for _ in range(rng.choice([3, 200])):
        deep = [deep] if rng.random() < 0.5 else {"x": deep}
    return rng.choice(
        [
            None,
            True,
            -1,
            0,
            2**63,
            10**300,
            1e308,
            5e-324,
            -0.0,
            "",
            " ",
            "\x00",
            "\ud800",
            "\udfff x",
            "x" * 300,
            "\U0001f600" * 128,
            "2024-02-30T00:00:00Z",
            "9999-12-31T23:59:59.999999-23:59",
            "0001-01-01T00:00:00+23:59",
            [],
            {},
            {"a": {"b": None}},
            [1] * 50,
            deep,
        ]
    )


def mutated(rng: random.Random, raw: Record) -> Record:
    """Return a record with one thing wrong: its JSON, its bytes, its key, time or headers."""
    if raw.value is None or not raw.value:
        return raw
    key, value, headers, log_ms = raw.key, raw.value, raw.headers, raw.timestamp
    kind = rng.randrange(9)
    if kind <= 2:
        fields = json.loads(value)
        name = rng.choice([*fields, "price", "quantity", "context", "consent", "session_id", "new"])
        fields[name] = odd_values(rng)
        if rng.random() < 0.2:
            del fields[name]
        value = json.dumps(fields, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")
    elif kind == 3:
        flipped = bytearray(value)
        for _ in range(rng.randrange(1, 4)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        value = bytes(flipped)
    elif kind == 4:
        value = value[: rng.randrange(len(value))] + rng.choice([b"", b"\xff\xfe", b"1" * 5_000])
    elif kind == 5:
        value = rng.choice(
            [b"[" * 60_000, b'{"a":' * 9_000, b" " * 70_000, b"null", b"\xef\xbb\xbf" + value]
        )
    elif kind == 6:
        key = rng.choice([None, b"", b"\xff", b"u-99", (key or b"") + b"\x00"])
    elif kind == 7:
        headers = ((rng.choice(["", "a", "\u00e9", "ce_id"]), rng.choice([b"", b"\xff\x00"])),) * 3
        value = rng.choice([value, b"x"])
    else:
        log_ms = rng.choice([-1, 0, log_ms + 300_001, log_ms - DAY_MS])
    return Record(raw.offset, log_ms, key, value, headers)


def offset_of(step: Step) -> int:
    """Return which record a step is of."""
    assert not isinstance(step, Due)
    if isinstance(step, Admitted):
        return step.arrival.offset
    return step.record.offset if isinstance(step, Reject) else step.offset


def test_nothing_breaks_the_pipeline() -> None:
    """Of 10,000 records, most of them damaged, each ends as exactly one thing; nothing raises."""
    rng = random.Random(11)
    log = [mutated(rng, raw) if rng.random() < 0.8 else raw for raw in batch(10_000, seed=11)]
    state = fresh()
    out = run(state, log, TIGHT)
    ended = [step for step in out.steps if not isinstance(step, Due)]
    assert [offset_of(step) for step in ended] == list(range(10_000))
    kinds = Counter(map(type, ended))
    ledger = state.ledger
    assert kinds == {
        Admitted: ledger.processed,
        Duplicate: ledger.duplicate,
        Reject: ledger.rejected,
        Tick: ledger.ticks,
    }
    assert ledger.consumed == ledger.processed + ledger.rejected + ledger.duplicate
    assert ledger.consumed + ledger.ticks == 10_000
    assert min(kinds.values()) > 50
    rejects = [step for step in ended if isinstance(step, Reject)]
    letters = [each for each in out.records if each.topic == "dead_letter"]
    assert [(step.record.key, step.record.value) for step in rejects] == [
        (each.key, each.value) for each in letters
    ]
    assert len({step.reason for step in rejects}) >= 10
    assert restored(state).digest() == state.digest()


def test_impossible_record_timestamps_break_nothing() -> None:
    """Records dated at the ends of what 64 bits hold are processed, and so is what follows them."""
    state = fresh()
    log = [record(0), *(record(1 + n, at) for n, at in enumerate([-(2**63), 2**63 - 1]))]
    log = [Record(raw.offset, raw.timestamp, b"u-1", log[0].value, ()) for raw in log]
    log += [record(3, START_MS, event_id="after"), tick(4, START_MS)]
    run(state, log)
    assert (state.ledger.position, state.ledger.ticks) == (5, 1)
    assert restored(state).digest() == state.digest()
