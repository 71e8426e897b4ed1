"""The state of a partition: budgets, binding to a topic, the changelog and restoring."""

import random
from dataclasses import dataclass

import pytest

from stream_app.codec import _FRAME, _LENGTH, split_row
from stream_app.config import DAY_MS
from stream_app.errors import StateError, TopicError
from stream_app.hashing import id_hash
from stream_app.stages.candidates import CONTEXT_BUCKETS
from stream_app.state import (
    CONTEXT_LAYOUT,
    ITEM_LAYOUT,
    LEARNER_BYTES_MAX,
    LEARNER_LAYOUT,
    PARTITION_LAYOUT,
    USER_LAYOUT,
    USER_ROW_BYTES_MAX,
    PartitionState,
    digest,
)
from tests.conftest import (
    MINUTE_MS,
    SETTINGS,
    START_MS,
    Record,
    batch,
    dues,
    fresh,
    lenient,
    record,
    restored,
    run,
    tick,
)

LAYOUTS = {
    b"u": USER_LAYOUT,
    b"i": ITEM_LAYOUT,
    b"c": CONTEXT_LAYOUT,
    b"l": LEARNER_LAYOUT,
    b"p": PARTITION_LAYOUT,
}
LEARNER_ROWS_BYTES_MAX = 64 * 1024  # all of a partition's


HEAVY_END_MS = START_MS + 34 * DAY_MS + 5 * MINUTE_MS  # a Sunday, before the oldest risk closes


def heavy_log() -> list[Record]:
    """Return the log of one user who fills every table, with ids as long as they may be."""
    user, log = "\U0001f600" * 128, []
    step_ms = (HEAVY_END_MS - START_MS) // 899
    for n in range(940):
        kind = ("purchase", "view", "cart", "click", "recommend")[n % 5]
        log.append(
            record(
                n,
                START_MS + min(n, 899) * step_ms + n,
                event_id=f"{n:128}".replace(" ", "\u00e9"),
                type=kind,
                user_id=user,
                item_id=chr(0x1F600 + n * n % 131) * 128,
                session_id=f"s-{n}" if n % 2 else None,
                order_id=f"o-{n}",
                category=f"c-{n % 3}",
                context={"place": n % 7},
                price=1e12,
                quantity=1_000_000,
            )
        )
    return log


def test_user_row_budget() -> None:
    """All sections of a user at their largest, with the frame, take at most 3 KiB."""
    frame = _FRAME.size + _LENGTH.size * len(USER_LAYOUT)
    assert frame + sum(spec.bytes_max for spec in USER_LAYOUT) <= USER_ROW_BYTES_MAX


def test_rows_of_heavy_use_stay_within_their_budgets() -> None:
    """Every section of every row that heavy use leaves is within what its layout allows."""
    state, exact = fresh(), lenient(timer_jitter_minutes=0, learn_share_session=1)
    run(state, heavy_log(), exact)
    run(state, [record(5_000 + n, HEAVY_END_MS, user_id=f"v-{n}") for n in range(300)], exact)
    largest: dict[tuple[bytes, str], int] = {}
    for key, row in state.rows().items():
        layout = LAYOUTS[key[:1]]
        for spec, section in zip(layout, split_row(row, len(layout)), strict=True):
            assert section is not None
            assert len(section) <= spec.bytes_max, (key[:1], spec.name)
            place = (key[:1], spec.name)
            largest[place] = max(largest.get(place, 0), len(section))
        assert key[:1] != b"u" or len(row) <= USER_ROW_BYTES_MAX
    budgets = {(kind, spec.name): spec.bytes_max for kind in LAYOUTS for spec in LAYOUTS[kind]}
    full = {place for place, size in largest.items() if size == budgets[place]}
    assert full >= {
        (b"u", "timers"),
        (b"u", "admit"),
        (b"u", "features"),
        (b"u", "candidates"),
        (b"u", "emit"),
        (b"u", "behavior"),
        (b"u", "churn"),
        (b"i", "timers"),
        (b"i", "candidates"),
        (b"c", "candidates"),
    }


