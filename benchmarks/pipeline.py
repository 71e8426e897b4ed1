"""Throughput, latency and size, measured and set beside their targets: ``make bench``.

Five measurements: what an event costs in process, what a process holds that has seen a whole shop,
how fast a worker is beside a bare loop on a real Kafka, how fast other frameworks are that run the
same stages, and how long a request waits at half of the worker's load. A figure that misses its
target is reported, and is no error.

``python -m benchmarks.pipeline [--quick] [--write] [--only PART ...]``; the last line is JSON.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import in_process, latency, memory, rates, report
from benchmarks.gauges import cpu_model
from benchmarks.peers import Peer
from benchmarks.workload import shop
from tests.broker.kafka import KafkaServer

PARTS = ("in_process", "memory", "rates", "peers", "latency")
PAGES = {PARTS: "pipeline", ("rates", "peers"): "peers"}  # of docs/results, by what was measured
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
LATENCY_RATE_MAX = 3_000.0  # events a second


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    events: int  # of the in-process costs
    rate_events: int
    memory_events: int | None  # None for the whole shop
    repeats: int
    latency_seconds: float  # of each repeat


FULL = Plan(events=100_000, rate_events=30_000, memory_events=None, repeats=3, latency_seconds=20.0)
QUICK = Plan(events=20_000, rate_events=5_000, memory_events=50_000, repeats=1, latency_seconds=5.0)


def run(plan: Plan, parts: Sequence[str], folder: Path) -> report.Figures:
    """Measure the parts, one after the other."""
    figures = report.Figures(
        cpu=cpu_model(), cores=os.cpu_count() or 1, load_before=round(os.getloadavg()[0], 1)
    )
    if "in_process" in parts:
        figures.in_process = in_process.run(plan.events, plan.repeats)
    if "memory" in parts:
        some = plan.memory_events
        chosen = None if some is None else shop().households(some)
        figures.memory = memory.run(shop().records(chosen))
    if {"rates", "peers", "latency"} & set(parts):
        with KafkaServer(folder / "kafka") as kafka:
            peers = list(Peer) if "peers" in parts else []
            figures.rates = rates.run(kafka, plan.rate_events, plan.repeats, folder, peers)
            if "latency" in parts:
                reached = figures.rates.ways["exactly_once"].events_per_second
                rate = min(reached / 2, LATENCY_RATE_MAX)
                figures.latency = latency.run(
                    kafka, rate, plan.latency_seconds, plan.repeats, folder
                )
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short form of everything")
    parser.add_argument("--write", action="store_true", help="docs/results/pipeline.* or peers.*")
    parser.add_argument("--events", type=int, metavar="N", help="in process and on Kafka")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    given = parser.parse_args(arguments)
    name = PAGES.get(tuple(given.only))
    if given.write and (given.quick or name is None):
        parser.error("--write is for a full run, or for --only rates peers")
    # A topic that was just made has no leader for a moment, which its producer tells at length.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    plan = QUICK if given.quick else FULL
    if given.events:
        plan = msgspec.structs.replace(plan, events=given.events, rate_events=given.events)
    with tempfile.TemporaryDirectory() as temporary:
        figures = run(plan, given.only, Path(temporary))
    for table in report.tables(figures):
        Console(width=report.COLUMNS).print(table)
    document = report.to_json(figures)
    if given.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(report.to_markdown(figures))
        if figures.rates is not None and report.is_of_peers(figures):
            report.plot(figures.rates, RESULTS / report.PLOT)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
