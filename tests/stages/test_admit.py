"""Stage 2: repeats, consent and erasure."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream_app.codec import Sections
from stream_app.config import DAY_MS
from stream_app.pipeline import process
from stream_app.stages.admit import BYTES_MAX, RING_SIZE, Admission, admit, erased_key
from stream_app.steps import Admitted, Batch, Duplicate, Received, Reject, Tick
from tests.conftest import (
    MINUTE_MS,
    SETTINGS,
    START_MS,
    TOPIC,
    Record,
    arrival,
    batch,
    context,
    dues,
    fresh,
    record,
    restored,
    run,
    sections,
    tick,
)

USER = "the-user-to-forget"
TTL_MS = SETTINGS.user_ttl_days * DAY_MS


def ring() -> Sections[str, Admission]:
    """Return admissions that nobody has used yet."""
    return sections("admit", Admission.decode, BYTES_MAX)


def send(users: Sections[str, Admission], **over: Any) -> Received:
    """Return what one event is admitted as."""
    (received,) = admit(users, [arrival(**over)], SETTINGS)
    return received


def test_admit_of_a_repeat() -> None:
    """The second event of an id is a duplicate, of whatever type and time it is."""
    users = ring()
    first = send(users, event_id="e")
    assert first == Admitted(arrival(event_id="e"), "u-1", profiled=True)
    again = send(users, event_id="e", offset=9, log_ms=START_MS + 5, type="cart")
    assert again == Duplicate(9, START_MS + 5)


def test_admit_of_the_same_id_of_another_user() -> None:
    """Event ids are compared within a user."""
    users = ring()
    send(users, event_id="e", user_id="u-1")
    assert type(send(users, event_id="e", user_id="u-2")) is Admitted


def test_admit_within_the_ring_and_beyond() -> None:
    """A repeat is seen for as long as 31 others have come in between, and no longer."""
    users = ring()
    for n in range(RING_SIZE):
        send(users, event_id=f"e-{n}")
    assert type(send(users, event_id="e-0")) is Duplicate
    send(users, event_id="one more")
    assert type(send(users, event_id="e-1")) is Duplicate
    assert type(send(users, event_id="e-0")) is Admitted
    assert len(users.touch("u-1").encode()) == BYTES_MAX


def test_admit_passes_everything_else() -> None:
    """Ticks and rejects pass as they are, in their places."""
    moved, bad = Tick(0, START_MS), Reject("empty", "nothing", record(), START_MS)
    received = admit(ring(), [moved, arrival(), bad], SETTINGS)
    assert (received[0], type(received[1]), received[2]) == (moved, Admitted, bad)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_consent_of_the_newest_date_counts(choices: list[tuple[bool, int]]) -> None:
    """Consents count by their own dates: one dated earlier than another does nothing."""
    users = ring()
    newest, expected = -1, True
    for n, (consent, minute) in enumerate(choices):
        if minute >= newest:
            newest, expected = minute, consent
        received = send(
            users,
            event_id=f"e-{n}",
            type="consent",
            consent=consent,
            timestamp=START_MS + minute * MINUTE_MS,
        )
        assert isinstance(received, Admitted)
        assert received.profiled is expected


def history_of(user: str) -> list[Record]:
    """Return a log in which a user does everything that leaves a trace."""
    kinds = ["view", "purchase", "cart", "comment", "share", "search", "recommend", "click"]
    return [
        record(
            n,
            START_MS + n * MINUTE_MS,
            type=kind,
            user_id=user,
            item_id=f"i-{n}",
            text="t",
            order_id=f"o-{n}",
            session_id=f"session of {user}",
        )
        for n, kind in enumerate(kinds)
    ]


def withdraw(offset: int, log_ms: int, **over: Any) -> Record:
    """Return the record by which a user withdraws consent, or gives it."""
    fields: dict[str, Any] = {"type": "consent", "consent": False, "user_id": USER}
    return record(offset, log_ms, **(fields | over))


def test_withdrawn_consent_clears_the_profile() -> None:
    """Withdrawing consent empties each stage's section of the user; only ring and expiry stay."""
    state = fresh()
    run(state, history_of(USER))
    assert state.profiles.get(USER)
    assert state.tables.repeats.get(USER)
    assert state.notes.get(USER)
    run(state, [withdraw(20, START_MS + 30 * MINUTE_MS)])
    assert state.profiles.get(USER) is None
    assert state.tables.repeats.get(USER) is None
    assert state.notes.get(USER) is None
    assert state.admissions.get(USER)


def test_withdrawn_consent_stops_learning() -> None:
    """Events without consent change neither the items nor the top lists, nor leave a profile."""
    state = fresh()
    run(state, [*history_of(USER), withdraw(20, START_MS + 30 * MINUTE_MS)])
    before = {key: row for key, row in state.rows().items() if key[:1] == b"i"}
    top = state.tables.top.touch("p").encode()
    later = [
        record(30 + n, START_MS + (40 + n) * MINUTE_MS, type=kind, user_id=USER, item_id="i-9")
        for n, kind in enumerate(["view", "cart", "purchase", "share"])
    ]
    assert run(state, later).records == []
    assert {key: row for key, row in state.rows().items() if key[:1] == b"i"} == before
    assert state.tables.top.touch("p").encode() == top
    assert state.profiles.get(USER) is None
    *_, back = run(state, [withdraw(50, START_MS + 60 * MINUTE_MS, consent=True)]).steps
    assert isinstance(back, Admitted)
    assert back.profiled


ERASED_MS = START_MS + 60 * MINUTE_MS


