"""Time in windows: counts over time in bounded memory, however long the time is."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

import msgspec

from stream_app.config import DAY_MS
from stream_app.event import rfc3339

# Each divides the next, so windows can be joined.
WIDTHS_MS = (
    1_000,
    10_000,
    60_000,
    600_000,
    3_600_000,
    21_600_000,
    DAY_MS,
    7 * DAY_MS,
    28 * DAY_MS,
    364 * DAY_MS,
)
WINDOWS_MAX = 60
_NAMES = dict(
    zip(
        WIDTHS_MS,
        (
            "second",
            "10 seconds",
            "minute",
            "10 minutes",
            "hour",
            "6 hours",
            "day",
            "week",
            "4 weeks",
            "52 weeks",
        ),
        strict=True,
    )
)


class Windows(msgspec.Struct, frozen=True):
    """A span of time cut into ``count`` windows of ``width_ms`` from ``start_ms`` on.

    The first is called after ``from_ms``, where what it holds begins, if that is later.
    """

    start_ms: int
    width_ms: int
    count: int
    from_ms: int = 0

    def place(self, time_ms: int) -> int:
        """Return the window that a time lies in; what is outside counts to the first or last.

        >>> [Windows(100, 10, 3).place(time_ms) for time_ms in (0, 109, 110, 999)]
        [0, 0, 1, 2]
        """
        return min(max((time_ms - self.start_ms) // self.width_ms, 0), self.count - 1)

    @property
    def name(self) -> str:
        """How long a window is, in words.

        >>> Windows(0, DAY_MS, 9).name, Windows(0, 21 * DAY_MS, 9).name
        ('day', '3 weeks')
        """
        if self.width_ms in _NAMES:
            return _NAMES[self.width_ms]
        unit_ms = max(each for each in WIDTHS_MS if self.width_ms % each == 0)
        many, unit = self.width_ms // unit_ms, _NAMES[unit_ms]
        number, _, word = unit.rpartition(" ")
        return f"{many * int(number or 1)} {word if number else word + 's'}"

    def coarse(self, most: int) -> "Windows":
        """Return ``most`` windows over the same time at most, each made of whole ones.

        >>> Windows(0, 7 * DAY_MS, 53).coarse(20)
        Windows(start_ms=0, width_ms=1814400000, count=18, from_ms=0)
        """
        factor = -(-self.count // most)
        count = -(-self.count // factor)
        return Windows(self.start_ms, factor * self.width_ms, count, self.from_ms)

    @property
    def starts_ms(self) -> list[int]:
        """When each begins."""
        return [self.start_ms + place * self.width_ms for place in range(self.count)]

    def labels(self) -> list[str]:
        """Return when each begins, as short as it is clear.

        >>> Windows(0, 7 * DAY_MS, 2).labels(), Windows(0, 60_000, 1).labels()
        (['1970-01-01', '1970-01-08'], ['1970-01-01 00:00'])
        """
        end = 10 if self.width_ms >= DAY_MS else 16 if self.width_ms >= 60_000 else 19  # noqa: PLR2004
        starts_ms = [max(self.starts_ms[0], self.from_ms), *self.starts_ms[1:]]
        return [rfc3339(time_ms)[:end].replace("T", " ") for time_ms in starts_ms]


class Series:
    """Counts of labels over time, in windows that double and more as the time gets longer.

    The windows that come out depend on the first and the last time only, not on the order.

    >>> series = Series()
    >>> for second in (0, 1, 90):
    ...     series.add(1_000 * second, "view")
    >>> series.windows, series.rows()["view"]
    (Windows(start_ms=0, width_ms=10000, count=10, from_ms=0), [2, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    """

    def __init__(self) -> None:
        self._width = 0  # place in WIDTHS_MS
        self._counts: dict[int, Counter[str]] = {}
        self._first = self._last = 0
        self._from_ms: int | None = None

    def add(self, time_ms: int, label: str) -> None:
        """Count one at a time."""
        place = time_ms // WIDTHS_MS[self._width]
        if self._from_ms is None or time_ms < self._from_ms:
            self._from_ms = time_ms
        counts = self._counts.get(place)
        if counts is None:
            counts = self._open(time_ms)
        counts[label] += 1

    def _open(self, time_ms: int) -> Counter[str]:
        """Return the new window of a time, after joining windows if there would be too many."""
        place = time_ms // WIDTHS_MS[self._width]
        known = bool(self._counts)
        self._first = min(self._first, place) if known else place
        self._last = max(self._last, place) if known else place
        while self._last - self._first >= WINDOWS_MAX and self._width < len(WIDTHS_MS) - 1:
            factor = WIDTHS_MS[self._width + 1] // WIDTHS_MS[self._width]
            self._width += 1
            joined: dict[int, Counter[str]] = {}
            for old, counts in self._counts.items():
                joined.setdefault(old // factor, Counter()).update(counts)
            self._counts = joined
            self._first //= factor
            self._last //= factor
        return self._counts.setdefault(time_ms // WIDTHS_MS[self._width], Counter())

    @property
    def windows(self) -> Windows:
        """The windows so far; one without a count."""
        width_ms = WIDTHS_MS[self._width]
        count = self._last - self._first + 1
        return Windows(self._first * width_ms, width_ms, count, self._from_ms or 0)

    def rows(self) -> dict[str, list[int]]:
        """Return the counts of each label in each window; most counted labels first."""
        totals: Counter[str] = Counter()
        for counts in self._counts.values():
            totals.update(counts)
        places = range(self._first, self._last + 1)
        none: Counter[str] = Counter()
        return {
            label: [self._counts.get(place, none)[label] for place in places]
            for label, _ in sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
        }


class Table:
    """Counts of labels in windows that are known before."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._rows: dict[str, list[int]] = {}

    def add(self, time_ms: int, label: str) -> None:
        """Count one at a time."""
        row = self._rows.get(label)
        if row is None:
            row = self._rows[label] = [0] * self._windows.count
        row[self._windows.place(time_ms)] += 1

    def rows(self) -> dict[str, list[int]]:
        """Return the counts of each label in each window; most counted labels first."""
        return dict(sorted(self._rows.items(), key=lambda pair: (-sum(pair[1]), pair[0])))


# Upper bounds of buckets, ms: each a tenth more than the last, from 0.1 ms to 40 days.
_BOUNDS_MS = [0.1 * 1.1**power for power in range(254)]


class Durations:
    """Durations in buckets that are a tenth wide, so a percentile is within 10 % of the true one.

    >>> durations = Durations([1.0, 2.0, 100.0])
    >>> durations.count, 2 <= durations.percentile(50) <= 2.2, durations.percentile(100) >= 100
    (3, True, True)
    """

    def __init__(self, samples_ms: Iterable[float] = ()) -> None:
        self._counts: Counter[int] = Counter()
        for sample in samples_ms:
            self.add(sample)

    def add(self, duration_ms: float) -> None:
        """Count a duration."""
        self._counts[min(bisect_right(_BOUNDS_MS, duration_ms), len(_BOUNDS_MS) - 1)] += 1

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    def percentile(self, percent: float) -> float | None:
        """Return what so many percent do not exceed, rounded up to a bound; None without any."""
        if not self._counts:
            return None
        wanted = self.count * percent / 100
        seen = 0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= wanted:
                break
        return _BOUNDS_MS[place]

    def buckets(self) -> list[tuple[float, int]]:
        """Return the upper bound and the count of each bucket that is not empty."""
        return [(_BOUNDS_MS[place], self._counts[place]) for place in sorted(self._counts)]
