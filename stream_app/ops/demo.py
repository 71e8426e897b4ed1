"""``stream-app demo``: a shop's year through an embedded broker, and what comes out of it.

One broker and one worker as processes of their own, a producer and a reader as threads of this one.
The bulk of the events goes as fast as it can; the last ones at a pace, to measure latency without a
queue. In the end the accounts must be even.
"""

import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.markup import escape

from stream_app.clock import monotonic_seconds
from stream_app.config import Settings, load
from stream_app.errors import ConfigError, ModelError, StreamAppError
from stream_app.event import encode
from stream_app.ops.broker import BrokerError, EmbeddedBroker
from stream_app.ops.demo_feed import Feed, Replies
from stream_app.ops.demo_own import OwnFile, ShopMaker
from stream_app.ops.demo_ranking import Ranking, model_folder
from stream_app.ops.demo_result import Accounts, Result
from stream_app.ops.demo_shops import SHOPS, ShopName
from stream_app.ops.demo_story import Story
from stream_app.ops.demo_view import Lines, Picture, Progress, Silence, View, outcome
from stream_app.ops.demo_worker import SETTINGS, Counts, DemoWorker, WorkerError
from stream_app.ops.report import Order, measured, write
from stream_app.runtime.topics import create
from stream_app.sources import Record
from stream_app.sources.produce import ProduceSettings, produce

# What goes at a pace: 2 % of the events, within these bounds, a third of them at most.
_PACED_SHARE = 0.02
_PACED_MIN, _PACED_MAX = 2_000, 4_000
# A third of what the bulk reached leaves the worker idle in between; so no queue is measured.
_PACE_SHARE = 1 / 3
_PACE_MIN, _PACE_MAX = 50.0, 1_000.0  # events a second

_LOOK_SECONDS = 0.1
_COUNTS_SECONDS = 0.5  # between two looks at the worker's metrics
_RATE_SECONDS = 4.0  # that a rate shown is the mean of
_SETTLE_SECONDS_MAX = 15.0  # for positions and readers to catch up; then the accounts are closed
_STOP_SECONDS = 5.0
_EXIT_INTERRUPTED = 130  # as shells have it


class DemoError(StreamAppError):
    """The broker ended, or accounts are uneven; the message says which."""


def run(
    events: str,
    *,
    shop: ShopName | OwnFile = "completejourney",
    as_json: bool = False,
    keep: bool = False,
    page: Path | None = None,
) -> int:
    """Run the demo and return its exit code.

    Parameters
    ----------
    events
        About how many events, or "all"; what users do about recommendations comes on top.
    shop
        Whose events: one of ours, or those of a file.
    as_json
        Print one JSON object and nothing else.
    keep
        Leave broker and worker up until Ctrl-C.
    page
        Where the report goes; None for none.

    Raises
    ------
    ConfigError
        When a setting is wrong or a package is missing.
    """
    limit = _limit(events)
    console, errors = Console(), Console(stderr=True)
    view: View = Lines(console)
    if as_json:
        view = Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        view = Picture(console)
    try:
        with _interruptible() as interrupt, ExitStack() as stack:
            maker = SHOPS[shop] if isinstance(shop, str) else shop
            demo = _Demo(stack, view, maker, interrupt)
            accounts, result = demo.play(limit)
            if not as_json:
                console.print(outcome(result, accounts.counts, demo.story))
            result = demo.report(page, result, errors)
            if as_json:
                console.out(msgspec.json.encode(result).decode(), highlight=False)
            for fault in accounts.faults():
                errors.print(f"stream-app: {fault}", style="red", markup=False)
            if not as_json:
                _suggest(console, demo, result, keep=keep)
            if keep:
                demo.keep()
            return int(bool(accounts.faults()) or (page is not None and result.report is None))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except (BrokerError, DemoError, ModelError, WorkerError) as error:
        errors.print(f"stream-app: {error}", style="red", markup=False)
        return 1


