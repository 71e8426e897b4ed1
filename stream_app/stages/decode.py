"""Stage 1: bytes become an :class:`Arrival`, or a :class:`Reject` that says why not.

One typed decoder is built once; what the schema cannot say (which fields a type of event needs,
that the key is the user, that the event is not from the future) is checked behind it.
"""

from collections.abc import Sequence

import msgspec

from stream_app.config import StageSettings
from stream_app.event import EVENT_TYPES, TIME_MS_MAX, TIME_MS_MIN, Event, RejectReason, to_ms
from stream_app.hashing import partition_for
from stream_app.steps import Arrival, Decoded, RawRecord, Reject, Tick

_DECODER = msgspec.json.Decoder(Event)

# What an event of a type needs beside event_id, type, user_id and timestamp.
REQUIRED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "view",
            "cart",
            "remove_from_cart",
            "purchase",
            "comment",
            "share",
            "impression",
            "click",
        ),
        ("item_id",),
    ),
    "search": ("text",),
    "consent": ("consent",),
    "recommend": (),
    "erase": (),
}
assert {*REQUIRED, "tick"} == set(EVENT_TYPES)


def decode(
    records: Sequence[RawRecord],
    log_ms: int,
    partition: int,
    partitions: int,
    settings: StageSettings,
) -> list[Decoded]:
    """Return one arrival, reject or tick for each record, in order.

    Parameters
    ----------
    records
        Of one partition, in the order of the log.
    log_ms
        Log time before the first record: the highest record timestamp so far.
    partition, partitions
        Where the records were read, and of how many; keys must belong there.
    settings
        Limits: bytes, clock skew, lateness.
    """
    decoded: list[Decoded] = []
    for record in records:
        log_ms = max(log_ms, min(record.timestamp, TIME_MS_MAX))
        decoded.append(_decode_one(record, log_ms, partition, partitions, settings))
    return decoded


def _decode_one(  # noqa: PLR0911 - a return for each reason
    record: RawRecord, log_ms: int, partition: int, partitions: int, settings: StageSettings
) -> Decoded:
    value = record.value
    if not value:
        return Reject("empty", "the record has no value", record, log_ms)
    if len(value) > settings.record_bytes_max:
        detail = f"{len(value)} bytes, {settings.record_bytes_max} are allowed"
        return Reject("too_large", detail, record, log_ms)
    try:
        event = _DECODER.decode(value)
    except msgspec.ValidationError as error:
        if _is_tick(value):
            return Tick(record.offset, log_ms)
        return Reject("not_an_event", str(error), record, log_ms)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Reject("not_json", str(error), record, log_ms)
    time_ms = to_ms(event.timestamp)
    fault = _fault(event, time_ms, record) or (
        _misplaced(record.key, partition, partitions) if settings.check_partition else None
    )
    if fault is not None:
        return Reject(fault[0], fault[1], record, log_ms)
    if time_ms > record.timestamp + settings.future_ms_max:
        detail = f"dated {time_ms - record.timestamp} ms after its record"
        return Reject("from_the_future", detail, record, log_ms)
    return Arrival(
        event, time_ms, record.offset, log_ms, time_ms < log_ms - settings.lateness_ms_max
    )


def _fault(event: Event, time_ms: int, record: RawRecord) -> tuple[RejectReason, str] | None:  # noqa: PLR0911
    """Return what is wrong with a well-formed event, or None."""
    required = REQUIRED.get(event.type)
    if required is None:
        return "unknown_type", f"type {event.type!r} is none of {', '.join(REQUIRED)}"
    for field in required:
        if getattr(event, field) is None:
            return "missing_field", f"an event of type {event.type} needs {field}"
    for field, text in (("event_id", event.event_id), ("user_id", event.user_id)):
        if text.isspace() or not text.isprintable():
            return "bad_id", f"{field} must be printable and not blank"
    if event.item_id is not None and (event.item_id.isspace() or not event.item_id.isprintable()):
        return "bad_id", "item_id must be printable and not blank"
    if not TIME_MS_MIN <= time_ms < TIME_MS_MAX:
        return "bad_time", f"timestamp {time_ms} ms is not between the years 2000 and 2100"
    if record.key is None:
        return "no_key", "the record's key must be the user_id"
    if record.key != event.user_id.encode():
        return "wrong_key", "the record's key is not the user_id"
    return None


def _misplaced(
    key: bytes | None, partition: int, partitions: int
) -> tuple[RejectReason, str] | None:
    """Return the reject of a key that the configured partitioner would put elsewhere."""
    right = partition_for(key or b"", partitions)
    if right == partition:
        return None
    return "wrong_partition", (
        f"murmur2 puts this key into partition {right}, it came in {partition}: "
        "configure the producer's partitioner (librdkafka: partitioner=murmur2_random)"
    )


def _is_tick(value: bytes) -> bool:
    """Tell whether a value that is no event is a tick: ``{"type": "tick"}``."""
    return value == TICK_VALUE


TICK_VALUE = b'{"type":"tick"}'
