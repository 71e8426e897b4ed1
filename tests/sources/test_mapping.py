"""Another shop's rows become events and items as a TOML file says, or a sentence says why not."""

import re
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.errors import ConfigError
from stream_app.event import Event, Item, encode
from stream_app.sources import mapping as module
from stream_app.sources.mapping import (
    Mapping,
    Misfit,
    load_mapping,
    parse_mapping,
    ready_mappings,
)
from stream_app.sources.mapping_fields import as_field, paths_of
from stream_app.sources.mapping_spec import parse_spec
from stream_app.stages.decode import REQUIRED
from tests.sources.shop_rows import rees46_rows

EVENT = """
[event]
type = "what"
timestamp = "when"
user_id = "who"
item_id = "thing"
"""
ROW = {"what": "view", "when": "2024-01-01T00:00:00Z", "who": "u", "thing": "i"}
START_MS = 1_704_067_200_000


def made(more: str = "", *, head: str = "", event: str = EVENT) -> Mapping:
    """Return a mapping of rows like ROW, with more TOML before and behind."""
    return parse_mapping(head + event + more, Path("mine.toml"))


def one(mapping: Mapping, **over: Any) -> Event:
    """Return the only event of ROW with changes."""
    (event,) = mapping.events(ROW | over)
    return event


def test_row_becomes_an_event() -> None:
    """Fields come from columns; the id is a hash of the row, the same each time."""
    event = one(made())
    assert (event.type, event.user_id, event.item_id) == ("view", "u", "i")
    assert event.timestamp == START_MS
    assert event.event_id.startswith("mine-")
    assert one(made()).event_id == event.event_id != one(made(), thing="j").event_id


def test_event_of_a_mapping_is_one_that_the_worker_takes() -> None:
    """What a mapping makes reads back as an event, with all that its type needs."""
    event = one(made())
    assert msgspec.json.decode(encode(event), type=Event) == event
    assert all(getattr(event, name) is not None for name in REQUIRED[event.type])


@pytest.mark.parametrize(
    ("line", "over", "field", "expected"),
    [
        ('price = "p"', {"p": "1,234.50"}, "price", 1234.5),
        ('price = "p"', {"p": "$ 5.00"}, "price", 5.0),
        ('price = { path = "p", decimal = "," }', {"p": "1.234,50"}, "price", 1234.5),
        ('price = { path = "p", scale = 0.01 }', {"p": 4999}, "price", 49.99),
        ('price = { path = "p", per = "n" }', {"p": 30, "n": "4"}, "price", 7.5),
        ('price = { path = "p", per = "n" }', {"p": 30, "n": 0}, "price", 30.0),
        ('quantity = "n"', {"n": "2.0"}, "quantity", 2),
        ('currency = "c"', {"c": "usd"}, "currency", "USD"),
        ('currency = { constant = "EUR" }', {}, "currency", "EUR"),
        ('category = { path = "c", default = "none" }', {"c": " "}, "category", "none"),
        ('session_id = ["a", "b"]', {"a": "", "b": 7}, "session_id", "7"),
        ('session_id = { template = "{a}/{b}" }', {"a": 1, "b": "x"}, "session_id", "1/x"),
        ('session_id = { template = "{a}/{b}" }', {"a": 1}, "session_id", None),
        ('session_id = "a.b"', {"a": {"b": 5.0}}, "session_id", "5"),
        ('session_id = "a.b"', {"a.b": "whole"}, "session_id", "whole"),
        ('session_id = "a[1].b"', {"a": [{"b": 1}, {"b": 2}]}, "session_id", "2"),
        ('session_id = "a[k=y].b"', {"a": [{"k": "x"}, {"k": "y", "b": 2}]}, "session_id", "2"),
        ('price = "p"', {"p": float("nan")}, "price", None),
        ('event_id = { hash = ["who"] }', {"who": "u"}, "event_id", None),
    ],
)
def test_field_is_read(line: str, over: dict[str, Any], field: str, expected: object) -> None:
    """A field is a path, several, a template, a constant, a hash, scaled or divided."""
    event = one(made(event=EVENT + line), **over)
    if field == "event_id":
        other = one(made(event=EVENT + line), thing="another", **over)
        assert event.event_id == other.event_id
    else:
        assert getattr(event, field) == expected


@pytest.mark.parametrize(
    ("when", "table"),
    [
        ("2024-01-01T00:00:00Z", ""),
        ("2024-01-01 00:00:00 UTC", ""),
        ("2024-01-01 01:00:00+01:00", ""),
        ("2024-01-01", ""),
        (1_704_067_200, ""),
        ("1704067200.0", ""),
        (1_704_067_200_000, ""),
        ("1704067200000000", ""),
        (1_704_067_200_000_000_000, ""),
        ("2024-01-01 01:00:00", '[time]\nzone = "Europe/Berlin"'),
        ("31.12.2023 19:00", '[time]\nformat = "%d.%m.%Y %H:%M"\nzone = "America/New_York"'),
    ],
)
def test_times_are_read(when: object, table: str) -> None:
    """Times of many kinds are the same moment."""
    assert one(made(table), when=when).timestamp == START_MS


