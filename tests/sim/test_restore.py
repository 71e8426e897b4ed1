"""A changelog that is corrupt stops the worker; one that is torn by an abort does not matter."""

from collections.abc import Coroutine
from random import Random
from typing import Any, TypeVar

import pytest

from stream_app.config import Settings
from stream_app.errors import PositionError, StateError
from stream_app.runtime.changelog import restore
from stream_app.runtime.observe import Observer
from stream_app.runtime.sink import Produced, Target, TransactionalSink
from stream_app.runtime.task import PartitionTask, Ports, World
from stream_app.state import PartitionState
from tests.sim.broker import Broker
from tests.sim.clients import SimProducer, SimReader, SimSource
from tests.sim.fingerprint import CATALOG, PARTITIONS, SETTINGS, sources
from tests.sim.loop import VirtualLoop
from tests.sim.oracle import TOPIC_ID, tell
from tests.sim.plan import Chance
from tests.sim.simulation import Bystander

T = TypeVar("T")
Row = tuple[bytes, bytes]
SIM = Settings(app="sim", partitions=1)
FLIPS = 300
KINDS = (b"u", b"i", b"l", b"p")
STATE_TOPIC = "state"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return the rows of a state, one of each kind and many of users and items."""
    return list(tell(sources(2_000)[0], SETTINGS, CATALOG).state.rows().items())


@pytest.mark.sim
def test_restore_whole(rows: list[Row]) -> None:
    """What was written is restored."""
    assert _restore(rows).rows() == dict(rows)


@pytest.mark.sim
def test_restore_bit_flips(rows: list[Row]) -> None:
    """A row of which one bit is wrong is never taken for good."""
    rng = Random(1)
    kinds = [[row for row in rows if row[0][:1] == kind] for kind in KINDS]
    for _ in range(FLIPS):
        key, value = rng.choice(rng.choice(kinds))
        bit = rng.randrange(8 * len(value))
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateError):
            _restore([*rows, (key, bytes(flipped))])


@pytest.mark.sim
@pytest.mark.parametrize("cut", [0, 1, 5, 6, 20, -1])
def test_restore_cut_row(rows: list[Row], cut: int) -> None:
    """A row that is too short is never taken for good."""
    for kind in KINDS:
        key, value = next(row for row in rows if row[0][:1] == kind)
        with pytest.raises(StateError):
            _restore([*rows, (key, value[:cut])])


@pytest.mark.sim
@pytest.mark.parametrize("key", [b"", b"x", b"u\xff", b"i1234567", b"i123456789", b"p2"])
def test_restore_unknown_key(rows: list[Row], key: bytes) -> None:
    """A row under a key that nobody writes is never taken for good."""
    with pytest.raises(StateError):
        _restore([*rows, (key, rows[0][1])])


@pytest.mark.sim
def test_restore_aborted(rows: list[Row]) -> None:
    """Rows of a transaction that was aborted are passed over, whatever is in them."""
    assert _restore(rows, aborted=[(b"u", b"rubbish")]).rows() == dict(rows)


@pytest.mark.sim
@pytest.mark.parametrize(("first", "records"), [(101, 500), (0, 99)])
def test_restore_position_lost(first: int, records: int) -> None:
    """A position that the log does not hold stops the worker: neither skip nor repeat."""
    state = PartitionState()
    state.begin(100, SIM.partitions, TOPIC_ID)
    rows = [(key, value) for key, value in state.changes() if value is not None]
    with pytest.raises(PositionError):
        _run(_open(rows, first, records))


async def _open(rows: list[Row], first: int, records: int) -> int:
    """Take a partition over whose log begins and ends somewhere."""
    broker, host = Broker(Random(0)), Bystander(Chance(Random(0), {}), 0.01)
    topic, state_topic = SIM.topic("events"), SIM.state_topic
    broker.create(topic, SIM.partitions, first)
    broker.create(state_topic, SIM.partitions)
    broker.produce((state_topic, 0), _batch(rows), 0)
    broker.produce((topic, 0), [(None, b"{}", [])] * records, 0)
    target = Target(topic, 0, SIM.app, state_topic, {}, {})
    ports = Ports(
        source=SimSource(host, broker, topic, 10),
        reader=SimReader(host, broker, 10),
        open_sink=lambda _: TransactionalSink(SimProducer(host, broker, "id", state_topic), target),
        now_ms=lambda: 0,
        world=World(),
        partitions=SIM.partitions,
        topic_id=TOPIC_ID,
    )
    return await PartitionTask(0, ports, SIM, lambda: 0.0, Observer(SIM, lambda: 0)).open()


def _restore(rows: list[Row], aborted: list[Row] | None = None) -> PartitionState:
    """Write rows to a changelog, and restore from it what a worker would begin with."""

    async def main() -> PartitionState:
        broker = Broker(Random(0))
        broker.create(STATE_TOPIC, 1)
        where = (STATE_TOPIC, 0)
        if aborted is not None:
            broker.write("somebody", broker.init("somebody"), where, _batch(aborted))
            broker.abort("somebody")
        broker.produce(where, _batch(rows), 0)
        bystander = Bystander(Chance(Random(0), {}), 0.01)
        state = await restore(SimReader(bystander, broker, 100), STATE_TOPIC, 0, 100)
        state.begin(0, PARTITIONS, TOPIC_ID)
        return state

    return _run(main())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run something in virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.end()


def _batch(rows: list[Row]) -> list[Produced]:
    return [(key, value, []) for key, value in rows]
