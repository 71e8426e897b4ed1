"""``stream-app worker``: one process, or several looked after."""

import logging
import os
import signal
import subprocess
import sys
import time
from typing import Annotated

import typer

from stream_app.cli.common import Brokers, settings_of
from stream_app.config import Guarantee, Settings
from stream_app.errors import ConfigError

_RESTART_SECONDS = 1.0
_RESTARTS_MAX = 5  # of one process within a minute, before all give up
_CHILD_STOP_SECONDS = 6.0


def worker(
    brokers: Brokers = None,
    processes: Annotated[int | None, typer.Option(min=1, help="worker processes")] = None,
    guarantee: Annotated[Guarantee | None, typer.Option(help="what a crash may not do")] = None,
    instance: Annotated[str | None, typer.Option(help="static member id")] = None,
) -> None:
    """Process events until stopped; SIGTERM and Ctrl-C finish the batch in flight first.

    For example:

        stream-app worker --brokers kafka:9092 --processes 2

        STREAM_APP_REPLAY=true stream-app worker --guarantee at_least_once
    """
    settings = settings_of(
        clients=logging.WARNING,
        brokers=brokers,
        processes=processes,
        guarantee=guarantee,
        instance=instance,
    )
    if settings.processes > 1:
        if settings.guarantee == "at_least_once":
            raise ConfigError(
                f"processes = {settings.processes}: at_least_once is for one worker process; set "
                "guarantee = 'exactly_once' for more"
            )
        raise SystemExit(_supervise(settings))
    from stream_app.ops import health  # noqa: PLC0415
    from stream_app.runtime.app import StreamApp, run  # noqa: PLC0415

    def attach(stream_app: StreamApp) -> None:
        health.attach(stream_app)

    run(settings, attach)


def _supervise(settings: Settings) -> int:
    """Run the worker processes, start again those that end, and pass on the wish to stop."""
    children: dict[int, subprocess.Popen[bytes]] = {}
    restarts: dict[int, list[float]] = {}
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    try:
        while not stopping:
            for index in range(settings.processes):
                child = children.get(index)
                if child is None:
                    children[index] = _start(settings, index)
                elif child.poll() is not None:
                    recent = [t for t in restarts.get(index, []) if t > time.monotonic() - 60]
                    if len(recent) >= _RESTARTS_MAX:
                        _give_up(index, child.returncode)
                        return 1
                    restarts[index] = [*recent, time.monotonic()]
                    children[index] = _start(settings, index)
            time.sleep(_RESTART_SECONDS / 5)
        return 0
    finally:
        _stop(list(children.values()))


def _give_up(index: int, code: int) -> None:
    logging.getLogger(__name__).error(
        "worker process %d has ended %d times within a minute, the last time with code %d: giving "
        "up. It said why above",
        index,
        _RESTARTS_MAX + 1,
        code,
    )


def _start(settings: Settings, index: int) -> "subprocess.Popen[bytes]":
    """Start worker process ``index``, with a metrics port and a member id of its own."""
    environment = {**os.environ, "STREAM_APP_PROCESSES": "1"}
    environment["STREAM_APP_BROKERS"] = settings.brokers
    environment["STREAM_APP_GUARANTEE"] = settings.guarantee
    if settings.metrics_port:
        environment["STREAM_APP_METRICS_PORT"] = str(settings.metrics_port + index)
    if settings.instance:
        environment["STREAM_APP_INSTANCE"] = f"{settings.instance}-{index}"
    command = [sys.executable, "-m", "stream_app", "worker"]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _stop(children: "list[subprocess.Popen[bytes]]") -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _CHILD_STOP_SECONDS
    for child in children:
        try:
            child.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            child.kill()