@pytest.mark.parametrize(
    ("over", "field", "sentence"),
    [
        ({"when": "soon"}, "timestamp", "a time"),
        ({"when": "1970-01-01"}, "timestamp", "from 2000 to 2099"),
        ({"who": ""}, "user_id", "missing required"),
        ({"who": "u" * 200}, "user_id", "128"),
        ({"who": "a\nb"}, "user_id", "printable"),
        ({"thing": None}, "item_id", "a view needs one, at 'thing'"),
        ({"what": "fly"}, "type", r"\[types\]"),
        ({"what": ["view"]}, "type", "name is needed"),
        ({"when": 10**30}, "timestamp", "a time"),
        ({"when": "0001-01-01T00:00:00+14:00"}, "timestamp", "a time"),
        ({"p": 10**400}, "price", "number is needed"),
        ({"what": None}, "type", "name is needed at 'what'"),
        ({"p": "dear"}, "price", "number is needed"),
        ({"p": "-1"}, "price", ">= 0"),
        ({"p": "12,50"}, "price", r"a number with '\.'"),
        ({"n": "1.5"}, "quantity", "whole number"),
        ({"who": {"id": 1}}, "user_id", "text is needed"),
    ],
)
def test_row_that_does_not_fit_says_why(over: dict[str, Any], field: str, sentence: str) -> None:
    """A misfit names field, value and what is needed."""
    mapping = made(event=EVENT + 'price = "p"\nquantity = "n"\n')
    with pytest.raises(Misfit, match=sentence) as caught:
        mapping.events(ROW | over)
    assert caught.value.field == field


def test_types_are_mapped_skipped_and_counted() -> None:
    """Names of theirs become ours; skipped ones are counted; others do not fit, or * says."""
    types = '[types]\nadd = "cart"\npage = { type = "view", where = "thing" }\nlogin = "skip"\n'
    mapping, skipped = made(types), Counter[str]()
    assert one(mapping, what="add").type == "cart"
    assert mapping.events(ROW | {"what": "page"}, skipped)[0].type == "view"
    assert mapping.events(ROW | {"what": "page", "thing": ""}, skipped) == []
    assert mapping.events(ROW | {"what": "login"}, skipped) == []
    assert skipped == {"page": 1, "login": 1}
    with pytest.raises(Misfit):
        mapping.events(ROW)
    assert made(types + '"*" = "skip"').events(ROW) == []


def test_list_in_a_row_gives_an_event_for_each_entry() -> None:
    """Entries have ids of their own; a row without entries is one event."""
    mapping = made(
        head='each = ["things[]"]\n', event=EVENT.replace('"thing"', '["things[].id", "thing"]')
    )
    events = mapping.events(ROW | {"things": [{"id": 1}, {"id": 2}]})
    assert [event.item_id for event in events] == ["1", "2"]
    assert events[1].event_id == f"{events[0].event_id}-1"
    assert one(mapping, things=[]).item_id == "i"


def test_price_is_converted() -> None:
    """A price in a currency with a rate is converted; another currency does not fit."""
    mapping = made(
        '[currency]\nto = "USD"\nrates = { EUR = 1.1 }\n',
        event=EVENT + 'price = "p"\ncurrency = "c"\n',
    )
    event = one(mapping, p=10, c="eur")
    assert (event.price, event.currency) == (11.0, "USD")
    assert one(mapping, p=10, c="USD").price == 10.0
    with pytest.raises(Misfit, match="converts from USD, EUR only"):
        one(mapping, p=10, c="GBP")


def test_catalogue_fills_in_category_and_price(tmp_path: Path) -> None:
    """An event without category or price has those of its item in the file beside the mapping."""
    (tmp_path / "items.csv").write_text("sku,cat,cost\ni,home>pan,4.5\n", encoding="utf-8")
    path = tmp_path / "own.toml"
    path.write_text(
        'catalog = "items.csv"\n' + EVENT + 'price = "p"\n[item]\nitem_id = "sku"\nprice = "cost"\n'
        'category = { path = "cat", split = ">" }\n',
        encoding="utf-8",
    )
    mapping = load_mapping(path)
    assert (one(mapping).category, one(mapping).price) == ("pan", 4.5)
    assert one(mapping, p=1).price == 1.0
    assert one(mapping, thing="other").category is None


