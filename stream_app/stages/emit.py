"""Stage 10: records with ids, causes and CloudEvents headers; rejects go to the dead-letter topic.

An output's id is made of its source's topic, partition and offset and the kind of output (for a
timer: of the user, the timer's kind and its due time), so the same record gives the same id however
often it is processed. The user's row keeps the last three recommendations, to join impressions,
clicks and purchases to what was shown.
"""

from collections.abc import Sequence
from struct import Struct

import msgspec

from stream_app.codec import Sections
from stream_app.event import (
    TIME_MS_MAX,
    Cause,
    ChurnAlert,
    Prediction,
    RankedItem,
    Recommendation,
    encode,
    rfc3339,
)
from stream_app.hashing import event_hash, id_hash
from stream_app.learners import MODEL_VERSION
from stream_app.steps import (
    FEATURE_NAMES,
    SOURCES,
    Admitted,
    Alarm,
    Answers,
    Batch,
    Due,
    Forecast,
    Joined,
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
BYTES_MAX = NOTES_SIZE * (_NOTE.size + 9 * NOTE_ITEMS_MAX)
DETAIL_CHARACTERS_MAX = 300
_SCORE_DIGITS = 6
_RECENCY, _GAP = FEATURE_NAMES.index("recency_days"), FEATURE_NAMES.index("gap_days")
JOINED_EVENTS = frozenset(("impression", "click", "purchase"))


class Note(msgspec.Struct, frozen=True):
    """A recommendation as remembered: hash of its id, when it was made, hashes of its items.

    ``sources`` holds the bits of :data:`stream_app.steps.SOURCES` for each item.
    """

    recommendation: int
    second: int
    items: tuple[int, ...]
    sources: bytes


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
            start += 8 * count
            sources = data[start : start + count]
            notes.append(Note(recommendation, second, tuple(items), sources))
            start += count
        return cls(notes)

    def encode(self) -> bytes:
        """Return the section as bytes."""
        return b"".join(
            _NOTE.pack(note.recommendation, note.second, len(note.items))
            + b"".join(item.to_bytes(8, "little") for item in note.items)
            + note.sources
            for note in self.notes
        )


def emit(
    users: Sections[str, Notes],
    batch: Batch,
    steps: Sequence[Step],
    answers: Answers,
    outside: Outside,
) -> tuple[list[OutputRecord], list[Joined]]:
    """Return the records that a batch gives rise to, in the order of what caused them.

    And what users did with what was recommended to them before. Where there is nothing to
    recommend, who asked gets an empty list of items; nobody else does.
    """
    ranked = {answer.request.step: answer for answer in answers.ranked}
    forecasts = {forecast.step: forecast for forecast in answers.forecasts}
    alarms = {alarm.step: alarm for alarm in answers.alarms}
    records: list[OutputRecord] = []
    joined: list[Joined] = []
    for place, step in enumerate(steps):
        if type(step) is Admitted:
            joined += _keep(users, step)
            answer = ranked.get(place)
            if answer is not None and (answer.places or answer.request.asked):
                records.append(_recommend(users, batch, answer, outside))
        elif type(step) is Reject:
            records.append(_dead_letter(batch, step))
        elif type(step) is Due and step.scope == "user" and step.kind == "expiry":
            users.clear(str(step.key))
        forecast, alarm = forecasts.get(place), alarms.get(place)
        if forecast is not None:
            records.append(_predict(batch, step, forecast))
        if alarm is not None:
            records.append(_alert(batch, step, alarm))
    return records, joined


def explain(request: Request, place: int) -> list[str]:
    """Return why a candidate was proposed, in words, one reason for each source."""
    recency_days, gap_days = request.features[place][_RECENCY], request.features[place][_GAP]
    bits = request.sources[place]
    repeat, neighbour, trending, popular, content, new, here, model = SOURCES
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
    if bits & content:
        reasons.append("like this user's last items")
    if bits & new:
        reasons.append("new")
    if bits & here:
        reasons.append("popular in this context")
    if bits & model:
        reasons.append("the model expects it next")
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
        sources = bytes(request.sources[place] for place in answer.places[:NOTE_ITEMS_MAX])
        notes.append(Note(event_hash(identity), arrival.time_ms // 1000, shown, sources))
        del notes[:-NOTES_SIZE]
    headers = _cloud_event(batch, identity, "recommendation", arrival.time_ms)
    return OutputRecord("recommendations", user_id.encode(), encode(value), headers)


def _predict(batch: Batch, step: Step, forecast: Forecast) -> OutputRecord:
    cause = None
    if isinstance(step, Admitted):
        offset = step.arrival.offset
        cause = Cause(step.arrival.event.event_id, batch.topic, batch.partition, offset)
    identity = _identity(batch, step, "prediction")
    value = Prediction(
        prediction_id=identity,
        user_id=forecast.user_id,
        timestamp=forecast.time_ms,
        horizon_ms=forecast.horizon_ms,
        probabilities=forecast.probabilities,
        cause=cause,
        model=forecast.model,
        model_version=MODEL_VERSION,
    )
    headers = _cloud_event(batch, identity, "prediction", forecast.time_ms)
    return OutputRecord("predictions", forecast.user_id.encode(), encode(value), headers)


def _alert(batch: Batch, step: Step, alarm: Alarm) -> OutputRecord:
    identity = _identity(batch, step, "churn-alert")
    value = ChurnAlert(
        alert_id=identity,
        user_id=alarm.user_id,
        timestamp=alarm.time_ms,
        horizon_ms=alarm.horizon_ms,
        risk=alarm.risk,
        level=alarm.level,
        reasons=list(alarm.reasons),
        offer=alarm.offer,
        model=alarm.model,
        model_version=MODEL_VERSION,
    )
    headers = _cloud_event(batch, identity, "churn-alert", alarm.time_ms)
    return OutputRecord("churn_alerts", alarm.user_id.encode(), encode(value), headers)


def _identity(batch: Batch, step: Step, kind: str) -> str:
    """Return the id of an output: by the offset of its cause, or by the timer that was due."""
    source = f"{batch.topic}-{batch.partition}"
    if isinstance(step, Due):
        return f"{source}-{step.scope}-{step.key}-{step.kind}-{step.due_ms}-{kind}"
    assert isinstance(step, Admitted)
    return f"{source}-{step.arrival.offset}-{kind}"


def _keep(users: Sections[str, Notes], step: Admitted) -> list[Joined]:
    """Join an event to what was recommended, or forget that where there is no consent."""
    if step.profiled:
        return _join(users, step) if step.arrival.event.type in JOINED_EVENTS else []
    if not step.untouchable:
        users.clear(step.arrival.event.user_id)
        users.clear(step.key)
    return []


def _join(users: Sections[str, Notes], step: Admitted) -> list[Joined]:
    """Return what an event says of an earlier recommendation: the one it names, or the last one.

    A named recommendation that is no longer remembered, or an item that was not in it, has place 0.
    """
    event = step.arrival.event
    named = event.recommendation_id is not None
    if event.item_id is None or not (named or event.type == "purchase"):
        return []
    section = users.get(step.key)
    notes = section.notes if section is not None else []
    if named:
        wanted = event_hash(event.recommendation_id or "")
        notes = [note for note in notes if note.recommendation == wanted]
    item = id_hash(event.item_id)
    for note in notes[-1:]:
        if item in note.items and note.second <= step.arrival.time_ms // 1000:
            place = note.items.index(item)
            return [Joined(event.type, place + 1, note.sources[place], named)]
    return [Joined(event.type, 0, 0, named)] if named else []


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
