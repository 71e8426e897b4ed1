"""The users of the synthetic shops, and one session of one of them, step by step."""

import math
import random
from typing import Any

from msgspec import Struct

from stream_app.event import Event, Item
from stream_app.sources.synthetic_catalog import Catalog, Shelf, place, running
from stream_app.sources.synthetic_shop import SESSION_BEGINS_MS, SLOTS_A_DAY, Shop, slot_ms
from stream_app.sources.synthetic_truth import (
    ACTIONS,
    DESIRES,
    READINESS,
    Case,
    Law,
    after,
    kind_of,
)

SOURCE = "synthetic"
_TEXTS = ("would buy again", "as described", "not for me")
_RATINGS = (5.0, 4.0, 2.0)  # of the texts
# From the impressions of a shelf to a click on it; the shortest step is longer.
_CLICK_MS_MIN, _CLICK_MS_MAX = 1_000, 4_000
_DEVIATE_DRAWS = 12

# Time in ms, user's number, place in the session; the event, and what could be known after it.
Moment = tuple[int, int, int, Event, Case | None]


class World(Struct, frozen=True):
    """What holds for all users of a shop: parameters, items, what may happen, and its chance."""

    shop: Shop
    catalog: Catalog
    law: Law
    seed: str


class User(Struct, kw_only=True):
    """A user: what was drawn, which nobody sees, and what has been seen.

    Parameters
    ----------
    number, user_id, arrival_slot
        Who, and the slot of the first session.
    traits
        Places of the deviates of desire, comments and shares.
    likings, wanted
        By category: a deviate, and the weights of being looked for, summed up.
    leaves, comes, buys
        Chances, as :func:`stream_app.sources.synthetic_truth.churn` takes them.
    last_slot, bought_ms
        Slot of the last session, time of the last purchase; 0 before.
    """

    number: int
    user_id: str
    arrival_slot: int
    traits: tuple[int, int, int]
    likings: list[float]
    wanted: list[float]
    leaves: float
    comes: float
    buys: float = 0.0
    last_slot: int = 0
    bought_ms: int = 0

    def kind(self, category: int, level: int) -> int:
        """Return the kind of a session about a category at a level of price."""
        return kind_of(*self.traits, likes=self.likings[category] > 0, level=level)

    def next_slot(self, slot: int, rng: random.Random) -> int | None:
        """Return the slot of the session after the one in ``slot``; None if the user leaves."""
        unseen = (1 - self.leaves) * (1 - self.comes)
        slots = 1 + int(math.log(1 - rng.random()) / math.log(unseen))
        if rng.random() < self.leaves / (1 - unseen):
            return None
        return slot + slots


def draw_user(world: World, user_id: str, number: int = 0) -> User:
    """Return a user as drawn from the id, before anything has happened."""
    shop, catalog, law = world.shop, world.catalog, world.law
    rng = random.Random(f"{world.seed}/{user_id}")  # noqa: S311 - seeded chance is the point
    weeks = shop.early_weeks if rng.random() < shop.early_share else shop.weeks
    likings = [_deviate(rng) for _ in range(shop.categories)]
    wanted = [
        popularity * math.exp(shop.taste_spread * liking)
        for popularity, liking in zip(catalog.popularity, likings, strict=True)
    ]
    a_day = shop.sessions_a_day * math.exp(shop.sessions_spread * _deviate(rng))
    days = shop.lifetime_days * math.exp(shop.lifetime_spread * _deviate(rng))
    user = User(
        number=number,
        user_id=user_id,
        arrival_slot=int(rng.random() * weeks * 7 * SLOTS_A_DAY),
        traits=(
            int(rng.random() * len(DESIRES)),
            int(rng.random() * len(READINESS)),
            int(rng.random() * len(READINESS)),
        ),
        likings=likings,
        wanted=running(wanted),
        leaves=1 - math.exp(-1 / (days * SLOTS_A_DAY)),
        comes=1 - math.exp(-a_day / SLOTS_A_DAY),
    )
    user.buys = (
        math.fsum(
            weight * chance * law.buys[user.kind(category, level)]
            for category, weight in enumerate(wanted)
            for level, chance in enumerate(catalog.level_chances(category))
        )
        / user.wanted[-1]
    )
    return user


def click_chance(shop: Shop, user: User, category: int | None, position: int) -> float:
    """Return how likely a user clicks on what is shown at a position, from 1.

    The chance falls with the position and rises with the user's liking for the category, from none
    to twice as much as usual; of a category that the shop does not know it is as usual.
    """
    liking = user.likings[category] if category is not None else 0.0
    taste = 2 / (1 + math.exp(-shop.taste_spread * liking))
    return min(1.0, shop.click * taste / math.pow(position, shop.position_bias))


