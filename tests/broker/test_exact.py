"""Every record accounted for, nothing lost, nothing said twice: on a real Kafka, under SIGKILL."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.chaos import chaos
from benchmarks.real_input import faults, run
from tests.broker.kafka import KafkaServer


def test_real_input_is_accounted_for(kafka: KafkaServer, tmp_path: Path) -> None:
    """Two workers account for every record, good, sent twice or broken in sixteen ways."""
    figures = asyncio.run(run(kafka.bootstrap, 6_000, tmp_path, "exact"))
    assert faults(figures) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("consumed", 1),
        ("rejected", 1),
        ("repeated_ids", 1),
        ("lost", 2),
        ("dead_letters_complete", False),
        ("state_rows_wrong", 3),
        ("drained", False),
        ("workers_exit_codes", [0, 1]),
    ],
)
def test_faults_are_found(name: str, value: object) -> None:
    """A figure that is off is reported."""
    good = {
        "sent": {"records": 12, "processed": 10, "duplicate": 1, "rejected": 1},
        "consumed": 12,
        "processed": 10,
        "rejected": 1,
        "duplicate": 1,
        "dead_letters": 1,
        "dead_letters_complete": True,
        "repeated_ids": 0,
        "lost": 0,
        "unexpected": 0,
        "different": 0,
        "state_rows_wrong": 0,
        "drained": True,
        "workers_exit_codes": [0, 0],
    }
    assert faults(good) == []
    changed = good["rejected"] if name == "rejected" else None
    assert faults({**good, name: value if changed is None else 7})


def test_two_workers_survive_kills_and_a_zombie(kafka: KafkaServer, tmp_path: Path) -> None:
    """Two SIGKILLs and a zombie lose nothing, repeat nothing and leave the state right."""
    report = asyncio.run(chaos(kafka.bootstrap, "exactly_once", 3, 11, tmp_path))
    assert report.zombies == 1
    assert (report.lost, report.repeated, report.state_wrong) == (0, 0, 0)
    assert report.drained
    assert report.good


def test_one_worker_survives_kills(kafka: KafkaServer, tmp_path: Path) -> None:
    """SIGKILLs in `at_least_once` lose nothing; what is repeated is the same; state is right."""
    report = asyncio.run(chaos(kafka.bootstrap, "at_least_once", 2, 12, tmp_path))
    assert (report.lost, report.state_wrong) == (0, 0)
    assert report.drained
    assert report.good
