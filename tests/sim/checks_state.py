"""Checks the state: as the oracle has it, accounted for, within bounds, never behind the group."""

from collections.abc import Mapping, Sequence

from stream_app.codec import SectionSpec, split_row
from stream_app.stages.admit import RING_SIZE, Admission
from stream_app.state import (
    CONTEXT_LAYOUT,
    ITEM_LAYOUT,
    LEARNER_LAYOUT,
    PARTITION_LAYOUT,
    USER_LAYOUT,
    USER_ROW_BYTES_MAX,
    Ledger,
    PartitionState,
)
from stream_app.steps import RawRecord
from tests.sim.broker import Broker, Transaction, Where
from tests.sim.oracle import Truth

LAYOUTS: dict[bytes, Sequence[SectionSpec]] = {
    b"u": USER_LAYOUT,
    b"i": ITEM_LAYOUT,
    b"c": CONTEXT_LAYOUT,
    b"l": LEARNER_LAYOUT,
    b"p": PARTITION_LAYOUT,
}


def check_state(partition: int, state: PartitionState, truth: Truth) -> list[str]:
    """Return how a restored state differs from the one of the oracle."""
    if state.digest() == truth.state.digest():
        return []
    have, want = state.rows(), truth.state.rows()
    keys = sorted(key for key in {*have, *want} if have.get(key) != want.get(key))
    shown = ", ".join(_difference(key, have.get(key), want.get(key)) for key in keys[:5])
    return [f"state {partition}: {len(keys)} rows differ: {shown}"]


def check_accounts(
    partition: int, ledger: Ledger, records: Sequence[RawRecord], ticks: int
) -> list[str]:
    """Return whether some record was not accounted for, or one was twice."""
    accounted = ledger.processed + ledger.rejected + ledger.duplicate
    if ledger.consumed == accounted == len(records) - ticks and ledger.ticks == ticks:
        return []
    return [f"accounts {partition}: {ledger} for {len(records)} records, {ticks} of them ticks"]


def check_bounds(broker: Broker, state_topic: str) -> list[str]:
    """Return which rows that were ever written exceed their bounds."""
    problems = []
    for where in (where for where in broker.logs if where[0] == state_topic):
        for entry in broker.logs[where].entries:
            if entry is not None and entry.key is not None and entry.value is not None:
                problems += [f"{where}: {text}" for text in _over(entry.key, entry.value)]
    return problems


def check_offset(broker: Broker, transaction: Transaction, state_topic: str) -> list[str]:
    """Return whether a group's offset went ahead of the state, in a complete transaction."""
    if not transaction.committed:
        return []
    problems = []
    for (_, (topic, partition)), offset in transaction.offsets.items():
        position = committed_position(broker, (state_topic, partition))
        if offset > position:
            problems.append(f"{topic} {partition}: the group is at {offset}, the state {position}")
    return problems


def committed_position(broker: Broker, where: Where) -> int:
    """Return the position in the newest partition row that a reader can see, -1 for none."""
    log = broker.logs[where]
    for offset in range(log.stable - 1, log.first - 1, -1):
        entry = log.entries[offset - log.first]
        if entry is None or entry.key != b"p" or entry.value is None:
            continue
        if entry.transaction is None or entry.transaction.committed:
            raw = split_row(entry.value, len(PARTITION_LAYOUT))[0]
            return Ledger.decode(raw or b"").position
    return -1


def _over(key: bytes, value: bytes) -> list[str]:
    """Return what of one row is too long."""
    layout = LAYOUTS[key[:1]]
    problems = []
    if key[:1] == b"u" and len(value) > USER_ROW_BYTES_MAX:
        problems.append(f"{key!r} takes {len(value)} bytes")
    for spec, raw in zip(layout, split_row(value, len(layout)), strict=True):
        if len(raw or b"") > spec.bytes_max:
            problems.append(f"{spec.name} of {key!r} takes {len(raw or b'')} bytes")
        if spec.decode == Admission.decode and len(Admission.decode(raw or b"").ring) > RING_SIZE:
            problems.append(f"the ring of {key!r} is too long")
    return problems


def _difference(key: bytes, have: bytes | None, want: bytes | None) -> str:
    """Return which sections of a row differ."""
    if have is None or want is None:
        return f"{key!r} is {'missing' if have is None else 'left over'}"
    layout: Mapping[int, SectionSpec] = dict(enumerate(LAYOUTS[key[:1]]))
    mine, right = split_row(have, len(layout)), split_row(want, len(layout))
    names = [spec.name for place, spec in layout.items() if mine[place] != right[place]]
    return f"{key!r} in {' and '.join(names)}"
