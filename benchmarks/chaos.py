"""Kill workers at random on a real Kafka, then count: ``make chaos KILLS=20``.

Half of the kills hit two workers in ``exactly_once``: SIGKILL, or SIGSTOP for longer than the
session timeout and then SIGCONT, a true zombie. The other half kill the one worker of
``at_least_once``. Events keep coming all the while. At the end outputs and state must equal those
of a one-pass oracle.

The last line is JSON; the exit code is 1 when anything was lost, wrong, or repeated where it must
not.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import (
    Sent,
    WorkerProcess,
    clicks,
    committed,
    judge,
    oracle,
    produce,
    read_log,
    spoil,
)
from stream_app.config import Guarantee, Settings, load
from stream_app.runtime import topics
from tests.broker.kafka import KafkaServer

PARTITIONS = 4
SESSION_SECONDS = 6.0
ZOMBIE_SECONDS = 9.0  # longer than the session timeout
EVENTS_PER_KILL = 2_500
DRAIN_SECONDS_MAX = 120.0
POLL_SECONDS = 0.25


class Report(msgspec.Struct):
    """What a run came to."""

    guarantee: str
    kills: int
    zombies: int
    records: int
    outputs: int
    lost: int
    repeated: int
    state_wrong: int
    longest_stall_seconds: float
    drained: bool

    @property
    def good(self) -> bool:
        """Whether everything is as promised."""
        exact = self.repeated == 0 or self.guarantee == "at_least_once"
        return self.drained and exact and not self.lost and not self.state_wrong


class Progress:
    """Watches the group's offsets: how far the workers are, and how long they stood still."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.done = 0
        self.longest_stall = 0.0
        self.target: int | None = None

    async def watch(self) -> None:
        """Poll until everything is committed."""
        loop = asyncio.get_running_loop()
        moved = loop.time()
        while self.target is None or self.done < self.target:
            await asyncio.sleep(POLL_SECONDS)
            done = max(await asyncio.to_thread(committed, self._settings), self.done)
            now = loop.time()
            if done != self.done:
                self.done, moved = done, now
            self.longest_stall = max(self.longest_stall, now - moved)


async def chaos(brokers: str, guarantee: Guarantee, kills: int, seed: int, folder: Path) -> Report:
    """Run workers, kill them ``kills`` times while events come, and compare with the oracle."""
    chance = random.Random(seed)
    prefix = f"{guarantee}-{seed}."
    environment = {
        "STREAM_APP_BROKERS": brokers,
        "STREAM_APP_TOPIC_PREFIX": prefix,
        "STREAM_APP_APP": f"chaos-{guarantee}-{seed}",
        "STREAM_APP_GUARANTEE": guarantee,
        "STREAM_APP_REPLAY": "true",
        "STREAM_APP_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
        # Short lives, so that timers fire while workers die.
        "STREAM_APP_STAGES__USER_TTL_DAYS": "8",
        "STREAM_APP_STAGES__ITEM_TTL_DAYS": "8",
    }
    settings = _settings(environment)
    await asyncio.to_thread(topics.create, settings)
    described = await asyncio.to_thread(topics.topology, settings)
    events = clicks(kills * EVENTS_PER_KILL, seed)
    records, _ = spoil(events, seed, PARTITIONS)
    count = 2 if guarantee == "exactly_once" else 1
    workers = [
        # A static member: one that comes back takes its partitions up without a rebalance.
        WorkerProcess(
            {**environment, "STREAM_APP_INSTANCE": f"worker-{number}"},
            folder / f"{guarantee}-{number}.log",
        )
        for number in range(count)
    ]
    progress = Progress(settings)
    watching = asyncio.create_task(progress.watch())
    try:
        for worker in workers:
            worker.start()
        producing = asyncio.create_task(_produce(settings, records, kills, progress))
        zombies = await _kill(workers, guarantee, kills, chance)
        await producing
        drained = await _drain(watching)
    finally:
        watching.cancel()
        for worker in workers:
            worker.end()
    logs = await read_log(brokers, settings.topic("events"), PARTITIONS)
    expected = await asyncio.to_thread(oracle, settings, logs, described.source_id)
    verdict = await judge(settings, expected, PARTITIONS)
    return Report(
        guarantee=guarantee,
        kills=kills,
        zombies=zombies,
        records=len(records),
        outputs=len(expected.outputs),
        lost=verdict.lost,
        repeated=verdict.repeated,
        state_wrong=verdict.state_wrong + verdict.different + verdict.unexpected,
        longest_stall_seconds=round(progress.longest_stall, 1),
        drained=drained,
    )


