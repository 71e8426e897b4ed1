"""Events from a file or standard input, one JSON object a line."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream_app.errors import ConfigError
from stream_app.event import Instant, to_ms
from stream_app.sources import Record

# Nothing later is taken for the time of a record: 2100-01-01, in ms since the epoch.
_TIME_MS_MAX = 4_102_444_800_000


class _Line(Struct):
    """What producing needs of an event; the worker checks the rest."""

    user_id: Annotated[str, Meta(min_length=1)]
    timestamp: msgspec.Raw = msgspec.Raw(b"null")


_LINE = msgspec.json.Decoder(_Line)
_INSTANT: msgspec.json.Decoder[int | datetime] = msgspec.json.Decoder(Instant)


def from_jsonl(path: Path | None) -> Iterator[Record]:
    """Yield the lines of a file, or of standard input for None, as records; blank ones excepted.

    Raises
    ------
    ConfigError
        When the file cannot be read, or a line, which it names, is no JSON object with a `user_id`.
    """
    if path is None:
        yield from from_lines(sys.stdin.buffer, "standard input")
        return
    try:
        with path.open("rb") as lines:
            yield from from_lines(lines, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def from_lines(lines: Iterable[bytes], name: str) -> Iterator[Record]:
    r"""Yield lines as records: the key is the user's id, the value the line as it is.

    A line whose timestamp cannot be read is dated by its sending, and left to the worker to reject.

    >>> list(from_lines([b'{"user_id": "u", "timestamp": 5}\n'], "example"))
    [(b'u', b'{"user_id": "u", "timestamp": 5}', 5)]
    """
    for number, line in enumerate(lines, 1):
        value = line.strip()
        if not value:
            continue
        try:
            head = _LINE.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{name}, line {number}: a JSON object with a user_id is needed: {error}"
            ) from error
        yield head.user_id.encode(), value, _time_ms(head.timestamp)


def _time_ms(raw: msgspec.Raw) -> int | None:
    try:
        time_ms = to_ms(_INSTANT.decode(raw))
    except msgspec.DecodeError:
        return None
    return time_ms if 0 <= time_ms < _TIME_MS_MAX else None