def test_learner_rows_budget() -> None:
    """Learners that have seen much fit their sections, and their rows 64 KiB in all.

    Each learner is under a key of its own, in the section of that name.
    """
    frame = _FRAME.size + _LENGTH.size * len(LEARNER_LAYOUT)
    total = 0
    for spec in LEARNER_LAYOUT:
        learner, rng = spec.decode(b""), random.Random(3)
        for _ in range(50):
            features = {name: rng.gauss(0, 1e3) for name in learner.names}
            learner.learn(features, [rng.random() < 0.5 for _ in learner.targets])
        assert len(learner.encode()) <= spec.bytes_max == LEARNER_BYTES_MAX
        total += frame + spec.bytes_max
    assert total <= LEARNER_ROWS_BYTES_MAX
    state = fresh()
    run(state, [*batch(300, 1, step_ms=DAY_MS), tick(999, START_MS + 999 * DAY_MS)])
    rows = {key[1:].decode(): row for key, row in state.rows().items() if key[:1] == b"l"}
    assert rows.keys() == {spec.name for spec in LEARNER_LAYOUT}
    for name, row in rows.items():
        parts = split_row(row, len(LEARNER_LAYOUT))
        full = [spec.name for spec, part in zip(LEARNER_LAYOUT, parts, strict=True) if part]
        assert full == [name]


def test_accounting_of_a_log() -> None:
    """Consumed is processed and rejected and duplicate; ticks are counted apart."""
    state, log = fresh(), batch(1_000, seed=3)
    run(state, log)
    ledger = state.ledger
    assert ledger.consumed == ledger.processed + ledger.rejected + ledger.duplicate
    assert ledger.consumed + ledger.ticks == len(log) == ledger.position
    assert min(ledger.processed, ledger.rejected, ledger.duplicate, ledger.ticks) > 0
    assert ledger.log_ms == max(raw.timestamp for raw in log)


def test_accounting_of_timers() -> None:
    """A batch of timers alone moves neither position nor counters nor log time."""
    state = fresh()
    run(state, [record(0)])
    before = state.ledger.encode()
    out = run(state, [tick(1, START_MS + 500 * DAY_MS)], records_max=1)
    assert [due.kind for due in dues(out.steps)] == ["label", "expiry", "expiry"]
    assert len(out.steps) == 4
    ledger = state.ledger
    assert (ledger.position, ledger.ticks, ledger.consumed) == (2, 1, 1)
    assert before != ledger.encode()


def test_begin_binds_a_fresh_state() -> None:
    """A fresh state takes the position and the topic that it is given, and says so in a row."""
    state = PartitionState()
    assert state.ledger.position == -1
    state.begin(17, 4, "abc")
    ledger = state.ledger
    assert (ledger.position, ledger.partitions, ledger.topic_id) == (17, 4, "abc")
    assert [key for key, _ in state.changes()] == [b"p"]


def test_begin_of_a_state_that_is_bound() -> None:
    """A bound state keeps its own position, on the topic that it was built from."""
    state = fresh()
    run(state, [record(0)])
    again = restored(state)
    again.begin(99, 1, "topic-id")
    assert again.ledger.position == 1
    assert again.changes() == []


@pytest.mark.parametrize(
    ("partitions", "topic_id", "complaint"),
    [(2, "topic-id", "from 1 partitions"), (1, "another", "from topic id topic-id")],
)
def test_begin_on_another_topic(partitions: int, topic_id: str, complaint: str) -> None:
    """A state built from another topic, or another number of partitions, refuses to go on."""
    state = fresh()
    state.changes()
    again = restored(state)
    with pytest.raises(TopicError, match=complaint):
        again.begin(0, partitions, topic_id)


def test_changelog_gives_the_state() -> None:
    """The changes of all batches, replayed in order, are the rows; of a key the last counts."""
    state = fresh()
    topic: list[tuple[bytes, bytes | None]] = [*state.changes()]
    for raw in batch(400, seed=4, step_ms=DAY_MS, leaps=0.02):
        run_one(state, raw, topic)
    assert None in dict(topic).values()
    again = PartitionState.restore(topic)
    assert again.rows() == state.rows()
    assert again.digest() == state.digest()
    assert again.sizes == state.sizes


def run_one(state: PartitionState, raw: Record, topic: list[tuple[bytes, bytes | None]]) -> None:
    """Process a record and keep the changelog that its batches write."""
    before = state.rows()
    run(state, [raw], settings=lenient(user_ttl_days=8, item_ttl_days=8))
    after = state.rows()
    topic += [(key, row) for key, row in after.items() if before.get(key) != row]
    topic += [(key, None) for key in before.keys() - after.keys()]


