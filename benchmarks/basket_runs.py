"""Two ways of a stream through the program: in this process, and through a broker and a worker."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kafka.consumer import KafkaConsumer
from kafka.structs import TopicPartition

from benchmarks.emitted import Emitted, RunError
from models.replay import Partition
from stream_app.clock import monotonic_seconds
from stream_app.config import StageSettings, TopicSettings
from stream_app.event import Item
from stream_app.hashing import partition_for
from stream_app.ops.broker import EmbeddedBroker
from stream_app.ops.demo_worker import Counts, DemoWorker
from stream_app.pipeline import Context, Outputs
from stream_app.ranker import Ranker
from stream_app.shelves import Shelves
from stream_app.sources import Record
from stream_app.sources.produce import ProduceSettings, produce
from stream_app.stages.candidates import POOL_SIZE

TOPICS = TopicSettings()
# Whoever asks is answered, and nobody else: the answers are the same, and come sooner.
STAGES = StageSettings(recommend_on=frozenset(), timer_jitter_minutes=0)
# Nothing done for so long, and the run has failed. Restoring and joining take some seconds.
STALL_SECONDS_MAX = 120.0
# After the worker's last commit, for what is on its way.
DRAIN_SECONDS = 5.0

OUTPUTS = ("recommendations", "predictions", "churn_alerts", "dead_letter")
Report = Callable[[str, int], object]  # what is counted, and how many by now


# --- in this process ------------------------------------------------------------------------------


def direct(
    records: Iterable[Record],
    partitions: int,
    items: Iterable[Item] = (),
    *,
    model: Path | None = None,
    rejects: bool = False,
) -> Emitted:
    """Run records through `pipeline.process`, beside a catalogue; return what it emits.

    ``model`` is the folder of a ranking model, None where the formula is to rank.

    Raises
    ------
    RunError
        When a record is rejected, unless that is expected.
    ModelError
        When the model is refused.
    """
    ranker = None
    if model is not None:
        ranker = Ranker.load(
            model, clock=monotonic_seconds, milliseconds_max=math.inf, pool_min=POOL_SIZE
        )
    context = Context(STAGES, partitions, Shelves(items), ranker=ranker)
    parts = [Partition(number, context) for number in range(partitions)]
    emitted = Emitted(rejects=rejects)
    for outputs in _process(parts, records):
        for output in outputs.records:
            emitted.enter(output.topic, output.value)
    return emitted


def _process(parts: list[Partition], records: Iterable[Record]) -> Iterator[Outputs]:
    for record in records:
        yield from parts[partition_for(record[0], len(parts))].append(record)
    for part in parts:
        yield from part.run()


# --- through a broker and a worker ----------------------------------------------------------------


def through_broker(
    records: Iterable[Record],
    partitions: int,
    catalog: Iterable[Record],
    report: Report,
    model: Path | None = None,
) -> Emitted:
    """Send records to an embedded broker that a worker reads from; return what it emits.

    Parameters
    ----------
    records
        In the order of the log; all are sent before the first answer is read.
    partitions
        Of every topic.
    catalog
        The items, which are sent before the worker starts.
    report
        Called now and then with "acknowledged" or "processed" records, by now.
    model
        The folder of a ranking model; without one the formula ranks.

    Raises
    ------
    RunError
        When a record is rejected, or the worker stands still.
    StreamAppError
        When broker, producer or worker fail.
    """
    with tempfile.TemporaryDirectory(prefix="next-basket-") as name:
        folder = Path(name)
        with EmbeddedBroker(folder) as broker:
            environment = _environment(folder, broker.address, partitions)
            command = [sys.executable, "-m", "stream_app", "topics", "create"]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            produce(catalog, ProduceSettings(brokers=broker.address, topic=TOPICS.catalog))
            with DemoWorker(broker.address, folder, model, environment) as worker:
                target = ProduceSettings(brokers=broker.address, topic=TOPICS.events)
                sent = produce(records, target, lambda count: report("acknowledged", count)).sent
                progress = _Progress(worker, sent, report)
                return _collect(broker.address, partitions, progress)


def _environment(folder: Path, brokers: str, partitions: int) -> dict[str, str]:
    """Return what the program starts from: none of the user's own settings, but these."""
    file = folder / "settings.toml"
    file.write_text("[stages]\nrecommend_on = []\n", encoding="utf-8")
    ours = {"CONFIG": str(file), "BROKERS": brokers, "PARTITIONS": str(partitions)}
    ours |= {"REPLAY": "true", "GUARANTEE": "at_least_once"}
    kept = {name: text for name, text in os.environ.items() if not name.startswith("STREAM_APP_")}
    return kept | {f"STREAM_APP_{name}": text for name, text in ours.items()}


class _Progress:
    """Asks the worker how far it is, and notices when it stands still."""

    def __init__(self, worker: DemoWorker, sent: int, report: Report) -> None:
        self._worker = worker
        self._sent = sent
        self._report = report
        self._done = 0
        self._read = 0
        self._moved_seconds = monotonic_seconds()
        self.made = 0  # outputs, by now

    def finished(self) -> bool:
        """Tell whether the worker has dealt with all that was sent, some seconds ago.

        Raises
        ------
        RunError
            When it has rejected a record, or does nothing any more.
        WorkerError
            When it has ended.
        """
        self._worker.check()
        counts = self._worker.counts() or Counts(processed=self._done)
        made = counts.recommendations + counts.predictions + counts.churn_alerts
        self.made = max(self.made, made)
        if counts.rejected:
            raise RunError(f"{counts.rejected} records were rejected")
        if counts.done > self._done:
            self._done, self._moved_seconds = counts.done, monotonic_seconds()
            self._report("processed", self._done)
        still_seconds = monotonic_seconds() - self._moved_seconds
        if still_seconds > STALL_SECONDS_MAX:
            raise RunError(
                f"nothing moves: {self._done} of {self._sent} records are done, {self._read} of "
                f"{self.made} outputs read"
            )
        return self._done >= self._sent and still_seconds > DRAIN_SECONDS

    def note_read(self, read: int) -> None:
        """Note how many outputs have been read; that is movement too."""
        if read > self._read:
            self._read, self._moved_seconds = read, monotonic_seconds()


def _collect(brokers: str, partitions: int, progress: _Progress) -> Emitted:
    """Read all that comes out, until the worker is done."""
    topics = {TOPICS.model_dump()[name]: name for name in OUTPUTS}
    where = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    consumer = KafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False)
    emitted = Emitted()
    try:
        consumer.assign(where)
        consumer.seek_to_beginning(*where)
        read = 0
        while not progress.finished() or read < progress.made:
            for partition, records in consumer.poll(timeout_ms=1_000, max_records=10_000).items():
                read += len(records)
                for record in records:
                    emitted.enter(topics[partition.topic], record.value)
            progress.note_read(read)
    finally:
        consumer.close()
    return emitted
