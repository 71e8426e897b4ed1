"""Stage 10: records with ids, causes and CloudEvents headers; rejects go to the dead-letter topic.

An output's id is made of its source's topic, partition and offset and the kind of output, so the
same record gives the same id however often it is processed. The user's row keeps the last three
recommendations, to join impressions, clicks and purchases to what was shown.
"""

from collections.abc import Sequence
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.event import TIME_MS_MAX, Cause, RankedItem, Recommendation, encode, rfc3339
from stream_app.hashing import event_hash
from stream_app.steps import (
    SOURCES,
    Admitted,
    Batch,
    Due,
    OutputRecord,
    Outside,
    Ranked,
    Reject,
    Request,
    Step,
)

NOTES_SIZE = 3
NOTE_ITEMS_MAX = 10
_NOTE = Struct("<QIB")  # hash of the recommendation's id, seconds since the epoch, number of items
BYTES_MAX = NOTES_SIZE * (_NOTE.size + 8 * NOTE_ITEMS_MAX)
DETAIL_CHARACTERS_MAX = 300
_SCORE_DIGITS = 6


class Note(msgspec.Struct, frozen=True):
    """A recommendation as remembered: hash of its id, when it was made, hashes of its items."""

    recommendation: int
    second: int
    items: tuple[int, ...]


class Notes(msgspec.Struct):
    """A user's section of this stage: the last three recommendations, oldest first."""

    notes: list[Note]

    @classmethod
    def decode(cls, data: bytes) -> "Notes":
        """Return the section that ``data`` holds, a fresh one for no data."""
        notes, start = [], 0
        while start < len(data):
            recommendation, second, count = _NOTE.unpack_from(data, start)
            start += _NOTE.size
            items = memoryview(data[start : start + 8 * count]).cast("Q")
            notes.append(Note(recommendation, second, tuple(items)))
            start += 8 * count
        return cls(notes)

    def encode(self) -> bytes:
        """Return the section as bytes."""
        return b"".join(
            _NOTE.pack(note.recommendation, note.second, len(note.items))
            + b"".join(item.to_bytes(8, "little") for item in note.items)
            for note in self.notes
        )


def emit(
    users: Sections[str, Notes],
    batch: Batch,
    steps: Sequence[Step],
    ranked: Sequence[Ranked],
    outside: Outside,
) -> list[OutputRecord]:
    """Return the records that a batch gives rise to, in the order of what caused them.

    Where there is nothing to recommend, who asked gets an empty list of items; nobody else does.
    """
    answers = {answer.request.step: answer for answer in ranked}
    records: list[OutputRecord] = []
    for place, step in enumerate(steps):
        answer = answers.get(place)
        if answer is not None and (answer.places or answer.request.asked):
            records.append(_recommend(users, batch, answer, outside))
        if type(step) is Reject:
            records.append(_dead_letter(batch, step))
        elif type(step) is Admitted and not step.profiled and not step.untouchable:
            users.clear(step.arrival.event.user_id)
            users.clear(step.key)
        elif type(step) is Due and step.scope == "user" and step.kind == "expiry":
            users.clear(str(step.key))
    return records


def explain(request: Request, place: int) -> list[str]:
    """Return why a candidate was proposed, in words, one reason for each source."""
    recency_days, gap_days = request.features[place][-2:]
    bits = request.sources[place]
    repeat, neighbour, trending, popular = SOURCES
    reasons = []
    if bits & repeat:
        usual = f", usually every {gap_days:.0f} days" if gap_days else ""
        reasons.append(f"bought {recency_days:.0f} days ago{usual}")
    if bits & neighbour:
        reasons.append("others went on to it from this user's last items")
    if bits & trending:
        reasons.append("trending here")
    if bits & popular:
        reasons.append("popular here")
    return reasons


def _recommend(
    users: Sections[str, Notes],
    batch: Batch,
    answer: Ranked,
    outside: Outside,
) -> OutputRecord:
    request, scored = answer.request, answer.scored
    arrival = request.arrival
    user_id = arrival.event.user_id
    identity = f"{batch.topic}-{batch.partition}-{arrival.offset}-recommendation"
    items = [
        RankedItem(
            request.item_ids[place],
            rank,
            round(scored.scores[place], _SCORE_DIGITS),
            [name for bit, name in SOURCES.items() if request.sources[place] & bit],
            explain(request, place),
        )
        for rank, place in enumerate(answer.places, 1)
    ]
    value = Recommendation(
        recommendation_id=identity,
        user_id=user_id,
        timestamp=arrival.time_ms,
        items=items,
        cause=Cause(arrival.event.event_id, batch.topic, batch.partition, arrival.offset),
        model=scored.model,
        model_version=scored.model_version,
        fallback_level=scored.fallback_level,
        service_level=outside.service_level,
        variant=answer.variant,
        catalog_version=outside.catalog_version,
    )
    if request.profiled:
        notes = users.touch(request.key).notes
        shown = tuple(request.items[place] for place in answer.places[:NOTE_ITEMS_MAX])
        notes.append(Note(event_hash(identity), arrival.time_ms // 1000, shown))
        del notes[:-NOTES_SIZE]
    headers = _cloud_event(batch, identity, "recommendation", arrival.time_ms)
    return OutputRecord("recommendations", user_id.encode(), encode(value), headers)


def _dead_letter(batch: Batch, reject: Reject) -> OutputRecord:
    record = reject.record
    identity = f"{batch.topic}-{batch.partition}-{record.offset}-dead-letter"
    time_ms = min(max(record.timestamp, 0), TIME_MS_MAX)
    headers = (
        *_cloud_event(batch, identity, "dead-letter", time_ms, b"application/octet-stream"),
        ("reject_reason", reject.reason.encode()),
        ("reject_detail", reject.detail[:DETAIL_CHARACTERS_MAX].encode(errors="replace")),
        ("source_topic", batch.topic.encode()),
        ("source_partition", b"%d" % batch.partition),
        ("source_offset", b"%d" % record.offset),
        ("source_timestamp", b"%d" % record.timestamp),
        *((f"source_header.{name}", value or b"") for name, value in record.headers),
    )
    return OutputRecord("dead_letter", record.key, record.value, headers)


def _cloud_event(
    batch: Batch, identity: str, kind: str, time_ms: int, content_type: bytes = b"application/json"
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of CloudEvents' Kafka binding (version 1.0, binary mode)."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", identity.encode()),
        ("ce_source", f"/stream_app/{batch.topic}/{batch.partition}".encode()),
        ("ce_type", f"stream_app.{kind}.v1".encode()),
        ("ce_time", rfc3339(time_ms).encode()),
        ("content-type", content_type),
    )
