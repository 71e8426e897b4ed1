"""A guessed mapping reads the file that it was guessed from, and says what is doubtful."""

import json
from pathlib import Path
from typing import Any

import pytest

from stream_app.errors import ConfigError
from stream_app.event import encode
from stream_app.sources.mapping import Mapping, parse_mapping
from stream_app.sources.mapping_guess import Proposal, propose
from stream_app.sources.rows import read_rows
from tests.conftest import event
from tests.sources.shop_rows import rees46_rows, write_csv


def guessed(path: Path) -> tuple[Proposal, Mapping]:
    """Return what is proposed for a file, as text and read."""
    proposal = propose(path)
    return proposal, parse_mapping(proposal.content, Path("guess.toml"))


def text_file(path: Path, *lines: str) -> Path:
    """Write lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def events_of(mapping: Mapping, path: Path) -> list[tuple[Any, ...]]:
    """Return what matters of the events of a file."""
    return [
        (event.type, event.user_id, event.item_id, event.timestamp, event.price, event.quantity)
        for _, row, _ in read_rows(path, None)
        for event in mapping.events(row)
    ]


def test_file_of_a_ready_mapping_is_recognized(tmp_path: Path) -> None:
    """REES46's columns are read by the mapping that there is, whatever the file's name."""
    proposal, mapping = guessed(write_csv(tmp_path / "shop.csv", list(rees46_rows(100))))
    assert proposal.ready == "rees46"
    assert "The ready mapping rees46 fits: 100 events" in proposal.content
    assert mapping.spec.source == "csv"


def test_short_names_and_epoch_seconds(tmp_path: Path) -> None:
    """Columns as of a public click log: pv, fav, cart and buy, times in seconds."""
    path = text_file(
        tmp_path / "clicks.csv",
        "userid,itemid,categoryid,behavior,ts",
        "1,100,7,pv,1511544070",
        "1,101,7,fav,1511544080",
        "2,100,7,cart,1511544090",
        "2,100,7,buy,1511544100",
    )
    proposal, mapping = guessed(path)
    assert [event[:4] for event in events_of(mapping, path)] == [
        ("view", "1", "100", 1_511_544_070_000),
        ("cart", "2", "100", 1_511_544_090_000),
        ("purchase", "2", "100", 1_511_544_100_000),
    ]
    assert any("'fav' is skipped" in doubt for doubt in proposal.doubts)


def test_european_numbers_dates_and_names(tmp_path: Path) -> None:
    """Semicolons, decimal commas, day before month, date and time apart, a column in German."""
    path = text_file(
        tmp_path / "laden.csv",
        "Datum;Uhrzeit;Kunde;SKU;Aktion;Preis;Menge",
        "01.10.2019;12:30:01;k1;a-1;view;12,50;1",
        "01.10.2019;12:31:02;k1;a-1;add_to_cart;1.212,50;1",
        "31.10.2019;12:35:09;k2;a-2;purchase;3,00;2",
    )
    proposal, mapping = guessed(path)
    assert events_of(mapping, path)[1:] == [
        ("cart", "k1", "a-1", 1_569_933_062_000, 1212.5, 1),
        ("purchase", "k2", "a-2", 1_572_525_309_000, 3.0, 2),
    ]
    assert any("taken as UTC" in doubt for doubt in proposal.doubts)
    assert any("no currency" in doubt for doubt in proposal.doubts)


def test_invoices_are_taken_for_purchases(tmp_path: Path) -> None:
    """Without a column of types, lines of invoices are purchases; American dates are told."""
    path = text_file(
        tmp_path / "invoices.csv",
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
        "536365,85123A,LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom",
        "536366,22633,HAND WARMER,6,12/13/2010 8:28,1.85,17850,United Kingdom",
    )
    proposal, mapping = guessed(path)
    assert events_of(mapping, path)[1] == (
        *("purchase", "17850", "22633", 1_292_228_880_000, 1.85, 6),
    )
    assert mapping.items({"StockCode": "x", "Description": "Lamp"})[0][0] == "x"
    assert any("all rows are taken for a purchase" in doubt for doubt in proposal.doubts)


def test_nested_lines_in_cents(tmp_path: Path) -> None:
    """Lists in rows are unrolled, camel case is read, prices in cents are scaled."""
    lines = [{"sku": "a", "priceCents": 1999, "qty": 1}, {"sku": "b", "priceCents": 500, "qty": 2}]
    rows = [
        {"id": f"e{n}", "action": action, "user": {"id": n}, "at": "2024-05-01T10:00:00Z"}
        | {"lines": lines[: n + 1]}
        for n, action in enumerate(("productView", "orderPlaced"))
    ]
    path = text_file(tmp_path / "orders.jsonl", *map(json.dumps, rows))
    _, mapping = guessed(path)
    assert [event[:3] + event[4:] for event in events_of(mapping, path)] == [
        ("view", "0", "a", 19.99, 1),
        ("purchase", "1", "a", 19.99, 1),
        ("purchase", "1", "b", 5.0, 2),
    ]
    assert [event.event_id for event in mapping.events(rows[1])] == ["e1", "e1-1"]


def test_totals_are_divided_by_quantities(tmp_path: Path) -> None:
    """An amount beside a quantity is taken for that of the line, and said so."""
    path = text_file(
        tmp_path / "lines.csv", "time,user,sku,amount,qty", "2024-01-01T00:00:00Z,u,i,9.00,3"
    )
    proposal, mapping = guessed(path)
    assert events_of(mapping, path)[0][4:] == (3.0, 3)
    assert any("divided by the quantity" in doubt for doubt in proposal.doubts)


def test_what_is_not_found_is_left_to_fill_in(tmp_path: Path) -> None:
    """A file without users, items and times gives a mapping that says so and fits no row."""
    proposal, mapping = guessed(text_file(tmp_path / "x.csv", "a,b", "1,x"))
    doubts = "\n".join(proposal.doubts)
    for missing in ("user_id", "item_id", "time"):
        assert f"no column looks like a {missing}" in doubts
    assert 'user_id = "?"' in proposal.content
    assert "1 row does not fit" in doubts
    assert proposal.events == 0
    assert mapping.has_events


def test_names_that_toml_must_quote(tmp_path: Path) -> None:
    """Names with quotes, spaces or line breaks in them do no harm."""
    rows = [
        {
            "user id": "u",
            'sk"u': "i",
            "sku": "j",
            "event": 'add "now"\nto cart',
            "ts": 1_704_067_200,
        }
    ]
    path = text_file(tmp_path / "odd.jsonl", *map(json.dumps, rows))
    _, mapping = guessed(path)
    assert events_of(mapping, path)[0][:3] == ("cart", "u", "j")


def test_our_own_schema_is_recognized(tmp_path: Path) -> None:
    """Events of ours need no mapping, and the guess says so."""
    lines = [encode(event(event_id=f"e-{n}")).decode() for n in range(20)]
    proposal, mapping = guessed(text_file(tmp_path / "own.jsonl", *lines))
    assert any("our own schema" in doubt for doubt in proposal.doubts)
    assert mapping.events(json.loads(lines[3]))[0].event_id == "e-3"


def test_columns_of_unknown_names_are_named_by_what_is_in_them(tmp_path: Path) -> None:
    """Where no name says which column it is, those left that it may be are told."""
    path = text_file(
        tmp_path / "x.csv",
        "who,thing,action,ts,cost,note",
        *(f"w{n % 2},t{n % 3},view,{1704067200 + n},{n}.5,n{n}" for n in range(6)),
    )
    doubts = "\n".join(propose(path).doubts)
    for name in ("user_id", "item_id"):
        told = f"no column looks like a {name}: name one instead of '?'; it may be 'who', 'thing'"
        assert told in doubts
    assert "no column is called a price; it may be 'cost'" in doubts


def test_ready_mapping_that_skips_nearly_all_is_none(tmp_path: Path) -> None:
    """A ready mapping fits only if it gives events of more than a few rows, and tells the rest."""
    path = tmp_path / "calls.jsonl"
    for viewed, ready in ((1, None), (10, "segment")):
        calls = [
            {"type": "track", "event": "Product Viewed" if number < viewed else "Bought it"}
            | {"messageId": f"m{number}", "userId": "u", "timestamp": 1704067200 + number}
            | {"properties": {"product_id": "p"}}
            for number in range(100)
        ]
        proposal = propose(text_file(path, *map(json.dumps, calls)))
        assert proposal.ready == ready
    assert proposal.events == 10
    assert proposal.doubts == ["'Bought it' is skipped, 90 times: map it if it is one of our types"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", "x.csv: there are no rows in it$"),
        (b"a,b\n\xe4,1\n", "no rows in it; row 2: it is not UTF-8"),
        (b'a,b\n"1,2\n3,4\n', "no rows in it; row 3: it has 1 columns, the header has 2"),
    ],
)
def test_file_without_a_row_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Nothing can be guessed of nothing; the first fault says why there is nothing."""
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        propose(path)