@pytest.mark.parametrize("at", [1, 200, 399])
def test_restored_state_goes_on_the_same(at: int) -> None:
    """A state read back in the middle of a log gives the outputs and rows of one that lived on."""
    log = batch(400, seed=5, step_ms=3 * 3_600_000, leaps=0.01)
    settings = lenient(user_ttl_days=8, item_ttl_days=8, items_max=8)
    whole, first = fresh(), fresh()
    expected = run(whole, log, settings).records
    got = run(first, log[:at], settings).records
    second = restored(first)
    got += run(second, log[at:], settings).records
    assert got == expected
    assert second.digest() == whole.digest()


def test_changes_are_of_touched_rows_only() -> None:
    """A batch writes the rows that its events touch and the partition's own."""
    state = fresh()
    run(
        state,
        [record(n, user_id=f"u-{n}", item_id=f"i-{n}", category=f"c-{n}") for n in range(50)],
    )
    before = state.rows()
    run(state, [record(60, START_MS + 1, user_id="u-7", item_id="i-7", category="c-7")])
    after = state.rows()
    changed = {key[:1] for key in after if after[key] != before.get(key)}
    assert changed == {b"u", b"i", b"c", b"p"}
    assert sum(after[key] != before.get(key) for key in after) == 4


@dataclass
class Damage:
    """A changelog record that nobody can read."""

    key: bytes
    value: bytes


@pytest.mark.parametrize(
    "damage",
    [
        Damage(b"x1", b""),
        Damage(b"", b""),
        Damage(b"u\xff", b"u"),
        Damage(b"i123", b"i"),
        Damage(b"i123456789", b"i"),
        Damage(b"c", b"c"),
        Damage(b"c12", b"c"),
        Damage(b"uanna", b""),
        Damage(b"uanna", b"\x01\x05garbage"),
        Damage(b"i12345678", b"\x02" + b"\x00" * 40),
        Damage(b"lsomething", b"l"),
    ],
)
def test_restore_of_damaged_records(damage: Damage) -> None:
    """A record of the changelog that cannot be read stops the restore with a StateError."""
    state = fresh()
    run(state, [record(0, category="c-0")])
    good = {key[:1]: row for key, row in state.rows().items()}
    value = good.get(damage.value, damage.value)
    with pytest.raises(StateError):
        PartitionState.restore([*state.rows().items(), (damage.key, value)])


FOOD = b"c%c" % (id_hash("food") % CONTEXT_BUCKETS)


@pytest.mark.parametrize("key", [b"p", FOOD, b"lchurn", b"lbehavior-days", b"lbehavior-session"])
def test_damaged_rows_of_the_partition(key: bytes) -> None:
    """What belongs to the whole partition is read when the state is bound, or refused."""
    state = fresh()
    run(state, [*batch(300, 1, step_ms=DAY_MS), tick(999, START_MS + 999 * DAY_MS)])
    run(state, [record(1_000, START_MS + 999 * DAY_MS, category="food")])
    rows = state.rows()
    PartitionState.restore(rows.items()).begin(0, 1, "topic-id")
    damaged = bytearray(rows[key])
    damaged[-1] ^= 1
    again = PartitionState.restore([*rows.items(), (key, bytes(damaged))])
    with pytest.raises(StateError):
        again.begin(0, 1, "topic-id")


def test_digest_is_of_all_rows_whatever_their_order() -> None:
    """Equal rows have equal digests; another key, another byte or another cut has another."""
    rows = {b"ua": b"1", b"ub": b"22"}
    assert digest(rows) == digest(dict(reversed(rows.items())))
    others = [{}, {b"ua": b"1"}, {b"ua": b"1", b"ub": b"23"}, {b"ua": b"1u", b"b": b"22"}]
    assert len({digest(rows), *map(digest, others)}) == 5


def test_decoded_rows_are_bounded() -> None:
    """Between batches at most so many rows stay decoded, whatever was touched."""
    state = fresh(live_max=3)
    run(state, [record(n, user_id=f"u-{n}", item_id=f"i-{n}") for n in range(40)], SETTINGS)
    assert len(state._users.live) <= 3
    assert len(state._items.live) <= 3
    assert state.sizes == {"user": 40, "item": 40}
