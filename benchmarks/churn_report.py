"""What the measurement of churn found: as a table, as JSON, and as a page of the docs."""

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.churn import (
    ChurnResult,
    Orders,
    Quality,
    SoonResult,
    churn_cases,
    judge_churn,
    judge_soon,
    quality,
    references,
    soon_cases,
    soon_references,
)
from benchmarks.emitted import Emitted


class Report(msgspec.Struct, frozen=True):
    """Churn and soon, by the number of partitions of the stream, and the references beside."""

    streams: dict[int, ChurnResult]
    soon: dict[int, SoonResult]
    churn_references: dict[str, Quality]
    soon_references: dict[str, Quality]

    def figures(self) -> dict[str, Any]:
        """Return all of it for JSON; the stream with the fewest partitions on the top level."""
        return {
            "churn": _figures(self.streams, self.churn_references),
            "purchase_7_days": _figures(self.soon, self.soon_references),
        }

    def table(self) -> Table:
        """Return a table for a terminal."""
        table = Table("", "ROC AUC", "95 %", "log loss", "calibration error")
        table.title = "Churn within 28 days, purchase within 7"
        for name, each in self.rows():
            table.add_row(name, *_cells(each))
        return table

    def rows(self) -> list[tuple[str, Quality]]:
        """Return what was measured, by name."""
        named: list[tuple[str, Quality]] = []
        for what, known, found in (
            ("churn", self.churn_references, self.streams),
            ("purchase", self.soon_references, self.soon),
        ):
            named += [(f"{what}: {key.replace('_', ' ')}", q) for key, q in known.items()]
            named += [(f"{what}: stream-app, partitions: {n}", r.quality) for n, r in found.items()]
        return named

    def page(self) -> str:
        """Return the page of the docs, in Markdown."""
        churn, soon = next(iter(self.streams.values())), next(iter(self.soon.values()))
        lines = "\n".join(f"| {' | '.join((name, *_cells(each)))} |" for name, each in self.rows())
        alerts = "\n".join(
            f"| {n} | {a.precision:.3f} | {a.recall:.3f} | {a.f1:.3f} | {a.alerts:,} "
            f"| {a.alerts_right:.3f} | {a.lapses_foreseen:.3f} | {a.lead_days_median:.1f} |"
            for n, a in ((n, each.alerts) for n, each in self.streams.items())
        )
        parts = "\n".join(
            f"| {what}, partition {number} of {n} | {part.cases:,} | {part.positive:.1%} "
            f"| {part.roc_auc:.4f} | {part.log_loss:.4f} | {part.calibration_error:.4f} |"
            for what, found in (("churn", self.streams), ("purchase", self.soon))
            for n, each in found.items()
            if n > 1
            for number, part in enumerate(each.by_partition)
        )
        return _PAGE.format(
            parts=parts,
            cases=churn.cases,
            positive=churn.positive,
            soon_cases=soon.cases,
            soon_positive=soon.positive,
            lines=lines,
            alerts=alerts,
            threshold=churn.alerts.threshold,
            lapses=churn.alerts.lapses,
        )


def judge(orders: Orders, streams: Mapping[int, Emitted]) -> Report:
    """Judge what streams emitted, by their number of partitions, beside the references."""
    cases, soon = churn_cases(orders), soon_cases(orders)
    order = sorted(streams)
    return Report(
        {n: judge_churn(orders, cases, streams[n], n) for n in order},
        {n: judge_soon(soon, streams[n], n) for n in order},
        {
            name: quality(cases, each, probabilities=False)
            for name, each in references(orders, cases).items()
        },
        {
            name: quality(soon, each, probabilities=False)
            for name, each in soon_references(orders, soon).items()
        },
    )


def _figures(
    streams: Mapping[int, ChurnResult] | Mapping[int, SoonResult], known: Mapping[str, Quality]
) -> dict[str, Any]:
    """Return figures for JSON: the stream with the fewest partitions first, others beside it."""
    (fewest, main), *others = streams.items()
    return {
        "partitions": fewest,
        **_flat(main),
        "other_partitions": {str(number): _flat(each) for number, each in others},
        "references": msgspec.to_builtins(known),
    }


def _flat(result: ChurnResult | SoonResult) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(result)
    of: dict[str, Any] = found.pop("quality")
    return of | found


def _cells(quality: Quality) -> tuple[str, str, str, str]:
    low, high = quality.roc_auc_interval
    loss, error = quality.log_loss, quality.calibration_error
    return (
        f"{quality.roc_auc:.4f}",
        f"{low:.4f} to {high:.4f}",
        "" if loss is None else f"{loss:.4f}",
        "" if error is None else f"{error:.4f}",
    )


_PAGE = """\
# Who stays away from a real shop, and who comes back soon

Made by `make evaluate ARGS=--write`, from what the streams of the
[next baskets](completejourney.md) emitted; figures in [completejourney.json](completejourney.json).

Churn: each Sunday from 2017-10-01 to 2017-12-03 every household with a purchase in the last 56
days, {cases:,} cases; it has churned if it buys nothing in the next 28 days, {positive:.1%} do. The
score is the risk that the stream emitted on that Sunday, from a learner that had seen nothing but
the log up to then. Purchase: each purchase from 2017-10-01 to 2017-12-24, {soon_cases:,} cases; it
happens if another purchase follows within seven days, {soon_positive:.1%} do.

| | ROC AUC | 95 % interval | log loss | calibration error |
|---|---|---|---|---|
{lines}

The intervals come from 1,000 bootstrap draws of households, each with all its cases. The
calibration error is the mean distance between predicted and observed share in ten bins of equally
many cases. The references are scores, not probabilities: days since the last purchase; mean days
between purchases; the two together, in a logistic regression fitted on earlier Sundays; for
purchases also the last gap. With more partitions each learner sees only the
households of its own partition.

## Each partition

A learner sees its own partition only; judged on that:

| | cases | happened | ROC AUC | log loss | calibration error |
|---|---|---|---|---|---|
{parts}

## Alerts

At the threshold of an alert ({threshold}), over the same weekly cases; and as they were sent, those
of these weeks: *right* is the share after which nothing was bought for 28 days. A lapse is a
silence of more than 28 days that begins in these weeks, {lapses:,} of them; it is *foreseen* when
an alert came within 28 days before or after its last purchase, and the lead time is the median of
the days from the first such alert to the 28th day of silence.

| partitions | precision | recall | F1 | alerts sent | right | lapses foreseen | lead days |
|---|---|---|---|---|---|---|---|
{alerts}
"""
