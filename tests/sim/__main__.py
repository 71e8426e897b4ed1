"""Simulate many seeds, or replay one: ``python -m tests.sim --seeds 200 [--seed 7]``."""

import argparse
import json
import sys
import time
from collections import Counter

from tests.sim.simulation import Result, simulate


def main() -> int:
    """Run, report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one, and say what happens")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        results = [simulate(arguments.seed, verbose=True)]
        _report(results[0])
    else:
        results = _many(range(arguments.first, arguments.first + arguments.seeds))
    faults: Counter[str] = sum((result.faults for result in results), Counter())
    summary = {
        "seeds": len(results),
        "failed": [result.seed for result in results if result.problems],
        "events": sum(result.records for result in results),
        "crashes": sum(count for name, count in faults.items() if is_crash(name)),
        "faults": dict(sorted(faults.items())),
    }
    print(json.dumps(summary))
    return 1 if summary["failed"] else 0


def is_crash(fault: str) -> bool:
    """Tell whether a fault ends a process."""
    return fault.startswith(("crash", "kill"))


def _many(seeds: range) -> list[Result]:
    results = []
    started = time.perf_counter()
    for done, seed in enumerate(seeds, 1):
        result = simulate(seed)
        results.append(result)
        if result.problems:
            _report(result)
        seconds = time.perf_counter() - started
        line = f"\r{done} of {len(seeds)} seeds, {seconds:.0f} s, last one {seed}"
        print(line, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def _report(result: Result) -> None:
    """Print what a seed found, and how to see it again."""
    if not result.problems:
        print(f"seed {result.seed}: all is well after {result.seconds:.0f} virtual seconds")
        return
    print(f"\nseed {result.seed} failed; replay it with: make sim SEED={result.seed}")
    for problem in result.problems[:10]:
        print(f"  {problem[:2_000]}")


if __name__ == "__main__":
    sys.exit(main())