class _Interrupt:
    """What a signal is answered with; a library that is being called may swallow the exception."""

    asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    """Take a polite kill, and the end of the terminal, for Ctrl-C: children are ended in order."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    interrupt = _Interrupt()
    before = [signal.signal(name, interrupt) for name in names]
    try:
        yield interrupt
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


class _Demo:
    """One run. What it starts ends with the stack."""

    def __init__(
        self, stack: ExitStack, view: View, shop: ShopMaker, interrupt: _Interrupt
    ) -> None:
        self._interrupt = interrupt
        self.story = Story("", {})
        self._stack = stack
        self._view = view
        self._start = monotonic_seconds()
        self._progress = Progress("", "starting", 0.0, 0)
        self._shop = shop
        self._model: Path | None = None  # the folder that the worker was given
        self._counts_due = 0.0
        self._looks: deque[tuple[float, Counts]] = deque()
        self._folder = Path(stack.enter_context(TemporaryDirectory(prefix="stream-app-demo-")))
        self.broker = EmbeddedBroker(self._folder)
        self._worker: DemoWorker | None = None
        self._threads: tuple[Feed, Replies] | None = None
        self._settings: Settings | None = None

    def play(self, limit: int | None) -> tuple[Accounts, Result]:
        """Run from the start to even accounts, or to those that stay uneven."""
        with self._view:
            settings = self._settings = self._open()
            feed, reader = self._load(settings, limit)
            self._until("waiting for the worker", self._is_ready)
            self._learn_what_ranks()
            self._threads = feed, reader
            for thread in self._threads:
                thread.start()
                self._stack.callback(thread.stop, _STOP_SECONDS)
            began = monotonic_seconds()
            self._until("at full speed", lambda: feed.waiting and self._counts.done >= feed.sent)
            seconds = monotonic_seconds() - began
            rate = self._counts.done / seconds
            own = feed.bulk / seconds  # without reactions, which come on top of the pace too
            feed.pace(min(max(own * _PACE_SHARE, _PACE_MIN), _PACE_MAX))
            self._until("at a pace, for latency", lambda: feed.produced is not None)
            accounts = self._settle(feed, reader)
            self.story.finish()
            result = Result.of(
                accounts.counts, rate, reader.latencies_ms, self._seconds, self._progress.ranking
            )
            self._progress = msgspec.structs.replace(self._progress, events_rate=rate)
            self._show("done", last=True)
        return accounts, result

    def report(self, page: Path | None, result: Result, errors: Console) -> Result:
        """Write the page, if one is wanted; return the result with where it is."""
        if page is None or self._settings is None or self._worker is None or self._threads is None:
            return result
        latencies_ms = self._threads[1].latencies_ms
        order = Order(
            out=page,
            metrics=[self._worker.metrics_url],
            counted_from_ms=self.story.counted_from_ms,
            measured=measured(self._progress.title, result.events_per_second, latencies_ms),
        )
        try:
            write(self._settings, order)
        except StreamAppError as error:
            errors.print(f"stream-app: {error}", style="red", markup=False)
            return result
        return msgspec.structs.replace(result, report=str(page))

    def keep(self) -> None:
        """Wait for Ctrl-C, which now is how to end, or for the end of a process."""
        with suppress(KeyboardInterrupt):
            while True:
                self._check()
                time.sleep(_LOOK_SECONDS)

    def _open(self) -> Settings:
        """Start the broker, make the topics and start the worker; return the settings."""
        self._show("starting a broker and a worker")
        self._stack.enter_context(self.broker)
        settings = load(brokers=self.broker.address, **SETTINGS)
        create(settings)
        self._model = model_folder(settings.model, self._shop.model)
        worker = DemoWorker(self.broker.address, self._folder, self._model)
        self._worker = self._stack.enter_context(worker)
        return settings

    def _load(self, settings: Settings, limit: int | None) -> tuple[Feed, Replies]:
        """Load the shop, publish its catalogue and make ready to produce."""
        self._show("loading the shop")
        shop = self._shop(limit)
        items = shop.items()
        titles = {item.item_id: item.title.capitalize() for item in items if item.title}
        self.story = Story(shop.hero, titles, shop.who)
        self._progress = msgspec.structs.replace(self._progress, title=shop.title)
        self._show("publishing the catalogue", total=shop.total)
        records: Iterator[Record] = ((i.item_id.encode(), encode(i), None) for i in items)
        target = ProduceSettings(brokers=settings.brokers, topic=settings.topic("catalog"))
        produce(records, target, lambda _: self._check())
        paced = min(max(round(shop.total * _PACED_SHARE), _PACED_MIN), _PACED_MAX, shop.total // 3)
        target = ProduceSettings(brokers=settings.brokers, topic=settings.topic("events"))
        feed = Feed(shop, shop.total - paced, target, self.story.happened)
        return feed, Replies(settings, feed, self.story)

    def _learn_what_ranks(self) -> None:
        """Ask the ready worker for its model; hits are counted from the end of its data on."""
        asked: Counts | None = None

        def told() -> bool:
            nonlocal asked
            assert self._worker is not None, "it is ready"
            asked = self._worker.counts()
            return asked is not None

        self._until("asking what ranks", told)
        assert asked is not None, "it has answered"
        missing = self._shop.model is not None
        ranking = Ranking.of(self._model, asked, missing=missing)
        self._progress = msgspec.structs.replace(self._progress, ranking=ranking)
        self.story.counted_from_ms = ranking.counted_from_ms

    def _settle(self, feed: Feed, reader: Replies) -> Accounts:
        """Wait until the accounts are even, within reason, and close them."""
        assert feed.produced is not None, "all is produced"
        acknowledged = feed.produced.acknowledged
        before = accounts = Accounts(0, 0, 0, self._counts)
        moved = monotonic_seconds()

        def even_or_stuck() -> bool:
            nonlocal moved, before, accounts
            now, alerts = monotonic_seconds(), reader.alerts.total()
            accounts = Accounts(acknowledged, reader.count, alerts, self._counts)
            if accounts != before:
                moved, before = now, accounts
            return not accounts.faults() or now - moved > _SETTLE_SECONDS_MAX

        self._until("closing the accounts", even_or_stuck)
        return accounts

    # --- looking after it all ---------------------------------------------------------------------

    @property
    def _counts(self) -> Counts:
        return self._progress.counts

    @property
    def _seconds(self) -> float:
        return monotonic_seconds() - self._start

    def _is_ready(self) -> bool:
        return self._worker is not None and self._worker.ready

    def _until(self, phase: str, done: Callable[[], bool]) -> None:
        """Look after everything until ``done``."""
        while True:
            self._check()
            self._look()
            self._show(phase)
            if done():
                return
            time.sleep(_LOOK_SECONDS)

    def _check(self) -> None:
        """Raise what ended that should go on."""
        if self._interrupt.asked:
            raise KeyboardInterrupt
        if self.broker.child.exit_code is not None:
            raise DemoError(f"the broker ended; it said:\n{self.broker.child.tail()}")
        if self._worker is not None:
            self._worker.check()
        for thread in self._threads or ():
            thread.check()

    def _look(self) -> None:
        """Ask the worker now and then how far it is."""
        now = monotonic_seconds()
        if now < self._counts_due or self._threads is None or self._worker is None:
            return
        self._counts_due = now + _COUNTS_SECONDS
        counts = self._worker.counts()
        if counts is None:
            return
        if self._progress.ranking.counted_from_ms is not None:
            # The worker counts clicks from the first event on, so they would flatter its model.
            counts = msgspec.structs.replace(counts, places={}, sources={})
        looks = self._looks
        looks.append((now, counts))
        while now - looks[0][0] > _RATE_SECONDS and len(looks) > 1:
            looks.popleft()
        then, first = looks[0]
        span = max(now - then, _COUNTS_SECONDS)
        self._progress = msgspec.structs.replace(
            self._progress,
            counts=counts,
            events_rate=(counts.done - first.done) / span,
            answers_rate=(counts.recommendations - first.recommendations) / span,
        )

    def _show(self, phase: str, *, total: int | None = None, last: bool = False) -> None:
        progress = self._progress
        self._progress = msgspec.structs.replace(
            progress,
            phase=phase,
            seconds=self._seconds,
            total=max(progress.total if total is None else total, progress.counts.done),
            latencies_ms=self._threads[1].latencies_ms if self._threads else (),
            story=self.story,
            alerts=self._threads[1].alerts if self._threads else {},
            alert=self._threads[1].alert if self._threads else None,
        )
        self._view.show(self._progress, last=last)


def _limit(events: str) -> int | None:
    """Return the number of events that is asked for, None for all.

    >>> _limit("200_000"), _limit("all")
    (200000, None)
    """
    if events == "all":
        return None
    try:
        number = int(events.replace(",", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"events = {events!r}: give a number from 1, or all")
    return number


def _suggest(console: Console, demo: _Demo, result: Result, *, keep: bool) -> None:
    """Print where the report is and what to try next."""
    if result.report is not None:
        console.print(f"\nThe report with pictures is in [b]{escape(result.report)}[/]")
    if not keep:
        console.print(
            "\nTo look around in it, run it with [b]--keep[/] (make demo ARGS=--keep): broker and "
            "worker stay up."
        )
        return
    address = demo.broker.address
    console.print(f"\nThe broker at [b]{address}[/] and the worker stay up until Ctrl-C.")
    console.print("In another terminal try:\n")
    for command in (
        f"export STREAM_APP_BROKERS={address}",
        f"{_program()} user {demo.story.hero}",
        f"{_program()} watch recommendations --from-beginning --limit 3",
        f"{_program()} watch churn-alerts --from-beginning --limit 3",
    ):
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _program() -> str:
    """Return how to call the program from here."""
    beside = Path(sys.executable).with_name("stream-app")
    if shutil.which("stream-app") is None and beside.exists():
        return os.path.relpath(beside)
    return "stream-app"
