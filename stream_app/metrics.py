"""Every Prometheus collector, declared once.

Label values come from closed lists: partitions, stages, reasons, types of events, places and names
of models; never an id, a key or a text of a user's. What a worker exposes is bounded by
:func:`series_max`, whatever it is sent.
"""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from stream_app.clock import monotonic_seconds

# When each counter was created is the start of the process, which is a metric of its own.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_SLOW = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)

RECORDS = Counter(
    "stream_app_records_total",
    "Records of the source topic, by what became of them; ticks count apart",
    ["outcome"],
)
EVENTS = Counter("stream_app_events_total", "Events processed, by type", ["type"])
REJECTS = Counter("stream_app_rejects_total", "Records rejected, by reason", ["reason"])
OUTPUTS = Counter("stream_app_outputs_total", "Records produced, by topic", ["topic"])
TIMERS = Counter("stream_app_timers_total", "Timers fired, by scope and kind", ["scope", "kind"])
STAGE_SECONDS = Histogram(
    "stream_app_stage_seconds", "Time a batch spends in a stage", ["stage"], buckets=_FAST
)
BATCH_RECORDS = Histogram(
    "stream_app_batch_records", "Records in a batch", buckets=(0, 1, 2, 4, 8, 16, 32, 64, 128)
)
END_TO_END_SECONDS = Histogram(
    "stream_app_end_to_end_seconds",
    "From a record's timestamp to the commit of its outputs; not observed in replays",
    buckets=_SLOW,
)
COMMITS = Counter("stream_app_commits_total", "Commits of a batch, by outcome", ["outcome"])
COMMIT_FAILURES = Counter(
    "stream_app_commit_failures_total",
    "Commits that were not confirmed, by what the broker said",
    ["reason"],
)
COMMIT_SECONDS = Histogram("stream_app_commit_seconds", "Time a commit takes", buckets=_SLOW)
CHANGELOG_BYTES = Counter("stream_app_changelog_bytes_total", "Bytes of changelog rows written")
LAST_COMMIT = Gauge(
    "stream_app_last_commit_timestamp_seconds",
    "When a batch was last confirmed, in seconds since the epoch",
    ["partition"],
)
LAG = Gauge("stream_app_lag_records", "Records in the log that are not committed", ["partition"])
LAG_SECONDS = Gauge(
    "stream_app_lag_seconds",
    "Age of the oldest record that is not committed, 0 when all are; not set in replays",
    ["partition"],
)
STALLED_SECONDS = Gauge(
    "stream_app_stalled_seconds",
    "Time without a commit although records wait; at stall_seconds the worker gives up",
    ["partition"],
)
POSITION = Gauge("stream_app_position", "Next offset of the source partition", ["partition"])
ROWS = Gauge("stream_app_state_rows", "Rows of state", ["partition", "kind"])
RESTORES = Counter("stream_app_restores_total", "Restores of a partition's state")
RESTORE_SECONDS = Histogram(
    "stream_app_restore_seconds",
    "Time from an assignment to a restored state",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
PARTITIONS = Gauge("stream_app_partitions_assigned", "Partitions that this worker owns")

# The process itself; when it started is process_start_time_seconds, of the client's own.
BUILD_INFO = Gauge("stream_app_build_info", "Always 1: the version of the program", ["version"])
READY = Gauge("stream_app_ready", "Whether every assigned partition is being processed: 1 or 0")
HEARTBEAT_AGE_SECONDS = Gauge(
    "stream_app_heartbeat_age_seconds",
    "Time since the event loop last beat, which it does each second; 0 before the first",
)
CATALOG_ITEMS = Gauge("stream_app_catalog_items", "Items in the catalogue")
CATALOG_UPDATED = Gauge(
    "stream_app_catalog_updated_timestamp_seconds",
    "Timestamp of the newest record of the catalogue, in seconds since the epoch",
)
CATALOG_REJECTS = Counter(
    "stream_app_catalog_rejects_total", "Records of the catalogue that could not be read"
)

# What is said of users, and how right it was; horizons are written as `30m` or `7d`. The gauges are
# of one partition, or of all of this process, and NaN while the cases cannot tell.
ALL_PARTITIONS = "all"
_JUDGED = ["target", "horizon", "partition"]
ANSWERS = Counter(
    "stream_app_answers_total",
    "Recommendations, by the model that scored them and the level of fallback",
    ["model", "fallback"],
)
MODEL_REFUSALS = Counter(
    "stream_app_model_refusals_total", "Ranking models refused when loaded, by reason", ["reason"]
)
MODEL_SWAPS = Counter("stream_app_model_swaps_total", "Models that took over from the registry")
MODEL_INFO = Gauge(
    "stream_app_model_info", "Always 1: the ranking model that is loaded", ["name", "version"]
)
SHADOW_REQUESTS = Counter(
    "stream_app_shadow_requests_total",
    "Requests that the shadow was asked, by outcome",
    ["outcome"],
)
SHADOW_COMMON_SHARE = Histogram(
    "stream_app_shadow_common_share",
    "Share of the recommended items that the shadow would have recommended too",
    buckets=(0.0, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0),
)
SHADOW_PURCHASES = Counter(
    "stream_app_shadow_purchases_total",
    "Purchases after a compared request, by whose ranking had the item",
    ["found_by"],
)
PREDICTIONS = Counter(
    "stream_app_predictions_total",
    "Probabilities sent, by target and horizon",
    ["target", "horizon"],
)
CHURN_ALERTS = Counter("stream_app_churn_alerts_total", "Churn alerts sent, by level", ["level"])
JUDGED = Counter(
    "stream_app_judged_total", "Predictions whose outcome is known, each counted once", _JUDGED
)
DRIFTS = Counter(
    "stream_app_drifts_total",
    "Changes of the mean squared error that ADWIN found, by direction",
    ["target", "horizon", "direction"],
)
BASE_RATE = Gauge("stream_app_base_rate", "Share of cases where it happened", _JUDGED)
AUC = Gauge("stream_app_auc", "Area under the ROC curve of all cases so far", _JUDGED)
LOG_LOSS = Gauge("stream_app_log_loss", "Mean log loss, in nats", _JUDGED)
CALIBRATION_ERROR = Gauge(
    "stream_app_calibration_error", "Expected calibration error over 10 bins", _JUDGED
)
PRECISION = Gauge("stream_app_precision", "Precision at the threshold", _JUDGED)
RECALL = Gauge("stream_app_recall", "Recall at the threshold", _JUDGED)
F1 = Gauge("stream_app_f1", "F1 at the threshold", _JUDGED)
LABEL_DELAY_SECONDS = Gauge(
    "stream_app_label_delay_seconds",
    "Mean log time from a prediction until its outcome was known",
    _JUDGED,
)
PLACES = Counter(
    "stream_app_recommended_places_total",
    "Items recommended, shown, clicked and bought, by their place in the recommendation",
    ["event", "place"],
)
SOURCES = Counter(
    "stream_app_recommended_sources_total",
    "The same by the source of the candidate; one of several sources counts for each",
    ["event", "source"],
)


def series_max(partitions: int) -> int:
    """Return how many series a process exposes at most, the client's own apart.

    Parameters
    ----------
    partitions
        Of the source topic. Those that a process has given up keep a counter of what was judged.
    """
    return 500 + 80 * partitions


class StageTimer:
    """Measures the stages of a batch: ``start`` before the first, ``lap`` after each."""

    def __init__(self, clock: Callable[[], float] = monotonic_seconds) -> None:
        self._clock = clock
        self._last = 0.0

    def start(self) -> None:
        """Begin a batch."""
        self._last = self._clock()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = self._clock()
        STAGE_SECONDS.labels(stage).observe(now - self._last)
        self._last = now
