"""The ready mappings read the documented forms of what they are for: handmade samples."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stream_app.event import Event
from stream_app.sources.mapping import load_mapping, ready_mappings

START_MS = 1_704_067_200_000  # 2024-01-01


def events_of(name: str, rows: list[dict[str, Any]]) -> list[Event]:
    """Return the events of rows by a ready mapping."""
    mapping = load_mapping(name)
    return [event for row in rows for event in mapping.events(row)]


def brief(events: list[Event]) -> list[tuple[str, str, str | None, float | None, int | None]]:
    """Return what matters most of events."""
    return [
        (event.type, event.user_id, event.item_id, event.price, event.quantity) for event in events
    ]


def ga4(name: str, offset_s: int, items: list[dict[str, Any]], **params: Any) -> dict[str, Any]:
    """Return a row of the GA4 export, as BigQuery writes JSON: 64-bit numbers are text."""
    return {
        "event_date": "20240101",
        "event_timestamp": str((START_MS + 1000 * offset_s) * 1000),
        "event_name": name,
        "user_pseudo_id": "123.456",
        "event_bundle_sequence_id": "7",
        "event_params": [
            {"key": "ga_session_id", "value": {"int_value": "99"}},
            {"key": "currency", "value": {"string_value": "EUR"}},
            *({"key": key, "value": {"string_value": value}} for key, value in params.items()),
        ],
        "device": {"category": "mobile"},
        "ecommerce": {"transaction_id": "T1" if name == "purchase" else "(not set)"},
        "items": items,
    }


def test_ga4_export_is_read() -> None:
    """Views, carts, searches and a purchase of two items; times are microseconds."""
    mug = {"item_id": "mug", "item_name": "Mug", "item_category": "home", "price": 8.5}
    pan = {"item_id": "pan", "item_category": "home", "item_category2": "kitchen", "price": 20.0}
    rows = [
        ga4("view_item", 0, [mug | {"quantity": None}]),
        ga4("add_to_cart", 1, [mug | {"quantity": "2"}]),
        ga4("view_search_results", 2, [], search_term="pans"),
        ga4("session_start", 3, []),
        ga4("purchase", 4, [mug | {"quantity": "2"}, pan | {"quantity": "1"}]),
    ]
    events = events_of("ga4", rows)
    assert brief(events) == [
        ("view", "123.456", "mug", 8.5, None),
        ("cart", "123.456", "mug", 8.5, 2),
        ("search", "123.456", None, None, None),
        ("purchase", "123.456", "mug", 8.5, 2),
        ("purchase", "123.456", "pan", 20.0, 1),
    ]
    assert [event.timestamp for event in events[:2]] == [START_MS, START_MS + 1000]
    assert {event.session_id for event in events} == {"123.456.99"}
    assert events[2].text == "pans"
    assert [event.order_id for event in events] == [None, None, None, "T1", "T1"]
    assert (events[4].currency, events[4].category) == ("EUR", "home")
    assert events[0].context == {"device": "mobile"}
    assert len({event.event_id for event in events}) == 5
    items = dict(load_mapping("ga4").items(rows[4]))
    pan_item = items["pan"]
    assert pan_item is not None
    assert pan_item.category == ["home", "kitchen"]


def test_ga4_ids_do_not_change_when_a_table_is_updated() -> None:
    """A row that comes again with further fields is the same event."""
    row = ga4("view_item", 0, [{"item_id": "mug"}])
    (first,) = events_of("ga4", [row])
    (again,) = events_of("ga4", [row | {"is_active_user": True}])
    assert first.event_id == again.event_id


def track(name: str, properties: dict[str, Any], **over: Any) -> dict[str, Any]:
    """Return a track call as Segment delivers it."""
    return {
        "type": "track",
        "event": name,
        "messageId": f"ajs-{name}",
        "anonymousId": "anon-1",
        "userId": None,
        "timestamp": "2024-01-01T00:00:00.000Z",
        "properties": properties,
    } | over


def test_segment_calls_are_read() -> None:
    """Products of a call, an order's products, and calls that say nothing of products."""
    product = {"product_id": "p1", "sku": "s1", "category": "Games", "price": 18.99, "quantity": 1}
    order = {
        "order_id": "o-1",
        "currency": "usd",
        "products": [product, {"sku": "s2", "price": "3", "quantity": 2}],
    }
    rows = [
        track("Product Viewed", product | {"currency": "usd"}),
        track("Product Added", product, userId=42),
        track("Products Searched", {"query": "board games"}),
        track("Order Completed", order),
        track("Signed In", {}),
        {"type": "identify", "messageId": "i", "userId": "u", "timestamp": "2024-01-01T00:00:00Z"},
    ]
    events = events_of("segment", rows)
    assert brief(events) == [
        ("view", "anon-1", "p1", 18.99, 1),
        ("cart", "42", "p1", 18.99, 1),
        ("search", "anon-1", None, None, None),
        ("purchase", "anon-1", "p1", 18.99, 1),
        ("purchase", "anon-1", "s2", 3.0, 2),
    ]
    assert [event.event_id for event in events[3:]] == [
        "ajs-Order Completed",
        "ajs-Order Completed-1",
    ]
    assert {event.order_id for event in events[3:]} == {"o-1"}
    assert events[0].currency == events[4].currency == "USD"
    skipped = Counter[str]()
    for row in rows[4:]:
        load_mapping("segment").events(row, skipped)
    assert skipped == {"Signed In": 1, "identify": 1}