def erase(offset: int = 100, log_ms: int = ERASED_MS, **over: Any) -> Record:
    """Return the record that erases the user."""
    return record(offset, log_ms, type="erase", user_id=USER, **over)


def test_erase_leaves_one_row_without_the_id() -> None:
    """Erasure replaces the user's row by one filed under a hash; the id is nowhere in the state."""
    state = fresh()
    run(state, history_of(USER))
    assert any(USER.encode() in key for key in state.rows())
    run(state, [erase()])
    rows = state.rows()
    assert [key for key in rows if key[:1] == b"u"] == [b"u" + erased_key(USER).encode()]
    for key, row in rows.items():
        assert USER.encode() not in key + row
    kept = state.admissions.get(erased_key(USER))
    assert kept is not None
    assert (kept.erased_ms, kept.consent, len(kept.ring)) == (ERASED_MS, False, 1)
    for section in (state.profiles, state.tables.repeats, state.notes):
        assert section.get(erased_key(USER)) is None


def test_erase_tells_the_changelog_to_forget() -> None:
    """The changelog gets a tombstone for the user's row, in the commit of the erasure."""
    state = fresh()
    run(state, history_of(USER))
    process(state, Batch(TOPIC, 0, [erase()]), context())
    assert (b"u" + USER.encode(), None) in state.changes()


def test_erased_user_is_not_touched_by_older_events() -> None:
    """An event dated before the erasure counts as processed and changes no row of user or item."""
    state = fresh()
    run(state, [*history_of(USER), erase()])
    before = {key: row for key, row in state.rows().items() if key != b"p"}
    old = [
        record(101, ERASED_MS + 1, user_id=USER, timestamp=ERASED_MS - 1),
        record(102, ERASED_MS + 2, user_id=USER, timestamp=ERASED_MS - 2, type="purchase"),
        withdraw(103, ERASED_MS + 3, timestamp=ERASED_MS - 3, consent=True),
        erase(104, ERASED_MS + 4, timestamp=ERASED_MS - 4),
    ]
    processed = state.ledger.processed
    assert run(state, old).records == []
    assert {key: row for key, row in state.rows().items() if key != b"p"} == before
    assert state.ledger.processed == processed + 4


def test_erased_user_who_comes_back_without_consent() -> None:
    """After an erasure nothing is learnt until the user consents, and the id stays out of rows."""
    state = fresh()
    run(state, [*history_of(USER), erase()])
    same_time = record(110, ERASED_MS + 5, user_id=USER, timestamp=ERASED_MS)
    (step,) = run(state, [same_time]).steps
    assert isinstance(step, Admitted)
    assert (step.profiled, step.untouchable) == (False, False)
    consent = withdraw(111, ERASED_MS + 6, consent=True)
    (_, view) = run(state, [consent, record(112, ERASED_MS + 7, user_id=USER)]).steps
    assert isinstance(view, Admitted)
    assert (view.profiled, view.key) == (True, erased_key(USER))
    for key, row in state.rows().items():
        assert USER.encode() not in key + row


def test_erase_twice() -> None:
    """A second erasure moves the date; the same event again is a repeat."""
    state = fresh()
    run(state, [*history_of(USER), erase(), erase(101, ERASED_MS + 9)])
    kept = state.admissions.get(erased_key(USER))
    assert kept is not None
    assert kept.erased_ms == ERASED_MS + 9
    (again,) = run(state, [erase(102, ERASED_MS + 10, event_id="e-101")]).steps
    assert type(again) is Duplicate


def test_ring_expires_with_the_row() -> None:
    """A repeat is forgotten exactly at the time to live, when the user's row ends."""
    for wait_ms, kind in ((TTL_MS - 1, Duplicate), (TTL_MS, Admitted)):
        state = fresh()
        run(state, [record(0, START_MS)])
        end_ms = START_MS + wait_ms
        out = run(state, [tick(1, end_ms - 1), record(2, end_ms, event_id="e-0")])
        assert type(out.steps[-1]) is kind
        ended = [due for due in dues(out.steps) if (due.scope, due.kind) == ("user", "expiry")]
        assert bool(ended) is (kind is Admitted)


def test_row_of_a_user_who_never_comes_back() -> None:
    """When a user expires, every section of the row goes, so that silent users cost nothing."""
    state = fresh()
    run(state, history_of(USER))
    run(state, [tick(50, START_MS + TTL_MS + DAY_MS)])
    assert not [key for key in state.rows() if key[:1] == b"u"]


def test_row_of_an_erased_user_who_never_comes_back() -> None:
    """The note of an erasure ends at the time to live too."""
    state = fresh()
    run(state, [*history_of(USER), erase(), tick(101, ERASED_MS + TTL_MS)])
    assert not [key for key in state.rows() if key[:1] == b"u"]


def test_expiry_of_a_user_who_comes_back_in_the_same_batch() -> None:
    """A user who returns right after expiring keeps the new row, however the log is cut."""
    log = [
        *history_of(USER),
        tick(50, START_MS + TTL_MS + DAY_MS),
        record(51, START_MS + TTL_MS + DAY_MS + 1, user_id=USER),
    ]
    together, apart = fresh(), fresh()
    run(together, log)
    run(apart, log, records_max=1)
    assert together.digest() == apart.digest()
    section = together.admissions.get(USER)
    assert section is not None
    assert len(section.ring) == 1


def test_admission_survives_encoding() -> None:
    """What a section decodes to encodes to the same bytes."""
    state = fresh()
    run(state, batch(300, 1))
    again = restored(state)
    for key in [key[1:].decode() for key in state.rows() if key[:1] == b"u"]:
        section = state.admissions.get(key)
        assert section == again.admissions.get(key)