def _settings(environment: dict[str, str]) -> Settings:
    """Return the settings that a worker will read from this environment."""
    stages = {
        name.removeprefix("STREAM_APP_STAGES__").lower(): value
        for name, value in environment.items()
        if name.startswith("STREAM_APP_STAGES__")
    }
    plain = {
        name.removeprefix("STREAM_APP_").lower(): value
        for name, value in environment.items()
        if not name.startswith("STREAM_APP_STAGES__")
    }
    return load(**plain, partitions=PARTITIONS, stages=stages)


async def _produce(settings: Settings, records: list[Sent], kills: int, progress: Progress) -> None:
    """Send the records over the time that the kills take, then say how many offsets there are."""
    seconds = 6.0 + kills * 7.0
    await produce(settings, records, PARTITIONS, rate=len(records) / seconds)
    progress.target = len(records)


async def _kill(
    workers: list[WorkerProcess], guarantee: Guarantee, kills: int, chance: random.Random
) -> int:
    """Kill, or stop and wake up, a worker at random moments; return how many were stopped."""
    await asyncio.sleep(6.0)
    zombies = 0
    for number in range(kills):
        worker = chance.choice(workers)
        if guarantee == "exactly_once" and number % 3 == 2:  # noqa: PLR2004 - every third
            zombies += 1
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(ZOMBIE_SECONDS + chance.random())
            worker.send(signal.SIGCONT)
        else:
            worker.end(signal.SIGKILL)
            await asyncio.sleep(chance.uniform(0, 2))
        for each in workers:
            if not each.running:
                each.start()
        await asyncio.sleep(chance.uniform(1, 6))
    return zombies


async def _drain(watching: "asyncio.Task[None]") -> bool:
    """Wait until everything is committed; tell whether it came to that."""
    try:
        await asyncio.wait_for(asyncio.shield(watching), DRAIN_SECONDS_MAX)
    except TimeoutError:
        return False
    return True


async def main(arguments: argparse.Namespace, folder: Path) -> int:
    """Run both guarantees; print the reports and the last line."""
    reports: list[Report] = []
    with KafkaServer(folder / "kafka") as kafka:
        halves: dict[Guarantee, int] = {
            "exactly_once": (arguments.kills + 1) // 2,
            "at_least_once": arguments.kills // 2,
        }
        for guarantee, kills in halves.items():
            if kills:
                report = await chaos(kafka.bootstrap, guarantee, kills, arguments.seed, folder)
                print(msgspec.json.encode(report).decode(), flush=True)
                reports.append(report)
    exact = [report for report in reports if report.guarantee == "exactly_once"]
    summary: dict[str, Any] = {
        "kills": sum(report.kills for report in reports),
        "lost": sum(report.lost for report in reports),
        "repeated": sum(report.repeated for report in exact),
        "state_wrong": sum(report.state_wrong for report in reports),
        "longest_stall_seconds": max(report.longest_stall_seconds for report in reports),
        "drained": all(report.drained for report in reports),
    }
    print(msgspec.json.encode(summary).decode())
    return 0 if all(report.good for report in reports) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one without it")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
        sys.exit(asyncio.run(main(given, given.keep)))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(asyncio.run(main(given, Path(temporary))))
