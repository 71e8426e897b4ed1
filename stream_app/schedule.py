"""When what falls due: the timers in the rows of users and items, and one heap over them.

:mod:`stream_app.stages.timers` alone sets and fires them; this is what it keeps.
"""

import heapq
import math
from struct import Struct
from typing import Literal

import msgspec

from stream_app.codec import Sections
from stream_app.config import DAY_MS

# Slot numbers stand in the state: never reuse one.
EXPIRY, CHURN, SILENCE = 0, 1, 2
CHURN_LABELS = range(
    3, 8
)  # one a week for four weeks, and one more while the oldest waits to close
SESSION_LABELS, DAYS_LABELS = range(8, 11), range(11, 14)  # short horizons and long ones
KINDS = ("expiry", "churn", "silence", *["churn-label"] * 5, *["label"] * 6)  # name of each slot
SLOTS_MAX = len(KINDS)

_SWEEP_MIN = 1_024  # entries without a row that are not worth a sweep

# Log times of the newest event and purchase, event time last predicted at, number of slots.
_USER_HEADER = Struct("<qqqB")
_SLOT = Struct("<Bq")
USER_BYTES_MAX = _USER_HEADER.size + SLOTS_MAX * _SLOT.size
_ITEM = Struct("<qqd")  # due time, newest log time, log2 of the decayed count
ITEM_BYTES_MAX = _ITEM.size
# Half-life of the count by which items are kept, in ms.
_ITEM_HALF_LIFE_MS = 30 * DAY_MS
Scope = Literal["user", "item"]
HeapEntry = tuple[int, Scope, str | int, int]  # due time in ms, scope, key, slot


class UserTimers(msgspec.Struct):
    """When the timers of a user fall due, all in ms.

    ``newest_ms`` and ``bought_ms`` are the log times of the newest event and purchase (0 for none
    that counts), ``predicted_ms`` the event time of the newest prediction.
    """

    newest_ms: int
    bought_ms: int
    predicted_ms: int
    due: dict[int, int]

    @classmethod
    def decode(cls, data: bytes) -> "UserTimers":
        """Return the section that ``data`` holds, a fresh one for no data."""
        if not data:
            return cls(0, 0, 0, {})
        newest_ms, bought_ms, predicted_ms, _ = _USER_HEADER.unpack_from(data)
        due = dict(_SLOT.iter_unpack(data[_USER_HEADER.size :]))
        return cls(newest_ms, bought_ms, predicted_ms, due)

    def encode(self) -> bytes:
        """Return the section as bytes, slots in order."""
        slots = [_SLOT.pack(slot, self.due[slot]) for slot in sorted(self.due)]
        times = self.newest_ms, self.bought_ms, self.predicted_ms
        return _USER_HEADER.pack(*times, len(slots)) + b"".join(slots)


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

    def arm(self, section: UserTimers, key: str, slot: int, due_ms: int) -> None:
        """Set a timer in the section of a user."""
        section.due[slot] = due_ms
        heapq.heappush(self.heap, (due_ms, "user", key, slot))
