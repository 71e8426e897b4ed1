"""What is entered into the metrics: committed batches, and how right predictions turned out.

Only what a confirmed commit holds is entered, so a batch that was dropped and processed again
counts once.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from typing import get_args

from aiokafka import errors as kafka
from prometheus_client import Gauge

from stream_app import metrics
from stream_app.config import Settings, StageSettings
from stream_app.errors import CommitError, FencedError, ModelFault
from stream_app.event import EVENT_TYPES, REJECT_REASONS
from stream_app.judge import Figures, Judge, Kind
from stream_app.pipeline import Outputs
from stream_app.stages.emit import NOTE_ITEMS_MAX
from stream_app.stages.score import FORMULA_NAME
from stream_app.steps import SOURCES, Admitted, Batch, Due, Duplicate, Reject, Step, Tick

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the place of an item that the recommendation is not known to have had
NO_FALLBACK = "none"  # the model itself answered
OTHER = "other"  # what is not worth a label value of its own
MODELS_MAX = 4  # names of models that have a label value of their own, in a process

_OUTCOMES: dict[type, str] = {
    Admitted: "processed",
    Reject: "rejected",
    Duplicate: "duplicate",
    Tick: "tick",
}
_COMMITS = ("confirmed", "failed", "fenced")
_TOPICS = ("recommendations", "predictions", "churn_alerts", "dead_letter")
_FAILURES: dict[str, tuple[type[Exception], ...]] = {  # reason -> errors of the client, first wins
    "timeout": (kafka.KafkaTimeoutError, kafka.RequestTimedOutError),
    "unreachable": (kafka.KafkaConnectionError, kafka.NodeNotReadyError),
    "too_large": (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError),
    "not_authorized": (
        kafka.TopicAuthorizationFailedError,
        kafka.GroupAuthorizationFailedError,
        kafka.TransactionalIdAuthorizationFailed,
    ),
}
_FENCED = "fenced"
_PER_PARTITION = (
    metrics.LAG,
    metrics.LAG_SECONDS,
    metrics.STALLED_SECONDS,
    metrics.LAST_COMMIT,
    metrics.POSITION,
    metrics.ROWS,
)
_scope_and_kind, _reason = attrgetter("scope", "kind"), attrgetter("reason")
_type, _topic = attrgetter("arrival.event.type"), attrgetter("topic")

_GAUGES: dict[str, Gauge] = {  # by the field of Figures
    "base_rate": metrics.BASE_RATE,
    "auc": metrics.AUC,
    "log_loss": metrics.LOG_LOSS,
    "calibration_error": metrics.CALIBRATION_ERROR,
    "precision": metrics.PRECISION,
    "recall": metrics.RECALL,
    "f1": metrics.F1,
    "delay_seconds": metrics.LABEL_DELAY_SECONDS,
}


class Observer:
    """Enters what the partitions of a process have committed into the metrics.

    Parameters
    ----------
    settings
        Of the program.
    now_ms
        The clock, for end-to-end times.
    """

    def __init__(self, settings: Settings, now_ms: Callable[[], int]) -> None:
        self.judge = Judge(settings.stages)
        self._replay = settings.replay
        self._now_ms = now_ms
        self._changed: set[int] = set()  # partitions whose figures are newer than their gauges
        self._models: set[str] = set()
        _begin(settings.stages)

    def committed(
        self,
        batch: Batch,
        outputs: Outputs,
        changes: Sequence[tuple[bytes, bytes | None]],
        seconds: float,
    ) -> None:
        """Enter a committed batch; ``seconds`` is what the commit took."""
        metrics.COMMITS.labels("confirmed").inc()
        metrics.COMMIT_SECONDS.observe(seconds)
        metrics.BATCH_RECORDS.observe(len(batch.records))
        metrics.CHANGELOG_BYTES.inc(sum(len(key) + len(row or b"") for key, row in changes))
        now_ms = self._now_ms()
        metrics.LAST_COMMIT.labels(batch.partition).set(now_ms / 1000)
        _enter_steps(outputs.steps)
        for topic, count in Counter(map(_topic, outputs.records)).items():
            metrics.OUTPUTS.labels(topic).inc(count)
        if not self._replay:
            observe = metrics.END_TO_END_SECONDS.observe
            for record in batch.records:
                observe(max(now_ms - record.timestamp, 0) / 1000)
        self._enter_answers(outputs)
        if outputs.judged:
            self._judge(batch.partition, outputs)

    def failed(self, error: CommitError) -> None:
        """Enter a commit that was not confirmed."""
        fenced = isinstance(error, FencedError)
        metrics.COMMITS.labels("fenced" if fenced else "failed").inc()
        metrics.COMMIT_FAILURES.labels(reason_of(error)).inc()

    def publish(self) -> None:
        """Set the gauges of all partitions together, and of one of them; call it every second.

        A figure takes up to half a millisecond, so the partitions take turns.
        """
        if self._changed:
            partition = self._changed.pop()
            _set_gauges(self.judge.figures(), metrics.ALL_PARTITIONS)
            _set_gauges(self.judge.figures(partition), str(partition))

    def forget(self, partition: int) -> None:
        """Drop the gauges and the figures of a partition that is given up."""
        self.judge.forget(partition)
        self._changed.discard(partition)
        for gauge in (*_PER_PARTITION, *_GAUGES.values()):
            with suppress(KeyError):
                gauge.remove_by_labels({"partition": str(partition)})

    def _judge(self, partition: int, outputs: Outputs) -> None:
        self._changed.add(partition)
        counts = Counter(Kind(case.target, case.horizon_ms) for case in outputs.judged)
        for kind, count in counts.items():
            metrics.JUDGED.labels(kind.target, kind.horizon, partition).inc(count)
        for kind, direction in self.judge.take(partition, outputs.judged):
            metrics.DRIFTS.labels(kind.target, kind.horizon, direction).inc()
            logger.info(
                "partition %d: predictions of %s within %s have become %s",
                partition,
                kind.target,
                kind.horizon,
                direction,
            )

    def _enter_answers(self, outputs: Outputs) -> None:
        """Count what was said, and what users did with what was recommended to them."""
        answers = outputs.answers
        sent = Counter((each.horizon_ms, tuple(each.probabilities)) for each in answers.forecasts)
        for (horizon_ms, targets), count in sent.items():
            for target in targets:
                kind = Kind(target, horizon_ms)
                metrics.PREDICTIONS.labels(kind.target, kind.horizon).inc(count)
        for alarm in answers.alarms:
            metrics.CHURN_ALERTS.labels(alarm.level).inc()
        # What nobody asked for and nothing was found for is not sent: see stages/emit.py.
        said = [each for each in answers.ranked if each.places or each.request.asked]
        scored = Counter((each.scored.model, each.scored.fallback_level) for each in said)
        for (model, fallback), count in scored.items():
            metrics.ANSWERS.labels(self._known(model), fallback or NO_FALLBACK).inc(count)
        if answers.ranked:
            ranks = chain.from_iterable(range(1, len(each.places) + 1) for each in answers.ranked)
            bits = chain.from_iterable(
                map(each.request.sources.__getitem__, each.places) for each in answers.ranked
            )
            _enter_items("recommended", Counter(ranks), Counter(bits))
        for event, named in {(each.event_type, each.named) for each in outputs.joined}:
            same = [e for e in outputs.joined if (e.event_type, e.named) == (event, named)]
            _enter_items(
                event if named else f"unnamed_{event}",
                Counter(each.place for each in same),
                Counter(each.sources for each in same),
            )

    def _known(self, model: str) -> str:
        """Return a model's name as a label: those beyond the first few share one."""
        if model not in self._models:
            if len(self._models) >= MODELS_MAX:
                return OTHER
            self._models.add(model)
        return model


