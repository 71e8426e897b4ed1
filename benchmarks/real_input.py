"""A real shop's events with faults among them, on a real Kafka: every record is accounted for.

200,000 purchases of whole households, 1 % of them sent twice and 0.5 % broken in sixteen ways, go
to two workers in ``exactly_once``. Then every record must be processed, rejected or a duplicate, as
many of each as were sent; every reject must stand in the dead-letter topic with its reason and
origin; no output id may come twice for a ``read_committed`` reader; and outputs and state must
equal a one-pass oracle's.

``python -m benchmarks.real_input [--events N] [--write]``; the last line is JSON, the exit code 1
when anything is amiss.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Log,
    WorkerProcess,
    committed,
    judge,
    oracle,
    produce,
    read_log,
    spoil,
)
from stream_app.clock import monotonic_seconds
from stream_app.config import load
from stream_app.runtime import topics
from stream_app.sources.completejourney import CompleteJourney
from tests.broker.kafka import KafkaServer

PARTITIONS = 4
WORKERS = 2
DRAIN_SECONDS_MAX = 600.0
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
ORIGIN = ("reject_reason", "reject_detail", "source_topic", "source_partition", "source_offset")


async def run(brokers: str, events: int, folder: Path, name: str = "real") -> dict[str, Any]:
    """Send ``events`` events and more to two workers; return the figures."""
    environment = {
        "STREAM_APP_BROKERS": brokers,
        "STREAM_APP_TOPIC_PREFIX": f"{name}.",
        "STREAM_APP_APP": f"app-{name}",
        "STREAM_APP_GUARANTEE": "exactly_once",
        "STREAM_APP_REPLAY": "true",
        "STREAM_APP_SESSION_TIMEOUT_SECONDS": "6",
    }
    settings = load(
        brokers=brokers, topic_prefix=f"{name}.", app=f"app-{name}", replay=True, partitions=4
    )
    await asyncio.to_thread(topics.create, settings)
    described = await asyncio.to_thread(topics.topology, settings)
    shop = CompleteJourney()
    chosen = shop.households(events)
    records, sent = spoil(shop.events(chosen), seed=7, partitions=PARTITIONS)
    await produce(settings, records, PARTITIONS)
    workers = [WorkerProcess(environment, folder / f"{name}-{n}.log") for n in range(WORKERS)]
    began = monotonic_seconds()
    try:
        for worker in workers:
            worker.start()
        drained = await _drain(settings, len(records))
    finally:
        codes = [worker.end() for worker in workers]
    seconds = monotonic_seconds() - began
    logs = await read_log(brokers, settings.topic("events"), PARTITIONS)
    expected = await asyncio.to_thread(oracle, settings, logs, described.source_id)
    verdict = await judge(settings, expected, PARTITIONS)
    letters = await read_log(brokers, settings.topic("dead_letter"), PARTITIONS)
    reasons, complete = _check_letters(letters, logs)
    counts = expected.counts
    return {
        "workers": WORKERS,
        "guarantee": "exactly_once",
        "sent": {"records": len(records), **sent},
        "consumed": counts["consumed"],
        "processed": counts["processed"],
        "rejected": counts["rejected"],
        "duplicate": counts["duplicate"],
        "dead_letters": sum(map(len, letters.values())),
        "dead_letters_complete": complete,
        "reasons": dict(sorted(reasons.items())),
        "outputs": verdict.outputs,
        "repeated_ids": verdict.repeated,
        "lost": verdict.lost,
        "unexpected": verdict.unexpected,
        "different": verdict.different,
        "state_rows_wrong": verdict.state_wrong,
        "drained": drained,
        "workers_exit_codes": codes,
        "seconds": round(seconds, 1),
    }


def faults(figures: dict[str, Any]) -> list[str]:
    """Return what is amiss in the figures, a sentence each."""
    sent = figures["sent"]
    checks = {
        "not all records were consumed": figures["consumed"] == sent["records"],
        "the accounting does not add up": figures["consumed"]
        == figures["processed"] + figures["rejected"] + figures["duplicate"],
        "not as many processed as were good": figures["processed"] == sent["processed"],
        "not as many rejected as were broken": figures["rejected"] == sent["rejected"],
        "not as many duplicates as were sent twice": figures["duplicate"] == sent["duplicate"],
        "rejects are missing in the dead-letter topic": figures["dead_letters"]
        == figures["rejected"],
        "a dead letter lacks its reason, origin or bytes": figures["dead_letters_complete"],
        "an output id came twice": not figures["repeated_ids"],
        "outputs were lost": not figures["lost"],
        "outputs nobody expected": not figures["unexpected"],
        "outputs differ from the oracle's": not figures["different"],
        "state differs from the oracle's": not figures["state_rows_wrong"],
        "the workers did not finish in time": figures["drained"],
        "a worker did not stop in order": figures["workers_exit_codes"] == [0] * WORKERS,
    }
    return [fault for fault, good in checks.items() if not good]


async def _drain(settings: Any, target: int) -> bool:
    """Wait until the group has committed all records."""
    deadline = monotonic_seconds() + DRAIN_SECONDS_MAX
    while monotonic_seconds() < deadline:
        if await asyncio.to_thread(committed, settings) >= target:
            return True
        await asyncio.sleep(0.5)
    return False


def _check_letters(
    letters: dict[int, list[Log]], source: dict[int, list[Log]]
) -> tuple[Counter[str], bool]:
    """Count the reasons, and tell whether each letter has its origin and the original bytes."""
    places = {p: {record.offset: record for record in log} for p, log in source.items()}
    reasons: Counter[str] = Counter()
    complete = True
    for log in letters.values():
        for letter in log:
            headers = dict(letter.headers)
            complete &= all(headers.get(name) for name in ORIGIN)
            origin = places[int(headers["source_partition"])][int(headers["source_offset"])]
            complete &= letter.value == origin.value and letter.key == origin.key
            reasons[headers["reject_reason"].decode()] += 1
    return reasons, complete


def _write(figures: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "real_input.json").write_text(json.dumps(figures, indent=1) + "\n")
    rows = "\n".join(f"| {reason} | {count} |" for reason, count in figures["reasons"].items())
    sent = figures["sent"]
    (RESULTS / "real_input.md").write_text(
        f"""# A real shop's events with faults among them

