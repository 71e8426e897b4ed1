"""A seeded shop whose truth is known, for judging online learners.

What may happen and how probable it is: ``synthetic_truth.py``; the parameters:
``synthetic_shop.py``; items: ``synthetic_catalog.py``; users and their sessions:
``synthetic_visit.py``; what goes wrong with records: ``synthetic_faults.py``. This module lets it
all happen in the order of time.

All chance comes from :meth:`random.Random.random` and :func:`stream_app.hashing.unit_hash`, and so
is the same for a shop and a seed on every machine. A user is drawn from the user's id, the rest in
the order of time; faults are drawn apart, so events are the same with and without them.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from stream_app.event import Event, Item, Recommendation, encode, to_ms
from stream_app.hashing import unit_hash
from stream_app.sources import Record
from stream_app.sources.synthetic_catalog import Catalog
from stream_app.sources.synthetic_faults import with_faults
from stream_app.sources.synthetic_shop import DAY_MS, FIRST, SLOTS_A_DAY, START_MS, Shop
from stream_app.sources.synthetic_truth import Case, Law, churn
from stream_app.sources.synthetic_visit import (
    Moment,
    User,
    Visit,
    World,
    click_chance,
    draw_user,
    event_about,
)

CHURN_DAYS = 28  # without a purchase: what a churn case is about
CASE_DAYS = 56  # a purchase in so many days makes a user a churn case
_SUNDAY = 6  # the weekday of the shop's 7th day, and every 7th after it

# From a real recommendation to a click on its place n: n times the first; then to a purchase.
_REACT_CLICK_MS, _REACT_PURCHASE_MS = 5_000, 60_000


class SyntheticShop:
    """A shop that is played anew, and the same, each time it is asked.

    Examples
    --------
    >>> shop = SyntheticShop(FIRST, seed=0)
    >>> event, case = next(shop.events()), next(shop.cases())
    >>> event.event_id == case.event_id, sorted(case.probabilities)
    (True, ['comment', 'purchase', 'share'])
    """

    def __init__(self, shop: Shop = FIRST, seed: int = 0) -> None:
        self.shop = shop
        self._seed = f"{shop.name}/{seed}"
        self._catalog = Catalog(shop, self._seed)
        self._world = World(shop, self._catalog, Law(shop), self._seed)

    def journal(self) -> Iterator[Event | Case]:
        """Yield all events in time order, without faults, each followed by its case if it has one.

        A case is every event but impressions; of an order it is the first line. Sunday's churn
        cases come before the events of the day.
        """
        rng = random.Random(self._seed)  # noqa: S311 - seeded chance is the point
        due: dict[int, list[User]] = {}  # by slot: who has a session in it
        for number in range(self.shop.users):
            user = self.user(f"u-{number}", number)
            due.setdefault(user.arrival_slot, []).append(user)
        buyers: dict[int, User] = {}
        for slot in range(self.shop.weeks * 7 * SLOTS_A_DAY):
            day, part = divmod(slot, SLOTS_A_DAY)
            if part == 0 and day % 7 == _SUNDAY:
                yield from _churn_cases(buyers.values(), day)
            moments: list[Moment] = []
            for user in due.pop(slot, ()):
                moments += Visit(self._world, user, slot, rng).play()
                user.last_slot = slot
                if user.bought_ms:
                    buyers[user.number] = user
                following = user.next_slot(slot, rng)
                if following is not None:
                    due.setdefault(following, []).append(user)
            # No session reaches into the next slot, so this is the order of time.
            moments.sort(key=lambda moment: moment[:3])
            for _, _, _, event, case in moments:
                yield event
                if case is not None:
                    yield case

    def events(self, limit: int | None = None) -> Iterator[Event]:
        """Yield the events, or the first so many, in time order, without faults."""
        return islice((entry for entry in self.journal() if isinstance(entry, Event)), limit)

    def cases(self, limit: int | None = None) -> Iterator[Case]:
        """Yield the truth, or the first so many cases, in time order."""
        return islice((entry for entry in self.journal() if isinstance(entry, Case)), limit)

    def records(
        self, limit: int | None = None, truth: Callable[[Case], object] | None = None
    ) -> Iterator[Record]:
        """Yield the events as they go to Kafka, with faults: user id, value and time in ms.

        Parameters
        ----------
        limit
            Of records.
        truth
            Called with each case, in time order, before its event is yielded. Events that come late
            are no cases.
        """
        return islice(with_faults(self.journal(), self.shop, self._seed, truth), limit)

    def items(self) -> Iterator[Item]:
        """Yield the catalogue."""
        yield from self._catalog.items.values()

    def item_records(self) -> Iterator[Record]:
        """Yield the catalogue as it goes to Kafka: id, JSON and the time of the first day."""
        for item in self.items():
            yield item.item_id.encode(), encode(item), START_MS

    def user(self, user_id: str, number: int = 0) -> User:
        """Return a user as drawn from the id, before anything has happened."""
        return draw_user(self._world, user_id, number)

    def react(self, recommendation: Recommendation, session_id: str | None = None) -> list[Event]:
        """Return what its user does about a real recommendation, in time order: a closed loop.

        Every item is seen, at its place from 1; some are clicked on, by place and by the user's
        liking for the category; some of these are bought. The same recommendation always gets the
        same answer. The truth of the cases knows nothing of these events: use one or the other.
        """
        user = self.user(recommendation.user_id)
        events: list[Event] = []
        for shown in recommendation.items:
            item = self._catalog.items.get(shown.item_id, Item(item_id=shown.item_id))
            chance = click_chance(
                self.shop, user, self._catalog.places.get(item.item_id), shown.rank
            )
            draw = f"{recommendation.recommendation_id}/{shown.rank}"
            waits_ms = {"impression": shown.rank}
            if unit_hash(f"{self._seed}/click", draw) < chance:
                waits_ms["click"] = shown.rank * _REACT_CLICK_MS
                if unit_hash(f"{self._seed}/purchase", draw) < self.shop.click_purchase:
                    waits_ms["purchase"] = waits_ms["click"] + _REACT_PURCHASE_MS
            events += [
                event_about(
                    item,
                    f"{draw}/{kind}",
                    kind,
                    user.user_id,
                    recommendation.timestamp + wait_ms,
                    session_id=session_id,
                    recommendation_id=recommendation.recommendation_id,
                    context={"position": shown.rank},
                    order_id=f"{draw}/order" if kind == "purchase" else None,
                )
                for kind, wait_ms in waits_ms.items()
            ]
        return sorted(events, key=lambda event: to_ms(event.timestamp))


def _churn_cases(buyers: Iterable[User], day: int) -> Iterator[Case]:
    """Yield the cases of a day's beginning: who bought in the last weeks, by the user's number."""
    now_ms, slot = START_MS + day * DAY_MS, day * SLOTS_A_DAY
    for user in buyers:
        if user.bought_ms < now_ms - CASE_DAYS * DAY_MS:
            continue
        silent = slot - 1 - user.last_slot
        risk = churn(user.leaves, user.comes, user.buys, silent, CHURN_DAYS * SLOTS_A_DAY)
        yield Case(user_id=user.user_id, timestamp=now_ms, probabilities={"churn": risk})
