"""What the demo ends with: figures, and the proof that no event was lost or counted twice."""

from collections.abc import Sequence
from typing import get_args

import msgspec

from stream_app.event import Target, rfc3339
from stream_app.ops.demo_feed import percentile
from stream_app.ops.demo_ranking import Ranking
from stream_app.ops.demo_worker import Counts, Quality

TARGETS: tuple[str, ...] = get_args(Target)


class Accounts(msgspec.Struct, frozen=True):
    """The two sides of each account: ours, and what the worker says of itself.

    ``acknowledged`` is what the broker took of us, ``read`` and ``alerts_read`` the recommendations
    and churn alerts that came back.
    """

    acknowledged: int
    read: int
    alerts_read: int
    counts: Counts

    def faults(self) -> list[str]:
        """Return what does not add up, a sentence each.

        >>> counts = Counts(position=5, processed=3, rejected=1, duplicate=1, recommendations=2,
        ...                 fallback_answers=2)
        >>> Accounts(acknowledged=5, read=2, alerts_read=0, counts=counts).faults()
        []
        >>> Accounts(acknowledged=6, read=2, alerts_read=0, counts=counts).faults()
        ['6 events were acknowledged, the worker consumed 5']
        """
        counts, faults = self.counts, []
        if counts.position != self.acknowledged:
            faults.append(
                f"{self.acknowledged:,} events were acknowledged, the worker consumed "
                f"{counts.position:,}"
            )
        if counts.position != counts.done:
            faults.append(
                f"{counts.position:,} events were consumed, but {counts.processed:,} processed + "
                f"{counts.rejected:,} rejected + {counts.duplicate:,} duplicate = {counts.done:,}"
            )
        for name, made, read in (
            ("recommendations", counts.recommendations, self.read),
            ("churn alerts", counts.churn_alerts, self.alerts_read),
        ):
            if made != read:
                faults.append(f"the worker made {made:,} {name}, {read:,} were read")
        by_model, by_formula = counts.model_answers, counts.fallback_answers
        if counts.recommendations != by_model + by_formula:
            faults.append(
                f"the worker made {counts.recommendations:,} recommendations, but {by_model:,} by "
                f"the model + {by_formula:,} by the formula = {by_model + by_formula:,}"
            )
        return faults


class Model(msgspec.Struct, frozen=True):
    """The ranking model that the worker has loaded."""

    name: str
    version: str


class Result(msgspec.Struct, frozen=True):
    """The figures of a run, as ``--json`` prints them.

    ``events_per_second`` is that of the bulk, from the first event handed over to the last one
    committed. Latencies are those of the paced events, in ms; None without samples. ``auc`` and
    ``judged`` are of each target, of the horizon judged most; None while cases cannot tell.
    ``model`` is None where the formula ranks, and then ``fallback_answers`` has all. Hits are
    counted from ``hits_counted_from`` on, in RFC 3339; None means from the first event on.
    ``report`` is where the page with pictures is, None without one.
    """

    consumed: int
    processed: int
    rejected: int
    duplicate: int
    recommendations: int
    predictions: int
    churn_alerts: int
    auc: dict[str, float | None]
    judged: dict[str, int]
    events_per_second: float
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    latency_samples: int
    seconds: float
    model: Model | None
    model_answers: int
    fallback_answers: int
    hits_counted_from: str | None
    report: str | None = None

    @classmethod
    def of(
        cls,
        counts: Counts,
        rate: float,
        latencies_ms: Sequence[float],
        seconds: float,
        ranking: Ranking,
    ) -> "Result":
        """Return the result of a run, rounded to what it can tell."""
        kinds = {target: Quality(target, "") for target in TARGETS}
        since_ms = ranking.counted_from_ms
        kinds |= {each.target: each for each in reversed(counts.quality)}  # most judged first
        return cls(
            consumed=counts.position,
            processed=counts.processed,
            rejected=counts.rejected,
            duplicate=counts.duplicate,
            recommendations=counts.recommendations,
            predictions=counts.predictions,
            churn_alerts=counts.churn_alerts,
            auc={target: _rounded(each.auc, 4) for target, each in kinds.items()},
            judged={target: each.judged for target, each in kinds.items()},
            events_per_second=round(rate, 1),
            latency_ms_p50=_rounded(percentile(latencies_ms, 50)),
            latency_ms_p99=_rounded(percentile(latencies_ms, 99)),
            latency_samples=len(latencies_ms),
            seconds=round(seconds, 1),
            model=Model(*counts.model) if counts.model else None,
            model_answers=counts.model_answers,
            fallback_answers=counts.fallback_answers,
            hits_counted_from=None if since_ms is None else rfc3339(since_ms),
        )


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
