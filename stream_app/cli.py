"""The command line: ``stream-app worker | topics | produce | watch | user | demo``.

Every command reads the settings first, so a wrong one is named before anything starts. What a
command needs is imported when it runs: Faust alone takes half a second.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from stream_app.config import Guarantee, Settings, load
from stream_app.errors import ConfigError, StreamAppError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Real-time recommendations, behaviour predictions and churn alerts beside your Kafka.",
)
topics_app = typer.Typer(no_args_is_help=True, help="Make the topics, or check them.")
app.add_typer(topics_app, name="topics")

_RESTART_SECONDS = 1.0
_RESTARTS_MAX = 5  # of one process within a minute, before all give up
_CHILD_STOP_SECONDS = 6.0


def main() -> None:
    """Run the command line; an error of ours is a message, not a traceback."""
    try:
        app()
    except StreamAppError as error:
        Console(stderr=True).print(f"stream-app: {error}", style="red", markup=False)
        raise SystemExit(2) from None


def _settings(**overrides: object) -> Settings:
    settings = load(**overrides)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("aiokafka", "kafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    return settings


Source = Literal["completejourney", "jsonl", "synthetic"]
DemoShop = Literal["completejourney", "synthetic"]
Brokers = Annotated[str | None, typer.Option(help="host:port, more after commas")]


@app.command()
def worker(
    brokers: Brokers = None,
    processes: Annotated[int | None, typer.Option(min=1, help="worker processes")] = None,
    guarantee: Annotated[Guarantee | None, typer.Option(help="what a crash may not do")] = None,
    instance: Annotated[str | None, typer.Option(help="static member id")] = None,
) -> None:
    """Process events until stopped.

    Example: stream-app worker --brokers kafka:9092 --processes 2
    """
    settings = _settings(
        brokers=brokers, processes=processes, guarantee=guarantee, instance=instance
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
                        return 1
                    restarts[index] = [*recent, time.monotonic()]
                    children[index] = _start(settings, index)
            time.sleep(_RESTART_SECONDS / 5)
        return 0
    finally:
        _stop(list(children.values()))


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


@topics_app.command("create")
def topics_create(brokers: Brokers = None) -> None:
    """Make the topics that are missing."""
    from stream_app.runtime.topics import create  # noqa: PLC0415

    made = create(_settings(brokers=brokers))
    Console().print(f"made: {', '.join(made)}" if made else "nothing to do: all topics are there")


@topics_app.command("check")
def topics_check(brokers: Brokers = None) -> None:
    """Say what is wrong with the topics; exit with 1 if anything is."""
    from stream_app.runtime.topics import check  # noqa: PLC0415

    faults = check(_settings(brokers=brokers))
    console = Console(soft_wrap=True)
    for fault in faults:
        console.print(fault, style="red", markup=False)
    if faults:
        raise typer.Exit(1)
    console.print("all topics are as they must be")


@app.command()
def produce(  # noqa: PLR0913, PLR0917 - an argument is an option
    source: Annotated[Source, typer.Option(help="where they come from")],
    brokers: Brokers = None,
    file: Annotated[Path | None, typer.Option(help="of jsonl; else standard input")] = None,
    households: Annotated[int | None, typer.Option(min=1, help="of completejourney")] = None,
    shop: Annotated[Literal["first", "second"] | None, typer.Option(help="of synthetic")] = None,
    seed: Annotated[int | None, typer.Option(help="of synthetic; else 0")] = None,
    truth: Annotated[Path | None, typer.Option(help="of synthetic: file to write to")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records at most")] = None,
    rate: Annotated[float | None, typer.Option(help="records a second")] = None,
    speedup: Annotated[float | None, typer.Option(help="times as fast as it happened")] = None,
    *,
    now: Annotated[bool, typer.Option("--now", help="date events by when they are sent")] = False,
) -> None:
    """Produce events and print how many the broker has acknowledged.

    With replay = true records carry the events' own times. Otherwise they carry the time of
    sending, and events older than that by more than stages.lateness_ms_max are late: they are
    learned from, but nothing is recommended. Date old ones anew with --now.

    The source synthetic is a seeded shop with late, repeated and broken records among the others;
    --truth writes beside them how probable a purchase, comment, share or churn was, as JSON lines.

    Example: stream-app produce --source completejourney --households 50 --rate 100 --now
    """
    from stream_app.ops import produce as producing  # noqa: PLC0415 - imports the clients

    order = producing.Order(
        source=source,
        file=file,
        households=households,
        shop=shop,
        seed=seed,
        truth=truth,
        limit=limit,
        rate=rate,
        speedup=speedup,
        now=now,
    )
    made = producing.run(_settings(brokers=brokers), order)
    Console().print(f"{made.acknowledged} records acknowledged in {made.seconds:.1f} s")


@app.command()
def demo(
    events: Annotated[str, typer.Option(help="about how many, or all")] = "200000",
    shop: Annotated[DemoShop, typer.Option(help="real purchases, or one that clicks")] = (
        "completejourney"
    ),
    *,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object only")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave all up until Ctrl-C")] = False,
) -> None:
    """Watch what is recommended and foreseen in a shop, on a broker and a worker of the demo's own.

    Example: stream-app demo --shop synthetic
    """
    from stream_app.ops import demo as show  # noqa: PLC0415 - imports the clients

    raise typer.Exit(show.run(events, shop=shop, as_json=json, keep=keep))


@app.command()
def watch(
    topic: Annotated[str, typer.Argument(help="such as recommendations or dead-letter")],
    brokers: Brokers = None,
    limit: Annotated[int | None, typer.Option(min=1, help="records to show")] = None,
    *,
    from_beginning: Annotated[bool, typer.Option(help="not only what comes now")] = False,
    json: Annotated[bool, typer.Option(help="values only, a line each")] = False,
) -> None:
    """Show the committed records of a topic as they come.

    Example: stream-app watch recommendations --from-beginning --limit 3
    """
    from stream_app.ops.watch import watch as show  # noqa: PLC0415

    settings = _settings(brokers=brokers)
    _run(lambda: show(settings, topic, limit, from_beginning=from_beginning, as_json=json))


@app.command()
def user(user_id: Annotated[str, typer.Argument(metavar="ID")], brokers: Brokers = None) -> None:
    """Show what is known of a user, what was last recommended, and why."""
    from stream_app.ops.watch import show_user  # noqa: PLC0415

    settings = _settings(brokers=brokers)
    if not _run(lambda: show_user(settings, user_id)):
        raise typer.Exit(1)


def _run(work: Callable[[], object]) -> object:
    """Run a coroutine to its end; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(work())  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return None
