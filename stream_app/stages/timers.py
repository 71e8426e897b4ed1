"""Stage 3: puts what falls due between two events between them, as :class:`Due` records.

Log time fires timers: the highest Kafka record timestamp so far. This stage alone sets and fires
them, by fixed rules on the events, so no later stage ever has to reach back. It also bounds the
item rows: the item with the lowest decayed count leaves when there are too many.

Kinds of timer so far: ``expiry`` of users and items, at ``user_ttl_days`` and ``item_ttl_days`` of
log time without an event, and ``evict``, of an item that makes room for another.
"""

import heapq
import math
from collections.abc import Sequence
from struct import Struct
from typing import Literal, NamedTuple

import msgspec

from stream_app.codec import Sections
from stream_app.config import DAY_MS, StageSettings
from stream_app.event import TIME_MS_MAX
from stream_app.hashing import id_hash
from stream_app.steps import Admitted, Due, RawRecord, Received, Step

EXPIRY = 0  # slot numbers stand in the state: never reuse one
KINDS = ("expiry",)  # name of each slot
SLOTS_MAX = 17

DUE_MAX = 512  # timers that one batch fires
_SWEEP_MIN = 1_024  # entries without a row that are not worth a sweep
SLICE_MS_MAX = 7 * DAY_MS  # log time that one slice spans; timers re-arm no sooner

_USER_HEADER = Struct("<qB")  # newest log time, number of slots
_SLOT = Struct("<Bq")
USER_BYTES_MAX = _USER_HEADER.size + SLOTS_MAX * _SLOT.size
_ITEM = Struct("<qqd")  # due time, newest log time, log2 of the decayed count
ITEM_BYTES_MAX = _ITEM.size
# Half-life of the count by which items are kept, in ms.
_ITEM_HALF_LIFE_MS = 30 * DAY_MS
# Events that make or refresh an item's row; the count grows by one for each.
ITEM_EVENTS = frozenset(("view", "cart", "purchase", "comment", "share", "click"))

Scope = Literal["user", "item"]
HeapEntry = tuple[int, Scope, str | int, int]  # due time in ms, scope, key, slot


class UserTimers(msgspec.Struct):
    """When the timers of a user fall due, and the log time of the user's newest event, in ms."""

    newest_ms: int
    due: dict[int, int]

    @classmethod
    def decode(cls, data: bytes) -> "UserTimers":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(0, {})
        newest_ms, count = _USER_HEADER.unpack_from(data)
        return cls(newest_ms, dict(_SLOT.iter_unpack(data[_USER_HEADER.size :])) if count else {})

    def encode(self) -> bytes:
        """Return the section as bytes, slots in order."""
        slots = [_SLOT.pack(slot, self.due[slot]) for slot in sorted(self.due)]
        return _USER_HEADER.pack(self.newest_ms, len(slots)) + b"".join(slots)


class ItemTimers(msgspec.Struct):
    """When an item expires, its newest event's log time, both in ms, and its decayed count.

    ``score`` is log2 of the sum of 2^(t / half-life) over its events, so comparing two items needs
    no common time. (Forward decay: Cormode et al., "Forward Decay", ICDE 2009.)
    """

    due_ms: int = 0
    newest_ms: int = 0
    score: float = -math.inf

    @classmethod
    def decode(cls, data: bytes) -> "ItemTimers":
        """Return the section that ``data`` holds, a fresh one for no data."""
        return cls(*_ITEM.unpack(data)) if data else cls()

    def encode(self) -> bytes:
        """Return the section as bytes."""
        return _ITEM.pack(self.due_ms, self.newest_ms, self.score)

    def count(self, log_ms: int) -> None:
        """Count one event at ``log_ms``."""
        now = log_ms / _ITEM_HALF_LIFE_MS
        high, low = (now, self.score) if now > self.score else (self.score, now)
        self.score = high + math.log2(1.0 + 2.0 ** (low - high))
        self.newest_ms = max(self.newest_ms, log_ms)


