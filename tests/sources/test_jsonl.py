"""Events from files and standard input."""

import io
import sys
from pathlib import Path

import pytest

from stream_app.errors import ConfigError
from stream_app.sources.jsonl import from_jsonl, from_lines

NOON_MS = 1_483_272_000_000


def test_lines_pass_through_unchanged() -> None:
    """Values are the lines as they stand, whatever else is in them; blank lines are left out."""
    lines = [b'{"user_id":"a", "odd": [1,2]}\r\n', b"\n", b"  \n", b' {"x":1,"user_id":"b"}']
    assert [(key, value) for key, value, _ in from_lines(lines, "test")] == [
        (b"a", b'{"user_id":"a", "odd": [1,2]}'),
        (b"b", b'{"x":1,"user_id":"b"}'),
    ]


@pytest.mark.parametrize(
    ("timestamp", "time_ms"),
    [
        ("1483272000000", NOON_MS),
        ('"2017-01-01T12:00:00Z"', NOON_MS),
        ('"2017-01-01T14:00:00+02:00"', NOON_MS),
        ('"2017-01-01T12:00:00"', None),
        ('"noon"', None),
        ("-1", None),
        ("1e300", None),
        ("99999999999999", None),
        ("null", None),
        ("{}", None),
    ],
)
def test_timestamp_dates_the_record(timestamp: str, time_ms: int | None) -> None:
    """A record has its event's time, and none when that cannot be read."""
    line = f'{{"user_id": "a", "timestamp": {timestamp}}}'.encode()
    assert list(from_lines([line], "test")) == [(b"a", line, time_ms)]


@pytest.mark.parametrize(
    "line", [b"user_id", b"[]", b"{}", b'{"user_id": 5}', b'{"user_id": ""}', b"\xff", b"[" * 9_000]
)
def test_line_without_user_is_named(line: bytes) -> None:
    """A line that cannot be keyed is an error that gives its number, blank lines counted."""
    records = from_lines([b'{"user_id": "a"}', b"", line], "events.jsonl")
    assert next(records)[0] == b"a"
    with pytest.raises(ConfigError, match=r"events\.jsonl, line 3: a JSON object with a user_id"):
        next(records)


def test_file_is_read(tmp_path: Path) -> None:
    """A path is read line by line, without a newline at the end too."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"user_id": "a"}\n{"user_id": "b"}')
    assert [key for key, _, _ in from_jsonl(path)] == [b"a", b"b"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is an error that names it."""
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: No such file"):
        list(from_jsonl(tmp_path / "nothing.jsonl"))


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the lines come from standard input."""
    text = io.TextIOWrapper(io.BytesIO(b'{"user_id": "a"}\n'))
    monkeypatch.setattr(sys, "stdin", text)
    assert [key for key, _, _ in from_jsonl(None)] == [b"a"]
