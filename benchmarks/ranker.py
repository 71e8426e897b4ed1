"""What a ranking model costs: µs of CPU a scored user, filling and checking included.

``python -m benchmarks.ranker FOLDER`` prints a table and a last line of JSON.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

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


def main() -> int:
    """Measure the model of a folder, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranker", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the files of the model")
    try:
        costs = measure(parser.parse_args().folder)
    except ModelError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
    table = Table("candidates", "µs of CPU a request")
    for cost in costs:
        table.add_row(str(cost.candidates), f"{cost.cpu_us:.1f}")
    Console().print(table)
    print(msgspec.json.encode(costs).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
