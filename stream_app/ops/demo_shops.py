"""The shops that the demo can show: a grocer's real year, and a drawn one that clicks back."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from stream_app.event import Event, Item, Recommendation, encode
from stream_app.hashing import unit_hash
from stream_app.sources import Record
from stream_app.sources.completejourney import CompleteJourney
from stream_app.sources.synthetic import SyntheticShop

ShopName = Literal["completejourney", "synthetic"]
# A record, and the event in it; None where it is broken.
Entry = tuple[Record, Event | None]

# The ranking model that was trained on the real shop; it may be missing.
MODEL_FOLDER = Path(__file__).with_name("demo_model")

# Of recommendations, those that a drawn user gets to see: each makes eleven events.
_SEEN_SHARE = 1 / 8


class DemoShop(Protocol):
    """What the demo needs to know of a shop.

    ``hero`` is the user whose story is told, ``who`` a word for one like that, ``total`` the number
    of entries. Of a shop that ``reacts`` the events depend on the recommendations, so it is kept
    close to the worker. ``model`` is the folder of the ranking model made for it, if any.
    """

    title: str
    who: str
    hero: str
    total: int
    reacts: bool
    model: Path | None

    def entries(self) -> Iterator[Entry]:
        """Yield what happens, in the order of the log."""
        ...

    def items(self) -> list[Item]:
        """Return the catalogue."""
        ...

    def react(self, answer: Recommendation, session_id: str | None) -> list[Event]:
        """Return what a user does about a recommendation."""
        ...


class Grocer:
    """The real shop: the purchases of so many households, whole."""

    title = "a grocer's year"
    who = "household"
    reacts = False
    model: Path | None = MODEL_FOLDER

    def __init__(self, limit: int | None) -> None:
        self._shop = CompleteJourney()
        self._households = self._shop.households(limit)
        self.total = self._shop.count(self._households)
        sizes: Counter[str] = Counter()
        self._sold: set[str] = set()
        for event in self._shop.events(self._households):
            sizes[event.user_id] += 1
            self._sold.add(event.item_id or "")
        (self.hero, _), *_ = sizes.most_common(1)

    def entries(self) -> Iterator[Entry]:
        """Yield the purchases."""
        for event in self._shop.events(self._households):
            assert isinstance(event.timestamp, int), "the shop's times are milliseconds"
            yield record_of(event), event

    def items(self) -> list[Item]:
        """Return what was sold."""
        return [item for item in self._shop.items() if item.item_id in self._sold]

    def react(self, answer: Recommendation, session_id: str | None) -> list[Event]:  # noqa: ARG002
        """Return nothing: these people never saw it."""
        return []


class Drawn:
    """The synthetic shop, with faults in its records; its users look at some recommendations."""

    title = "a drawn shop's months"
    who = "user"
    reacts = True
    model: Path | None = None

    def __init__(self, limit: int | None) -> None:
        self._shop = SyntheticShop()
        self._limit = limit
        sizes = Counter(key for key, _, _ in self._shop.records(limit))
        self.total = sizes.total()
        ((key, _),) = sizes.most_common(1)
        self.hero = key.decode()

    def entries(self) -> Iterator[Entry]:
        """Yield the events, late and doubled ones too, and what is broken."""
        for record in self._shop.records(self._limit):
            yield record, event_in(record)

    def items(self) -> list[Item]:
        """Return all items."""
        return list(self._shop.items())

    def react(self, answer: Recommendation, session_id: str | None) -> list[Event]:
        """Return impressions, clicks and purchases, for a share of the recommendations."""
        if unit_hash("seen", answer.recommendation_id) >= _SEEN_SHARE:
            return []
        return self._shop.react(answer, session_id)


SHOPS: dict[ShopName, type[Grocer] | type[Drawn]] = {"completejourney": Grocer, "synthetic": Drawn}


def record_of(event: Event) -> Record:
    """Return the record of an event, dated by it."""
    assert isinstance(event.timestamp, int), "the demo's times are milliseconds"
    return event.user_id.encode(), encode(event), event.timestamp


def event_in(record: Record) -> Event | None:
    """Return the event in a record, None where it is broken."""
    try:
        return msgspec.json.decode(record[1], type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
