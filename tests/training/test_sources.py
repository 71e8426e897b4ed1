"""Training data from files, cleaned as the stream would, described, and made sequences."""

import gzip
import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from models.__main__ import commands
from models.data_card import data_card, histories, leave_one_out, lines, temporal
from models.sequences import SequencesError, read
from models.sources import Counts as SourceCounts
from models.sources import Log, Part, Source, SourceError, admitted, read_log
from stream_app.config import StageSettings
from stream_app.event import Event, encode
from stream_app.hashing import partition_for
from tests.sources.shop_rows import rees46_rows, write_csv

app = commands()

START_MS, DAY_MS = 1_700_000_000_000, 86_400_000
SETTINGS = StageSettings()


def event(name: str, user: str, day: float, item: str | None, kind: str = "purchase") -> Event:
    """Return an event; days are counted from the start."""
    time_ms = START_MS + int(day * DAY_MS)
    consent = {"no": False, "yes": True}.get(kind)
    return Event(
        event_id=name,
        type="consent" if consent is not None else kind,
        user_id=user,
        timestamp=time_ms,
        item_id=item,
        consent=consent,
    )


def write(path: Path, events: list[Event], *lines_: bytes) -> Path:
    """Write events as JSON lines, and other lines behind them."""
    path.write_bytes(b"\n".join([*map(encode, events), *lines_]) + b"\n")
    return path


