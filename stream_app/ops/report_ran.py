"""The page's parts about how it ran: how fast it was, and whether every record is accounted for."""

from collections.abc import Sequence

from stream_app.ops import report_pictures as draw
from stream_app.ops.report import Report
from stream_app.ops.report_blocks import Block, Section, listed, many, milliseconds, over_time


def times(report: Report) -> Section:
    """Return how long things took."""
    title = "How fast it was"
    see = "How long a user waits for what follows from an event, and where the time goes."
    facts: list[str] = []
    pictures: list[Block] = []
    workers, measured, lag = report.workers, report.measured, report.answers.lag
    if measured is not None:
        facts.append(
            f"At full speed {measured.events_per_second:,.0f} events a second went through."
        )
        if measured.latency_samples:
            facts.append(
                f"At a pace, {many(measured.latency_samples, 'recommendation')} came back after "
                f"{milliseconds(measured.latency_ms_p50)} in the median, 99% of them within "
                f"{milliseconds(measured.latency_ms_p99)}, from the handing over of the event to "
                "the reading of the recommendation."
            )
            names = [f"{bound:.0f}" for bound, _ in measured.latencies]
            pictures.append(
                Block(
                    "From the click to the recommendation",
                    "Most bars should stand on the left; those far on the right are users who "
                    "wait.",
                    f"Bars of recommendations by latency, {names[0]} to {names[-1]} ms.",
                    draw.columns(
                        names,
                        [count for _, count in measured.latencies],
                        "ms at most",
                        "recommendations",
                        draw.GREEN,
                    ),
                    listed(
                        ["ms at most", "recommendations"],
                        zip(names, [count for _, count in measured.latencies], strict=True),
                    ),
                )
            )
    if lag is not None:
        pictures += _lag(report, lag)
    else:
        facts.append(
            "The log is a replay, its records are dated in the past: they do not tell the time "
            "from an event to its recommendation."
        )
    if workers is not None:
        pictures.append(_stages(report))
        if workers.end_to_end.count:
            facts.append(
                "The workers say: from an event's record to the commit of what follows "
                f"{milliseconds(workers.end_to_end.p50_ms)} in the median, 99% within "
                f"{milliseconds(workers.end_to_end.p99_ms)}."
            )
        facts.append(f"{many(workers.sum_of('lag'), 'record')} were waiting when they were asked.")
    else:
        facts.append("No worker was asked (--metrics): what the stages take is not known here.")
    return Section(title, see, facts, pictures)


def _lag(report: Report, lag: Sequence[tuple[int, float | None, float | None]]) -> list[Block]:
    rows = {
        "median": [None if p50 is None else p50 / 1000 for _, p50, _ in lag],
        "99%": [None if p99 is None else p99 / 1000 for _, _, p99 in lag],
    }
    if not any(count for count, _, _ in lag):
        return []
    windows = report.events.windows
    return [
        Block(
            "From an event to its recommendation, over time",
            "From the event's own time to its recommendation's record; hills are backlogs. "
            "Within 10%, and the clocks of your producers are in it.",
            "Lines over time of the median and 99th percentile, in seconds.",
            draw.lines(windows, rows, "seconds", percent=False),
            over_time(windows, {"recommendations": [count for count, _, _ in lag], **rows}),
        )
    ]


def _stages(report: Report) -> Block:
    assert report.workers is not None, "they were asked"
    spreads = [*report.workers.stages, ("commit", report.workers.commit)]
    means = {name: spread.mean_ms or 0.0 for name, spread in spreads}
    return Block(
        "Where the time goes",
        "The mean time that a batch of up to 128 events spends in each stage; the longest bar is "
        "where to look first.",
        "Bars of the mean time of each stage: "
        + ", ".join(f"{name} {value:.2f} ms" for name, value in means.items())
        + ".",
        draw.across(means, "ms a batch", notes=[f"{value:.2f} ms" for value in means.values()]),
        listed(
            ["stage", "batches", "mean", "median", "99%"],
            [
                (
                    name,
                    spread.count,
                    milliseconds(spread.mean_ms),
                    milliseconds(spread.p50_ms),
                    milliseconds(spread.p99_ms),
                )
                for name, spread in spreads
            ],
        ),
    )


def accounts(report: Report) -> Section:
    """Return whether every record is accounted for."""
    events, workers = report.events, report.workers
    about = "" if events.share == 1 else "about "
    head = ["", "the topics"]
    rows: list[list[object]] = [
        ["consumed", events.consumed - events.others],
        ["processed", events.processed],
        ["rejected", events.rejected],
        ["duplicate", events.repeats],
        ["recommendations", report.answers.count],
    ]
    parts = f"{about}{events.processed:,} processed + {events.rejected:,} rejected"
    consumed = f"{events.consumed - events.others:,} consumed"
    facts = [f"{consumed} = {parts} + {about}{events.repeats:,} duplicate."]
    if events.others:
        facts.append(
            f"{many(events.others, 'more record')} are ticks of idle workers, or are broken and "
            "have not been reached."
        )
    if workers is not None:
        head.append("the workers")
        sums = [workers.sum_of(each) for each in ("done", "processed", "rejected", "duplicate")]
        sums.append(workers.sum_of("recommendations"))
        same = [int(str(row[1])) for row in rows] == sums
        for row, value in zip(rows, sums, strict=True):
            row.append(value)
        facts.append(
            "The workers asked count the same: nothing is lost or counted twice."
            if same
            else "The workers asked count otherwise: they count since they were started, and "
            "go on while the topics are read; if they have run from the beginning and stand still, "
            "look into it."
        )
    see = "Every record that came in must be processed, rejected or known as a duplicate."
    block = Block(
        "The accounts", "Both columns should agree line by line.", table=listed(head, rows)
    )
    return Section("Is every record accounted for?", see, facts, [block])