def reason_of(error: CommitError) -> str:
    """Return why a commit was not confirmed, as one of a closed list.

    >>> reason_of(FencedError("a newer owner")), reason_of(CommitError("refused"))
    ('fenced', 'other')
    """
    if isinstance(error, FencedError):
        return _FENCED
    for reason, kinds in _FAILURES.items():
        if isinstance(error.__cause__, kinds):
            return reason
    return OTHER


def _begin(settings: StageSettings) -> None:
    """Show what alerts are about as 0, since a rate needs to see a counter before it rises."""
    for counter, values in (
        (metrics.RECORDS, _OUTCOMES.values()),
        (metrics.EVENTS, (each for each in EVENT_TYPES if each != "tick")),
        (metrics.REJECTS, REJECT_REASONS),
        (metrics.OUTPUTS, _TOPICS),
        (metrics.COMMITS, _COMMITS),
        (metrics.COMMIT_FAILURES, (_FENCED, *_FAILURES, OTHER)),
        (metrics.MODEL_REFUSALS, get_args(ModelFault)),
        (metrics.CHURN_ALERTS, ("watch", "warning", "critical")),
        (metrics.SHADOW_REQUESTS, ("compared", "failed")),
        (metrics.SHADOW_PURCHASES, ("both", "served", "shadow", "neither")),
    ):
        for value in values:
            counter.labels(value)
    metrics.ANSWERS.labels(FORMULA_NAME, FORMULA_NAME)
    horizons = [settings.horizon_ms(in_session=each) for each in (True, False)]
    kinds = [Kind(target, each) for target in ("purchase", "comment", "share") for each in horizons]
    for kind in (*kinds, Kind("churn", settings.churn_horizon_ms)):
        for direction in ("better", "worse"):
            metrics.DRIFTS.labels(kind.target, kind.horizon, direction)


def _enter_steps(steps: Sequence[Step]) -> None:
    """Count what became of records and events, and the timers that fired."""
    kinds = Counter(map(type, steps))
    for kind, outcome in _OUTCOMES.items():
        if kind in kinds:
            metrics.RECORDS.labels(outcome).inc(kinds[kind])
    if Admitted in kinds:
        admitted = (step for step in steps if type(step) is Admitted)
        for name, count in Counter(map(_type, admitted)).items():
            metrics.EVENTS.labels(name).inc(count)
    if Reject in kinds:
        for reason, count in Counter(_reason(s) for s in steps if type(s) is Reject).items():
            metrics.REJECTS.labels(reason).inc(count)
    if Due in kinds:
        for named, count in Counter(_scope_and_kind(s) for s in steps if type(s) is Due).items():
            metrics.TIMERS.labels(*named).inc(count)


def _enter_items(event: str, ranks: Counter[int], bits: Counter[int]) -> None:
    """Count items by their place in the recommendation and by the bits of their sources."""
    for rank, count in ranks.items():
        known = 1 <= rank <= NOTE_ITEMS_MAX
        metrics.PLACES.labels(event, rank if known else UNKNOWN).inc(count)
    for bit, source in SOURCES.items():
        count = sum(number for each, number in bits.items() if each & bit)
        if count:
            metrics.SOURCES.labels(event, source).inc(count)


def _set_gauges(figures: dict[Kind, Figures], partition: str) -> None:
    for kind, value in figures.items():
        for name, gauge in _GAUGES.items():
            figure = getattr(value, name)
            shown = math.nan if figure is None else figure
            gauge.labels(kind.target, kind.horizon, partition).set(shown)
