"""A real Apache Kafka of one node (KRaft), started from its jars; tests and benchmarks use it."""

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

ROOT = Path(__file__).resolve().parents[2]
LOG4J = ROOT / "deploy" / "kafka" / "log4j2.yaml"

# The simple compiler and collector spend a half of the CPU time on a server that lives for minutes,
# and are slower on one that is to show what it can do: for tests, not for benchmarks.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

# Seconds. A start takes 5 on two idle cores, several times that on busy ones.
START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 15.0
POLL_SECONDS = 0.1

# Bytes. Room for a batch of state rows, which reaches 8 MiB.
MESSAGE_BYTES_MAX = 9_000_000

# What a broker of one node needs, and what makes tests on it fast.
SETTINGS: Mapping[str, str | int] = {
    "node.id": 1,
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A misspelt topic is an error, not a new topic.
    "auto.create.topics.enable": "false",
    # One node holds the only copy.
    "default.replication.factor": 1,
    "offsets.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.replication.factor": 1,
    # 50 partitions of each, the default, take seconds to make on first use.
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    # Groups form at once, and a test may declare a member dead after a second.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    # The transaction of a producer that died is aborted within a second of its time-out.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    # Replays date records years back; none may expire.
    "log.retention.ms": -1,
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "replica.fetch.max.bytes": MESSAGE_BYTES_MAX,
    "socket.request.max.bytes": 16 * MESSAGE_BYTES_MAX,
    # The default, 128 MiB, is a third of the heap.
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
}


class KafkaServerError(RuntimeError):
    """Kafka's jars are missing, or it did not start; the message says what to do."""


class KafkaServer:
    """One Kafka process on free ports of 127.0.0.1, its files under one folder.

    It can be stopped and started again: ports and data stay.
    Start it from the main thread, since it ends with the thread that started it: a test run that
    is killed leaves no Java behind (on Linux, where `setpriv` exists).

    Parameters
    ----------
    folder
        Where its settings, data and log go; made if missing.
    settings
        Further broker settings; they win over `SETTINGS`.
    heap_mib
        Java's heap, in MiB.
    java
        Further options of Java, such as `SHORT_LIVED`.

    Attributes
    ----------
    bootstrap
        The address clients connect to, as host:port.
    log_file
        What Kafka printed: warnings and errors.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str | int] | None = None,
        heap_mib: int = 400,
        java: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.log_file = folder / "kafka.log"
        self._options = (f"-Xmx{heap_mib}m", *java)
        self._properties = folder / "server.properties"
        self._data = folder / "data"
        broker_port, controller_port = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{broker_port}"
        listener = f"PLAINTEXT://{self.bootstrap}"
        self._settings: dict[str, str | int] = {
            **SETTINGS,
            "listeners": f"{listener},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": listener,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(self._data),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises
        ------
        KafkaServerError
            When the jars are missing, the process ends, or it does not answer in time.
        """
        assert self._process is None, "the server is running"
        self._format()
        java = _java(*self._options, "kafka.Kafka", str(self._properties))
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*_die_with_parent(), *java],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for the tests, which then stop the server themselves.
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the process: ask first, then kill. Does nothing when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a power cut would. Does nothing when it is not running."""
        self._end(signal.SIGKILL)

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str | int] | None = None
    ) -> None:
        """Create a topic; `settings` are those of the topic, such as `cleanup.policy`."""
        configs = {key: str(value) for key, value in (settings or {}).items()}
        topic = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as admin:
            admin.create_topics({name: topic}, wait_for_metadata=True)

    def _format(self) -> None:
        """Write the settings, and make the data folder one of Kafka's on the first start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{key}={value}" for key, value in self._settings.items()]
        self._properties.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if (self._data / "meta.properties").exists():
            return
        tool = ("kafka.tools.StorageTool", "format", "--cluster-id", uuid.uuid4().hex)
        java = _java(*SHORT_LIVED, *tool)
        result = subprocess.run(
            [*java, "--config", str(self._properties)],
            check=False,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_SECONDS,
        )
        if result.returncode:
            raise KafkaServerError(f"Kafka's storage tool failed:\n{result.stdout}{result.stderr}")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._answers():
            if process.poll() is not None:
                raise KafkaServerError(f"Kafka ended as it started:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise KafkaServerError(
                    f"Kafka did not answer in {START_TIMEOUT_SECONDS:.0f} s:\n{self._log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        """Whether metadata names the broker, which is when it takes part in its cluster."""
        if not _listens(self.bootstrap):
            return False
        try:
            with KafkaAdminClient(bootstrap_servers=self.bootstrap) as admin:
                return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sign)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])


def _java(*arguments: str) -> list[str]:
    """Return a command line that runs Java with Kafka's jars."""
    lib = Path(os.environ.get("KAFKA_LIB") or ROOT / ".kafka" / "lib")
    java = shutil.which("java")
    if java is None or not any(lib.glob("kafka_*.jar")):
        raise KafkaServerError(f"no Java, or no jars of Kafka in {lib}: run make kafka-jars")
    return [java, "-cp", f"{lib}/*", f"-Dlog4j2.configurationFile={LOG4J}", *arguments]


def _die_with_parent() -> list[str]:
    """Return what to put before a command so that it ends when its parent does."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on; all are held at once, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _listens(address: str) -> bool:
    """Whether something accepts connections; asked first, since a client's refusal is slow."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
