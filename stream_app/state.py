"""The state of one partition: all its rows, what each stage may reach of them, and the accounting.

========= ===================== =========================================================
row       key in the topic      sections, with their most bytes
========= ===================== =========================================================
user      ``u`` + id            timers, admit, features, candidates, emit, behavior, churn
item      ``i`` + 64-bit hash   timers, candidates
context   ``c`` + 8-bit bucket  candidates
learner   ``l`` + name          behavior-session, behavior-days, churn: each in a row of its own
partition ``p``                ledger, candidates
========= ===================== =========================================================

A row of a user takes at most 3 KiB. Only rows that were touched are written.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from struct import Struct

import msgspec

from stream_app import schedule, tables
from stream_app.codec import K, Rows, Sections, SectionSpec
from stream_app.errors import StateError, TopicError
from stream_app.stages import admit, behavior, candidates, churn, emit, features
from stream_app.steps import Admitted, Duplicate, Reject, Step, Tick

USER_ROW_BYTES_MAX = 3 * 1024
LEARNER_BYTES_MAX = 8 * 1024
PARTITION_KEY = "p"
_HASH_BYTES = 8  # of an item's key

_LEDGER = Struct("<qqqqqqqH")  # position, log time, five counters, partition count


class Ledger(msgspec.Struct):
    """Where the partition stands: the next offset, log time in ms, and what became of each record.

    ``position`` is -1 until the state is bound to a topic. Ticks are counted apart:
    consumed = processed + rejected + duplicate.
    """

    position: int = -1
    log_ms: int = 0
    consumed: int = 0
    processed: int = 0
    rejected: int = 0
    duplicate: int = 0
    ticks: int = 0
    partitions: int = 0
    topic_id: str = ""

    @classmethod
    def decode(cls, data: bytes) -> "Ledger":
        """Return the ledger that ``data`` holds, an unbound one for no data."""
        if not data:
            return cls()
        topic_id = data[_LEDGER.size :].decode()
        return cls(*_LEDGER.unpack_from(data), topic_id)  # type: ignore[call-arg]

    def encode(self) -> bytes:
        """Return the ledger as bytes."""
        *numbers, _ = msgspec.structs.astuple(self)
        return _LEDGER.pack(*numbers) + self.topic_id.encode()


USER_LAYOUT = (
    SectionSpec("timers", schedule.UserTimers.decode, schedule.USER_BYTES_MAX),
    SectionSpec("admit", admit.Admission.decode, admit.BYTES_MAX),
    SectionSpec("features", features.Profile.decode, features.BYTES_MAX),
    SectionSpec("candidates", tables.Repeats.decode, tables.REPEATS_BYTES_MAX),
    SectionSpec("emit", emit.Notes.decode, emit.BYTES_MAX),
    SectionSpec("behavior", behavior.Outlook.decode, behavior.BYTES_MAX),
    SectionSpec("churn", churn.Watch.decode, churn.BYTES_MAX),
)
ITEM_LAYOUT = (
    SectionSpec("timers", schedule.ItemTimers.decode, schedule.ITEM_BYTES_MAX),
    SectionSpec("candidates", tables.ItemFacts.decode, tables.ITEM_BYTES_MAX),
)
LEARNER_LAYOUT = (
    SectionSpec(behavior.SESSION, behavior.decode_session, LEARNER_BYTES_MAX),
    SectionSpec(behavior.DAYS, behavior.decode_days, LEARNER_BYTES_MAX),
    SectionSpec(churn.LEARNER, churn.decode_learner, LEARNER_BYTES_MAX),
)
_LEARNERS = frozenset(spec.name.encode() for spec in LEARNER_LAYOUT)
CONTEXT_LAYOUT = (SectionSpec("candidates", tables.ContextTop.decode, tables.CONTEXT_BYTES_MAX),)
PARTITION_LAYOUT = (
    SectionSpec("ledger", Ledger.decode, _LEDGER.size + 64),
    SectionSpec("candidates", tables.TopLists.decode, tables.TOP_BYTES_MAX),
)


class PartitionState:
    """All rows of one partition, in memory.

    Parameters
    ----------
    live_max
        At most so many rows of users, of items and of contexts stay decoded between batches.
    """

    def __init__(self, live_max: int = 20_000) -> None:
        self._users: Rows[str] = Rows(USER_LAYOUT, live_max)
        self._items: Rows[int] = Rows(ITEM_LAYOUT, live_max)
        self._contexts: Rows[int] = Rows(CONTEXT_LAYOUT, live_max)
        self._learners: Rows[str] = Rows(LEARNER_LAYOUT, live_max=8)
        self._partition: Rows[str] = Rows(PARTITION_LAYOUT, 1)
        self.admissions: Sections[str, admit.Admission] = Sections(self._users, 1)
        self.profiles: Sections[str, features.Profile] = Sections(self._users, 2)
        self.notes: Sections[str, emit.Notes] = Sections(self._users, 4)
        self.foresight = behavior.Foresight(
            Sections(self._users, 5), Sections(self._learners, 0), Sections(self._learners, 1)
        )
        self.watchlist = churn.Watchlist(Sections(self._users, 6), Sections(self._learners, 2))
        self.tables = candidates.Tables(
            Sections(self._users, 3),
            Sections(self._items, 1),
            Sections(self._contexts, 0),
            Sections(self._partition, 1),
            PARTITION_KEY,
        )
        self.timers = schedule.Timers(Sections(self._users, 0), Sections(self._items, 0))
        self._ledgers: Sections[str, Ledger] = Sections(self._partition, 0)

    @classmethod
    def restore(
        cls, records: Iterable[tuple[bytes, bytes | None]], live_max: int = 20_000
    ) -> "PartitionState":
        """Return the state that a changelog describes; of a key the last record counts.

        Raises
        ------
        StateError
            When a key is of no known kind or a row cannot be read.
        """
        state = cls(live_max)
        for key, value in records:
            state.apply(key, value)
        state.timers.rebuild()
        return state

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take in one changelog record; call ``timers.rebuild`` after the last."""
        kind, rest = key[:1], key[1:]
        if kind == b"u":
            try:
                user_id = rest.decode()
            except UnicodeDecodeError:
                raise StateError(f"a state record has the key {key!r}: no user's id") from None
            _put(self._users, user_id, value)
        elif kind == b"i" and len(rest) == _HASH_BYTES:
            _put(self._items, int.from_bytes(rest, "big"), value)
        elif kind == b"c" and len(rest) == 1:
            _put(self._contexts, rest[0], value)
        elif kind == b"l" and rest in _LEARNERS:
            _put(self._learners, rest.decode(), value)
        elif key == b"p":
            _put(self._partition, PARTITION_KEY, value)
        else:
            raise StateError(f"a state record has the key {key!r}, which is of no known kind")

    @property
    def ledger(self) -> Ledger:
        """Where the partition stands, for reading."""
        return self._ledgers.get(PARTITION_KEY) or Ledger.decode(b"")

    def begin(self, position: int, partitions: int, topic_id: str) -> None:
        """Bind the state to a source partition; a state that is bound is checked against it.

        Raises
        ------
        TopicError
            When the state was built from another topic or another number of partitions.
        StateError
            When the partition's row, or that of a context or learner, cannot be read.
        """
        # Else a row that cannot be read would stop whoever is the first to need it.
        for _ in self.tables.contexts.scan():
            pass
        self.foresight.session.get(behavior.SESSION)
        self.foresight.days.get(behavior.DAYS)
        self.watchlist.learners.get(churn.LEARNER)
        ledger = self.ledger
        if ledger.position < 0:
            ledger = self._ledgers.touch(PARTITION_KEY)
            ledger.position, ledger.partitions, ledger.topic_id = position, partitions, topic_id
            return
        if ledger.partitions != partitions:
            raise TopicError(
                f"the state was built from {ledger.partitions} partitions, the topic has "
                f"{partitions}: a user's key now falls elsewhere. Start a new `app` name, "
                "which rebuilds the state from the log, or restore the topic"
            )
        if ledger.topic_id != topic_id:
            raise TopicError(
                f"the state was built from topic id {ledger.topic_id}, this topic is {topic_id}: "
                "it was deleted and made again. Start a new `app` name, or delete the state topic"
            )

    def account(self, steps: Sequence[Step], position: int | None) -> None:
        """Enter what became of a batch's records; ``position`` is the next offset, if it moved."""
        if position is None:
            return
        ledger = self._ledgers.touch(PARTITION_KEY)
        ledger.position = position
        kinds = Counter(map(type, steps))
        ledger.processed += kinds[Admitted]
        ledger.duplicate += kinds[Duplicate]
        ledger.rejected += kinds[Reject]
        ledger.ticks += kinds[Tick]
        ledger.consumed = ledger.processed + ledger.rejected + ledger.duplicate
        ledger.log_ms = steps[-1].log_ms

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Return changelog records of the rows touched since the last call; None removes one."""
        return [
            *((b"u" + key.encode(), value) for key, value in self._users.changes()),
            *(
                (b"i" + key.to_bytes(_HASH_BYTES, "big"), value)
                for key, value in self._items.changes()
            ),
            *((b"c%c" % key, value) for key, value in self._contexts.changes()),
            *((b"l" + key.encode(), value) for key, value in self._learners.changes()),
            *((b"p", value) for _, value in self._partition.changes()),
        ]

    def rows(self) -> dict[bytes, bytes]:
        """Return every row as it stands in the changelog; call it between batches."""
        return {
            **{b"u" + key.encode(): value for key, value in self._users.encoded.items()},
            **{
                b"i" + key.to_bytes(_HASH_BYTES, "big"): value
                for key, value in self._items.encoded.items()
            },
            **{b"c%c" % key: value for key, value in self._contexts.encoded.items()},
            **{b"l" + key.encode(): value for key, value in self._learners.encoded.items()},
            **dict.fromkeys([b"p"] * len(self._partition), self._partition.encoded.get("p", b"")),
        }

    def digest(self) -> str:
        """Return a hash over all rows: equal states have equal digests."""
        return digest(self.rows())

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows there are of each kind."""
        return {"user": len(self._users), "item": len(self._items)}


def digest(rows: dict[bytes, bytes]) -> str:
    """Return a hash over rows, whatever their order."""
    total = hashlib.sha256()
    for key in sorted(rows):
        total.update(len(key).to_bytes(4, "big") + key + rows[key])
    return total.hexdigest()


def _put(rows: Rows[K], key: K, value: bytes | None) -> None:
    if value is None:
        rows.encoded.pop(key, None)
    else:
        rows.encoded[key] = value
