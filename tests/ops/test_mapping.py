"""Other shops' rows on the command line: produced, checked, guessed, loaded, shown in the demo."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition
from typer.testing import CliRunner

from stream_app.cli import app
from stream_app.config import Settings, load
from stream_app.errors import ConfigError
from stream_app.event import Item, encode
from stream_app.ops.broker import EmbeddedBroker
from stream_app.ops.catalog import load_catalog
from stream_app.ops.demo_own import OwnFile
from stream_app.ops.mapping import MappedResult, check
from stream_app.ops.produce import Order, run
from stream_app.runtime.topics import create
from stream_app.sources.mapping_records import StrictError
from tests.sources.shop_rows import rees46_rows, write_csv


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Start a broker with the topics, for all tests of this module."""
    with EmbeddedBroker(tmp_path_factory.mktemp("broker")) as broker:
        made = load(brokers=broker.address)
        create(made)
        yield made


def produced(settings: Settings, **over: Any) -> MappedResult:
    """Produce through a mapping; return the counts."""
    result = run(settings, Order(**({"mapping": "rees46"} | over)))
    assert isinstance(result, MappedResult)
    return result


def values(settings: Settings, logical: str) -> list[tuple[bytes | None, bytes | None]]:
    """Return keys and values of a topic."""
    where = [TopicPartition(settings.topic(logical), n) for n in range(settings.partitions)]
    consumer = KafkaConsumer(bootstrap_servers=settings.brokers, enable_auto_commit=False)
    consumer.assign(where)
    consumer.seek_to_beginning(*where)
    found = []
    while records := consumer.poll(timeout_ms=1_000):
        found += [(each.key, each.value) for batch in records.values() for each in batch]
    consumer.close()
    return found


def test_mapped_files_of_each_format_are_produced(settings: Settings, tmp_path: Path) -> None:
    """CSV, JSON lines and parquet of the same rows give as many events; a limit holds."""
    rows = rees46_rows(30)
    table = importlib.import_module("pyarrow").Table.from_pylist(rows)
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "rows.parquet")
    write_csv(tmp_path / "rows.csv", list(rows))
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        made = produced(settings, file=tmp_path / name)
        assert (made.rows, made.events, made.acknowledged) == (30, 30, 30)
    limited = produced(settings, file=lines, source="jsonl", limit=7, now=True)
    assert (limited.events, limited.acknowledged) == (7, 7)


def test_misfits_are_acknowledged_and_named(settings: Settings, tmp_path: Path) -> None:
    """Misfits are sent and counted by fault; strict stops at the first."""
    rows = rees46_rows(10)
    rows[4] |= {"price": "dear"}
    file = write_csv(tmp_path / "rows.csv", list(rows))
    made = produced(settings, file=file)
    assert (made.events, made.misfits, made.acknowledged) == (9, 1, 10)
    assert made.faults == {"price: a number is needed": 1}
    assert str(made.named[0]).startswith("row 6: price 'dear'")
    with pytest.raises(StrictError, match="row 6"):
        produced(settings, file=file, strict=True)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(), "give a --source"),
        (Order(source="csv"), "csv needs a --mapping"),
        (Order(file=Path("x.csv")), "x.csv needs a --mapping: .* `stream-app mapping guess x.csv`"),
        (Order(file=Path("x.jsonl")), "or --source jsonl if its lines are events"),
        (Order(file=Path("x.csv"), mapping=""), "there is no mapping ''"),
        (Order(source="synthetic", mapping="rees46"), "a mapping is for jsonl, csv, parquet"),
        (Order(from_topic="t"), "--from-topic needs a --mapping"),
        (Order(from_topic="t", mapping="rees46", source="csv"), "either --from-topic or"),
        (Order(source="jsonl", follow=True), "for --from-topic"),
        (Order(source="jsonl", strict=True), "for a --mapping"),
        (Order(from_topic="clickstream.events", mapping="rees46"), "topic of our own events"),
    ],
)
def test_contradictory_options_are_refused(order: Order, message: str) -> None:
    """What is missing, or does not go together, is named before anything is sent."""
    with pytest.raises(ConfigError, match=message) as caught:
        run(load(brokers="127.0.0.1:1"), order)
    assert "\n" not in str(caught.value)


def test_catalogue_is_loaded(settings: Settings, tmp_path: Path) -> None:
    """The last row of an item counts, one marked for it is removed, a bad one is named."""
    file = tmp_path / "items.jsonl"
    items = [
        encode(Item(item_id="a", title="old")),
        encode(Item(item_id="b")),
        encode(Item(item_id="a", title="new")),
        b'{"item_id": "b", "delete": true}',
        b'{"item_id": "c", "price": "dear"}',
    ]
    file.write_bytes(b"\n".join(items))
    loaded = load_catalog(settings, file)
    assert (loaded.rows, loaded.items, loaded.removed, loaded.misfits) == (5, 1, 1, 1)
    assert loaded.acknowledged == 2
    assert (loaded.named[0].row, loaded.named[0].field) == (5, "price")
    (kept, gone) = sorted(values(settings, "catalog"))
    assert kept[1] == encode(Item(item_id="a", title="new"))
    assert gone == (b"b", None)


def test_catalogue_needs_items(settings: Settings, tmp_path: Path) -> None:
    """A mapping that says nothing of items is refused."""
    path = tmp_path / "bare.toml"
    path.write_text(
        '[event]\ntype = "t"\ntimestamp = "w"\nuser_id = "u"\nitem_id = "i"\n', encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"it has no \[item\]"):
        load_catalog(settings, tmp_path / "rows.csv", str(path))


