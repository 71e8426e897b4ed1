"""Files of rows are read as they are; what is no row is told, and ends nothing."""

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from stream_app.errors import ConfigError
from stream_app.sources.rows import RowFile, read_rows, source_of
from tests.sources.shop_rows import rees46_rows, write_csv


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, none of them faulty."""
    found = list(read_rows(path, None))
    assert all(fault is None for _, _, fault in found)
    return [row for _, row, _ in found]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read(tmp_path: Path, delimiter: str) -> None:
    """The header tells the delimiter; a byte order mark, quotes, blank lines do no harm."""
    path = tmp_path / "rows.csv"
    lines = ["\ufeffa;b", '1;"x\ny"', "", "2;z"]
    path.write_text("\r\n".join(lines).replace(";", delimiter), encoding="utf-8", newline="")
    assert rows_in(path) == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z"}]
    assert [number for number, _, _ in read_rows(path, None)] == [3, 5]


def test_csv_lines_that_are_no_rows_are_told(tmp_path: Path) -> None:
    """A line with too many columns, or not in UTF-8, has a fault and ends nothing."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n1,2,3\n\xff,2\n4,5\n")
    (many, latin, good) = read_rows(path, None)
    assert many == (2, {"line": "1,2,3"}, "it has 3 columns, the header has 2")
    assert latin[0] == 3
    assert "UTF-8" in (latin[2] or "")
    assert good == (4, {"a": "4", "b": "5"}, None)


def test_json_lines_and_an_array_are_read(tmp_path: Path) -> None:
    """A line is a row; so is an entry of one array; what is none has a fault."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n[1]\nno json\n', encoding="utf-8")
    found = list(read_rows(path, None))
    assert [(number, fault and fault[:10]) for number, _, fault in found] == [
        (1, None),
        (3, "a JSON obj"),
        (4, "it is no J"),
    ]
    array = tmp_path / "rows.json"
    array.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=1), encoding="utf-8")
    assert rows_in(array) == [{"a": 1}, {"a": 2}]


def test_gzip_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    """However a file is packed, its rows are the same, and it is read to its size."""
    rows = rees46_rows(10)
    plain = write_csv(tmp_path / "rows.csv", list(rows))
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = importlib.import_module("pyarrow").Table.from_pylist(rows)
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "rows.parquet")
    for path in (plain, packed, tmp_path / "rows.parquet"):
        assert rows_in(path) == rows
    for path in (plain, tmp_path / "rows.parquet"):
        file = RowFile(path, None)
        assert len(list(file)) == 10
        assert file.position == file.size


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xls", b"", "does not say what it is"),
        ("rows.parquet", b"PAR0", "rows.parquet: "),
        ("rows.csv.gz", b"no gzip", "rows.csv.gz: "),
        ("missing.csv", None, "No such file"),
        ("rows.csv", b"a,b,a\n1,2,3\n", "rows.csv: the header has the column 'a' twice"),
        ("rows.csv", "a,b\n1,2\n".encode("utf-16"), "rows.csv: it is UTF-16, or no text: conv"),
        ("rows.jsonl", "{}\n".encode("utf-16-le"), "rows.jsonl: it is UTF-16, or no text"),
        ("rows.csv", "größe,b\n1,2\n".encode("latin-1"), "rows.csv: in the header, it is not UTF"),
    ],
)
def test_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """The error is a sentence that says what is wrong."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(read_rows(tmp_path / name, None))


def test_standard_input_needs_a_format() -> None:
    """What has no name does not say what it is."""
    with pytest.raises(ConfigError, match="--source"):
        source_of(None)
    with pytest.raises(ConfigError, match="not read from standard input"):
        RowFile(None, "parquet")
