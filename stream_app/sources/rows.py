"""Rows of other shops' files: CSV, JSON lines (or one JSON array) and parquet, read as a stream.

A file may be compressed by gzip. What cannot be read as a row is a row with a fault, never an end.
"""

import csv
import gzip
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, cast

import msgspec

from stream_app.errors import ConfigError

RowSource = Literal["csv", "jsonl", "parquet"]
# A row's number in its file, from 1 (of text, its line), or where it stands in a topic; the row;
# and what is wrong with it, if anything is: it then holds the line as it is.
NumberedRow = tuple[int | str, dict[str, Any], str | None]

_SUFFIXES: dict[str, RowSource] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = ",;\t|"
# Rows of parquet made into Python objects at a time.
_BATCH_ROWS = 4_096
_BUFFER_BYTES = 1 << 18
_NOT_UTF8 = "it is not UTF-8: convert the file, such as by iconv -f WINDOWS-1252 -t UTF-8"
_NOT_UTF16 = "it is UTF-16, or no text: convert it to UTF-8, such as by iconv -f UTF-16 -t UTF-8"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class RowFile:
    """The rows of a file, once, in order.

    Parameters
    ----------
    path
        The file; None for standard input.
    source
        Its format; by default what its suffix says.

    Attributes
    ----------
    size, position
        How large the file is and how much of it has been read, in bytes or for parquet in rows;
        size is None where nobody knows.

    Raises
    ------
    ConfigError
        When the format is not known, or, once it is read, the file cannot be.
    """

    def __init__(self, path: Path | None, source: RowSource | None) -> None:
        self.path = path
        self.source: RowSource = source or source_of(path)
        self.size: int | None = None
        self.position = 0
        self._raw: IO[bytes] | None = None
        if self.source == "parquet" and path is None:
            raise ConfigError("parquet is not read from standard input: give a file")

    @property
    def name(self) -> str:
        """How it is named to people."""
        return "standard input" if self.path is None else str(self.path)

    def __iter__(self) -> Iterator[NumberedRow]:
        try:
            if self.source == "parquet":
                yield from self._parquet()
                return
            with ExitStack() as stack:
                lines = self._without_utf16(self._lines(stack))
                yield from _csv(lines, self.name) if self.source == "csv" else _json(lines)
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"{self.name}: {reason}") from error

    def _without_utf16(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Return the lines; of UTF-16 there are none, so that is refused as a whole."""
        first = next(lines, b"")
        if first.startswith(_UTF16_MARKS) or b"\0" in first:
            raise ConfigError(f"{self.name}: {_NOT_UTF16}")
        return chain([first] if first else [], lines)

    def _lines(self, stack: ExitStack) -> Iterator[bytes]:
        if self.path is None:
            raw: IO[bytes] = sys.stdin.buffer
        else:
            raw = stack.enter_context(self.path.open("rb", buffering=_BUFFER_BYTES))
            self.size = self.path.stat().st_size
        lines: Iterable[bytes] = raw
        if self.path is not None and self.path.suffix == ".gz":
            # The compressed bytes tell how far it is.
            lines = stack.enter_context(gzip.GzipFile(fileobj=raw))
            for number, line in enumerate(lines):
                if number % _BATCH_ROWS == 0:
                    self.position = raw.tell()
                yield line
            return
        for line in lines:
            self.position += len(line)
            yield line

    def _parquet(self) -> Iterator[NumberedRow]:
        parquet = _pyarrow()
        assert self.path is not None, "it was checked"
        try:
            with parquet.ParquetFile(self.path) as file:
                self.size = file.metadata.num_rows
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    for row in batch.to_pylist():
                        self.position += 1
                        yield self.position, row, None
        except ValueError as error:  # pyarrow's own are of this kind
            raise ConfigError(f"{self.name}: {error}") from error


def read_rows(path: Path | None, source: RowSource | None) -> Iterator[NumberedRow]:
    """Yield the rows of a file, as :class:`RowFile` does."""
    return iter(RowFile(path, source))


def source_of(path: Path | None) -> RowSource:
    """Return the format that a file's suffix speaks of.

    >>> source_of(Path("shop.csv.gz")), source_of(Path("shop.json"))
    ('csv', 'jsonl')

    Raises
    ------
    ConfigError
        When it speaks of none.
    """
    if path is None:
        raise ConfigError("say what standard input is: --source csv or jsonl")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    source = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if source is None:
        raise ConfigError(
            f"{path}: its name does not say what it is: --source csv, jsonl or parquet"
        )
    return source


def row_of(value: bytes | str | None) -> tuple[dict[str, Any], str | None]:
    """Return a JSON object as a row; what is none as a row with a fault.

    >>> row_of(b'{"a": 1}'), row_of(b"[]")[1]
    (({'a': 1}, None), 'a JSON object is needed')
    """
    if value is None:
        return {"line": None}, "the record has no value"
    try:
        row = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"line": _text(value)}, f"it is no JSON: {error}"
    if not isinstance(row, dict):
        return {"line": _text(value)}, "a JSON object is needed"
    return row, None


def delimiter_of(header: str) -> str:
    """Return what separates the columns of a CSV file, by its first line.

    >>> delimiter_of("time;user;item")
    ';'
    """
    return max(_DELIMITERS, key=header.count)


class _Decoded:
    """Lines as text; notes when one was not UTF-8."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.faulty = False
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            try:
                self.last = line.decode()
            except UnicodeDecodeError:
                self.last = line.decode(errors="replace")
                self.faulty = True
            yield self.last


def _csv(raw: Iterator[bytes], name: str) -> Iterator[NumberedRow]:
    lines = _Decoded(raw)
    text = iter(lines)
    header = next(text, None)
    if header is None:
        return
    if lines.faulty:
        raise ConfigError(f"{name}: in the header, {_NOT_UTF8}")
    delimiter = delimiter_of(header)
    names = next(csv.reader([header.removeprefix("\ufeff")], delimiter=delimiter), [])
    names = [each.strip() for each in names]
    width = len(names)
    twice = [each for each in names if names.count(each) > 1]
    if twice:
        raise ConfigError(f"{name}: the header has the column {twice[0]!r} twice: rename one")
    reader = csv.reader(text, delimiter=delimiter)
    while True:
        lines.faulty = False
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num + 1, {"line": lines.last.rstrip("\r\n")}, f"no CSV: {error}"
            continue
        if cells is None:
            return
        if not cells:
            continue  # a blank line
        number = reader.line_num + 1  # the header is the first line
        if lines.faulty:
            yield number, {"line": lines.last.rstrip("\r\n")}, _NOT_UTF8
        elif len(cells) != width:
            fault = f"it has {len(cells)} columns, the header has {width}"
            yield number, {"line": lines.last.rstrip("\r\n")}, fault
        else:
            yield number, dict(zip(names, cells, strict=True)), None


def _json(lines: Iterator[bytes]) -> Iterator[NumberedRow]:
    for number, line in enumerate(lines, 1):
        value = line.strip().removeprefix(b"\xef\xbb\xbf")
        if not value:
            continue
        if value.startswith(b"[") and number == 1:
            yield from _array(b"".join((value, *lines)))
            return
        yield (number, *row_of(value))


def _array(content: bytes) -> Iterator[NumberedRow]:
    """Yield the rows of one JSON array, which is in memory as a whole."""
    try:
        entries = msgspec.json.decode(content, type=list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield 1, {"line": _text(content[:200])}, f"it is no JSON array: {error}"
        return
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            yield number, cast("dict[str, Any]", entry), None
        else:
            yield number, {"line": entry}, "a JSON object is needed"


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            "parquet files need pyarrow: pip install 'stream-app[parquet]'"
        ) from error
