"""What the broker tests share: settings and topics of their own, and workers on them."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.harness import Sent, WorkerProcess, committed, produce, spoil
from benchmarks.harness import clicks as shop_clicks
from stream_app import cli
from stream_app.config import Guarantee, Settings, load
from stream_app.runtime import topics

# Processes that have imported already what a worker imports, in which it takes three seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.broker.workers", "stream_app.runtime.app"])

PARTITIONS = 4
DEADLINE_SECONDS = 180.0  # a guard against hanging: three processes share two cores


class Forked:
    """What tests use of `subprocess.Popen`, of a `stream-app worker` that was forked."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._process = FORKS.Process(target=work, args=(environment, log))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("stream-app worker", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        """Send a signal."""
        os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def work(environment: dict[str, str], log: Path) -> None:
    """Be a worker that `WorkerProcess` has started."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["stream-app", "worker"]
    cli.main()


class ForkedWorker(WorkerProcess):
    """A worker in a process of its own that need not import anything."""

    def start(self) -> None:
        """Start the process."""
        self._log.touch()
        self._process = Forked(self._environment, self._log)


class Scene(msgspec.Struct):
    """One test's topics on the broker: settings, and the environment of a worker that uses them."""

    settings: Settings
    environment: dict[str, str]
    log: Path

    def worker(self, **over: str) -> WorkerProcess:
        """Return a worker, not yet started, with settings changed as given."""
        return ForkedWorker({**self.environment, **over}, self.log)

    def send(self, count: int, seed: int = 1) -> list[Sent]:
        """Send made-up events without faults; return them."""
        records, _ = spoil(shop_clicks(count, seed), seed, PARTITIONS, duplicates=0, broken=0)
        asyncio.run(produce(self.settings, records, PARTITIONS))
        return records

    def wait(self, target: int) -> int:
        """Wait until so many offsets are committed; return how many are."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        done = committed(self.settings)
        while done < target and time.monotonic() < deadline:
            time.sleep(0.2)
            done = committed(self.settings)
        return done

    def said(self) -> str:
        """Return what the workers have printed."""
        return self.log.read_text()


def scene(brokers: str, name: str, folder: Path, guarantee: Guarantee = "exactly_once") -> Scene:
    """Make a test's topics."""
    settings = load(
        brokers=brokers,
        topic_prefix=f"{name}.",
        app=f"app-{name}",
        guarantee=guarantee,
        partitions=PARTITIONS,
        replay=True,
    )
    topics.create(settings)
    environment = {
        "STREAM_APP_BROKERS": brokers,
        "STREAM_APP_TOPIC_PREFIX": f"{name}.",
        "STREAM_APP_APP": f"app-{name}",
        "STREAM_APP_GUARANTEE": guarantee,
        "STREAM_APP_REPLAY": "true",
        "STREAM_APP_SESSION_TIMEOUT_SECONDS": "6",
    }
    return Scene(settings, environment, folder / "worker.log")
