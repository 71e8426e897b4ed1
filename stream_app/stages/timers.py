"""Stage 3: puts what falls due between two events between them, as :class:`Due` records.

Log time fires timers: the highest Kafka record timestamp so far. This stage alone sets and fires
them, by fixed rules on the events, so no later stage ever has to reach back. It also bounds the
item rows: the item with the lowest decayed count leaves when there are too many.

Kinds of timer:

- ``expiry`` of users and items, at ``user_ttl_days`` and ``item_ttl_days`` of log time without an
  event, and ``evict``, of an item that makes room for another;
- ``label``, when the horizon of a prediction closes, by which time every event that counts has come
  or is late;
- ``churn``, each Sunday 00:00 UTC while the user's newest purchase is at most
  ``churn_active_days`` old, and ``churn-label``, when the horizon of that closes;
- ``silence``, at each of ``silence_days`` after the newest event of a user who once bought.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from stream_app.config import DAY_MS, StageSettings
from stream_app.event import TIME_MS_MAX
from stream_app.hashing import id_hash, unit_hash
from stream_app.schedule import (
    CHURN,
    CHURN_LABELS,
    DAYS_LABELS,
    EXPIRY,
    KINDS,
    SESSION_LABELS,
    SILENCE,
    HeapEntry,
    Timers,
    UserTimers,
)
from stream_app.steps import Admitted, Due, RawRecord, Received, Step

DUE_MAX = 512  # timers that one batch fires
SLICE_MS_MAX = 7 * DAY_MS  # log time that one slice spans: weekly timers re-arm no sooner
# Events that make or refresh an item's row; the count grows by one for each.
ITEM_EVENTS = frozenset(("view", "cart", "purchase", "comment", "share", "click"))
# Events at which the user's behaviour is predicted.
PREDICTED_EVENTS = frozenset((*ITEM_EVENTS, "search"))
_WEEK_MS = 7 * DAY_MS
_SUNDAY_MS = 3 * DAY_MS  # 1970-01-04 00:00 UTC


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

    Firing clears a timer's slot or re-arms it. One that has lost its ground since it was set (the
    row has been used, the user has bought) is put off, which is no firing but counts towards the
    limit.
    """
    fired: list[Due] = []
    heap = timers.heap
    popped = 0
    while heap and heap[0][0] <= until_ms and popped != limit:
        popped += 1
        due_ms, scope, key, slot = heapq.heappop(heap)
        if scope == "user":
            closes_ms = _fire_user(timers, str(key), slot, due_ms, settings)
        else:
            closes_ms = _expire_item(timers, int(key), due_ms, settings)
        if closes_ms is not None:
            fired.append(Due(scope, key, KINDS[slot], due_ms, until_ms, closes_ms))
    return fired


def advance(timers: Timers, received: Sequence[Received], settings: StageSettings) -> list[Step]:
    """Return the received records with the timers that fall due before each of them put between.

    What is admitted comes back with the word whether to predict at it, and for how long to watch
    what comes of that.
    """
    steps: list[Step] = []
    for entry in received:
        if timers.heap and timers.heap[0][0] <= entry.log_ms:
            steps += fire(timers, entry.log_ms, settings)
        if type(entry) is Admitted and not entry.untouchable:
            event = entry.arrival.event
            section = _refresh_user(timers, entry, settings)
            if entry.profiled:
                if event.type in ITEM_EVENTS:
                    steps += _refresh_item(timers, entry, settings)
                if event.type in PREDICTED_EVENTS and entry.arrival.time_ms > section.predicted_ms:
                    steps.append(_predict(timers, entry, section, settings))
                    continue
        steps.append(entry)
    return steps


def _refresh_user(timers: Timers, entry: Admitted, settings: StageSettings) -> UserTimers:
    """Note a user's event; set what runs from it: expiry, and after a purchase the churn timers.

    A slot that is armed stays armed, also when consent is withdrawn or the user erased once more,
    or the heap would grow with each repetition; without a purchase that counts, nothing fires.
    """
    event, log_ms = entry.arrival.event, entry.arrival.log_ms
    section = timers.users.touch(entry.key)
    if event.type == "erase":
        timers.users.clear(event.user_id)
        section.predicted_ms = 0
    section.newest_ms = log_ms
    if EXPIRY not in section.due:
        timers.arm(section, entry.key, EXPIRY, log_ms + settings.user_ttl_days * DAY_MS)
    if not entry.profiled:
        section.bought_ms = 0
    elif event.type == "purchase" and entry.key == event.user_id:
        # Timers know no more than the key; of an erased user's row that is no user's id.
        # A late purchase makes nobody active.
        section.bought_ms = max(section.bought_ms, min(log_ms, entry.arrival.time_ms))
        active = log_ms - section.bought_ms <= settings.churn_active_days * DAY_MS
        if CHURN not in section.due and active:
            weeks = (log_ms - _SUNDAY_MS) // _WEEK_MS + 1
            jitter_ms = settings.timer_jitter_minutes * 60_000 * unit_hash("jitter", entry.key)
            due_ms = _SUNDAY_MS + weeks * _WEEK_MS + int(jitter_ms)
            timers.arm(section, entry.key, CHURN, due_ms)
    silence_ms = log_ms + settings.silence_days[0] * DAY_MS
    if section.bought_ms and section.due.get(SILENCE, TIME_MS_MAX) > silence_ms:
        timers.arm(section, entry.key, SILENCE, silence_ms)
    return section


