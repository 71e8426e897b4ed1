"""Rows and sections: encoding and decoding are exact, and bad bytes are noticed."""

import random
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app import schedule
from stream_app.codec import ROW_VERSION, Row, Rows, Section, Sections, SectionSpec, split_row
from stream_app.errors import StateError
from stream_app.learners import Learner
from stream_app.schedule import SLOTS_MAX, ItemTimers, UserTimers
from stream_app.stages import behavior, churn
from stream_app.stages.admit import RING_SIZE, Admission
from stream_app.stages.emit import NOTE_ITEMS_MAX, NOTES_SIZE, Note, Notes
from stream_app.stages.features import (
    _ACTIVITY_SIZE,
    HISTORY_SIZE,
    LONG_GAPS_DAYS,
    ORDER_HALF_LIVES_DAYS,
    Activity,
    History,
    Profile,
    Rhythm,
    Session,
    Spend,
)
from stream_app.state import (
    CONTEXT_LAYOUT,
    ITEM_LAYOUT,
    LEARNER_LAYOUT,
    PARTITION_LAYOUT,
    USER_LAYOUT,
    Ledger,
)
from stream_app.tables import (
    CONTEXT_SIZE,
    NEIGHBOURS_SIZE,
    NEWEST_SIZE,
    REPEATS_SIZE,
    TOP_SIZE,
    ContextTop,
    ItemFacts,
    Repeats,
    TopLists,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
UINT32 = st.integers(0, 2**32 - 1)
UINT16 = st.integers(0, 2**16 - 1)
UINT8 = st.integers(0, 255)
HALF = st.floats(width=16, allow_nan=False, allow_infinity=False)
SINGLE = st.floats(width=32, allow_nan=False)
DOUBLE = st.floats(allow_nan=False)
ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


def arrays(code: str, numbers: st.SearchStrategy[Any], size: int) -> st.SearchStrategy[Any]:
    """Return arrays of so many numbers."""
    return st.lists(numbers, min_size=size, max_size=size).map(lambda held: array(code, held))


@st.composite
def repeats(draw: st.DrawFn) -> Repeats:
    """Draw what a user buys again."""
    n = draw(st.integers(0, REPEATS_SIZE))
    columns = [
        draw(arrays(code, numbers, n))
        for code, numbers in (("Q", UINT64), ("f", SINGLE), ("I", UINT32), ("f", SINGLE))
    ]
    return Repeats(draw(INT64), *columns)


@st.composite
def item_facts(draw: st.DrawFn) -> ItemFacts:
    """Draw what is known of an item."""
    n = draw(st.integers(0, NEIGHBOURS_SIZE))
    return ItemFacts(
        draw(ID),
        draw(DOUBLE),
        draw(DOUBLE),
        draw(UINT32),
        draw(UINT32),
        draw(arrays("f", SINGLE, 1)),
        draw(arrays("Q", UINT64, n)),
        draw(arrays("f", SINGLE, n)),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Draw a user's profile."""
    n = draw(st.integers(0, HISTORY_SIZE))
    history = History(
        draw(arrays("Q", UINT64, n)),
        draw(arrays("I", UINT32, n)),
        bytearray(draw(st.binary(min_size=n, max_size=n))),
    )
    session = st.builds(Session, UINT64, UINT32, UINT32, UINT16, UINT16, UINT16, UINT16)
    spend = st.builds(Spend, UINT64, UINT32, UINT32, UINT32, SINGLE, SINGLE, SINGLE)
    activity = st.builds(Activity, UINT32, arrays("f", SINGLE, _ACTIVITY_SIZE))
    rhythm = st.builds(
        Rhythm,
        UINT16,
        SINGLE,
        SINGLE,
        st.tuples(*[SINGLE] * len(ORDER_HALF_LIVES_DAYS)),
        st.tuples(*[UINT16] * len(LONG_GAPS_DAYS)),
    )
    return Profile(draw(session), draw(activity), draw(spend), draw(rhythm), history)


@st.composite
def notes(draw: st.DrawFn) -> Note:
    """Draw what is remembered of a recommendation."""
    items = tuple(draw(st.lists(UINT64, max_size=NOTE_ITEMS_MAX)))
    sources = draw(st.binary(min_size=len(items), max_size=len(items)))
    return Note(draw(UINT64), draw(UINT32), items, sources)


def learners(make: Callable[[bytes], Learner]) -> st.SearchStrategy[Learner]:
    """Return learners that have seen a few samples."""

    def learned(count: int, seed: int) -> Learner:
        learner, rng = make(b""), random.Random(seed)
        for _ in range(count):
            features = {name: rng.gauss(0, 3) for name in learner.names}
            learner.learn(features, [rng.random() < 0.5 for _ in learner.targets])
        return learner

    return st.builds(learned, st.integers(0, 3), st.integers(0, 999))


@st.composite
def waiting(draw: st.DrawFn, *, in_session: bool) -> behavior.Pending:
    """Draw a prediction of behaviour that waits."""
    flags = draw(UINT8) & ~behavior._IN_SESSION | behavior._IN_SESSION * in_session
    vector = behavior.SESSION_VECTOR if flags & behavior._IN_SESSION else behavior.DAYS_VECTOR
    probabilities = draw(st.tuples(*[HALF] * len(behavior.TARGETS)))
    features = draw(st.binary(min_size=vector.bytes, max_size=vector.bytes))
    return behavior.Pending(draw(INT64), draw(UINT32), flags, probabilities, features)


FEATURES = st.binary(min_size=churn.VECTOR.bytes, max_size=churn.VECTOR.bytes)
RISK = st.builds(churn.Pending, INT64, HALF, st.booleans(), FEATURES)
RISKS = st.lists(RISK, max_size=len(schedule.CHURN_LABELS))
# Whoever was never alerted about is at no level.
WATCH = st.one_of(
    st.builds(churn.Watch, st.just(0), st.just(0), st.just(0), RISKS),
    st.builds(churn.Watch, st.integers(1, 2**63 - 1), UINT8, UINT8, RISKS),
)
TOP = st.dictionaries(UINT64, DOUBLE, max_size=TOP_SIZE // 4)
NEWEST = st.dictionaries(UINT64, UINT32, max_size=NEWEST_SIZE)
RING = st.integers(0, RING_SIZE).flatmap(lambda n: arrays("Q", UINT64, n))
SECTIONS: dict[tuple[str, str], st.SearchStrategy[Section]] = {
    ("user", "timers"): st.builds(
        UserTimers, INT64, INT64, INT64, st.dictionaries(st.integers(0, SLOTS_MAX - 1), INT64)
    ),
    ("user", "admit"): st.builds(Admission, INT64, INT64, INT64, consent=st.booleans(), ring=RING),
    ("user", "features"): profiles(),
    ("user", "candidates"): repeats(),
    ("user", "emit"): st.builds(Notes, st.lists(notes(), max_size=NOTES_SIZE)),
    ("user", "behavior"): st.builds(
        behavior.Outlook,
        st.tuples(
            st.lists(waiting(in_session=True), max_size=len(schedule.SESSION_LABELS)),
            st.lists(waiting(in_session=False), max_size=len(schedule.DAYS_LABELS)),
        ).map(lambda kinds: kinds[0] + kinds[1]),
    ),
    ("user", "churn"): WATCH,
    ("item", "timers"): st.builds(ItemTimers, INT64, INT64, DOUBLE),
    ("item", "candidates"): item_facts(),
    ("context", "candidates"): st.builds(
        ContextTop, DOUBLE, st.dictionaries(UINT64, DOUBLE, max_size=CONTEXT_SIZE)
    ),
    **{("learner", spec.name): learners(spec.decode) for spec in LEARNER_LAYOUT},
    ("partition", "ledger"): st.builds(
        Ledger,
        INT64,
        INT64,
        INT64,
        INT64,
        INT64,
        INT64,
        INT64,
        UINT16,
        st.text("aZ09_-", max_size=22),
    ),
    ("partition", "candidates"): st.builds(TopLists, DOUBLE, DOUBLE, TOP, TOP, NEWEST),
}
LAYOUTS = {
    "user": USER_LAYOUT,
    "item": ITEM_LAYOUT,
    "context": CONTEXT_LAYOUT,
    "learner": LEARNER_LAYOUT,
    "partition": PARTITION_LAYOUT,
}


def test_sections_are_all_tested() -> None:
    """Every section of every kind of row is drawn below."""
    assert [(kind, spec.name) for kind, layout in LAYOUTS.items() for spec in layout] == list(
        SECTIONS
    )


@pytest.mark.parametrize(("kind", "name"), SECTIONS)
@given(data=st.data())
def test_section_survives_encoding(kind: str, name: str, data: st.DataObject) -> None:
    """Whatever a section holds, decoding what it encodes to gives the same, within its budget."""
    (spec,) = [spec for spec in LAYOUTS[kind] if spec.name == name]
    section = data.draw(SECTIONS[kind, name])
    encoded = section.encode()
    again = spec.decode(encoded)
    assert again.encode() == encoded
    assert len(encoded) <= spec.bytes_max
    if name != "features" and kind != "learner":  # made of plain classes, which do not compare
        assert again == section


@pytest.mark.parametrize(("kind", "name"), SECTIONS)
def test_fresh_sections_are_not_shared(kind: str, name: str) -> None:
    """A section decoded from nothing belongs to one row alone."""
    (spec,) = [spec for spec in LAYOUTS[kind] if spec.name == name]
    assert spec.decode(b"") is not spec.decode(b"")


PARTS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def framed(parts: Sequence[bytes]) -> bytes:
    """Return a row of sections that are encoded already."""
    return Row(list(parts)).encode()


@given(PARTS, st.integers(0, 3))
def test_row_survives_encoding(parts: Sequence[bytes], more: int) -> None:
    """A row gives back its sections, and empty ones for those that a newer version adds."""
    data = framed(parts)
    if any(parts):
        assert split_row(data, len(parts) + more) == [*parts, *[b""] * more]
    else:
        assert data == b""


def test_row_with_more_sections_than_known() -> None:
    """A row written by a newer version with more sections is refused."""
    with pytest.raises(StateError, match="3 sections, this program knows 2"):
        split_row(framed([b"a", b"b", b"c"]), 2)


def test_row_of_an_unknown_version() -> None:
    """A row of another version is refused by its number."""
    data = bytearray(framed([b"abc", b""]))
    data[0] = ROW_VERSION + 1
    with pytest.raises(StateError, match=f"version {ROW_VERSION + 1}"):
        split_row(bytes(data), 2)


@given(PARTS.filter(any), st.data())
def test_row_with_damage(parts: Sequence[bytes], data: st.DataObject) -> None:
    """A row with a byte changed, lost or added anywhere is refused."""
    good = framed(parts)
    place = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(1, 255))
    changed = good[:place] + bytes([good[place] ^ other]) + good[place + 1 :]
    shorter = good[:place]
    longer = good + bytes([other])
    for bad in (changed, shorter, longer):
        with pytest.raises(StateError):
            split_row(bad, len(parts))


def test_row_whose_lengths_do_not_add_up() -> None:
    """A row is refused when its lengths say otherwise than its size, be its checksum right."""
    for body in (b"\x03\x00\x01\x00abcd"[:-1], b"\x03\x00\x01\x00abcde", b"\x03"):
        data = bytes([ROW_VERSION, 2]) + zlib.crc32(body).to_bytes(4, "little") + body
        with pytest.raises(StateError):
            split_row(data, 2)


class Words:
    """A section for these tests: words, of which there may be none."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    @classmethod
    def decode(cls, data: bytes) -> "Words":
        """Return the words in ``data``."""
        return cls(data.decode().split())

    def encode(self) -> bytes:
        """Return the words as bytes."""
        return " ".join(self.words).encode()


def two_sections(live_max: int) -> tuple[Rows[str], Sections[str, Words], Sections[str, Words]]:
    """Return rows of two sections of words."""
    specs = [SectionSpec(name, Words.decode, 99) for name in ("left", "right")]
    rows: Rows[str] = Rows(specs, live_max)
    return rows, Sections(rows, 0), Sections(rows, 1)


Step = tuple[str, str, int, str]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "read", "clear", "commit"]),
        st.sampled_from("abc"),
        st.integers(0, 1),
        st.sampled_from(["x", "yy"]),
    ),
    max_size=40,
)


@given(OPERATIONS, st.integers(0, 3))
def test_rows_behave_like_a_dictionary(operations: Sequence[Step], live_max: int) -> None:
    """However rows are evicted, sections read as they were written, and changes carry them all."""
    rows, left, right = two_sections(live_max)
    model: dict[tuple[str, int], list[str]] = {}
    topic: dict[str, bytes] = {}
    for kind, key, index, word in [*operations, ("commit", "", 0, "")]:
        sections = (left, right)[index]
        if kind == "add":
            sections.touch(key).words.append(word)
            model.setdefault((key, index), []).append(word)
        elif kind == "clear":
            sections.clear(key)
            model.pop((key, index), None)
        elif kind == "read":
            section = sections.get(key)
            assert (section.words if section else None) == model.get((key, index))
        else:
            for changed, row in rows.changes():
                topic.pop(changed, None)
                topic.update({changed: row} if row else {})
            assert topic == rows.encoded
            assert len(rows.live) <= live_max
        for index_, each in enumerate((left, right)):
            scanned = sorted((found, section.words) for found, section in each.scan())
            assert scanned == sorted((k, words) for (k, i), words in model.items() if i == index_)
    for key_, row in topic.items():
        expected = [" ".join(model.get((key_, i), [])).encode() for i in (0, 1)]
        assert split_row(row, 2) == expected
    assert topic.keys() == {key for key, _ in model}


def test_reading_writes_nothing() -> None:
    """A row that is only read, or cleared while empty, is no change."""
    rows, left, right = two_sections(9)
    left.touch("a").words.append("x")
    rows.changes()
    assert right.get("a") is None
    right.clear("a")
    left.clear("b")
    assert left.get("b") is None
    assert rows.changes() == []


def test_row_that_becomes_empty_is_a_tombstone() -> None:
    """When the last section is cleared the row is removed, even if it never was written."""
    rows, left, _ = two_sections(9)
    left.touch("a").words.append("x")
    assert [key for key, row in rows.changes() if row] == ["a"]
    left.clear("a")
    assert rows.changes() == [("a", None)]
    assert len(rows) == 0
