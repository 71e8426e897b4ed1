"""The same log gives the same bytes, however it is cut, whoever does the work, and wherever."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.sim.fingerprint import EVENTS, SETTINGS, WARM_EACH, fingerprint, truths
from tests.sim.plan import Plan, without_faults
from tests.sim.simulation import Simulation, simulate

ROOT = Path(__file__).resolve().parents[2]
ONE_BY_ONE = 1
EVENTS_OF_WORKERS = 6_000  # clients and a broker take most of the time here


@pytest.fixture(scope="module")
def one_by_one() -> str:
    """Return the hash of the log processed record by record, of which all kinds of output come."""
    found = truths(ONE_BY_ONE)
    happened = sum((truth.happened for truth in found), Counter())
    for topic in ("recommendations", "predictions", "churn_alerts", "dead_letter"):
        assert happened[topic] > EVENTS // 200
    return fingerprint(found)


@pytest.mark.sim
@pytest.mark.parametrize("slice_max", [7, 64, 1_000])
def test_identity_batches(slice_max: int, one_by_one: str) -> None:
    """Outputs, headers and state do not depend on how the log is cut into batches."""
    assert fingerprint(truths(slice_max)) == one_by_one


@pytest.mark.sim
def test_identity_workers() -> None:
    """Outputs, headers and state do not depend on the number of workers."""
    assert _run(workers=1) == _run(workers=3)


@pytest.mark.sim
def test_identity_hash_seeds() -> None:
    """Neither the pipeline nor the simulator depends on the order of Python's hashes."""
    assert _fingerprint_of("0") == _fingerprint_of("4711")


def _run(workers: int) -> list[tuple[object, ...]]:
    """Return all committed records of all topics but the source, by topic, and the states."""
    committed: list[tuple[object, ...]] = []

    def change(plan: Plan) -> Plan:
        over = {"partitions": 4, "idle_tick_seconds": 0, "stages": SETTINGS.stages}
        over |= {"batch_records_max": 128}
        settings = plan.settings.model_copy(update=over | {"guarantee": "exactly_once"})
        plan = msgspec.structs.replace(plan, events=EVENTS_OF_WORKERS, warm_each=WARM_EACH)
        return msgspec.structs.replace(without_faults(plan), workers=workers, settings=settings)

    def inspect(simulation: Simulation) -> None:
        for where, log in simulation.site.broker.logs.items():
            if where[0] == simulation.plan.settings.state_topic:
                continue
            found = [(entry.key, entry.value, entry.headers) for entry in log.visible(0)]
            committed.append((where, sorted(found, key=repr)))
        for partition, state in simulation.states.items():
            committed.append((partition, state.digest()))

    result = simulate(67, change=change, inspect=inspect)
    assert not result.problems
    outputs: Counter[str] = Counter()
    for where, found in committed:
        if isinstance(where, tuple) and isinstance(found, list):
            outputs[where[0]] += len(found)
    for topic in ("recommendations", "predictions", "churn-alerts", "dead-letter"):
        assert outputs[topic] > 20
    return committed


def _fingerprint_of(hash_seed: str) -> str:
    """Return what a fresh interpreter with a given hash seed prints."""
    command = [sys.executable, "-m", "tests.sim.fingerprint"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout
