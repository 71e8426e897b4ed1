"""A broker in memory: logs, transactions with fencing, and what a ``read_committed`` reader sees.

It does what Kafka does, as far as the worker can tell: a transaction's marker takes an offset in
every partition that it touched and is written a little after the commit was answered; a new owner
of a transactional id bumps its epoch, which aborts what the old one left open and refuses its
requests.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random

from msgspec import Struct

from stream_app.errors import CommitError, FencedError
from stream_app.runtime.sink import TRANSACTION_TIMEOUT_MS, Produced

Where = tuple[str, int]  # topic, partition
Headers = tuple[tuple[str, bytes], ...]

MARKER_SECONDS_MAX = 0.03


class Busy(Exception):  # noqa: N818 - no error: the client asks again
    """The last transaction of this id is still being completed."""


class Transaction(Struct, eq=False):
    """What one owner has written since it began; ``committed`` is None until that is decided."""

    name: str
    touched: list[Where]
    offsets: dict[tuple[str, Where], int]
    committed: bool | None = None
    unmarked: int = 0


class Entry(Struct, eq=False):
    """A record or a marker as it stands in a log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    transaction: Transaction | None
    marker: bool = False


class Log:
    """One partition of one topic; its first offset need not be 0."""

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.entries: list[Entry | None] = []  # None where compaction has removed a record
        self.newest_ms = 0
        self._open: dict[Transaction, int] = {}

    @property
    def end(self) -> int:
        """The offset after the last entry."""
        return self.first + len(self.entries)

    @property
    def stable(self) -> int:
        """The offset before which every transaction is decided."""
        return min(self._open.values(), default=self.end)

    def append(
        self, records: Sequence[Produced], timestamp: int, transaction: Transaction | None
    ) -> None:
        """Append a record batch, whole."""
        if transaction is not None:
            self._open.setdefault(transaction, self.end)
        self.newest_ms = max(self.newest_ms, timestamp)
        for key, value, headers in records:
            entry = Entry(self.end, timestamp, key, value, tuple(headers), transaction)
            self.entries.append(entry)

    def mark(self, transaction: Transaction) -> None:
        """Append the marker of a transaction that is decided."""
        self._open.pop(transaction, None)
        marker = Entry(self.end, self.newest_ms, None, None, (), transaction, marker=True)
        self.entries.append(marker)

    def visible(self, start: int, limit: int | None = None) -> Iterator[Entry]:
        """Yield what a ``read_committed`` reader sees from an offset on."""
        for offset in range(max(start, self.first), self.stable):
            entry = self.entries[offset - self.first]
            if entry is None or entry.marker:
                continue
            if entry.transaction is None or entry.transaction.committed:
                yield entry
                limit = None if limit is None else limit - 1
                if limit == 0:
                    return

    @property
    def end_visible(self) -> int:
        """The offset after the last record that a ``read_committed`` reader sees, -1 for none."""
        for offset in range(self.stable - 1, self.first - 1, -1):
            if next(self.visible(offset, 1), None) is not None:
                return offset + 1
        return -1

    def compact(self) -> int:
        """Remove what a later record of the same key supersedes; return how many records left."""
        newest: dict[bytes | None, int] = {}
        for entry in self.visible(self.first):
            newest[entry.key] = entry.offset
        removed = 0
        for offset in range(self.first, self.stable):
            old = self.entries[offset - self.first]
            if old is None or old.marker:
                continue
            aborted = old.transaction is not None and not old.transaction.committed
            if aborted or newest[old.key] != offset:
                self.entries[offset - self.first] = None
                removed += 1
        return removed


class Owner(Struct):
    """What the coordinator knows of a transactional id."""

    producer_id: int
    epoch: int = -1
    open: Transaction | None = None
    completing: Transaction | None = None


