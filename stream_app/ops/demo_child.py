"""A process that the demo starts, and that ends with it, however the demo itself ends."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_SECONDS = 8.0  # a worker takes up to 6 to commit what is in flight and to leave its group
_TAIL_LINES = 15
_PORT_MAX = 65_000  # of the setting `metrics_port`


class Child:
    """One process with its output in a file; started on entering, ended on leaving.

    It stands in a session of its own, so that Ctrl-C reaches the demo alone, which then ends its
    children in order. Start it from the main thread: on Linux, where `setpriv` exists, the kernel
    kills it when the thread that started it is gone.

    Parameters
    ----------
    command
        The program and its arguments.
    log_file
        Where its output goes.
    environment
        All of it; by default that of the demo.
    """

    def __init__(
        self, command: Sequence[str], log_file: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log_file = log_file
        self._command = [*_die_with_parent(), *command]
        self._environment = dict(os.environ if environment is None else environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the process."""
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask the process to end, and kill it when it does not."""
        process, self._process = self._process, None
        assert process is not None, "it was started"
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        finally:  # a second Ctrl-C ends the wait
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The code that the process ended with, None while it runs."""
        assert self._process is not None, "it was started"
        return self._process.poll()

    def tail(self) -> str:
        """Return the last lines of its output."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= _PORT_MAX:
            return port


def _die_with_parent() -> list[str]:
    """Return what to put before a command so that it ends when its parent does."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []
