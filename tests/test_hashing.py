"""Hashes are the same everywhere, and partitions those of Kafka's own client."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.hashing import event_hash, id_hash, partition_for, unit_hash


def test_id_hash_never_changes() -> None:
    """Hashes stand in the state of years: a new version gives the same."""
    assert id_hash("product-1") == event_hash("product-1") == 0x258B9E73D512B865
    assert id_hash("") == 0x2D06800538D394C2
    assert id_hash("Ωmega") == 0x3BD28EB814771A0B


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partition_is_that_of_the_java_client(key: bytes, expected: int) -> None:
    """Partitions follow murmur2 as Kafka's own tests pin it (``UtilsTest.testMurmur2``)."""
    for partitions in (1, 4, 7, 1_000):
        assert partition_for(key, partitions) == (expected & 0x7FFFFFFF) % partitions


@given(st.text(), st.text())
def test_unit_hash_is_a_share(key: str, text: str) -> None:
    """A draw lies in [0, 1) and is the same each time."""
    drawn = unit_hash(key, text)
    assert 0.0 <= drawn < 1.0
    assert drawn == unit_hash(key, text)


def test_unit_hash_is_even_and_independent() -> None:
    """Draws fill [0, 1) evenly, and draws for different purposes say nothing of each other."""
    draws = [(unit_hash("a", f"e-{n}"), unit_hash("b", f"e-{n}")) for n in range(10_000)]
    cells = Counter((int(a * 10), int(b * 10)) for a, b in draws)
    assert len(cells) == 100
    assert all(50 < count < 150 for count in cells.values())
