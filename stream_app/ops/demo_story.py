"""What was recommended, and what was bought then: the demo's proof that it works.

A recommendation is held against what its household buys after the event that caused it, up to and
including the event that causes the next one. The source is in time order, so these purchases stand
later in the log: the recommender has not seen them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from stream_app.event import Event, RankedItem, Recommendation


class Chapter(msgspec.Struct, frozen=True):
    """One recommendation to a household, and the items that it bought until the next."""

    household: str
    time_ms: int
    cause: str  # the item whose purchase caused it
    items: Sequence[RankedItem]
    bought: frozenset[str]

    @property
    def hits(self) -> list[RankedItem]:
        """The recommended items that were bought, best first."""
        return [item for item in self.items if item.item_id in self.bought]

    @property
    def others(self) -> list[str]:
        """What else was bought."""
        return sorted(self.bought - {item.item_id for item in self.items})


class Score(msgspec.Struct):
    """How many recommendations were followed by purchases, and how many of these they named.

    ``right`` counts the recommendations that named at least one item bought; ``sources`` the hits
    by where the item came from, in full for each of its sources.
    """

    judged: int = 0
    right: int = 0
    hits: int = 0
    sources: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, chapter: Chapter) -> None:
        """Count a recommendation; one that no purchase followed says nothing."""
        if not chapter.bought:
            return
        hits = chapter.hits
        self.judged += 1
        self.right += bool(hits)
        self.hits += len(hits)
        self.sources.update(source for item in hits for source in item.sources)

    @property
    def share(self) -> float:
        """The share of recommendations that were right, 0 before any."""
        return self.right / self.judged if self.judged else 0.0


class _Household:
    """The purchases of one household in order, and the recommendation that is still open."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.items: list[str] = []
        self.open: Recommendation | None = None
        self.place = -1  # of the event that caused the open recommendation

    def close(self, end: int) -> Chapter | None:
        """Return what became of the open recommendation, given the place of the last purchase."""
        answer = self.open
        if answer is None:
            return None
        return Chapter(
            answer.user_id,
            answer.timestamp,
            self.items[self.place],
            answer.items,
            frozenset(self.items[self.place + 1 : end + 1]),
        )

    def find(self, event_id: str) -> int | None:
        """Return where an event stands after the one that caused the open recommendation."""
        try:
            return self.events.index(event_id, self.place + 1)
        except ValueError:
            return None


class Story:
    """Holds recommendations against purchases, and keeps the chapters of one household.

    Purchases come from the thread that produces and recommendations from the one that reads; a
    recommendation never comes before the purchase that caused it.

    Parameters
    ----------
    hero
        The household whose story is told.
    titles
        By item id.

    Examples
    --------
    >>> story = Story("h", {"milk": "Milk"})
    >>> story.bought(Event(event_id="e", type="purchase", user_id="h", timestamp=0, item_id="milk"))
    >>> story.title("milk"), story.title("beer"), story.score.judged
    ('Milk', 'beer', 0)
    """

    def __init__(self, hero: str, titles: Mapping[str, str]) -> None:
        self.hero = hero
        self.score = Score()
        self.hero_score = Score()
        self.chapter: Chapter | None = None
        self.time_ms = 0  # event time of the newest recommendation
        self._titles = titles
        self._households: dict[str, _Household] = {}

    def bought(self, event: Event) -> None:
        """Take in a purchase, in the order of the log; call it before the event is produced."""
        household = self._households.setdefault(event.user_id, _Household())
        household.events.append(event.event_id)
        household.items.append(event.item_id or "")

    def recommended(self, answer: Recommendation) -> None:
        """Take in a recommendation, in the order of its household's; a repeat is passed over."""
        household = self._households.get(answer.user_id)
        place = household.find(answer.cause.event_id) if household is not None else None
        if household is None or place is None:
            return
        self._judge(household.close(place))
        household.open, household.place = answer, place
        self.time_ms = max(self.time_ms, answer.timestamp)

    def finish(self) -> None:
        """Judge the last recommendation of each household: nothing more is bought."""
        for household in self._households.values():
            self._judge(household.close(len(household.items) - 1))
            household.open = None

    def title(self, item_id: str) -> str:
        """Return the title of an item, or its id if the catalogue does not know it."""
        return self._titles.get(item_id, item_id)

    def _judge(self, chapter: Chapter | None) -> None:
        if chapter is None:
            return
        self.score.add(chapter)
        if chapter.household == self.hero and chapter.bought:
            self.hero_score.add(chapter)
            self.chapter = chapter
