"""What a hot swap of the ranking model costs those who wait: events under way, models promoted.

A worker on a real Kafka is sent events at about half of the pace that it can keep, one in five a
request, while two releases of a model are promoted in turn, and one that must be refused between
them. How long answers take just after a promotion stands beside the quiet stretches of the same
run, and both beside what one batch takes::

    python -m benchmarks.swap [--write]

The last line is JSON; the exit code is 1 when an event was lost or answered twice, or when a
release did not serve that should have, or the other way round. A swap that takes longer than it
should is reported, and is no error.
"""

import argparse
import asyncio
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.gauges import cpu_model, percentile, wait_for
from benchmarks.harness import WorkerProcess, output_id, read_log
from benchmarks.latency import SETTLE_SECONDS, WARM_EVENTS, Reader, Sender
from benchmarks.rates import OUTPUTS, environment_of, processed
from benchmarks.workload import PARTITIONS, purchases, with_requests
from stream_app.clock import monotonic_seconds
from stream_app.config import Settings, load
from stream_app.event import Event, Recommendation
from stream_app.manifest import GRAPH, ITEMS, MANIFEST
from stream_app.ops.demo_child import free_port
from stream_app.ops.demo_shops import MODEL_FOLDER
from stream_app.registry import Registry, Release
from stream_app.runtime import topics
from stream_app.stages.candidates import POOL_SIZE
from tests.broker.kafka import KafkaServer

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PREFIX = "swap."
FIRST, SECOND, BAD = "first", "second", "bad"
PROMOTIONS = (SECOND, FIRST, BAD, SECOND, FIRST, SECOND)
# Windows of time: one behind each promotion, and two quiet ones until the next.
WINDOW_SECONDS, WINDOWS = 3.0, 3
LOOK_SECONDS = 0.2  # between two looks of the worker into the registry
CAPACITY_FROM = 5_000  # the events before are a beginning, and not counted
RATE_MAX = 3_000.0  # events a second
SECONDS_MAX = 180.0


class SwapError(Exception):
    """Something was lost or answered twice, or another model served than was promoted."""


class Window(msgspec.Struct, frozen=True):
    """How long answers took whose requests were sent in a window, in ms.

    ``still_ms`` is the longest time in which no answer was seen.
    """

    answers: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    still_ms: float


class Swap(msgspec.Struct, frozen=True):
    """A promotion: of what, and after how many ms its first answer was seen; None if refused."""

    release: str
    ms: float | None
    window: Window


class Swaps(msgspec.Struct, frozen=True):
    """All that was measured; ``batch_ms`` is a batch's stages and its commit, the mean."""

    cpu: str
    cores: int
    load_before: float
    events: int
    requests: int
    events_per_second: float
    capacity: float
    batch_records: float
    batch_ms: float
    producer_late_ms_max: float
    swaps: list[Swap]
    quiet: list[Window]

    def added(self, name: str) -> float:
        """Return by how much a figure is greater after a promotion, medians over windows."""
        near: float = median(getattr(swap.window, name) for swap in self.swaps)
        quiet: float = median(getattr(window, name) for window in self.quiet)
        return round(near - quiet, 1)

    @property
    def met(self) -> bool:
        """Whether a swap adds no more than one batch: to the p99, and to the longest wait."""
        return max(self.added("p99_ms"), self.added("longest_ms")) <= self.batch_ms


# --- models ---------------------------------------------------------------------------------------


