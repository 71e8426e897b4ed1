"""Hashes: the same on every machine and in every process, unlike :func:`hash`."""

from functools import lru_cache

import xxhash
from kafka.partitioner.default import murmur2

# Ids are looked up again and again; 2^17 of them cost about 15 MB.
_CACHE_SIZE = 1 << 17


@lru_cache(maxsize=_CACHE_SIZE)
def id_hash(text: str) -> int:
    """Return the 64-bit XXH3 hash of an id; how items, events and sessions are named in the state.

    >>> hex(id_hash("product-1"))
    '0x258b9e73d512b865'
    """
    return xxhash.xxh3_64_intdigest(text.encode())


def event_hash(text: str) -> int:
    """Return the same hash as :func:`id_hash`, uncached: event ids are seen once."""
    return xxhash.xxh3_64_intdigest(text.encode())


def unit_hash(key: str, text: str) -> float:
    """Return a number in [0, 1) drawn by a keyed hash: chance that a replay repeats.

    Parameters
    ----------
    key
        What the draw is for; draws under different keys are independent.
    text
        Whose draw it is, such as an event id.
    """
    return (xxhash.xxh3_64_intdigest(f"{key}\x00{text}".encode()) >> 11) / (1 << 53)


@lru_cache(maxsize=_CACHE_SIZE)
def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's Java client gives a key (murmur2, sign bit cleared).

    >>> [partition_for(b"user-%d" % n, 4) for n in range(6)]
    [3, 0, 0, 3, 3, 2]
    """
    digest: int = murmur2(key)
    return (digest & 0x7FFFFFFF) % partitions