def test_check_says_which_row_does_not_fit(tmp_path: Path) -> None:
    """The command names rows and fields, and ends with 1; without misfits with 0."""
    rows = rees46_rows(10)
    good = write_csv(tmp_path / "good.csv", list(rows))
    rows[2] |= {"event_time": "noon"}
    bad = write_csv(tmp_path / "bad.csv", list(rows))
    command = ["mapping", "check", "--mapping", "rees46"]
    done = CliRunner().invoke(app, [*command, str(good)])
    assert (done.exit_code, done.stdout) == (
        0,
        "10 rows: 10 events, 0 rows skipped, 0 do not fit\n",
    )
    done = CliRunner().invoke(app, [*command, str(bad)])
    assert done.exit_code == 1
    assert "row 4: timestamp 'noon': a time" in done.stdout
    done = CliRunner().invoke(app, [*command, str(bad), "--json"])
    assert json.loads(done.stdout)["named"][0]["row"] == 4
    bad.write_text("event_time\n", encoding="utf-8")
    done = CliRunner().invoke(app, [*command, str(bad)])
    assert (done.exit_code, done.stderr) == (1, f"there are no rows in {bad}\n")


def test_check_of_items_alone(tmp_path: Path) -> None:
    """A mapping without events is checked by its items."""
    path = tmp_path / "items.toml"
    path.write_text('[item]\nitem_id = "sku"\nprice = "price"\n', encoding="utf-8")
    file = tmp_path / "items.csv"
    file.write_text("sku,price\na,1\nb,dear\n,3\n", encoding="utf-8")
    _, tally = check(file, str(path))
    assert (tally.rows, tally.misfits, tally.rows_skipped) == (3, 1, 1)


def test_guess_writes_a_mapping_that_check_takes(tmp_path: Path) -> None:
    """What is written fits the file that it was guessed from; nothing is written over."""
    file, out = tmp_path / "shop.csv", tmp_path / "shop.toml"
    file.write_text("user,sku,action,ts\nu,i,view,1704067200\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["mapping", "guess", str(file), "--out", str(out)])
    assert done.exit_code == 0
    assert "stream-app mapping check" in done.stdout
    done = CliRunner().invoke(app, ["mapping", "check", str(file), "--mapping", str(out)])
    assert done.exit_code == 0
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    empty = CliRunner().invoke(app, ["mapping", "guess", str(file), "--out", str(out), "--force"])
    assert (empty.exit_code, "gives an event by it yet" in empty.stderr) == (1, True)
    again = CliRunner().invoke(app, ["mapping", "guess", str(file), "--out", str(out)])
    assert isinstance(again.exception, ConfigError)


def test_ready_mappings_are_listed_and_shown() -> None:
    """The list has their names; what is shown can be saved and used."""
    listed = CliRunner().invoke(app, ["mapping", "list"]).stdout
    assert [line.split()[0] for line in listed.splitlines()] == [
        *("ga4", "matomo", "rees46", "segment", "snowplow"),
    ]
    assert "[event]" in CliRunner().invoke(app, ["mapping", "show", "rees46"]).stdout


def test_own_file_is_a_shop_of_the_demo(tmp_path: Path) -> None:
    """The demo's shop has a file's events in time order, its items, and what does not fit."""
    rows = rees46_rows(60)
    rows[30] |= {"price": "dear"}
    file = write_csv(tmp_path / "shop.csv", [*rows[40:], *rows[:40]])
    shop = OwnFile(file, None)(None)
    entries = list(shop.entries())
    assert shop.total == len(entries) == 60
    times = [record[2] or 0 for record, _ in entries]
    assert times == sorted(times)
    assert sum(event is None for _, event in entries) == 1
    assert {item.item_id for item in shop.items()} == {
        row["product_id"] for row in rows if row["price"] != "dear"
    }
    assert shop.hero in {row["user_id"] for row in rows}
    assert OwnFile(file, "rees46")(10).total == 10


def test_own_file_without_items_has_those_of_its_events(tmp_path: Path) -> None:
    """Where a mapping says nothing of items, the events do."""
    path = tmp_path / "bare.toml"
    path.write_text(
        '[event]\ntype = "event_type"\ntimestamp = "event_time"\nuser_id = "user_id"\n'
        'item_id = "product_id"\ncategory = "category_code"\n',
        encoding="utf-8",
    )
    rows = rees46_rows(40)
    shop = OwnFile(write_csv(tmp_path / "shop.csv", list(rows)), str(path))(None)
    assert {item.item_id for item in shop.items()} == {row["product_id"] for row in rows}
    assert any(item.category == ["toys.puzzle"] for item in shop.items())


def test_own_file_that_gives_nothing_is_refused(tmp_path: Path) -> None:
    """The error says how many events there are, why, and what to do."""
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"makes 0 events of 1 rows.*stream-app mapping guess"):
        OwnFile(file, None)(None)


def test_result_is_json() -> None:
    """What --json prints of a mapped source has the counts by name."""
    fields = set(MappedResult.__struct_fields__)
    assert {"rows", "events", "misfits", "out_of_order", "acknowledged"} <= fields
    assert msgspec.json.encode(MappedResult("m", 1, 0, 1, 0, 0, 1, 0.1, {}, {}, []))