class Timers:
    """All timers of a partition: the rows' sections and one heap over them.

    The heap may hold entries whose slot has been cleared or re-armed since; they are passed over,
    and swept out before evictions leave more of them than there are items.
    """

    def __init__(self, users: Sections[str, UserTimers], items: Sections[int, ItemTimers]) -> None:
        self.users = users
        self.items = items
        self.heap: list[HeapEntry] = []
        self.item_count = 0
        self.leavers: list[tuple[float, int]] = []  # (score, item), filled at the first eviction
        self.evicted = 0  # since the heap was last swept

    def rebuild(self) -> None:
        """Build the heap from the rows, after a restore."""
        heap: list[HeapEntry] = []
        for user, section in self.users.scan():
            heap += [(due_ms, "user", user, slot) for slot, due_ms in section.due.items()]
        items: list[HeapEntry] = [
            (timers.due_ms, "item", item, EXPIRY) for item, timers in self.items.scan()
        ]
        self.item_count = len(items)
        self.heap = heap + items
        heapq.heapify(self.heap)
        self.leavers = []
        self.evicted = 0

    def sweep(self) -> None:
        """Drop what evicted and expired items have left behind, once that outweighs the items."""
        spare = self.item_count + _SWEEP_MIN
        if len(self.leavers) > self.item_count + spare:
            self.leavers = []
        if self.evicted > spare:
            heap = [entry for entry in self.heap if entry[1] == "user"]
            heap += [(timers.due_ms, "item", item, EXPIRY) for item, timers in self.items.scan()]
            heapq.heapify(heap)
            self.heap = heap
            self.evicted = 0


class Cut(NamedTuple):
    """How to go on: fire what is due until ``fire_until_ms``, or take the next ``records``."""

    records: int
    fire_until_ms: int | None


def cut(timers: Timers, records: Sequence[RawRecord], log_ms: int, records_max: int) -> Cut:
    """Return what the next batch is, before anything is decoded.

    A batch is either timers alone, at most 512, or a slice of the records that spans at most 7 days
    of log time and ends before the record at which more than 512 timers of the heap would be due.

    Parameters
    ----------
    timers
        Of the partition, as of its last batch.
    records
        What comes next in the log; not empty.
    log_ms
        Log time before them.
    records_max
        The longest slice.
    """
    heap = timers.heap
    first_ms = max(log_ms, min(records[0].timestamp, TIME_MS_MAX))
    if heap and heap[0][0] <= first_ms:
        return Cut(0, first_ms)
    taken: list[HeapEntry] = []
    count = 0
    now_ms = log_ms
    for record in records[:records_max]:
        now_ms = max(now_ms, min(record.timestamp, TIME_MS_MAX))
        if count and now_ms - first_ms >= SLICE_MS_MAX:
            break
        while heap and heap[0][0] <= now_ms and len(taken) <= DUE_MAX:
            taken.append(heapq.heappop(heap))
        if len(taken) > DUE_MAX:
            break
        count += 1
    for entry in taken:
        heapq.heappush(heap, entry)
    return Cut(count, None)


def fire(
    timers: Timers, until_ms: int, settings: StageSettings, limit: int | None = None
) -> list[Due]:
    """Return the timers that are due at ``until_ms``, at most ``limit``, by due time and key.

    Firing clears a timer's slot or re-arms it. The expiry of a row that has been used since it was
    set is put off, which is no firing but counts towards the limit.
    """
    fired: list[Due] = []
    heap = timers.heap
    popped = 0
    while heap and heap[0][0] <= until_ms and popped != limit:
        popped += 1
        due_ms, scope, key, slot = heapq.heappop(heap)
        ended = (
            _expire_user(timers, str(key), slot, due_ms, settings)
            if scope == "user"
            else _expire_item(timers, int(key), due_ms, settings)
        )
        if ended:
            fired.append(Due(scope, key, KINDS[slot], due_ms, until_ms))
    return fired


