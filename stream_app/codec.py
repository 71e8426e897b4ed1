"""How state becomes bytes: rows of sections, framed, versioned and checksummed.

A row belongs to one user, item, learner or to the partition. It is cut into sections, one a stage,
so that a stage touches nothing but its own. A row stays encoded until somebody asks for it, and a
section until it is touched; encoding and then decoding is the identity, so dropping a decoded row
changes nothing. Numbers are rounded when they are updated, never when they are encoded.
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from stream_app.errors import StateError

# Rows hold native arrays; every machine that this runs on is little-endian.
if sys.byteorder != "little":  # pragma: no cover
    message = "stream_app keeps state in little-endian arrays and does not run on this machine"
    raise ImportError(message)

ROW_VERSION = 3
_FRAME = Struct("<BBI")  # version, number of sections, CRC-32 of what follows
_LENGTH = Struct("<H")  # of each section, all lengths before all sections
SECTION_BYTES_MAX = 0xFFFF


class Section(Protocol):
    """What a stage keeps in a row; nothing to keep encodes as no bytes at all."""

    def encode(self) -> bytes:
        """Return the section as bytes."""
        ...


K = TypeVar("K", str, int)
S = TypeVar("S", bound=Section)


class SectionSpec(NamedTuple):
    """A section's name, how it is decoded (``b""`` gives a fresh one), and its most bytes."""

    name: str
    decode: Callable[[bytes], Any]
    bytes_max: int


class Row:
    """A row in memory: for each section its bytes, its decoded form, or both while they agree."""

    __slots__ = ("live", "raw")

    def __init__(self, raw: list[bytes | None]) -> None:
        self.raw = raw
        self.live: list[Any] = [None] * len(raw)

    def encode(self) -> bytes:
        """Return the framed row, or nothing when every section is empty."""
        parts = []
        for index, raw in enumerate(self.raw):
            part = self.live[index].encode() if raw is None else raw
            self.raw[index] = part
            parts.append(part)
        if not any(parts):
            return b""
        body = b"".join([*(_LENGTH.pack(len(part)) for part in parts), *parts])
        return _FRAME.pack(ROW_VERSION, len(parts), zlib.crc32(body)) + body


def split_row(data: bytes, sections: int) -> list[bytes | None]:
    """Return the sections of a framed row.

    Parameters
    ----------
    data
        The row as :meth:`Row.encode` wrote it.
    sections
        How many sections this version knows; a row with fewer gets empty ones behind.

    Raises
    ------
    StateError
        When the version is unknown, the checksum does not match or the lengths do not add up.
    """
    if len(data) < _FRAME.size:
        raise StateError(f"a state row of {len(data)} bytes is shorter than its frame")
    version, count, crc = _FRAME.unpack_from(data)
    if version != ROW_VERSION:
        raise StateError(
            f"a state row has version {version}, this program reads {ROW_VERSION}: start a new "
            "`app` name, which rebuilds the state from the log"
        )
    body = memoryview(data)[_FRAME.size :]
    if zlib.crc32(body) != crc:
        raise StateError("a state row does not match its checksum")
    if count > sections or len(body) < 2 * count:
        raise StateError(f"a state row has {count} sections, this program knows {sections}")
    parts: list[bytes | None] = []
    start = 2 * count
    for index in range(count):
        end = start + _LENGTH.unpack_from(body, 2 * index)[0]
        parts.append(bytes(body[start:end]))
        start = end
    if start != len(body):
        raise StateError(f"a state row is {len(body)} bytes long, its sections {start}")
    return parts + [b""] * (sections - count)


class Rows(Generic[K]):
    """The rows of one kind: encoded, some of them decoded, and which of them have changed.

    Parameters
    ----------
    layout
        The sections of a row, in order.
    live_max
        At most so many rows stay decoded after a commit; the oldest are dropped first.
    """

    def __init__(self, layout: Sequence[SectionSpec], live_max: int) -> None:
        self.layout = tuple(layout)
        self.live_max = live_max
        self.encoded: dict[K, bytes] = {}
        self.live: dict[K, Row] = {}
        self.dirty: dict[K, None] = {}

    def __len__(self) -> int:
        return len(self.encoded)

    def find(self, key: K) -> Row | None:
        """Return a row, decoded as far as it has been, or None."""
        row = self.live.get(key)
        if row is None:
            data = self.encoded.get(key)
            if data is None:
                return None
            row = self.live[key] = Row(split_row(data, len(self.layout)))
        return row

    def make(self, key: K) -> Row:
        """Return a row, a fresh one if there is none."""
        row = self.find(key)
        if row is None:
            row = self.live[key] = Row([b""] * len(self.layout))
        return row

    def changes(self) -> list[tuple[K, bytes | None]]:
        """Return the rows touched since the last call, encoded; None for one that became empty."""
        changed: list[tuple[K, bytes | None]] = []
        for key in self.dirty:
            data = self.live[key].encode()
            if data:
                self.encoded[key] = data
                changed.append((key, data))
            else:
                del self.live[key]
                self.encoded.pop(key, None)
                changed.append((key, None))
        self.dirty.clear()
        if len(self.live) > self.live_max:
            for key in list(self.live)[: len(self.live) - self.live_max]:
                del self.live[key]
        return changed


class Sections(Generic[K, S]):
    """One stage's section of every row of a kind: all that the stage can reach."""

    __slots__ = ("_decode", "_index", "_rows")

    def __init__(self, rows: Rows[K], index: int) -> None:
        self._rows: Rows[K] = rows
        self._index = index
        self._decode: Callable[[bytes], S] = rows.layout[index].decode

    def get(self, key: K) -> S | None:
        """Return the section of a row for reading, or None where it is empty."""
        row = self._rows.find(key)
        if row is None:
            return None
        section: S | None = row.live[self._index]
        if section is None:
            raw = row.raw[self._index]
            if not raw:
                return None
            section = row.live[self._index] = self._decode(raw)
        return section

    def touch(self, key: K) -> S:
        """Return the section of a row for changing, a fresh one if there is none."""
        rows, index = self._rows, self._index
        row = rows.live.get(key) or rows.make(key)
        section: S | None = row.live[index]
        if section is None:
            section = row.live[index] = self._decode(row.raw[index] or b"")
        row.raw[index] = None
        rows.dirty[key] = None
        return section

    def clear(self, key: K) -> None:
        """Empty the section of a row; a row whose sections are all empty ceases to be."""
        row = self._rows.find(key)
        if row is not None and (row.raw[self._index] != b"" or row.live[self._index] is not None):
            row.live[self._index] = None
            row.raw[self._index] = b""
            self._rows.dirty[key] = None

    def scan(self) -> Iterator[tuple[K, S]]:
        """Yield every row's section that is not empty, decoding without keeping."""
        rows = self._rows
        for key, data in rows.encoded.items():
            raw = b"" if key in rows.dirty else split_row(data, len(rows.layout))[self._index]
            if raw:
                yield key, self._decode(raw)
        for key in rows.dirty:
            section = self.get(key)
            if section is not None:
                yield key, section
