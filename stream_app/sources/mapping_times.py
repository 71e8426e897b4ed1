"""Times of other shops, however they are written, as milliseconds since the epoch in UTC."""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from stream_app.event import to_ms

# Rows of a log come in order, so a text returns soon or not at all.
_CACHE_SIZE = 4_096
# Numbers below these bounds are seconds, milliseconds, microseconds; others nanoseconds. Between
# the years 2000 and 2100 the four do not overlap, so a number tells its unit.
# Beside each bound, how many of it are a millisecond; 0 for seconds.
_UNIT_BOUNDS = ((1e11, 0), (1e14, 1), (1e17, 1_000), (math.inf, 1_000_000))
# Text that says UTC in words, which `fromisoformat` does not read.
_UTC_WORDS = (" UTC", " GMT", "UTC", " Z")

# Gives milliseconds of a cell; raises ValueError for one that is no time.
ReadTime = Callable[[object], int]


def time_reader(pattern: str | None, zone: str) -> ReadTime:
    """Return what reads a time.

    Parameters
    ----------
    pattern
        A format of :meth:`datetime.datetime.strptime`; None reads RFC 3339 and its kin ("2019-10-01
        00:00:00 UTC"), and numbers of s, ms, us or ns since the epoch, told apart by their size.
    zone
        The IANA name of the time zone of times that name none.

    Raises
    ------
    ValueError
        When there is no such zone, or the pattern is none.

    Examples
    --------
    >>> read = time_reader(None, "UTC")
    >>> read("2019-10-01 00:00:00 UTC") == read("2019-10-01T02:00:00+02:00") == read(1569888000)
    True
    >>> time_reader("%d.%m.%Y %H:%M", "Europe/Berlin")("01.10.2019 02:00")
    1569888000000
    """
    try:
        home: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {zone!r}: give an IANA name") from error

    _check(pattern)

    @lru_cache(maxsize=_CACHE_SIZE)
    def of_text(text: str) -> int:
        if pattern is not None:
            return _at(datetime.strptime(text, pattern), home)  # noqa: DTZ007 - _at sees to it
        number = _number(text)
        if number is not None:
            return _of_number(number)
        return _at(datetime.fromisoformat(_plain(text)), home)

    def read(cell: object) -> int:
        if isinstance(cell, str):
            return of_text(cell.strip())
        if isinstance(cell, datetime):
            return _at(cell, home)
        if isinstance(cell, date):
            return _at(datetime(cell.year, cell.month, cell.day), home)  # noqa: DTZ001
        if isinstance(cell, int | float) and not isinstance(cell, bool):
            return _of_number(cell) if pattern is None else of_text(str(cell))
        raise ValueError(cell)

    return read


def _check(pattern: str | None) -> None:
    """Raise ValueError for what is no format of ``strptime``; it says so of itself only in use."""
    if pattern is None:
        return
    try:
        datetime.strptime("", pattern)  # noqa: DTZ007 - nothing comes of it
    except re.error:
        fault = "a part of it stands there twice"
    except ValueError as error:
        # That "" is no such time is what a good format says.
        fault = "" if str(error).startswith("time data") else str(error)
    else:
        fault = "it is empty"
    if fault or "%" not in pattern:
        raise ValueError(
            f"[time] format {pattern!r}: give one of Python's strptime, such as "
            f"'%d.%m.%Y %H:%M'{fault and f' ({fault})'}"
        )


def _of_number(number: float) -> int:
    """Return milliseconds of a number of s, ms, us or ns since the epoch, rounded down."""
    for bound, per_ms in _UNIT_BOUNDS:
        if abs(number) < bound:
            return math.floor(number * 1000) if per_ms == 0 else int(number // per_ms)
    raise ValueError(number)


def _at(moment: datetime, home: tzinfo) -> int:
    """Return milliseconds of a moment, which is of the zone ``home`` unless it says another."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=home)
    return to_ms(moment.astimezone(UTC))


def _number(text: str) -> float | int | None:
    """Return the number that a text is; eight digits are a date, such as 20191001."""
    try:
        return int(text) if len(text) != 8 else None  # noqa: PLR2004 - YYYYMMDD
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(text: str) -> str:
    """Return a time without the words for UTC, which it then says by an offset."""
    for word in _UTC_WORDS:
        if text.endswith(word):
            return text.removesuffix(word) + "+00:00"
    return text
