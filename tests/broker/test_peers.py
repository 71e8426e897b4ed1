"""Other frameworks run the same stages to the same outputs: what the benchmark's rates rest on."""

import asyncio

import pytest

from benchmarks.harness import oracle, read_log
from benchmarks.peers import Peer
from benchmarks.rates import LOOP, Bench, check_same
from benchmarks.workload import PARTITIONS
from tests.broker.kafka import KafkaServer

EVENTS = 3_000  # enough for predictions
FEW_EVENTS = 500  # of which a peer that keeps rows writes tens of thousands


@pytest.mark.timeout(180)
def test_peers_store_what_the_bare_loop_stores(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ids, keys, values, headers and partitions are the same, and all input is committed."""
    bench = Bench(kafka, EVENTS, tmp_path_factory.mktemp("peers"), prefix="peers.")
    _, wanted = bench.run(LOOP, "test")
    assert len(wanted) > bench.requests > 0
    for peer in (Peer.QUIX_EXACTLY_ONCE, Peer.FAUST):
        run, stored = bench.run(peer, "test")
        check_same(peer, stored, wanted)
        assert run.outputs == len(wanted)
        assert run.cpu_us > 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("peer", "changelog"),
    [
        (Peer.QUIX_ROWS_OFTEN, "changelog__{app}--{source}--default"),
        (Peer.FAUST_ROWS, "{app}-rows-changelog"),
    ],
    ids=str,
)
def test_peers_that_keep_rows_write_the_right_ones(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory, peer: Peer, changelog: str
) -> None:
    """The last row of each key in a peer's changelog is the row of a pass over the log."""
    bench = Bench(kafka, FEW_EVENTS, tmp_path_factory.mktemp("peers"), prefix=f"{peer}.")
    bench.run(peer, "test")
    settings = bench.settings(f"{peer}-test")
    source = settings.topic("events")
    topic = changelog.format(app=settings.app, source=source)
    logs = asyncio.run(read_log(settings.brokers, topic, PARTITIONS))
    events = asyncio.run(read_log(settings.brokers, source, PARTITIONS))
    right = oracle(settings, events, topic_id="peer").states
    for partition, log in logs.items():
        prefix = b"%d/" % partition if peer is Peer.FAUST_ROWS else b""
        found = {(record.key or b"").removeprefix(prefix): record.value for record in log}
        if events[partition]:
            assert {key: row for key, row in found.items() if row} == right[partition].rows()
