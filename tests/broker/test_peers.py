"""Other frameworks run the same stages to the same outputs: what the benchmark's rates rest on."""

import asyncio

import pytest

from benchmarks.harness import oracle, read_log
from benchmarks.peers import Peer
from benchmarks.rates import LOOP, Bench, check_same
from benchmarks.workload import PARTITIONS
from tests.broker.kafka import KafkaServer

EVENTS = 3_000  # enough for predictions
FEW_EVENTS = 500  # for Faust's table, which takes about 4 ms of CPU an event


def test_peers_store_what_the_bare_loop_stores(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ids, keys, values, headers and partitions are the same; all input is committed, and rows."""
    bench = Bench(kafka, EVENTS, tmp_path_factory.mktemp("peers"), prefix="peers.")
    _, wanted = bench.run(LOOP, "test")
    assert len(wanted) > bench.requests > 0
    for peer in (Peer.QUIX_ROWS_OFTEN, Peer.FAUST):
        run, stored = bench.run(peer, "test")
        check_same(peer, stored, wanted)
        assert run.outputs == len(wanted)
        assert run.cpu_us > 0
    _check_rows(bench, Peer.QUIX_ROWS_OFTEN, "changelog__{app}--{source}--default")


def test_faust_with_rows_writes_the_right_ones(
    kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The last row of each key in the table's changelog is the row of a pass over the log."""
    bench = Bench(kafka, FEW_EVENTS, tmp_path_factory.mktemp("peers"), prefix="rows.")
    bench.run(Peer.FAUST_ROWS, "test")
    _check_rows(bench, Peer.FAUST_ROWS, "{app}-rows-changelog")


def _check_rows(bench: Bench, peer: Peer, changelog: str) -> None:
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
