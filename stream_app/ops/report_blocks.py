"""What the page is made of, and how figures are written on it."""

import base64
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from stream_app.ops.report_series import Windows

MISSING = "not enough data"


class Table(msgspec.Struct, frozen=True):
    """The figures of a picture."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Block(msgspec.Struct, frozen=True):
    """A picture, what to see in it, what it shows in words, and its figures."""

    title: str
    see: str
    alt: str = ""
    svg: bytes = b""
    table: Table | None = None

    @property
    def source(self) -> str:
        """The picture as a URL that holds it; empty without one."""
        if not self.svg:
            return ""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


class Section(msgspec.Struct, frozen=True):
    """A part of the page."""

    title: str
    see: str
    facts: Sequence[str]
    pictures: Sequence[Block]


class Tile(msgspec.Struct, frozen=True):
    """A figure at the top of the page."""

    figure: str
    name: str
    note: str = ""


def share(part: float, whole: float) -> float | None:
    """Return a share, None of nothing."""
    return part / whole if whole else None


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share.

    >>> percent(0.1234), percent(None)
    ('12.3%', 'not enough data')
    """
    return MISSING if value is None else f"{value:.{digits}%}"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number.

    >>> number(0.12345), number(None)
    ('0.123', 'not enough data')
    """
    return MISSING if value is None else f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Write a duration, in the unit that suits it.

    >>> milliseconds(0.25), milliseconds(12.3), milliseconds(5_400), milliseconds(7_200_000)
    ('0.25 ms', '12 ms', '5.4 s', '2.0 h')
    """
    if value is None:
        return MISSING
    for limit, factor, unit in ((10, 1, "ms"), (1_000, 1, "ms"), (120_000, 1_000, "s")):
        if value < limit:
            digits = 2 if limit == 10 else 0 if unit == "ms" else 1  # noqa: PLR2004
            return f"{value / factor:.{digits}f} {unit}"
    return f"{value / 3_600_000:.1f} h"


def over_time(windows: Windows, rows: Mapping[str, Sequence[object]]) -> Table:
    """Return the figures of a picture over time, a row for each window."""
    cells = zip(windows.labels(), *rows.values(), strict=True)
    return Table(
        [f"{windows.name} from", *rows], [[first, *map(written, rest)] for first, *rest in cells]
    )


def listed(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of figures."""
    return Table(head, [[written(cell) for cell in row] for row in rows])


def written(cell: object) -> str:
    """Write what stands in a table.

    >>> written(1234), written(0.5), written(None), written("x")
    ('1,234', '0.500', '-', 'x')
    """
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def many(count: int, name: str) -> str:
    """Write how many there are of something.

    >>> many(1, "user"), many(1200, "user")
    ('1 user', '1,200 users')
    """
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"
