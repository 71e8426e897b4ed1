"""Many seeds, the ones that once failed, and mistakes that the simulator has to find."""

import os
from collections import Counter
from random import Random

import pytest

from stream_app import metrics
from stream_app.event import REJECT_REASONS
from tests.sim.broken import BROKEN
from tests.sim.plan import PROCESS_FAULTS, STALE, STEPS, draw
from tests.sim.simulation import simulate

SEEDS = int(os.environ.get("SIM_SEEDS", "200"))
SEEDS_FOR_ALL = 150  # so many seeds together meet everything that can happen
SEARCH_MAX = 60  # seeds within which a mistake must be found

# Each with what it once found.
REGRESSION_SEEDS = {
    1: "a batch committed during a revocation was taken off a queue that was empty by then",
    5: "a partition that was paused as it was revoked was never paused again",
}


@pytest.mark.sim
@pytest.mark.timeout(600)
def test_sim_seeds() -> None:
    """Whatever goes wrong, the outcome is that of a single pass without faults."""
    before, faults, failed = _happened(), Counter[str](), {}
    for seed in range(SEEDS):
        result = simulate(seed)
        faults += result.faults
        if result.problems:
            failed[seed] = result.problems[0][:1_000]
    assert not failed, "replay one with: make sim SEED=..."
    if SEEDS >= SEEDS_FOR_ALL:
        missing = [fault for fault in _all_faults() if not faults[fault]]
        assert not missing, "no seed has met these faults"
        happened = _happened()
        missing = [what for what in _all_happenings() if happened[what] <= before[what]]
        assert not missing, "in no seed has this happened"


@pytest.mark.sim
@pytest.mark.parametrize("seed", REGRESSION_SEEDS)
def test_sim_regression(seed: int) -> None:
    """What was once found and mended stays mended."""
    problems = [problem[:1_000] for problem in simulate(seed).problems]
    assert not problems, REGRESSION_SEEDS[seed]


@pytest.mark.sim
def test_sim_same_seed() -> None:
    """A seed gives the same run, to the byte and to the moment."""
    assert simulate(4) == simulate(4)
    assert simulate(4).digest != simulate(5).digest


@pytest.mark.sim
@pytest.mark.parametrize("name", BROKEN)
def test_sim_finds(name: str) -> None:
    """A sink with a mistake is found within some seeds."""
    guarantee, open_sink = BROKEN[name]
    for seed in range(SEARCH_MAX):
        if draw(Random(seed)).settings.guarantee != guarantee:
            continue
        if simulate(seed, open_sink=open_sink).problems:
            return
    pytest.fail(f"no seed below {SEARCH_MAX} finds the {name} sink")


def _all_faults() -> list[str]:
    """Return the faults that many seeds together must meet."""
    steps = {step for steps in STEPS.values() for step in steps}
    crashes = [f"crash {when} {step}" for when in ("before", "after") for step in steps]
    outcomes = [f"{outcome} commit" for outcome in ("aborted", "landed", "late", "lost", "slow")]
    produces = [f"{fault} {step}" for fault in ("landed", "lost") for step in steps - {"begin"}]
    return [*crashes, *outcomes, *produces, *PROCESS_FAULTS, STALE]


def _all_happenings() -> list[str]:
    """Return what many seeds together must bring about."""
    outcomes = ["confirmed", "failed", "fenced"]
    records = ["processed", "rejected", "duplicate", "tick"]
    timers = ["user expiry", "item expiry", "item evict"]
    return [*outcomes, *records, *timers, *REJECT_REASONS]


def _happened() -> Counter[str]:
    """Return how often the program has counted each thing, by its labels."""
    counts: Counter[str] = Counter()
    for counter in (metrics.COMMITS, metrics.RECORDS, metrics.TIMERS, metrics.REJECTS):
        for family in counter.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    counts[" ".join(sample.labels.values())] += int(sample.value)
    return counts
