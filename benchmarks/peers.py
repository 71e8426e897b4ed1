"""What other frameworks need to run the same stages, and what each way of running them guarantees.

A peer is a program of its own, ``python -m benchmarks.peers_quix WAY COUNT`` or
``python -m benchmarks.peers_faust WAY COUNT``, which reads the worker's settings from the
environment, ends after COUNT records and prints a last line of JSON. Both frameworks hand out one
record at a time, so that is how the stages are called.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from benchmarks.loop import ProgramRun
from stream_app.clock import cpu_seconds, now_ms
from stream_app.config import Settings
from stream_app.pipeline import Context, next_batch, process
from stream_app.state import PartitionState
from stream_app.steps import OutputRecord, RawRecord


class Peer(StrEnum):
    """The ways in which other frameworks run the stages."""

    QUIX_AT_LEAST_ONCE = "quix_at_least_once"
    QUIX_EXACTLY_ONCE = "quix_exactly_once"
    QUIX_ROWS = "quix_exactly_once_rows"
    QUIX_ROWS_OFTEN = "quix_exactly_once_rows_128"
    FAUST = "faust"
    FAUST_ROWS = "faust_rows"

    @property
    def program(self) -> str:
        """The module that runs it."""
        return "benchmarks.peers_" + self.value.partition("_")[0]

    @property
    def keeps_rows(self) -> bool:
        """Whether the rows that the stages touched go to the framework's own store."""
        return self in (Peer.QUIX_ROWS, Peer.QUIX_ROWS_OFTEN, Peer.FAUST_ROWS)


class About(msgspec.Struct, frozen=True):
    """A way of running the stages: its name for people, and what it guarantees."""

    title: str
    guarantee: str


ABOUT: dict[str, About] = {
    "bare_loop": About("bare loop", "nothing: no rows are written, no offsets committed"),
    "exactly_once": About(
        "exactly_once",
        "outputs, rows and offset in one transaction for each batch of a partition, "
        "at most 128 records",
    ),
    "at_least_once": About(
        "at_least_once",
        "outputs, then rows with the offset among them, for each batch; a crash between the two "
        "repeats outputs",
    ),
    Peer.QUIX_AT_LEAST_ONCE: About(
        "Quix at-least-once",
        "outputs, then offsets, every 5 s; a crash repeats outputs; a restart loses the state",
    ),
    Peer.QUIX_EXACTLY_ONCE: About(
        "Quix exactly-once",
        "outputs and offsets in one transaction every 5 s; a restart loses the state",
    ),
    Peer.QUIX_ROWS: About(
        "Quix exactly-once, rows",
        "outputs, rows (RocksDB and changelog) and offsets in one transaction every 5 s",
    ),
    Peer.QUIX_ROWS_OFTEN: About(
        "Quix exactly-once, rows, 128",
        "outputs, rows (RocksDB and changelog) and offsets in one transaction for each 128 records",
    ),
    Peer.FAUST: About(
        "Faust",
        "outputs, then offsets, every 2.8 s; a crash repeats outputs; an event that raises an "
        "error is skipped; a restart loses the state",
    ),
    Peer.FAUST_ROWS: About(
        "Faust, rows",
        "outputs, then offsets, every 2.8 s; rows (table and changelog) go apart from both: after "
        "a crash some are ahead of the offsets; an event that raises an error is skipped",
    ),
}


class Record(msgspec.Struct, frozen=True):
    """A record as the stages want it; ``timestamp`` in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Stages:
    """The stages over all partitions, a record at a time, their state in memory.

    Parameters
    ----------
    settings
        Of the program.
    count
        How many records are processed in all.
    done
        Called when the last of them has been.
    """

    def __init__(self, settings: Settings, count: int, done: Callable[[], object]) -> None:
        self._topic = settings.topic("events")
        self._settings = settings
        self._context = Context(settings.stages_in_effect, settings.partitions)
        self._states: dict[int, PartitionState] = {}
        self._count = count
        self._done = done
        self._cpu_began = 0.0
        self.events = 0
        self.outputs = 0

    def state(self, partition: int) -> PartitionState:
        """Return the state of a partition."""
        state = self._states.get(partition)
        if state is None:
            state = self._states[partition] = PartitionState(self._settings.live_rows_max)
            state.begin(0, self._settings.partitions, "peer")
        return state

    def outputs_of(self, partition: int, record: RawRecord) -> list[OutputRecord]:
        """Return what comes of a record, the timers before it included."""
        if not self.events:
            self._cpu_began = cpu_seconds()
        state = self.state(partition)
        outputs: list[OutputRecord] = []
        taken = 0
        while not taken:
            batch = next_batch(state, self._topic, partition, [record], 1)
            outputs += process(state, batch, self._context).records
            taken = len(batch.records)
        self.outputs += len(outputs)
        return outputs

    def finished(self) -> None:
        """Note that the framework is through with a record."""
        self.events += 1
        if self.events == self._count:
            self._done()

    def run(self) -> ProgramRun:
        """Return what was done, all of it being committed now."""
        return ProgramRun(self.events, self.outputs, cpu_seconds() - self._cpu_began, now_ms())