def snowplow(kind: str, products: list[dict[str, Any]], **over: Any) -> dict[str, Any]:
    """Return an enriched event as an analytics SDK writes it."""
    action = "unstruct_event_com_snowplowanalytics_snowplow_ecommerce_snowplow_ecommerce_action_1"
    return {
        "event_id": f"uuid-{kind}",
        "event": "unstruct",
        "event_name": "snowplow_ecommerce_action",
        "derived_tstamp": "2024-01-01T00:00:00.000Z",
        "domain_userid": "d-1",
        "domain_sessionid": "s-1",
        "dvce_type": "Computer",
        action: {"type": kind},
        "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1": products,
    } | over


def test_snowplow_events_are_read() -> None:
    """Events of the e-commerce plugin with their products, and the older items of orders."""
    shirt = {"id": "shirt", "category": "men/shirts", "price": 10, "currency": "EUR", "quantity": 2}
    transaction = "contexts_com_snowplowanalytics_snowplow_ecommerce_transaction_1"
    rows = [
        snowplow("product_view", [shirt]),
        snowplow("add_to_cart", [shirt], user_id="u-1"),
        snowplow(
            "transaction",
            [shirt, {"id": "hat", "price": 5}],
            **{transaction: [{"transaction_id": "T9", "currency": "EUR"}]},
        ),
        {
            "event_id": "old",
            "event": "transaction_item",
            "event_name": "transaction_item",
            "derived_tstamp": "2024-01-01T00:00:00.000Z",
            "domain_userid": "d-1",
            "ti_sku": "sock",
            "ti_price": 2.5,
            "ti_quantity": 3,
            "ti_orderid": "T8",
        },
        {"event_id": "pv", "event": "page_view", "event_name": "page_view"},
    ]
    events = events_of("snowplow", rows)
    assert brief(events) == [
        ("view", "d-1", "shirt", 10.0, 2),
        ("cart", "u-1", "shirt", 10.0, 2),
        ("purchase", "d-1", "shirt", 10.0, 2),
        ("purchase", "d-1", "hat", 5.0, None),
        ("purchase", "d-1", "sock", 2.5, 3),
    ]
    assert [event.order_id for event in events[2:]] == ["T9", "T9", "T8"]
    assert [event.currency for event in events[2:4]] == ["EUR", "EUR"]
    ((_, item),) = load_mapping("snowplow").items(rows[0])
    assert item is not None
    assert item.category == ["men", "shirts"]


def matomo(actions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a visit of Matomo's Live API."""
    return {
        "idVisit": 70,
        "visitorId": "abc",
        "userId": None,
        "siteCurrency": "EUR",
        "lastActionTimestamp": START_MS // 1000 + 60,
        "deviceType": "Desktop",
        "actionDetails": actions,
    }


def test_matomo_visits_are_read() -> None:
    """Actions on products, a search, an order of two items and a cart that was left."""
    start = START_MS // 1000
    page = {"type": "action", "url": "https://shop.example/", "timestamp": start, "pageId": 1}
    look = page | {
        "productViewSku": "pan",
        "productViewPrice": 20,
        "productViewCategories": ["home", "kitchen"],
        "pageId": 2,
    }
    search = {"type": "search", "siteSearchKeyword": "mug", "timestamp": start + 1, "pageId": 3}
    lines = [
        {"itemSKU": "pan", "itemCategory": "home", "price": "20.00", "quantity": "1"},
        {"itemSKU": "mug", "price": 8.5, "quantity": 4},
    ]
    order = {
        "type": "ecommerceOrder",
        "orderId": "M1",
        "timestamp": start + 9,
        "itemDetails": lines,
    }
    cart = {"type": "ecommerceAbandonedCart", "timestamp": start + 10, "itemDetails": lines[:1]}
    goal = {"type": "goal", "timestamp": start + 11}
    events = events_of("matomo", [matomo([page, look, search, order, cart, goal])])
    assert brief(events) == [
        ("view", "abc", "pan", 20.0, None),
        ("search", "abc", None, None, None),
        ("purchase", "abc", "pan", 20.0, 1),
        ("purchase", "abc", "mug", 8.5, 4),
        ("cart", "abc", "pan", 20.0, 1),
    ]
    assert events[2].timestamp == START_MS + 9_000
    assert (events[2].order_id, events[2].currency) == ("M1", "EUR")
    assert len({event.event_id for event in events}) == 5


def test_matomo_ids_do_not_change_while_a_visit_goes_on() -> None:
    """What happened first has the same id when the visit is read again with more actions."""
    look = {"type": "action", "productViewSku": "pan", "timestamp": START_MS // 1000, "pageId": 2}
    (first,) = events_of("matomo", [matomo([look])])
    again, _ = events_of("matomo", [matomo([look, look | {"pageId": 5}])])
    assert again.event_id == first.event_id


@pytest.mark.parametrize("name", ready_mappings())
def test_ready_mapping_says_what_it_is_for(name: str) -> None:
    """Each has a title and a source, gives events and items, and leaves no type to chance."""
    mapping = load_mapping(name)
    assert mapping.spec.title
    assert mapping.spec.source
    assert mapping.has_events
    assert mapping.has_items
    assert Path(mapping.place).read_text(encoding="utf-8").startswith("# ")