class Visit:
    """A session of a user: ``play`` returns all that happens in it."""

    def __init__(self, world: World, user: User, slot: int, rng: random.Random) -> None:
        self._shop, self._catalog, self._law = world.shop, world.catalog, world.law
        self._user, self._rng = user, rng
        # What the user looks for is settled here, and with it the chances of all that follows.
        self._category = place(user.wanted, rng)
        level = place(world.catalog.level_sums[self._category], rng)
        self._shelf: Shelf = world.catalog.shelves[self._category][level]
        self._kind = user.kind(self._category, level)
        self._item = self._draw_item()
        self._cart: list[Item] = []
        self._bought: Item | None = None
        self._name = f"s-{user.number}-{slot}"
        self._time_ms = slot_ms(slot) + int(rng.random() * SESSION_BEGINS_MS)
        self._steps, self._phase = 1, 0
        self._moments: list[Moment] = []

    def play(self) -> list[Moment]:
        """Return the events, each with its case if it has one, in time order."""
        shop, rng = self._shop, self._rng
        chances = self._law.steps[self._kind]
        step_ms = 1000 * shop.step_seconds_min
        range_ms = 1000 * shop.step_seconds_max - step_ms
        action = "search" if rng.random() < shop.search_first else "view"
        while action != "end":
            self._phase = after(self._phase, action)
            self._act(action)
            if self._steps == shop.steps_max:
                break
            action = ACTIONS[place(chances[self._phase], rng)]
            self._steps += 1
            self._time_ms += step_ms + int(rng.random() * range_ms)
        return self._moments

    def _act(self, action: str) -> None:
        """Do what an action is; it does not change what comes next, the phase alone does."""
        if action == "search":
            self._add("search", None, text=f"category-{self._category}")
        elif action == "shelf":
            self._look_at_shelf()
        elif action == "purchase":
            order_id = f"o-{self._name[2:]}-{self._steps}"
            for line, item in enumerate(self._cart):
                quantity = 1 + int(self._rng.random() < self._shop.second_piece)
                self._add("purchase", item, case=line == 0, order_id=order_id, quantity=quantity)
            self._item = self._bought = self._cart[0]
            self._cart = []
            self._user.bought_ms = self._time_ms
        elif action == "comment":
            mood = int(self._rng.random() * len(_TEXTS))
            self._add("comment", self._bought, rating=_RATINGS[mood], text=_TEXTS[mood])
        else:
            if action == "view":
                self._item = self._draw_item()
            elif action == "cart":
                self._cart.append(self._item)
            self._add(action, self._item)

    def _look_at_shelf(self) -> None:
        """See a row of items that others want, and click on one of them or none."""
        rng, began_ms = self._rng, self._time_ms
        shown: dict[str, Any] = {"recommendation_id": f"shelf-{self._name[2:]}-{self._steps}"}
        clicked: tuple[Item, int] | None = None
        for position in range(1, self._shop.shelf_size + 1):
            category = place(self._catalog.popularity_sums, rng)
            level = place(self._catalog.level_sums[category], rng)
            shelf = self._catalog.shelves[category][level]
            item = shelf.items[place(shelf.sums, rng)]
            self._time_ms = began_ms + position - 1
            self._add("impression", item, case=False, context={"position": position}, **shown)
            chance = click_chance(self._shop, self._user, category, position)
            if clicked is None and rng.random() < chance:
                clicked = item, position
        if clicked is not None:
            item, position = clicked
            wait_ms = _CLICK_MS_MIN + int(rng.random() * (_CLICK_MS_MAX - _CLICK_MS_MIN))
            self._time_ms = began_ms + wait_ms
            self._add("click", item, context={"position": position}, **shown)
        self._time_ms = began_ms

    def _add(self, kind: str, item: Item | None, *, case: bool = True, **fields: Any) -> None:
        user, number = self._user, len(self._moments)
        event_id = f"{self._name}-{number}"
        fields["session_id"] = self._name
        event = event_about(item, event_id, kind, user.user_id, self._time_ms, **fields)
        known = None
        if case:
            known = Case(
                event_id=event_id,
                user_id=user.user_id,
                timestamp=self._time_ms,
                probabilities=self._law.probabilities(self._steps, self._kind, self._phase),
            )
        self._moments.append((self._time_ms, user.number, number, event, known))

    def _draw_item(self) -> Item:
        return self._shelf.items[place(self._shelf.sums, self._rng)]


def event_about(
    item: Item | None, event_id: str, kind: str, user_id: str, time_ms: int, **fields: Any
) -> Event:
    """Return an event about an item, or about none."""
    if item is not None:
        fields |= {
            "item_id": item.item_id,
            "price": item.price,
            "currency": item.currency,
            "category": item.category[-1] if item.category else None,
        }
    return Event(
        event_id=event_id,
        type=kind,
        user_id=user_id,
        timestamp=time_ms,
        source=SOURCE,
        **fields,
    )


def _deviate(rng: random.Random) -> float:
    """Return a deviate of mean 0 and variance 1, nearly normal: a sum of even ones.

    Python promises to keep the draws of ``random()`` as they are, of other methods it does not; and
    its ``sum`` of floats changed in 3.12, where ``fsum`` is exact.
    """
    return math.fsum(rng.random() for _ in range(_DEVIATE_DRAWS)) - _DEVIATE_DRAWS / 2
