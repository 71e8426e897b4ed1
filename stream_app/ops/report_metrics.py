"""What the workers say of themselves: their ``/metrics``, asked once."""

from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from stream_app.errors import ConfigError, StreamAppError
from stream_app.ops.demo_worker import Counts
from stream_app.pipeline import STAGES

_ANSWER_SECONDS_MAX = 10.0
_OK = 200


class MetricsError(StreamAppError):
    """A worker does not answer with its metrics when asked; the message says which."""


class Spread(msgspec.Struct, frozen=True):
    """A Prometheus histogram: how many, their mean and percentiles, in ms; None without any.

    Percentiles are interpolated in a bucket, as Prometheus does it; what lies beyond the last bound
    counts as that.
    """

    count: int = 0
    mean_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    @classmethod
    def of(cls, buckets: Sequence[tuple[float, float]], total: float) -> "Spread":
        """Return the spread of cumulative counts by upper bound, and of the sum, in seconds.

        >>> Spread.of([(0.1, 5.0), (0.2, 10.0), (float("inf"), 10.0)], total=1.0)
        Spread(count=10, mean_ms=100.0, p50_ms=100.0, p99_ms=198.0)
        """
        buckets = sorted(buckets)
        count = buckets[-1][1] if buckets else 0.0
        if not count:
            return cls()
        p50, p99 = (round(1_000 * _quantile(buckets, share), 3) for share in (0.5, 0.99))
        return cls(int(count), round(1_000 * total / count, 3), p50, p99)


def _quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    wanted = share * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


class Workers(msgspec.Struct, frozen=True):
    """What the workers asked say: each by itself, and the times of all together."""

    urls: Sequence[str]
    counts: Sequence[Counts]
    stages: Sequence[tuple[str, Spread]]
    commit: Spread
    end_to_end: Spread

    @classmethod
    def of(cls, texts: Sequence[tuple[str, str]]) -> "Workers":
        """Return what the texts of ``/metrics`` say, each after its URL."""
        buckets: dict[str, dict[float, float]] = {}
        sums: dict[str, float] = {}
        for _, text in texts:
            for family in text_string_to_metric_families(text):
                if family.type != "histogram":
                    continue
                for sample in family.samples:
                    name = family.name.removeprefix("stream_app_").removesuffix("_seconds")
                    name = sample.labels.get("stage", name)
                    if sample.name.endswith("_bucket"):
                        counts = buckets.setdefault(name, {})
                        bound = float(sample.labels["le"])
                        counts[bound] = counts.get(bound, 0.0) + sample.value
                    elif sample.name.endswith("_sum"):
                        sums[name] = sums.get(name, 0.0) + sample.value
        spreads = {
            name: Spread.of(list(each.items()), sums[name]) for name, each in buckets.items()
        }
        return cls(
            urls=[url for url, _ in texts],
            counts=[Counts.parse(text) for _, text in texts],
            stages=[(stage, spreads[stage]) for stage in STAGES if stage in spreads],
            commit=spreads.get("commit", Spread()),
            end_to_end=spreads.get("end_to_end", Spread()),
        )

    def sum_of(self, field: str) -> int:
        """Return the sum of a field of :class:`Counts` over the workers."""
        return sum(getattr(each, field) for each in self.counts)


def ask(urls: Sequence[str]) -> Workers | None:
    """Return what the workers at these URLs say; None without any.

    Raises
    ------
    ConfigError
        When a URL is none.
    MetricsError
        When a worker does not answer, or with something else.
    """
    return Workers.of([(url, _text(url)) for url in urls]) if urls else None


def _text(url: str) -> str:
    parts = _parts(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    try:
        connection = connect(parts.hostname or "", parts.port, timeout=_ANSWER_SECONDS_MAX)
        try:
            path = parts.path if parts.path not in ("", "/") else "/metrics"
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise MetricsError(f"cannot read {url}: {error}; is a worker up there?") from error
    if response.status != _OK:
        raise MetricsError(f"{url} answers {response.status} {response.reason}: is it a worker's?")
    if not _is_metrics(text):
        raise MetricsError(f"{url} answers, but not with a worker's metrics: is the URL right?")
    return text


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--metrics {url}: give a URL such as http://worker:8000/metrics")
    return parts


def _is_metrics(text: str) -> bool:
    """Tell whether text can be read as metrics, some of which are ours."""
    try:
        names = {family.name for family in text_string_to_metric_families(text)}
    except ValueError:
        return False
    return any(name.startswith("stream_app_") for name in names)
