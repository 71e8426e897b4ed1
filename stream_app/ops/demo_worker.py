"""The demo's worker: one process of ``stream-app worker``, and what its metrics say."""

import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from stream_app.errors import StreamAppError
from stream_app.ops.demo_child import Child, free_port

# A single worker process on one machine: nobody has to be declared dead, so it joins fast.
_SESSION_TIMEOUT_SECONDS = 6
_ANSWER_SECONDS_MAX = 5.0


class WorkerError(StreamAppError):
    """The worker ended before its time; the message holds what it said."""


class Counts(msgspec.Struct, frozen=True):
    """What a worker has done so far, as its metrics tell it.

    ``position`` is the sum over the partitions, hence how many records are consumed; it is
    measured once a second, the others at once.
    """

    position: int = 0
    lag: int = 0
    processed: int = 0
    rejected: int = 0
    duplicate: int = 0
    recommendations: int = 0
    predictions: int = 0
    churn_alerts: int = 0

    @classmethod
    def parse(cls, text: str) -> "Counts":
        r"""Return the counts in the text of ``/metrics``.

        >>> Counts.parse('stream_app_position{partition="0"} 5\n'
        ...              'stream_app_position{partition="1"} 7\n').position
        12
        """
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = _FIELDS.get(sample.name)
                if name is not None:
                    field = sample.labels[name] if name in ("outcome", "topic") else name
                    sums[field] = sums.get(field, 0.0) + sample.value
        return cls(**{field: int(sums.get(field, 0)) for field in cls.__struct_fields__})

    @property
    def done(self) -> int:
        """How many records have been dealt with, one way or another."""
        return self.processed + self.rejected + self.duplicate


# Sample -> the label whose values are fields of Counts, or the field itself.
_FIELDS = {
    "stream_app_records_total": "outcome",
    "stream_app_outputs_total": "topic",
    "stream_app_position": "position",
    "stream_app_lag_records": "lag",
}


class DemoWorker(Child):
    """A worker that reads from ``brokers``; settings of the user's own stay in force otherwise.

    Parameters
    ----------
    brokers
        host:port.
    folder
        Where its log goes.
    environment
        What it starts from.
    """

    def __init__(
        self, brokers: str, folder: Path, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._port = free_port()
        settings = {
            **SETTINGS,
            "brokers": brokers,
            "metrics_port": str(self._port),
        }
        ours = {f"STREAM_APP_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "stream_app", "worker"]
        super().__init__(command, folder / "worker.log", {**environment, **ours})

    def check(self) -> None:
        """Raise WorkerError if the process has ended."""
        if self.exit_code is not None:
            raise WorkerError(
                f"the worker ended early, with code {self.exit_code}; it said:\n{self.tail()}"
            )

    @property
    def ready(self) -> bool:
        """Whether it processes every partition."""
        return self._get("/readyz") is not None

    def counts(self) -> Counts | None:
        """Return what it has done so far; None when it does not answer in time."""
        text = self._get("/metrics")
        return None if text is None else Counts.parse(text)

    def _get(self, path: str) -> str | None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_SECONDS_MAX)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
        return text if response.status == 200 else None  # noqa: PLR2004 - HTTP's OK


SETTINGS = {
    "guarantee": "at_least_once",
    "replay": "true",
    "processes": "1",
    "metrics_host": "127.0.0.1",
    "session_timeout_seconds": str(_SESSION_TIMEOUT_SECONDS),
    "log_level": "WARNING",
}
