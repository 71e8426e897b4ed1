"""Stage 1: what is an event, and what is wrong with what is not."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from stream_app.event import EVENT_TYPES, REJECT_REASONS
from stream_app.stages.decode import REQUIRED, TICK_VALUE, decode
from stream_app.steps import Arrival, Decoded, Reject, Tick
from tests.conftest import MINUTE_MS, SETTINGS, START_MS, Record, event, lenient, record, tick


def one(raw: Record, log_ms: int = 0, partition: int = 0, partitions: int = 1) -> Decoded:
    """Return what becomes of one record."""
    (decoded,) = decode([raw], log_ms, partition, partitions, SETTINGS)
    return decoded


def raw_json(**over: Any) -> bytes:
    """Return an event as JSON that the schema need not allow; ``...`` leaves a field out."""
    fields: dict[str, Any] = {
        "event_id": "e-0",
        "type": "view",
        "user_id": "u-1",
        "timestamp": START_MS,
        "item_id": "i-1",
    }
    return json.dumps({k: v for k, v in (fields | over).items() if v is not ...}).encode()


# For each reason, records that earn it: everything else about them is right.
BAD: list[tuple[str, Record]] = [
    ("empty", record(value=None)),
    ("empty", record(value=b"")),
    ("too_large", record(text="x" * 10_000, source="s", value=b" " * 70_000)),
    ("not_json", record(value=b"\xff\xfe{}")),
    ("not_json", record(value=raw_json()[:-1])),
    ("not_json", record(value=raw_json() + b"x")),
    ("not_json", record(value=raw_json(user_id="u").replace(b'"u"', b'"\xff"'))),
    ("not_json", record(value=b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}")),
    ("not_an_event", record(value=b"[]")),
    ("not_an_event", record(value=b"null")),
    ("not_an_event", record(value=b"{}")),
    ("not_an_event", record(value=b'{"type": "tick", "user_id": "u-1"}')),
    ("not_an_event", record(value=raw_json(event_id=...))),
    ("not_an_event", record(value=raw_json(user_id=7))),
    ("not_an_event", record(value=raw_json(user_id="u" * 129))),
    ("not_an_event", record(value=raw_json(event_id=""))),
    ("not_an_event", record(value=raw_json(timestamp="2024-01-01T00:00:00"))),
    ("not_an_event", record(value=raw_json(timestamp=-1))),
    ("not_an_event", record(value=raw_json(price=-0.5))),
    ("not_an_event", record(value=raw_json(price=1e13))),
    ("not_an_event", record(value=raw_json(quantity=1.5))),
    ("not_an_event", record(value=raw_json(rating=6))),
    ("not_an_event", record(value=raw_json(context={"a": {"b": 1}}))),
    ("unknown_type", record(type="wishlist")),
    ("unknown_type", record(type="tick")),
    ("missing_field", record(item_id=None)),
    ("missing_field", record(type="search", item_id=None)),
    ("missing_field", record(type="consent")),
    ("bad_id", record(event_id=" ")),
    ("bad_id", record(user_id="\t")),
    ("bad_id", record(user_id="a\x00b")),
    ("bad_id", record(item_id="\u2028")),
    ("bad_time", record(timestamp=0)),
    ("bad_time", record(timestamp=946_684_799_999)),
    ("bad_time", record(timestamp=4_102_444_800_000)),
    ("bad_time", record(value=raw_json(timestamp=10**200))),
    ("from_the_future", record(timestamp=START_MS + 5 * MINUTE_MS + 1)),
    ("no_key", record(key=None)),
    ("wrong_key", record(key=b"")),
    ("wrong_key", record(key=b"u-2")),
    ("wrong_key", record(key=b"\xff")),
]


@pytest.mark.parametrize(("reason", "raw"), BAD, ids=lambda each: str(each)[:40])
def test_decode_of_a_bad_record(reason: str, raw: Record) -> None:
    """Each fault gives its own reason, a detail for people, and the record as it came."""
    decoded = one(raw)
    assert isinstance(decoded, Reject)
    assert decoded.reason == reason
    assert decoded.detail
    assert decoded.record is raw


def test_decode_of_a_record_in_a_foreign_partition() -> None:
    """A key that murmur2 puts elsewhere is rejected, unless settings say not to look."""
    raw = record(user_id="user-0")  # of 4 partitions it belongs into number 3
    assert isinstance(one(raw, partition=3, partitions=4), Arrival)
    wrong = one(raw, partition=0, partitions=4)
    assert isinstance(wrong, Reject)
    assert wrong.reason == "wrong_partition"
    (unchecked,) = decode([raw], 0, 0, 4, lenient(check_partition=False))
    assert isinstance(unchecked, Arrival)


def test_reject_reasons_are_all_tested() -> None:
    """Every reason that exists is produced by a record of this file."""
    assert {reason for reason, _ in BAD} | {"wrong_partition"} == set(REJECT_REASONS)


@pytest.mark.parametrize("kind", [kind for kind in EVENT_TYPES if kind != "tick"])
def test_decode_of_a_good_record(kind: str) -> None:
    """An event of any type with the fields that it needs arrives as it was sent."""
    needs: dict[str, Any] = {"item_id": "i-1", "text": "shoes", "consent": True}
    fields = {"item_id": None} | {name: needs[name] for name in REQUIRED[kind]}
    decoded = one(record(3, type=kind, **fields))
    assert isinstance(decoded, Arrival)
    assert decoded.event == event(event_id="e-3", type=kind, **fields)
    assert (decoded.offset, decoded.time_ms, decoded.late) == (3, START_MS, False)


def test_decode_of_unknown_fields() -> None:
    """A field that this version does not know is passed over, so that producers can go ahead."""
    assert isinstance(one(record(value=raw_json(colour={"deep": [1, {"er": 2}]}))), Arrival)


def test_decode_of_a_tick() -> None:
    """A tick needs no key and counts as neither event nor reject."""
    assert one(tick(4, START_MS)) == Tick(4, START_MS)
    assert TICK_VALUE == b'{"type":"tick"}'


def test_decode_of_an_rfc3339_time() -> None:
    """A time with an offset is an instant, whatever the offset."""
    east = datetime(2024, 1, 1, 5, 30, 0, 1999, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    decoded = one(record(timestamp=east))
    assert isinstance(decoded, Arrival)
    assert decoded.time_ms == START_MS + 1


def test_decode_of_an_event_at_the_skew_allowed() -> None:
    """An event dated exactly five minutes after its record is taken."""
    decoded = one(record(timestamp=START_MS + 5 * MINUTE_MS))
    assert isinstance(decoded, Arrival)
    assert not decoded.late


def test_decode_of_a_late_event() -> None:
    """An event is late when it is more than ten minutes older than the log, not than its record."""
    raw = record(timestamp=START_MS - 10 * MINUTE_MS)
    punctual, late = one(raw), one(raw, log_ms=START_MS + 1)
    assert isinstance(punctual, Arrival)
    assert isinstance(late, Arrival)
    assert (punctual.late, late.late) == (False, True)


def test_log_time_is_the_highest_record_timestamp() -> None:
    """Log time never goes back, and rejected records move it too."""
    times = [START_MS, START_MS - 5, START_MS + 7, START_MS + 3]
    raws = [record(i, at, timestamp=START_MS - 9) for i, at in enumerate(times)]
    raws[2] = record(2, times[2], value=b"")
    decoded = decode(raws, START_MS + 1, 0, 1, SETTINGS)
    ahead = START_MS + 7
    assert [entry.log_ms for entry in decoded] == [START_MS + 1, START_MS + 1, ahead, ahead]


def test_log_time_ends_with_the_century() -> None:
    """A record timestamp that no calendar has moves log time no further than to 2100."""
    decoded = decode([record(0, 2**63 - 1, timestamp=START_MS), record(1)], 0, 0, 1, SETTINGS)
    assert [entry.log_ms for entry in decoded] == [4_102_444_800_000] * 2