def _predict(
    timers: Timers, entry: Admitted, section: UserTimers, settings: StageSettings
) -> Admitted:
    """Return what was admitted, to be predicted at; some are watched until the horizon closes.

    Which ones, a draw by the event's id decides, and whether a slot is free: giving up a slot early
    would lose mostly those where nothing happens.
    """
    event, time_ms = entry.arrival.event, entry.arrival.time_ms
    closes_ms = 0
    if not entry.arrival.late:
        section.predicted_ms = time_ms
        in_session = event.session_id is not None
        share = settings.learn_share_session if in_session else settings.learn_share
        if unit_hash(settings.seed + "learn", event.event_id) < share:
            slots = SESSION_LABELS if in_session else DAYS_LABELS
            free = next((slot for slot in slots if slot not in section.due), None)
            if free is not None:
                horizon_ms = settings.horizon_ms(in_session=in_session)
                closes_ms = time_ms + horizon_ms + settings.lateness_ms_max
                timers.arm(section, entry.key, free, closes_ms)
    return Admitted(
        entry.arrival,
        entry.key,
        profiled=True,
        predicted=not entry.arrival.late,
        closes_ms=closes_ms,
    )


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


def _fire_user(
    timers: Timers, key: str, slot: int, due_ms: int, settings: StageSettings
) -> int | None:
    """End, put off or repeat a timer of a user; return None when that is no firing.

    Else when the horizon of what it asks for closes, 0 for never.
    """
    section = timers.users.get(key)
    if section is None or section.due.get(slot) != due_ms:
        return None
    if slot == EXPIRY:
        later_ms = section.newest_ms + settings.user_ttl_days * DAY_MS
        if later_ms <= due_ms:
            timers.users.clear(key)
            return 0
        timers.arm(timers.users.touch(key), key, slot, later_ms)
        return None
    section = timers.users.touch(key)
    del section.due[slot]
    if slot == CHURN:
        return _fire_churn(timers, section, key, due_ms, settings)
    if slot == SILENCE:
        return _fire_silence(timers, section, key, due_ms, settings)
    return 0


def _fire_churn(
    timers: Timers, section: UserTimers, key: str, due_ms: int, settings: StageSettings
) -> int | None:
    """Go on weekly while the user is active, and watch what comes of each."""
    if not section.bought_ms or due_ms - section.bought_ms > settings.churn_active_days * DAY_MS:
        return None
    timers.arm(section, key, CHURN, due_ms + _WEEK_MS)
    free = next((slot for slot in CHURN_LABELS if slot not in section.due), None)
    if free is None:
        return 0
    closes_ms = due_ms + settings.churn_horizon_ms + settings.lateness_ms_max
    timers.arm(section, key, free, closes_ms)
    return closes_ms


def _fire_silence(
    timers: Timers, section: UserTimers, key: str, due_ms: int, settings: StageSettings
) -> int | None:
    """Fire if the silence has lasted, and wait for the next of the set days; there may be none."""
    if not section.bought_ms:
        return None
    for days in settings.silence_days:
        later_ms = section.newest_ms + days * DAY_MS
        if later_ms > due_ms:
            timers.arm(section, key, SILENCE, later_ms)
            break
    silent = any(section.newest_ms + days * DAY_MS == due_ms for days in settings.silence_days)
    return 0 if silent else None


def _expire_item(timers: Timers, item: int, due_ms: int, settings: StageSettings) -> int | None:
    section = timers.items.get(item)
    if section is None or section.due_ms != due_ms:
        return None
    later_ms = section.newest_ms + settings.item_ttl_days * DAY_MS
    if later_ms > due_ms:
        timers.items.touch(item).due_ms = later_ms
        heapq.heappush(timers.heap, (later_ms, "item", item, EXPIRY))
        return None
    timers.items.clear(item)
    timers.item_count -= 1
    return 0


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