def rows(log: Log) -> list[tuple[str, str, int]]:
    """Return users, items and days of a log."""
    days = ((log.time_ms - START_MS) // DAY_MS).tolist()
    return [
        (log.users[user], log.items[item], day)
        for user, item, day in zip(log.user.tolist(), log.item.tolist(), days, strict=True)
    ]


SOLD = [
    event("1", "anna", 0, "milk"),
    event("2", "ben", 1, "milk"),
    event("3", "anna", 2, "bread", "view"),
    event("4", "anna", 2, "bread"),
    event("5", "anna", 3, "milk"),
    event("6", "ben", 4, "eggs"),
]


def test_every_format_gives_the_same_log(tmp_path: Path) -> None:
    """JSON lines, compressed ones, CSV and parquet in our own schema are one and the same data."""
    plain = write(tmp_path / "own.jsonl", SOLD)
    packed = tmp_path / "own.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = [msgspec.to_builtins(each) for each in SOLD]
    comma = write_csv(tmp_path / "own.csv", table)
    columns = tmp_path / "own.parquet"
    parquet.write_table(pa.Table.from_pylist(table), columns)
    wanted = [(each.user_id, each.item_id, day) for each, day in zip(SOLD, (0, 1, 2, 2, 3, 4))]  # noqa: B905
    for path in (plain, packed, comma, columns):
        log = read_log(Source(str(path)), SETTINGS)
        assert rows(log) == wanted, path
        assert log.counts.types == {"purchase": 5, "view": 1}


def test_other_shops_rows_come_through_a_mapping(tmp_path: Path) -> None:
    """The mappings of `produce` serve here too; rows that do not fit are counted by their fault."""
    given = rees46_rows(50)
    path = write_csv(tmp_path / "shop.csv", [*given, given[0] | {"event_time": "never"}, given[7]])
    log = read_log(Source(str(path), "rees46"), SETTINGS)
    assert len(log) == 50
    assert rows(log)[0][:2] == (given[0]["user_id"], given[0]["product_id"])
    assert log.counts.records == 52
    assert log.counts.rejects == {"not_an_event": 1}
    assert log.counts.duplicates + log.counts.repeated == 1
    assert [fault.split(":")[0] for fault in log.counts.faults] == ["timestamp"]


def test_rejects_and_repeats_are_counted_by_reason(tmp_path: Path) -> None:
    """Broken lines end nothing; a repeat is dropped, even one that the worker has forgotten."""
    many = [event(f"m-{number}", "carl", number, "milk") for number in range(40)]
    path = write(
        tmp_path / "broken.jsonl",
        [SOLD[0], SOLD[0], *many, many[0]],
        b"{no json",
        b'{"event_id": "x", "type": "fly", "user_id": "u", "timestamp": 1700000000000}',
        b'{"event_id": "x", "type": "view", "user_id": "u", "timestamp": 1700000000000}',
        b'{"event_id": "x"}',
    )
    log = read_log(Source(str(path)), SETTINGS)
    assert len(log) == 41
    assert log.counts.records == 47
    assert log.counts.duplicates == 1
    assert log.counts.repeated == 1
    assert log.counts.rejects == {
        "not_json": 1,
        "unknown_type": 1,
        "missing_field": 1,
        "not_an_event": 1,
    }


def test_consent_and_erasure_are_honoured(tmp_path: Path) -> None:
    """Nothing of before an erasure or a withdrawal is learned, nor of after without consent."""
    path = write(
        tmp_path / "consent.jsonl",
        [
            event("1", "anna", 0, "milk"),
            event("2", "ben", 0, "milk"),
            event("3", "carl", 0, "milk"),
            event("4", "anna", 1, None, "erase"),
            event("5", "ben", 1, None, "no"),
            event("6", "anna", 2, "bread"),  # no consent since the erasure
            event("7", "ben", 2, "bread"),
            event("8", "ben", 3, None, "yes"),
            event("9", "ben", 4, "eggs"),
            event("10", "anna", 0.5, "eggs"),  # late, and before the erasure
        ],
    )
    log = read_log(Source(str(path)), SETTINGS)
    assert rows(log) == [("carl", "milk", 0), ("ben", "eggs", 4)]
    assert (log.counts.erased, log.counts.withheld) == (2, 3)
    assert sorted(log.items) == ["eggs", "milk"]


def test_a_topics_partitions_are_logs_of_their_own() -> None:
    """A key in a foreign partition is rejected, as the worker of a topic would."""
    own = next(p for p in range(2) if partition_for(b"anna", 2) == p)
    record = (b"anna", encode(SOLD[0]), START_MS)
    for number in range(2):
        counts = SourceCounts()
        found = list(admitted(Part(number, 2, [record]), SETTINGS, counts, lambda *_: None))
        assert len(found) == (number == own)
        assert counts.rejects == ({} if number == own else {"wrong_partition": 1})


def test_histories_collapse_what_follows_itself(tmp_path: Path) -> None:
    """To view an item and then to buy it is one entry; to come back to it later another."""
    log = read_log(Source(str(write(tmp_path / "own.jsonl", SOLD))), SETTINGS)
    named = [
        (user, [log.items[item] for item in items], ((times - START_MS) // DAY_MS).tolist())
        for user, items, times in histories(log)
    ]
    assert named == [
        ("anna", ["milk", "bread", "milk"], [0, 2, 3]),
        ("ben", ["milk", "eggs"], [1, 4]),
    ]
    assert [len(items) for _, items, _ in histories(log, item_events_min=3)] == [1, 1]
    held = leave_one_out(log)
    assert held.judged.tolist() == [0]
    assert held.names[int(held.test[0])] == "milk"
    (tmp_path / "own.txt").write_text("\n".join(lines(log)), "utf-8")
    assert read(tmp_path / "own.txt").names == held.names


def test_temporal_split_learns_nothing_of_later(tmp_path: Path) -> None:
    """What is learned lies before the validation, and the test is the first item after it."""
    events = [event(f"{day}-{user}", user, day, f"i-{day}") for day in range(20) for user in "ab"]
    log = read_log(Source(str(write(tmp_path / "days.jsonl", events))), SETTINGS)
    data = temporal(log)
    assert [data.names[item] for item in data.learned[0]] == [f"i-{day}" for day in range(16)]
    assert [data.names[item] for item in data.validation] == ["i-17", "i-17"]
    assert [data.names[item] for item in data.test] == ["i-18", "i-18"]
    short = read_log(Source(str(write(tmp_path / "short.jsonl", SOLD[:2]))), SETTINGS)
    with pytest.raises(SequencesError, match="no user has items before"):
        temporal(short)


def test_data_card_counts_and_finds_leaks(tmp_path: Path) -> None:
    """Figures are those of the log: repeats, skew, and users whose last items have one time."""
    tied = [event(f"t-{number}", "dora", 5, f"i-{number}") for number in range(3)]
    log = read_log(Source(str(write(tmp_path / "own.jsonl", [*SOLD, *tied]))), SETTINGS)
    card = data_card(log, "own")
    assert (card.events, card.users, card.items, card.pairs) == (9, 3, 6, 7)
    assert card.repurchases == pytest.approx(1 / 8)  # anna's second milk, of eight purchases
    assert card.repeats == pytest.approx(2 / 9, abs=1e-5)
    assert card.density == pytest.approx(7 / 18)
    assert card.days == 5.0
    assert card.leaks.tied_users == 0.5  # dora's, of hers and anna's
    assert card.leaks.tied_events == pytest.approx(2 / 8, abs=1e-5)  # both dora's
    assert card.leaks.unseen_test_items == 0.5  # i-2; milk is ben's, too
    assert np.isfinite(card.gini)


def test_leaks_are_those_of_the_sequences(tmp_path: Path) -> None:
    """Who views, puts into the cart and buys what nobody else has, has it once: as the test."""
    kinds = ("view", "cart", "purchase")
    events = [
        event(f"{user}-{place}", user, place, item, kind)
        for user in "abc"
        for place, (item, kind) in enumerate(
            [("milk", "view"), ("bread", "view"), *((f"own-{user}", kind) for kind in kinds)]
        )
    ]
    log = read_log(Source(str(write(tmp_path / "own.jsonl", events))), SETTINGS)
    assert data_card(log, "own").leaks.unseen_test_items == 1
    common = data_card(log, "own", item_events_min=4)  # no history is left that could be judged
    assert (common.leaks.unseen_test_items, common.items) == (0, 5)
    assert data_card(log, "own", item_events_min=3).leaks == data_card(log, "own").leaks


def test_data_command_prints_a_card_and_writes_sequences(tmp_path: Path) -> None:
    """A table for people, a line of JSON for programs, and a file for `benchmark`."""
    path, out = write(tmp_path / "own.jsonl", SOLD), tmp_path / "made" / "own.txt"
    run = CliRunner()
    made = run.invoke(app, ["data", "--data", str(path), "--json", "--sequences", str(out)])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["users"] == 2
    assert out.read_text("utf-8") == "anna milk bread milk\nben milk eggs\n"
    shown = run.invoke(app, ["data", "--data", str(path)])
    assert "tied_users" in shown.stdout


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """A missing file, a shop with a mapping, a type of nobody and empty data say what to do."""
    with pytest.raises(SourceError, match=r"there is no file nowhere\.csv: name one"):
        Source("nowhere.csv")
    with pytest.raises(SourceError, match="leave --mapping out"):
        Source("synthetic", "rees46")
    with pytest.raises(SourceError, match="names no topic"):
        list(Source("kafka://broker:9092").parts())
    empty = write(tmp_path / "empty.jsonl", [], b"{}")
    with pytest.raises(SourceError, match="no events about items among 1 records"):
        read_log(Source(str(empty)), SETTINGS)
