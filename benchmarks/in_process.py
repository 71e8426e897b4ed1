"""What an event costs without a broker: CPU by stage, and the bytes of its changelog rows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import msgspec

from benchmarks.harness import Log
from benchmarks.workload import ASKED_ONLY, PARTITIONS, TOPIC, purchases, to_logs, with_requests
from stream_app.clock import cpu_seconds
from stream_app.pipeline import Context, next_batch, process
from stream_app.shelves import Shelves
from stream_app.state import PartitionState
from stream_app.steps import Scorer

BATCH_RECORDS = 128


class Cost(msgspec.Struct, frozen=True):
    """CPU in µs an event, in all and by stage, and bytes of changelog keys and rows an event.

    ``stages`` has an entry for what comes before the stages, `next_batch`, and one for the encoding
    of the rows behind them, `changes`.
    """

    events: int
    batches: int
    recommendations: int
    cpu_us: float
    stages: dict[str, float]
    changelog_bytes: float


class Laps:
    """Measures the CPU time between calls of ``lap``, by the name of what has just ended."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = cpu_seconds()

    def start(self) -> None:
        """Begin anew; the time since the last lap belongs to nobody."""
        self._last = cpu_seconds()

    def lap(self, name: str) -> None:
        """End a stage."""
        now = cpu_seconds()
        self.seconds[name] += now - self._last
        self._last = now


def measure(
    logs: Mapping[int, Sequence[Log]],
    *,
    by_stage: bool = True,
    records_max: int = BATCH_RECORDS,
    ranker: Scorer | None = None,
    shelves: Shelves | None = None,
) -> Cost:
    """Run each partition's log through the stages, batch after batch.

    Without a ``ranker`` the formula scores, without ``shelves`` the catalogue is empty.
    """
    laps = Laps()
    lap = laps.lap if by_stage else len
    context = Context(ASKED_ONLY, PARTITIONS, shelves or Shelves(), lap=lap, ranker=ranker)
    batches = recommendations = size = 0
    seconds = 0.0
    for partition, log in logs.items():
        state = PartitionState()
        state.begin(0, PARTITIONS, "in-process")
        place = 0
        while place < len(log):
            records = log[place : place + records_max]
            began = cpu_seconds()
            laps.start()
            batch = next_batch(state, TOPIC, partition, records, records_max)
            lap("next_batch")
            outputs = process(state, batch, context)
            changes = state.changes()
            lap("changes")
            seconds += cpu_seconds() - began
            place += len(batch.records)
            batches += 1
            recommendations += sum(each.topic == "recommendations" for each in outputs.records)
            size += sum(len(key) + len(row or b"") for key, row in changes)
    events = sum(map(len, logs.values()))
    return Cost(
        events=events,
        batches=batches,
        recommendations=recommendations,
        cpu_us=round(seconds / events * 1e6, 1),
        stages={name: round(spent / events * 1e6, 2) for name, spent in laps.seconds.items()},
        changelog_bytes=round(size / events, 1),
    )


class InProcess(msgspec.Struct, frozen=True):
    """Costs without and with requests; of batches of one record as they come when nothing waits."""

    without_requests: Cost
    with_requests: Cost
    without_requests_singly: Cost
    with_requests_singly: Cost
    repeats: int
    cpu_us_spread: dict[str, tuple[float, float]]


def run(count: int, repeats: int) -> InProcess:
    """Measure ``repeats`` times on about ``count`` purchases, and take the middle run of each."""
    events = list(purchases(count))
    plain = to_logs(events)
    # The same number of events: the requests take the place of the last purchases.
    asked = to_logs(with_requests(events[: len(events) * 4 // 5]))
    names = {"without_requests": plain, "with_requests": asked}
    runs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, logs in names.items():
            runs[name].append(measure(logs))
    return InProcess(
        without_requests=_middle(runs["without_requests"]),
        with_requests=_middle(runs["with_requests"]),
        without_requests_singly=measure(plain, by_stage=False, records_max=1),
        with_requests_singly=measure(asked, by_stage=False, records_max=1),
        repeats=repeats,
        cpu_us_spread={
            name: (min(c.cpu_us for c in costs), max(c.cpu_us for c in costs))
            for name, costs in runs.items()
        },
    )


def _middle(costs: Iterable[Cost]) -> Cost:
    """Return the run whose CPU is nearest to the median."""
    costs = list(costs)
    middle = median(cost.cpu_us for cost in costs)
    return min(costs, key=lambda cost: abs(cost.cpu_us - middle))