def advance(timers: Timers, received: Sequence[Received], settings: StageSettings) -> list[Step]:
    """Return the received records with the timers that fall due before each of them put between."""
    steps: list[Step] = []
    for entry in received:
        if timers.heap and timers.heap[0][0] <= entry.log_ms:
            steps += fire(timers, entry.log_ms, settings)
        if type(entry) is Admitted and not entry.untouchable:
            _refresh_user(timers, entry, settings)
            if entry.profiled and entry.arrival.event.type in ITEM_EVENTS:
                steps += _refresh_item(timers, entry, settings)
        steps.append(entry)
    return steps


def _refresh_user(timers: Timers, entry: Admitted, settings: StageSettings) -> None:
    event, log_ms = entry.arrival.event, entry.arrival.log_ms
    if event.type == "erase":
        timers.users.clear(event.user_id)
    section = timers.users.touch(entry.key)
    section.newest_ms = log_ms
    if event.type == "erase":
        # The expiry is only put off, or the heap would grow with each repeated erasure.
        section.due = {slot: due_ms for slot, due_ms in section.due.items() if slot == EXPIRY}
    if EXPIRY not in section.due:
        section.due[EXPIRY] = log_ms + settings.user_ttl_days * DAY_MS
        heapq.heappush(timers.heap, (section.due[EXPIRY], "user", entry.key, EXPIRY))


def _refresh_item(timers: Timers, entry: Admitted, settings: StageSettings) -> list[Due]:
    """Count an event of an item; return the eviction that its arrival brings about, if any."""
    log_ms = entry.arrival.log_ms
    item = id_hash(entry.arrival.event.item_id or "")
    evicted: list[Due] = []
    if timers.items.get(item) is None:
        timers.sweep()
        if timers.item_count >= settings.items_max:
            evicted.append(_evict(timers, log_ms))
        timers.item_count += 1
    section = timers.items.touch(item)
    section.count(log_ms)
    if not section.due_ms:
        section.due_ms = log_ms + settings.item_ttl_days * DAY_MS
        heapq.heappush(timers.heap, (section.due_ms, "item", item, EXPIRY))
        if timers.leavers:
            heapq.heappush(timers.leavers, (section.score, item))
    return evicted


def _expire_user(timers: Timers, key: str, slot: int, due_ms: int, settings: StageSettings) -> bool:
    section = timers.users.get(key)
    if section is None or section.due.get(slot) != due_ms:
        return False
    later_ms = section.newest_ms + settings.user_ttl_days * DAY_MS
    if later_ms > due_ms:
        timers.users.touch(key).due[slot] = later_ms
        heapq.heappush(timers.heap, (later_ms, "user", key, slot))
        return False
    timers.users.clear(key)
    return True


def _expire_item(timers: Timers, item: int, due_ms: int, settings: StageSettings) -> bool:
    section = timers.items.get(item)
    if section is None or section.due_ms != due_ms:
        return False
    later_ms = section.newest_ms + settings.item_ttl_days * DAY_MS
    if later_ms > due_ms:
        timers.items.touch(item).due_ms = later_ms
        heapq.heappush(timers.heap, (later_ms, "item", item, EXPIRY))
        return False
    timers.items.clear(item)
    timers.item_count -= 1
    return True


def _evict(timers: Timers, log_ms: int) -> Due:
    """Remove the item with the lowest decayed count; ties go by the hash of the id.

    An item's count only grows while its row lives, so an entry of the queue may understate its
    item: then it is put back as it stands now. An entry that overstates is of an item that left and
    came back, which has been queued again.
    """
    if not timers.leavers:
        timers.leavers = [(section.score, item) for item, section in timers.items.scan()]
        heapq.heapify(timers.leavers)
    while True:
        score, item = heapq.heappop(timers.leavers)
        section = timers.items.get(item)
        if section is not None and section.score > score:
            heapq.heappush(timers.leavers, (section.score, item))
        elif section is not None and section.score == score:
            timers.items.clear(item)
            timers.item_count -= 1
            timers.evicted += 1
            return Due("item", item, "evict", section.due_ms, log_ms)
