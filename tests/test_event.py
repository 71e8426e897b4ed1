"""The records on Kafka: JSON in declared order, times in milliseconds."""

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.event import (
    EVENT_TYPES,
    REJECT_REASONS,
    TIME_MS_MAX,
    TIME_MS_MIN,
    Event,
    Item,
    encode,
    rfc3339,
    to_ms,
)
from tests.conftest import START_MS, event


@given(st.datetimes(), st.integers(-1439, 1439))
def test_to_ms_of_a_datetime(local: datetime, offset: int) -> None:
    """An instant is the same whatever its offset, and is rounded down to the millisecond."""
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset)))
    exact = local - datetime(1970, 1, 1) - timedelta(minutes=offset)  # noqa: DTZ001 - local too
    assert to_ms(moment) == exact // timedelta(milliseconds=1)


@given(st.integers(TIME_MS_MIN, TIME_MS_MAX))
def test_rfc3339_is_the_inverse(ms: int) -> None:
    """What is written as RFC 3339 reads back as the same millisecond."""
    made = msgspec.json.decode(f'"{rfc3339(ms)}"', type=datetime)
    assert to_ms(made) == ms
    assert to_ms(made.astimezone(timezone(timedelta(hours=-7)))) == ms


def test_encode_keeps_declared_order_and_omits_defaults() -> None:
    """An event is written in declared order, without what it does not say."""
    assert encode(event(price=2.5)) == (
        b'{"event_id":"e-1","type":"view","user_id":"u-1","timestamp":%d,'
        b'"item_id":"i-1","price":2.5}' % START_MS
    )


TEXT = st.text(min_size=1, max_size=20)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "event_id": TEXT,
    "type": st.sampled_from(EVENT_TYPES),
    "item_id": st.none() | TEXT,
    "price": st.none() | st.floats(0, 1e12),
    "quantity": st.none() | st.integers(0, 1_000_000),
    "rating": st.none() | st.floats(0, 5),
    "consent": st.none() | st.booleans(),
    "context": st.none()
    | st.dictionaries(TEXT, st.none() | st.booleans() | TEXT | st.integers(-9, 9)),
}


@given(st.fixed_dictionaries(FIELDS))
def test_event_survives_encoding(fields: dict[str, Any]) -> None:
    """An event reads back as it was written."""
    made = event(**fields)
    assert msgspec.json.decode(encode(made), type=Event) == made


@pytest.mark.parametrize("kind", [Event, Item])
def test_records_describe_themselves(kind: type[msgspec.Struct]) -> None:
    """A JSON Schema can be made of each kind of record that comes in, with its limits."""
    schema = msgspec.json.schema(kind)
    described = schema["$defs"][kind.__name__]
    assert described["description"]
    assert described["properties"]["item_id"]


def test_types_and_reasons_are_distinct() -> None:
    """No type of event and no reason to reject one is named twice."""
    assert len(set(EVENT_TYPES)) == len(EVENT_TYPES) == 13
    assert len(set(REJECT_REASONS)) == len(REJECT_REASONS) == 12