def test_items_are_made_and_removed() -> None:
    """A row tells of an item, of one to remove, or of none."""
    mapping = made('[item]\nitem_id = "thing"\ntitle = "name"\nstock = "n"\ndelete = "gone"\n')
    assert mapping.items(ROW | {"name": "Pan", "n": "3"}) == [
        ("i", Item(item_id="i", title="Pan", stock=3))
    ]
    assert mapping.items(ROW | {"gone": "true"}) == [("i", None)]
    assert mapping.items(ROW | {"thing": ""}) == []
    with pytest.raises(Misfit, match="whole number"):
        mapping.items(ROW | {"n": "1.5"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[event", "mine.toml: no TOML"),
        ("titel = 'x'" + EVENT, r"mine.toml: titel: there is no such key: event, title"),
        (EVENT + "prize = 'p'", r"event.prize: there is no such field: category"),
        (EVENT + "price = { paht = 'p' }", r"event.price.paht: there is no such key: path"),
        (EVENT + "price = { scale = 2 }", "event.price: give exactly one of path, template"),
        (EVENT + "price = { path = 'p', scale = 0 }", "scale must be greater than 0"),
        (EVENT + "price = { path = 'p', decimal = ';' }", "decimal is"),
        (EVENT + "category = { parts = ['a'] }", "parts and split are for"),
        (EVENT + "price = 'p[]'", "what is unrolled in `each`"),
        (EVENT + "price = 'p[x=y]z'", "is no name"),
        (EVENT + "price = 'p[x].z'", "is no name"),
        (EVENT + "price = 'p[x'", "names with dots between them"),
        (EVENT + "[types]\nfly = 'flight'", "types.fly: 'flight' is none of view"),
        (EVENT + "[time]\nzone = 'Mars'", "there is no time zone 'Mars'"),
        (EVENT + "[time]\nformat = '%Q %!'", r"format '%Q %!': give one .* \('Q' is a bad"),
        (EVENT + "[time]\nformat = 'YYYY-MM-DD'", "format 'YYYY-MM-DD': give one of Python's"),
        (EVENT + "[time]\nformat = '%d.%d'", "stands there twice"),
        (EVENT + "price = { template = '{a}{b' }", "event.price: a template has paths in braces"),
        (
            "catalog = 'none.csv'" + EVENT + "[item]\nitem_id = 'i'",
            "mine.toml: catalog: none.csv: No such file",
        ),
        (EVENT + "[currency]\nto = 'USD'\nrates = { EUR = 0 }", "must be greater than 0"),
        ("each = ['a']" + EVENT, "must end in"),
        ("each = ['a[]', 'b[]']" + EVENT, "must lie inside"),
        ("catalog = 'c.csv'" + EVENT, r"catalog: \[item\] must say"),
        ("[event]\ntype = 'a'", "event.timestamp: is needed; event.user_id: is needed"),
        ("title = 'x'", r"\[event\] or \[item\] is needed"),
        ("[item]\ntitle = 't'", "item.item_id: is needed"),
        ("source = 'xml'" + EVENT, "source"),
    ],
)
def test_wrong_mapping_names_file_and_key(content: str, message: str) -> None:
    """A mistake in a mapping names the file, the key and what is allowed."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_mapping(content, Path("mine.toml"))
    assert str(caught.value).startswith("mine.toml: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [("rees47", "there is no mapping 'rees47': give ga4, matomo"), ("no/such", "No such file")],
)
def test_mapping_that_is_not_there_is_named(name: str, message: str) -> None:
    """A name that there is not lists those that there are."""
    with pytest.raises(ConfigError, match=message):
        load_mapping(name)


def test_rees46_rows_become_events_and_items() -> None:
    """REES46's columns give views, carts and purchases, and the catalogue."""
    mapping, rows = load_mapping("rees46"), rees46_rows(200)
    events = [event for row in rows for event in mapping.events(row)]
    assert {event.type for event in events} == {"view", "cart", "purchase"}
    assert len({event.event_id for event in events}) == 200
    assert [str(event.price) for event in events] == [str(float(row["price"])) for row in rows]
    (item_id, item), *_ = mapping.items(rows[0])
    assert item is not None
    assert item_id == rows[0]["product_id"]
    assert item.category == (rows[0]["category_code"] or rows[0]["category_id"]).split(".")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("name", ready_mappings())
@given(data=st.data())
def test_any_row_gives_events_or_a_misfit(name: str, data: st.DataObject) -> None:
    """Whatever stands in a row, the answer is valid events and items, or what does not fit."""
    mapping = load_mapping(name)
    paths = {path for spec in mapping.spec.event.values() for path in paths_of(as_field(spec))}
    names = [path for path in paths if path.isidentifier()]
    values = JSON | st.sampled_from([*mapping.spec.types, "2024-01-01", 1_704_067_200])
    row: dict[str, Any] = data.draw(st.dictionaries(st.sampled_from(names), values))
    row |= {each.split("[")[0].split(".")[0]: data.draw(JSON) for each in mapping.spec.each}
    with suppress(Misfit):
        for event in mapping.events(row):
            assert msgspec.json.decode(encode(event), type=Event) == event
    with suppress(Misfit):
        for _, item in mapping.items(row):
            assert item is None or msgspec.json.decode(encode(item), type=Item) == item


def test_example_in_the_docs_is_a_mapping() -> None:
    """What the docs and the docstring show is read without complaint, and is the same."""
    page = Path(__file__).parents[2] / "docs" / "mapping.md"
    (block,) = re.findall(
        r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    spec = parse_spec(block, "docs/mapping.md")
    assert spec.types["*"] == "skip"
    example = textwrap.dedent((module.__doc__ or "").split("::\n", 1)[1].split("Event ids")[0])
    assert parse_spec(example, "the docstring").time == spec.time
