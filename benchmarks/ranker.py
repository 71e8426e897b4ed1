"""What a ranking model costs: µs of CPU a scored user, and its share of a worker's time.

``python -m benchmarks.ranker FOLDER`` prints a table and a last line of JSON.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import in_process
from benchmarks.basket_report import RESULTS
from benchmarks.workload import purchases, shelves, to_logs, with_requests
from stream_app.clock import cpu_seconds, monotonic_seconds
from stream_app.errors import ModelError
from stream_app.hashing import id_hash
from stream_app.manifest import HISTORY, read_folder
from stream_app.ranker import Ranker
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

CANDIDATES = (50, POOL_SIZE)
ROUNDS = 7


class Cost(msgspec.Struct, frozen=True):
    """µs of CPU for one request with so many candidates, the median of some rounds."""

    candidates: int
    cpu_us: float


def measure(folder: Path, runs: int = 200, clock: Callable[[], float] = cpu_seconds) -> list[Cost]:
    """Return what a request costs with each number of candidates.

    Raises
    ------
    ModelError
        When the model is refused.
    """
    ranker = Ranker.load(
        folder, clock=monotonic_seconds, milliseconds_max=10_000, pool_min=POOL_SIZE
    )
    chance = random.Random(0)
    items = [id_hash(item_id) for item_id in read_folder(folder, POOL_SIZE).item_ids]
    costs = []
    for count in CANDIDATES:
        history, candidates = chance.choices(items, k=HISTORY), chance.choices(items, k=count)
        rows = [tuple(chance.random() for _ in FEATURE_NAMES) for _ in candidates]
        times = []
        for _ in range(ROUNDS):
            began = clock()
            for _ in range(runs):
                ranker.scores(history, candidates, rows)
            times.append((clock() - began) / runs)
        costs.append(Cost(count, round(1e6 * median(times), 1)))
    return costs


class Share(msgspec.Struct, frozen=True):
    """What the model is of all that an event costs, where one event in five is a request.

    µs of CPU an event: in all with the model, in stage 8 with it, in all with the formula.
    """

    events: int
    with_model_us: float
    score_us: float
    with_formula_us: float
    share: float


def share(folder: Path, count: int) -> Share:
    """Return the model's share of a worker's time, by running events with it and without it."""
    ranker = Ranker.load(
        folder, clock=monotonic_seconds, milliseconds_max=10_000, pool_min=POOL_SIZE
    )
    logs = to_logs(with_requests(purchases(count * 4 // 5)))
    plain = in_process.measure(logs, shelves=shelves())
    ranked = in_process.measure(logs, shelves=shelves(), ranker=ranker)
    score_us = ranked.stages["score"]
    return Share(
        ranked.events,
        ranked.cpu_us,
        score_us,
        plain.cpu_us,
        round(score_us / ranked.cpu_us, 3),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the model of a folder, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranker", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the files of the model")
    parser.add_argument("--events", type=int, default=50_000, help="for the share; default 50,000")
    parser.add_argument("--write", action="store_true", help="write docs/results/ranker_cost.json")
    options = parser.parse_args(arguments)
    try:
        costs, whole = measure(options.folder), share(options.folder, options.events)
    except ModelError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
    table = Table("candidates", "µs of CPU a request")
    for cost in costs:
        table.add_row(str(cost.candidates), f"{cost.cpu_us:.1f}")
    Console().print(table)
    figures = {"requests": costs, "one_in_five": whole}
    if options.write:
        text = msgspec.json.format(msgspec.json.encode(figures), indent=1)
        (RESULTS / "ranker_cost.json").write_bytes(text + b"\n")
    print(msgspec.json.encode(figures).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