Made by `python -m benchmarks.real_input --write`: Apache Kafka 4.1.1, {figures["workers"]} workers
in `exactly_once`, 4 partitions, purchases of completejourney.

| what | records |
|---|---|
| sent | {sent["records"]} |
| of these good, sent twice, broken | {sent["processed"]}, {sent["duplicate"]}, {sent["rejected"]} |
| processed | {figures["processed"]} |
| duplicate | {figures["duplicate"]} |
| rejected | {figures["rejected"]} |
| dead letters, each with reason, origin and original bytes | {figures["dead_letters"]} |
| outputs that a `read_committed` reader sees | {figures["outputs"]} |
| output ids that came twice | {figures["repeated_ids"]} |
| outputs lost, unexpected, different from a one-pass oracle | {figures["lost"]}, \
{figures["unexpected"]}, {figures["different"]} |
| rows of state that differ from the oracle's | {figures["state_rows_wrong"]} |

| reason of rejection | records |
|---|---|
{rows}
"""
    )


def main() -> int:
    """Run on a Kafka of its own; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--write", action="store_true", help="write docs/results/real_input.*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with KafkaServer(folder / "kafka") as kafka:
            figures = asyncio.run(run(kafka.bootstrap, given.events, folder))
    wrong = faults(figures)
    for fault in wrong:
        print(fault)
    if given.write and not wrong:
        _write(figures)
    print(json.dumps(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
