"""Rows become records: counted, dated, and those that do not fit sent on with what is wrong."""

import json
from typing import Any

import pytest

from stream_app.config import StageSettings
from stream_app.event import rfc3339
from stream_app.sources.mapping import load_mapping
from stream_app.sources.mapping_records import MappedRecords, StrictError, first_time_ms
from stream_app.sources.rows import NumberedRow
from stream_app.stages.decode import decode
from stream_app.steps import Reject
from tests.conftest import Record as Logged
from tests.sources.shop_rows import rees46_rows

REES46 = load_mapping("rees46")


def numbered(rows: list[dict[str, Any]]) -> list[NumberedRow]:
    """Return rows with their numbers from 2, as those of a CSV file."""
    return [(number, row, None) for number, row in enumerate(rows, 2)]


def test_good_rows_are_counted_and_keyed_by_user() -> None:
    """Every row gives a record under its user, at its own time."""
    rows, records = rees46_rows(50), MappedRecords(REES46)
    made = [record for record in records.of(numbered(rows)) if record is not None]
    assert [key.decode() for key, _, _ in made] == [row["user_id"] for row in rows]
    shown = [rfc3339(time_ms or 0)[:19].replace("T", " ") for _, _, time_ms in made]
    assert shown == [row["event_time"][:19] for row in rows]
    tally = records.tally
    assert (tally.rows, tally.events, tally.sent, tally.misfits) == (50, 50, 50, 0)


def test_misfit_is_sent_as_what_the_worker_rejects() -> None:
    """A row that does not fit becomes a record with its fault, which no worker takes."""
    rows = rees46_rows(3)
    rows[1] |= {"price": "dear"}
    records = MappedRecords(REES46)
    _, letter, last = [record for record in records.of(numbered(rows)) if record is not None]
    key, value, time_ms = letter
    assert key.decode() == rows[1]["user_id"]
    assert json.loads(value) == {
        "misfit": {
            "mapping": "rees46",
            "row": 3,
            "field": "price",
            "value": "dear",
            "needs": "a number is needed",
        },
        "row": rows[1],
    }
    assert time_ms is not None
    assert last[2] is not None
    assert time_ms < last[2]
    (step,) = decode([Logged(0, time_ms, key, value, ())], time_ms, 0, 1, StageSettings())
    assert isinstance(step, Reject)
    assert step.reason == "not_an_event"
    assert records.tally.faults == {"price: a number is needed": 1}


def test_misfits_never_move_log_time_forward() -> None:
    """A misfit has the time of what came before it; the first one that of the first event."""
    rows = rees46_rows(3)
    rows[0] |= {"event_time": "?"}
    rows[2] |= {"event_time": "2077-01-01", "price": "dear"}
    first_ms = first_time_ms(numbered(rows), REES46)
    made = list(MappedRecords(REES46, first_ms=first_ms).of(numbered(rows)))
    assert [record[2] for record in made if record is not None] == [first_ms] * 3


def test_row_that_could_not_be_read_is_a_misfit_without_a_key() -> None:
    """A line that is no row is sent as it is."""
    records = MappedRecords(REES46)
    (record,) = records.of([(5, {"line": "a,b"}, "it has 2 columns, the header has 9")])
    assert record is not None
    assert record[0] == b""
    assert json.loads(record[1])["row"] == {"line": "a,b"}
    assert records.tally.named[0].row == 5


def test_huge_misfit_is_cut() -> None:
    """A row too large for a record is cut."""
    (record,) = MappedRecords(REES46).of(numbered([{"x": "y" * 1_000_000}]))
    assert record is not None
    assert len(record[1]) < 200_000


def test_strict_stops_at_the_first_misfit() -> None:
    """The error names row, field, value and the mapping's file."""
    rows = rees46_rows(3)
    rows[1] |= {"user_id": ""}
    records = MappedRecords(REES46, strict=True)
    with pytest.raises(StrictError, match=r"row 3: user_id .*rees46.toml"):
        list(records.of(numbered(rows)))
    assert records.tally.events == 1


def test_events_out_of_order_and_skipped_types_are_counted() -> None:
    """An event older than the newest before it is counted, and so are rows of skipped types."""
    rows = rees46_rows(4)
    records = MappedRecords(REES46)
    list(records.of(numbered([rows[0], rows[3], rows[1], rows[2]])))
    assert records.tally.out_of_order == 2
    segment = MappedRecords(load_mapping("segment"))
    assert list(segment.of(numbered([{"event": "Signed In"}]))) == []
    assert (segment.tally.rows_skipped, segment.tally.skipped) == (1, {"Signed In": 1})


def test_row_is_done_when_its_last_record_is_handed_over() -> None:
    """A source learns how many records must be acknowledged before it moves past a row."""
    rows: list[dict[str, Any]] = [
        {
            "event": "Order Completed",
            "messageId": "m",
            "userId": "u",
            "timestamp": "2024-01-01T00:00:00Z",
            "properties": {"products": [{"sku": "a"}, {"sku": "b"}]},
        },
        {"event": "Signed In"},
    ]
    done: list[tuple[int | str, int]] = []
    records = MappedRecords(
        load_mapping("segment"), done=lambda place, sent: done.append((place, sent))
    )
    source = records.of([*numbered(rows), None])
    next(source)
    assert done == []
    next(source)
    assert done == [(2, 2)]
    assert list(source) == [None]
    assert done == [(2, 2), (3, 2)]
