"""What was recommended, and what was bought then: the demo's proof that it works.

A recommendation is held against what its user buys after the event that caused it, up to and
including the event that causes the next one. The source is in time order, so these purchases stand
later in the log: the recommender has not seen them. A ranking model has seen those that it was
trained on, so only recommendations made after its data ends are counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from stream_app.event import Event, RankedItem, Recommendation


class Chapter(msgspec.Struct, frozen=True):
    """One recommendation to a user, and the items that were bought and clicked on until the next.

    ``cause`` is the item, or nothing, and ``deed`` the type of the event that caused it.
    """

    user: str
    time_ms: int
    cause: str
    deed: str
    items: Sequence[RankedItem]
    bought: frozenset[str]
    clicked: frozenset[str]

    @property
    def hits(self) -> list[RankedItem]:
        """The recommended items that were bought, best first."""
        return [item for item in self.items if item.item_id in self.bought]

    @property
    def clicks(self) -> list[RankedItem]:
        """The recommended items that were clicked on, best first."""
        return [item for item in self.items if item.item_id in self.clicked]

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


class _User:
    """The events of one user in order, and the recommendation that is still open."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.types: list[str] = []
        self.items: list[str] = []
        self.open: Recommendation | None = None
        self.place = -1  # of the event that caused the open recommendation

    def close(self, end: int) -> Chapter | None:
        """Return what became of the open recommendation, given the place of the last event."""
        answer, place = self.open, self.place
        if answer is None:
            return None
        return Chapter(
            answer.user_id,
            answer.timestamp,
            self.items[place],
            self.types[place],
            answer.items,
            self._items_of("purchase", place + 1, end),
            self._items_of("click", place + 1, end),
        )

    def _items_of(self, kind: str, start: int, end: int) -> frozenset[str]:
        """Return the items of a type of event between two places, both included."""
        places = range(start, end + 1)
        return frozenset(self.items[place] for place in places if self.types[place] == kind)

    def find(self, event_id: str) -> int | None:
        """Return where an event stands after the one that caused the open recommendation."""
        try:
            return self.events.index(event_id, self.place + 1)
        except ValueError:
            return None


class Story:
    """Holds recommendations against purchases, and keeps the chapters of one user.

    Events come from the thread that produces and recommendations from the one that reads; a
    recommendation never comes before the event that caused it. Those made from ``counted_from_ms``
    on, in event time, are counted; None counts all. Set it before the first one.

    Parameters
    ----------
    hero
        The user whose story is told.
    titles
        By item id.
    who
        A word for a user.

    Examples
    --------
    >>> story = Story("h", {"milk": "Milk"})
    >>> event = Event(event_id="e", type="purchase", user_id="h", timestamp=0, item_id="milk")
    >>> story.happened(event)
    >>> story.title("milk"), story.title("beer"), story.score.judged
    ('Milk', 'beer', 0)
    """

    def __init__(self, hero: str, titles: Mapping[str, str], who: str = "household") -> None:
        self.hero = hero
        self.who = who
        self.score = Score()
        self.hero_score = Score()
        self.chapter: Chapter | None = None
        self.counted_from_ms: int | None = None
        self.time_ms = 0  # event time of the newest recommendation
        self._titles = titles
        self._users: dict[str, _User] = {}

    def happened(self, event: Event) -> None:
        """Take in an event, in the order of the log; call it before the event is produced."""
        user = self._users.setdefault(event.user_id, _User())
        user.events.append(event.event_id)
        user.types.append(event.type)
        user.items.append(event.item_id or "")

    def recommended(self, answer: Recommendation) -> None:
        """Take in a recommendation, in the order of its user's; a repeat is passed over."""
        user = self._users.get(answer.user_id)
        place = user.find(answer.cause.event_id) if user is not None else None
        if user is None or place is None:
            return
        self._judge(user.close(place))
        user.open, user.place = answer, place
        self.time_ms = max(self.time_ms, answer.timestamp)

    def finish(self) -> None:
        """Judge the last recommendation of each user: nothing more is bought."""
        for user in self._users.values():
            self._judge(user.close(len(user.items) - 1))
            user.open = None

    def title(self, item_id: str) -> str:
        """Return the title of an item, or its id if the catalogue does not know it."""
        return self._titles.get(item_id, item_id)

    def counts(self, chapter: Chapter) -> bool:
        """Tell whether a recommendation was made when the ranking model's data had ended."""
        return self.counted_from_ms is None or chapter.time_ms >= self.counted_from_ms

    def _judge(self, chapter: Chapter | None) -> None:
        if chapter is None:
            return
        counted = self.counts(chapter)
        if counted:
            self.score.add(chapter)
        if chapter.user == self.hero and (chapter.bought or chapter.clicks):
            if counted:
                self.hero_score.add(chapter)
            self.chapter = chapter