def releases(folder: Path, registry: Registry) -> dict[str, Release]:
    """Publish the demo's model twice, and once with scores in its manifest that it does not give.

    The third is loaded and tried out like the others, and then refused.
    """
    found = {}
    for version in (FIRST, SECOND, BAD):
        own = folder / version
        own.mkdir(parents=True)
        for name in (GRAPH, ITEMS):
            (own / name).write_bytes((MODEL_FOLDER / name).read_bytes())
        manifest = msgspec.json.decode((MODEL_FOLDER / MANIFEST).read_bytes())
        manifest["version"] = version
        if version == BAD:
            manifest["probes"][-1]["scores"][0] += 1.0
        (own / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        found[version] = registry.publish(own, POOL_SIZE)
    return found


class _Promoter(threading.Thread):
    """Promotes one release after the other, ``times`` notes when."""

    def __init__(self, registry: Registry, known: Mapping[str, Release]) -> None:
        super().__init__(daemon=True)
        self._registry, self._known = registry, known
        self._began = monotonic_seconds()
        self.times: list[float] = []

    def run(self) -> None:
        """Promote; the quiet windows come first."""
        for number, name in enumerate(PROMOTIONS):
            due = self._began + (WINDOWS * (number + 1) - 1) * WINDOW_SECONDS
            time.sleep(max(due - monotonic_seconds(), 0.0))
            self.times.append(monotonic_seconds())
            self._registry.promote(self._known[name], datetime.now(UTC))


# --- the run --------------------------------------------------------------------------------------


def run(kafka: KafkaServer, folder: Path, rate: float | None = None) -> Swaps:
    """Measure at a rate in events a second, by default half of what the worker can do.

    Raises
    ------
    SwapError
        When an event was lost or answered twice, or a model served that should not have.
    """
    load_before = round(os.getloadavg()[0], 1)
    registry = Registry(str(folder / "registry"))
    known = releases(folder / "releases", registry)
    registry.promote(known[FIRST], datetime.now(UTC))
    port = free_port()
    settings = load(brokers=kafka.bootstrap, topic_prefix=PREFIX, app="swap", partitions=PARTITIONS)
    topics.create(settings)
    worker = WorkerProcess(
        environment_of(kafka.bootstrap, PREFIX, "swap", port)
        | {
            "STREAM_APP_REGISTRY": registry.url,
            "STREAM_APP_REGISTRY_SECONDS": str(LOOK_SECONDS),
            "STREAM_APP_MODEL_MS_MAX": "1000",  # the machine may be busy
        },
        folder / "swap.log",
    )
    seconds = WINDOW_SECONDS * (WINDOWS * len(PROMOTIONS) + 1)
    most = WARM_EVENTS + int(RATE_MAX * (SETTLE_SECONDS + seconds))
    events = with_requests(purchases(most))
    worker.start()
    try:
        wait_for(port, lambda m: m["stream_app_partitions_assigned"] > 0, SECONDS_MAX)
        sender = Sender(kafka.bootstrap, settings.topic("events"))
        sent = list(islice(events, WARM_EVENTS))
        capacity = _capacity(sender, sent, port)
        pace = rate or min(capacity / 2, RATE_MAX)
        settled = list(islice(events, int(pace * SETTLE_SECONDS)))
        paced = list(islice(events, int(pace * seconds)))
        sent += settled + paced
        requests = sum(event.type == "recommend" for event in sent)
        with Reader(kafka.bootstrap, settings.topic("recommendations"), requests) as reader:
            sender.send(settled, pace)
            sender.late_seconds = 0.0
            before = wait_for(port, bool, SECONDS_MAX)
            promoter = _Promoter(registry, known)
            promoter.start()
            began = monotonic_seconds()
            asked = sender.send(paced, pace)
            span = monotonic_seconds() - began
            after = wait_for(port, bool, SECONDS_MAX)
            wait_for(port, lambda m: processed(m) >= len(sent), SECONDS_MAX)
            seen = reader.result()
    finally:
        worker.end()
    answers = asyncio.run(_answers(settings, sent))
    spent = {name: after[name] - before[name] for name in after}
    commits = spent["stream_app_commit_seconds_count"]
    busy = spent["stream_app_stage_seconds_sum"] + spent["stream_app_commit_seconds_sum"]
    took = take_overs(promoter.times, seen, answers)
    near, quiet = windows(promoter.times, [seconds or 0.0 for seconds in took])
    return Swaps(
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        load_before=load_before,
        events=len(paced),
        requests=len(asked),
        events_per_second=round(len(paced) / span, 1),
        capacity=round(capacity, 1),
        batch_records=round(spent["stream_app_batch_records_sum"] / commits, 1),
        batch_ms=round(busy / commits * 1000, 1),
        producer_late_ms_max=round(sender.late_seconds * 1000, 1),
        swaps=[
            Swap(name, each and round(each * 1000, 1), look(asked, seen, *window))
            for name, each, window in zip(PROMOTIONS, took, near, strict=True)
        ],
        quiet=[look(asked, seen, *window) for window in quiet],
    )


def _capacity(sender: Sender, events: Sequence[Event], port: int) -> float:
    """Send events as fast as they go; return how many a second the worker commits."""
    sender.send(events)
    first = wait_for(port, lambda m: processed(m) >= CAPACITY_FROM, SECONDS_MAX)
    began = monotonic_seconds()
    last = wait_for(port, lambda m: processed(m) >= len(events), SECONDS_MAX)
    return (processed(last) - processed(first)) / (monotonic_seconds() - began)


async def _answers(settings: Settings, sent: Sequence[Event]) -> dict[str, str]:
    """Return the version of the model that answered each request, by the request's id.

    Raises
    ------
    SwapError
        When an output is there twice, an event was rejected, or a request has not one answer.
    """
    ids: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    versions: dict[str, str] = {}
    rejected = 0
    for logical in OUTPUTS:
        logs = await read_log(settings.brokers, settings.topic(logical), PARTITIONS)
        for record in (record for log in logs.values() for record in log):
            ids[output_id(record)] += 1
            rejected += logical == "dead_letter"
            if logical == "recommendations":
                answer = msgspec.json.decode(record.value or b"", type=Recommendation)
                causes[answer.cause.event_id] += 1
                versions[answer.cause.event_id] = answer.model_version
    wanted = {event.event_id for event in sent if event.type == "recommend"}
    lost, more = len(wanted - causes.keys()), len(causes.keys() - wanted)
    twice = sum(count > 1 for count in ids.values()) + sum(n > 1 for n in causes.values())
    if lost or more or twice or rejected:
        raise SwapError(
            f"of {len(wanted)} requests {lost} have no answer; {twice} outputs are there twice, "
            f"{more} are of nobody's request, {rejected} events were rejected"
        )
    return versions


# --- figures --------------------------------------------------------------------------------------


Span = tuple[float, float]  # of time: since, until


def windows(promoted: Sequence[float], took: Sequence[float]) -> tuple[list[Span], list[Span]]:
    """Return a window of time behind each promotion, and the quiet ones before each.

    Behind a promotion that ``took`` long the window ends a second after the new model's first
    answer, if that is later, and a quiet one that begins before that is none.

    >>> windows([10.0, 19.0], [0.5, 2.5])
    ([(10.0, 13.0), (19.0, 22.5)], [(4.0, 7.0), (7.0, 10.0), (13.0, 16.0), (16.0, 19.0)])
    """
    near = [
        (at, at + max(WINDOW_SECONDS, seconds + 1.0))
        for at, seconds in zip(promoted, took, strict=True)
    ]
    quiet: list[Span] = []
    for number, at in enumerate(promoted):
        busy_until = near[number - 1][1] if number else -math.inf
        starts = [at - WINDOW_SECONDS * back for back in range(WINDOWS - 1, 0, -1)]
        quiet += [(since, since + WINDOW_SECONDS) for since in starts if since >= busy_until]
    return near, quiet


def look(
    asked: Mapping[str, float], seen: Mapping[str, float], since: float, until: float
) -> Window:
    """Return how long the requests waited that were sent in a window of time.

    >>> look({"a": 1.0, "b": 1.5, "c": 9.0}, {"a": 1.25, "b": 1.625, "c": 9.5}, 0.0, 3.0)
    Window(answers=2, p50_ms=125.0, p99_ms=250.0, longest_ms=250.0, still_ms=375.0)
    """
    chosen = [name for name, at in asked.items() if since <= at < until]
    waits = sorted((seen[name] - asked[name]) * 1000 for name in chosen)
    moments = sorted(seen[name] for name in chosen)
    return Window(
        answers=len(waits),
        p50_ms=round(percentile(waits, 50), 1),
        p99_ms=round(percentile(waits, 99), 1),
        longest_ms=round(waits[-1], 1),
        still_ms=round(max(later - one for one, later in pairwise(moments)) * 1000, 1),
    )


def take_overs(
    promoted: Sequence[float],
    seen: Mapping[str, float],
    answers: Mapping[str, str],
) -> list[float | None]:
    """Return how many seconds after each promotion its first answer was seen; None for the bad one.

    Raises
    ------
    SwapError
        When a release did not take over in good time, or the bad one did.
    """
    found: list[float | None] = []
    for name, since in zip(PROMOTIONS, promoted, strict=True):
        moments = [at for each, at in seen.items() if answers[each] == name and at > since]
        if name == BAD:
            if moments:
                raise SwapError("the release that was to be refused has answered")
            found.append(None)
            continue
        seconds = min(moments, default=math.inf) - since
        if seconds > WINDOW_SECONDS * (WINDOWS - 1):
            raise SwapError(
                f"the release {name} took over after {seconds:.1f} s, and the next promotion comes "
                f"after {WINDOW_SECONDS * WINDOWS:g} s: measure on a machine that is less busy"
            )
        found.append(seconds)
    return found


FIGURES = {
    "p50_ms": "median",
    "p99_ms": "p99",
    "longest_ms": "longest wait",
    "still_ms": "longest time without an answer",
}


def rows(found: Swaps) -> list[tuple[str, ...]]:
    """Return a row for each figure: after promotions, in the quiet, medians over windows; worst."""
    lines = []
    for name, title in FIGURES.items():
        near = [getattr(swap.window, name) for swap in found.swaps]
        quiet = [getattr(window, name) for window in found.quiet]
        both = (median(near), median(quiet), max(near), max(quiet))
        cells = [f"{each:,.1f}" for each in both]
        lines.append((title, *cells[:2], f"{found.added(name):+.1f}", *cells[2:]))
    return lines


HEAD = ("ms", "after a promotion", "quiet", "added", "worst after one", "worst in the quiet")


def table(found: Swaps) -> Table:
    """Return a table for a terminal."""
    shown = Table(*HEAD, title=f"Swaps at {found.events_per_second:,.0f} events a second")
    for row in rows(found):
        shown.add_row(*row)
    return shown


def write(found: Swaps) -> None:
    """Write the page of the docs and its figures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.format(msgspec.json.encode(figures(found)), indent=1)
    (RESULTS / "swap.json").write_bytes(document + b"\n")
    (RESULTS / "swap.md").write_text(page(found), encoding="utf-8")


def figures(found: Swaps) -> dict[str, object]:
    """Return all of it for JSON."""
    added = {f"added_{name}": found.added(name) for name in FIGURES}
    return {**added, "met": found.met, **msgspec.to_builtins(found)}


def page(found: Swaps) -> str:
    """Return the page of the docs, in Markdown."""
    taken = [swap.ms for swap in found.swaps if swap.ms is not None]
    return _PAGE.format(
        cores=found.cores,
        cpu=found.cpu,
        load=found.load_before,
        rate=found.events_per_second,
        capacity=found.capacity,
        events=found.events,
        requests=found.requests,
        promotions=len(found.swaps),
        refused=len(found.swaps) - len(taken),
        window=WINDOW_SECONDS,
        quiet=len(found.quiet),
        look=LOOK_SECONDS * 1000,
        taken=f"{min(taken):,.0f} to {max(taken):,.0f}",
        records=found.batch_records,
        batch=found.batch_ms,
        late=found.producer_late_ms_max,
        p99=found.added("p99_ms"),
        longest=found.added("longest_ms"),
        verdict="met" if found.met else "missed",
        head=" | ".join(HEAD),
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows(found)),
        swaps="\n".join(_swap_row(swap) for swap in found.swaps),
    )


def _swap_row(swap: Swap) -> str:
    took = "refused" if swap.ms is None else f"{swap.ms:,.0f}"
    cells = [f"{getattr(swap.window, name):,.1f}" for name in FIGURES]
    return f"| {swap.release} | {took} | {' | '.join(cells)} |"


_PAGE = """\
# A model is swapped while events come

Made by `python -m benchmarks.swap --write` on {cores} cores of {cpu};
the load average was {load:g} when it began. Figures in [swap.json](swap.json).

One worker on Apache Kafka (`exactly_once`, 4 partitions) is sent {rate:,.0f} events a second, one
in five a request, about half of the {capacity:,.0f} that it does when all of them wait. Meanwhile
{promotions} promotions swap two releases of the demo's model, {refused} of them of a release that
is loaded, tried out and refused, since it does not give the scores in its manifest. The worker
looks into the registry every {look:.0f} ms here. Waits are from just before a request is sent to
when a `read_committed` reader sees its answer.

Of the {requests:,} requests among {events:,} events each has just one answer, no output is there
twice, none was rejected. The aim, that a swap adds no more than one batch, is **{verdict}**: the
99th percentile is {p99:+.1f} ms and the longest wait {longest:+.1f} ms in the {window:g} s behind a
promotion, against {batch:g} ms for a batch (the mean of its stages and its commit; {records:g}
records).

| {head} |
|---|--:|--:|--:|--:|--:|
{rows}

Medians are over {promotions} windows of {window:g} s behind the promotions and {quiet} quiet ones
between them; *worst* is the worst window, of which there are more in the quiet. A new release
answered {taken} ms after its promotion. The producer was behind its pace by at most {late:g} ms.

| promoted | first answer after, ms | median | p99 | longest wait | without an answer |
|---|--:|--:|--:|--:|--:|
{swaps}

Why it costs so little: a release is fetched, checked and warmed up in a thread beside the event
loop, and onnxruntime does not hold Python's lock while it builds a session or runs it; what is
left for the loop is to set one reference between two batches (`stream_app/runtime/model.py`).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/results/swap.*")
    parser.add_argument("--rate", type=float, metavar="N", help="events a second")
    options = parser.parse_args(arguments)
    if options.write and options.rate:
        parser.error("--write is for a run at half of what the worker can do, without --rate")
    # A topic that was just made has no leader for a moment, which its producer tells at length.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with KafkaServer(folder / "kafka") as kafka:
            try:
                found = run(kafka, folder, options.rate)
            except SwapError as error:
                print(error, file=sys.stderr)
                return 1
    Console(width=100).print(table(found))
    if options.write:
        write(found)
    print(msgspec.json.encode(figures(found)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