class Broker:
    """All logs, all transactional ids and the group's offsets."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self.logs: dict[Where, Log] = {}
        self.owners: dict[str, Owner] = {}
        self.offsets: dict[tuple[str, Where], int] = {}
        self.on_change: list[Callable[[Where], None]] = []
        self.on_complete: list[Callable[[Transaction], None]] = []

    def create(self, topic: str, partitions: int, first: int = 0) -> None:
        """Create a topic."""
        for partition in range(partitions):
            self.logs[topic, partition] = Log(first)

    def produce(self, where: Where, records: Sequence[Produced], timestamp: int) -> None:
        """Append a record batch of a producer without transactions."""
        self.logs[where].append(records, timestamp, None)
        self._changed(where)

    def init(self, name: str) -> tuple[int, int]:
        """Take a transactional id over: fence the owner and abort what it left open.

        Raises
        ------
        Busy
            While the last transaction is being completed.
        """
        owner = self.owners.setdefault(name, Owner(1_000 + len(self.owners)))
        if owner.open is not None:
            owner.epoch += 1
            self._decide(owner, committed=False)
        if owner.completing is not None:
            raise Busy
        owner.epoch += 1
        return owner.producer_id, owner.epoch

    def write(
        self, name: str, identity: tuple[int, int], where: Where, records: Sequence[Produced]
    ) -> None:
        """Append a record batch as part of the owner's transaction, which begins with the first."""
        self._join(name, identity, where)
        log, owner = self.logs[where], self.owners[name]
        log.append(records, self.now_ms, owner.open)
        self._changed(where)

    def write_offset(
        self, name: str, identity: tuple[int, int], where: Where, position: int, group: str
    ) -> None:
        """Store a group's offset as part of the owner's transaction."""
        self._join(name, identity, None)
        transaction = self.owners[name].open
        assert transaction is not None
        transaction.offsets[group, where] = position

    def end(self, name: str, identity: tuple[int, int], *, commit: bool) -> None:
        """Commit or abort the owner's transaction; without one there is nothing to do."""
        owner = self._check(name, identity)
        if owner.open is not None:
            self._decide(owner, committed=commit)

    def abort(self, name: str) -> None:
        """Abort what is open, as the coordinator does when it has been open for too long."""
        owner = self.owners[name]
        if owner.open is not None:
            owner.epoch += 1
            self._decide(owner, committed=False)

    @property
    def now_ms(self) -> int:
        """Return virtual time in milliseconds."""
        return int(self._loop.time() * 1000)

    def _check(self, name: str, identity: tuple[int, int]) -> Owner:
        owner = self.owners[name]
        if identity != (owner.producer_id, owner.epoch):
            raise FencedError(f"{name}: epoch {identity[1]} is old, {owner.epoch} owns it now")
        return owner

    def _join(self, name: str, identity: tuple[int, int], where: Where | None) -> None:
        """Make a partition part of the owner's transaction."""
        owner = self._check(name, identity)
        if owner.completing is not None:
            raise Busy
        if owner.open is None:
            owner.open = transaction = Transaction(name, [], {})
            self._loop.call_later(TRANSACTION_TIMEOUT_MS / 1000, self._expire, owner, transaction)
        if where is not None and where not in owner.open.touched:
            owner.open.touched.append(where)

    def _expire(self, owner: Owner, transaction: Transaction) -> None:
        if owner.open is transaction:
            self.abort(transaction.name)

    def _decide(self, owner: Owner, *, committed: bool) -> None:
        """Decide a transaction; its markers follow one by one."""
        transaction = owner.open
        assert transaction is not None
        owner.open, owner.completing = None, transaction
        transaction.committed = committed
        transaction.unmarked = len(transaction.touched)
        if not transaction.touched:
            self._complete(owner, transaction)
        for where in transaction.touched:
            delay = self._rng.random() * MARKER_SECONDS_MAX
            self._loop.call_later(delay, self._mark, owner, transaction, where)

    def _mark(self, owner: Owner, transaction: Transaction, where: Where) -> None:
        self.logs[where].mark(transaction)
        transaction.unmarked -= 1
        if not transaction.unmarked:
            self._complete(owner, transaction)
        self._changed(where)

    def _complete(self, owner: Owner, transaction: Transaction) -> None:
        owner.completing = None
        if transaction.committed:
            self.offsets.update(transaction.offsets)
        for hook in self.on_complete:
            hook(transaction)

    def _changed(self, where: Where) -> None:
        for hook in self.on_change:
            hook(where)


def unknown(text: str) -> CommitError:
    """Return the error of a request without an answer."""
    return CommitError(f"simulated: {text}")
