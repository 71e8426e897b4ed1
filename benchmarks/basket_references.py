"""What a recommender of the next basket must beat: popularity and what a household buys most."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from heapq import nlargest
from operator import itemgetter

DAY_MS = 86_400_000
TOP = 10
HALF_LIFE_DAYS = 60
# Times enter as powers of two of their distance from here, 2017-01-01, so that they stay small.
ORIGIN_MS = 1_483_228_800_000


class Popularity:
    """The products bought most often by everybody until now; ties go to the smaller id.

    >>> popularity = Popularity()
    >>> popularity.learn(["apples", "bread", "bread"])
    >>> popularity.best()
    ['bread', 'apples']
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        # Counts only grow, so the best ten stay exact without a look at the others.
        self._top: dict[str, int] = {}

    def learn(self, items: Iterable[str]) -> None:
        """Count purchases."""
        top = self._top
        for item in items:
            self._counts[item] += 1
            top[item] = self._counts[item]
            if len(top) > TOP:
                del top[max(top, key=lambda each: (-top[each], each))]

    def best(self) -> list[str]:
        """Return ten products, best first."""
        return sorted(self._top, key=lambda each: (-self._top[each], each))


class Frequency:
    """The products that a household bought most often until now; ties go to the first bought.

    Parameters
    ----------
    half_life_days
        A purchase that is so old counts half; None counts all alike.
    """

    def __init__(self, half_life_days: int | None = None) -> None:
        self._half_life_ms = half_life_days and half_life_days * DAY_MS
        self._weights: defaultdict[str, dict[str, float]] = defaultdict(dict)

    def learn(self, household: str, time_ms: int, items: Iterable[str]) -> None:
        """Count a household's purchases."""
        gain = 1.0
        if self._half_life_ms:
            # A gain that grows with time ranks as weights that decay with it.
            gain = 2.0 ** ((time_ms - ORIGIN_MS) / self._half_life_ms)
        weights = self._weights[household]
        for item in items:
            weights[item] = weights.get(item, 0.0) + gain

    def best(self, household: str) -> list[str]:
        """Return at most ten products, best first; none for a household that is new."""
        weights = self._weights.get(household, {})
        return [item for item, _ in nlargest(TOP, weights.items(), key=itemgetter(1))]


class References:
    """All of them; a household without a purchase is offered what is popular."""

    def __init__(self) -> None:
        self._popularity = Popularity()
        self._personal = {
            "personal_top_frequency": Frequency(),
            f"frequency_half_life_{HALF_LIFE_DAYS}_days": Frequency(HALF_LIFE_DAYS),
        }

    def learn(self, household: str, time_ms: int, items: list[str]) -> None:
        """Take in the lines of a basket."""
        self._popularity.learn(items)
        for frequency in self._personal.values():
            frequency.learn(household, time_ms, items)

    def answer(self, household: str) -> Mapping[str, list[str]]:
        """Return what each of them recommends to a household now."""
        popular = self._popularity.best()
        return {
            "popularity": popular,
            **{name: each.best(household) or popular for name, each in self._personal.items()},
        }
