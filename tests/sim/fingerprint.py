"""What a long log gives, as one hash: ``python -m tests.sim.fingerprint`` prints it."""

import hashlib
from collections.abc import Sequence
from random import Random

from stream_app.config import DAY_MS, Settings, StageSettings
from stream_app.event import Item
from tests.sim.broker import Entry
from tests.sim.oracle import Source, Truth, early, tell
from tests.sim.simulation import simulate
from tests.sim.workload import START_MS, Shop

PARTITIONS = 4
EVENTS = 20_000
WARM_EACH = 2
SETTINGS = Settings(
    app="sim",
    partitions=PARTITIONS,
    stages=StageSettings(
        user_ttl_days=30,
        item_ttl_days=8,
        items_max=100,
        record_bytes_max=2_048,
        exploration_share=0.2,
        category_cap=4,
        churn_horizon_days=7,
        silence_days=(2, 5, 9),
        churn_watch=0.2,
    ),
)
CATALOG = {
    f"item-{n}": Item(
        item_id=f"item-{n}",
        category=["all", f"category-{n % 9}"],
        brand=f"brand-{n % 2}",
        price=n % 7 / 2,
        available_from=START_MS + n * DAY_MS,
        stock=n % 8,
    )
    for n in range(200)
}


def sources(events: int = EVENTS) -> list[Source]:
    """Return the same log every time: users, garbage, repeats, late events and long pauses."""
    records: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
    for written in Shop(Random(5), PARTITIONS).write(events):
        log = records[written.partition]
        key, value, headers = written.content
        log.append(Entry(len(log), written.timestamp, key, value, tuple(headers), None))
    return [Source(partition, 0, log) for partition, log in enumerate(records)]


def truths(slice_max: int, events: int = EVENTS) -> list[Truth]:
    """Return what the log gives, cut into slices of a given length."""
    with early(WARM_EACH):
        return [tell(source, SETTINGS, CATALOG, slice_max) for source in sources(events)]


def fingerprint(found: Sequence[Truth]) -> str:
    """Return a hash over all outputs, in order, and the states."""
    total = hashlib.sha256()
    for truth in found:
        for record in truth.outputs.values():
            total.update(repr((record.topic, record.key, record.value, record.headers)).encode())
        total.update(truth.state.digest().encode())
    return total.hexdigest()


if __name__ == "__main__":
    print(fingerprint(truths(64, 2_000)), simulate(3).digest)
