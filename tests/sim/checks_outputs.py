"""Checks what came out against the oracle: all of it, nothing else, byte for byte, in order."""

from collections.abc import Mapping

from stream_app.hashing import partition_for
from stream_app.steps import OutputRecord
from tests.sim.broker import Broker, Headers, Where
from tests.sim.oracle import Truth, identity

SHOWN_MAX = 5  # findings of one kind


def check_outputs(
    broker: Broker,
    topics: Mapping[str, str],
    truths: Mapping[int, Truth],
    *,
    repeats_allowed: bool,
) -> list[str]:
    """Return what is wrong with the output topics as a ``read_committed`` reader sees them.

    Parameters
    ----------
    broker
        After everything has been processed.
    topics
        Real names of the output topics, by their logical ones.
    truths
        What each source partition must give.
    repeats_allowed
        Whether an id may come again, with the same bytes.
    """
    problems: list[str] = []
    expected = {name: record for truth in truths.values() for name, record in truth.outputs.items()}
    seen: dict[Where, list[str]] = {}
    counts: dict[str, int] = {}
    for where in (where for where in broker.logs if where[0] in topics.values()):
        for entry in broker.logs[where].visible(0):
            name = identity(entry.headers)
            counts[name] = counts.get(name, 0) + 1
            if counts[name] == 1:
                seen.setdefault(where, []).append(name)
            wanted = expected.get(name)
            if wanted is None:
                problems.append(f"{where}: {name} must not be")
            elif (entry.key, entry.value, entry.headers) != _content(wanted):
                problems.append(f"{where}: {name} is {entry}, must be {wanted}")
            elif topics[wanted.topic] != where[0]:
                problems.append(f"{where}: {name} belongs to {wanted.topic}")
    missing = [name for name in expected if name not in counts]
    problems += [f"{name} is missing" for name in missing[:SHOWN_MAX]]
    if not repeats_allowed:
        twice = [name for name, count in counts.items() if count > 1]
        problems += [f"{name} came {counts[name]} times" for name in twice[:SHOWN_MAX]]
    if not problems:
        problems += _check_order(broker, topics, truths, seen)
    return problems


def _content(record: OutputRecord) -> tuple[bytes | None, bytes | None, Headers]:
    """Return all that a reader gets of an output."""
    return record.key, record.value, tuple(record.headers)


def _check_order(
    broker: Broker,
    topics: Mapping[str, str],
    truths: Mapping[int, Truth],
    seen: Mapping[Where, list[str]],
) -> list[str]:
    """Return where outputs of one source partition overtook one another."""
    problems = []
    counts = {topic: sum(where[0] == topic for where in broker.logs) for topic in topics.values()}
    for partition, truth in truths.items():
        right: dict[Where, list[str]] = {}
        for name, record in truth.outputs.items():
            topic = topics[record.topic]
            count, key = counts[topic], record.key
            where = topic, partition_for(key, count) if key is not None else partition % count
            right.setdefault(where, []).append(name)
        for where, names in right.items():
            mine = [name for name in seen.get(where, ()) if name in truth.outputs]
            if mine != names:
                problems.append(f"{where}: the outputs of partition {partition} are out of order")
    return problems
