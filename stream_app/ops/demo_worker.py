"""The demo's worker: one process of ``stream-app worker``, and what its metrics say."""

import math
import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from stream_app.errors import StreamAppError
from stream_app.metrics import ALL_PARTITIONS
from stream_app.ops.demo_child import Child, free_port
from stream_app.runtime.observe import NO_FALLBACK

# A single worker process on one machine: nobody has to be declared dead, so it joins fast.
_SESSION_TIMEOUT_SECONDS = 6
_ANSWER_SECONDS_MAX = 5.0


class WorkerError(StreamAppError):
    """The worker ended before its time; the message holds what it said."""


class Quality(msgspec.Struct, frozen=True):
    """How one target is predicted: probabilities sent, those judged, and how right they were.

    The figures are set once a second; None is what the cases do not tell yet.
    """

    target: str
    horizon: str
    sent: int = 0
    judged: int = 0
    base_rate: float | None = None
    auc: float | None = None
    calibration_error: float | None = None


class Counts(msgspec.Struct, frozen=True):
    """What a worker has done so far, as its metrics tell it.

    ``position`` is the sum over the partitions, hence how many records are consumed; it is
    measured once a second, the others at once. ``quality`` has the targets predicted so far, most
    judged first; ``places`` and ``sources`` what became of recommended items, by event and place,
    and by event and source. ``model`` is the name and version of the ranking model that is loaded,
    ``refusal`` why one was refused; ``model_answers`` and ``fallback_answers`` are the
    recommendations that it scored, and those that the formula did.
    """

    position: int = 0
    lag: int = 0
    processed: int = 0
    rejected: int = 0
    duplicate: int = 0
    recommendations: int = 0
    predictions: int = 0
    churn_alerts: int = 0
    quality: tuple[Quality, ...] = ()
    places: Mapping[str, Mapping[str, int]] = {}
    sources: Mapping[str, Mapping[str, int]] = {}
    model: tuple[str, str] | None = None
    refusal: str | None = None
    model_answers: int = 0
    fallback_answers: int = 0

    @classmethod
    def parse(cls, text: str) -> "Counts":
        r"""Return the counts in the text of ``/metrics``.

        >>> Counts.parse('stream_app_position{partition="0"} 5\n'
        ...              'stream_app_position{partition="1"} 7\n').position
        12
        """
        sums: dict[str, float] = {}
        kinds: dict[tuple[str, str], dict[str, float]] = {}
        places: dict[str, dict[str, int]] = {}
        sources: dict[str, dict[str, int]] = {}
        model: tuple[str, str] | None = None
        refusal: str | None = None
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels, value = sample.labels, sample.value
                if sample.name in _FIELDS:
                    name = _FIELDS[sample.name]
                    field = labels[name] if name in ("outcome", "topic") else name
                    sums[field] = sums.get(field, 0.0) + value
                elif sample.name in _FIGURES:
                    figures = kinds.setdefault((labels["target"], labels["horizon"]), {})
                    _enter(figures, _FIGURES[sample.name], labels.get("partition"), value)
                elif sample.name == "stream_app_recommended_places_total":
                    places.setdefault(labels["event"], {})[labels["place"]] = int(value)
                elif sample.name == "stream_app_recommended_sources_total":
                    sources.setdefault(labels["event"], {})[labels["source"]] = int(value)
                elif sample.name == "stream_app_answers_total":
                    field = "by_model" if labels["fallback"] == NO_FALLBACK else "by_formula"
                    sums[field] = sums.get(field, 0.0) + value
                elif sample.name == "stream_app_model_info":
                    model = labels["name"], labels["version"]
                elif sample.name == "stream_app_model_refusals_total" and value:
                    refusal = labels["reason"]
        quality = [_quality(kind, figures) for kind, figures in kinds.items()]
        quality.sort(key=lambda each: (-each.judged, -each.sent))
        return cls(
            position=int(sums.get("position", 0)),
            lag=int(sums.get("lag", 0)),
            processed=int(sums.get("processed", 0)),
            rejected=int(sums.get("rejected", 0)),
            duplicate=int(sums.get("duplicate", 0)),
            recommendations=int(sums.get("recommendations", 0)),
            predictions=int(sums.get("predictions", 0)),
            churn_alerts=int(sums.get("churn_alerts", 0)),
            quality=tuple(quality),
            places=places,
            sources=sources,
            model=model,
            refusal=refusal,
            model_answers=int(sums.get("by_model", 0)),
            fallback_answers=int(sums.get("by_formula", 0)),
        )

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
# Sample -> field of Quality; of gauges, the one that is of all partitions.
_FIGURES = {
    "stream_app_predictions_total": "sent",
    "stream_app_judged_total": "judged",
    "stream_app_base_rate": "base_rate",
    "stream_app_auc": "auc",
    "stream_app_calibration_error": "calibration_error",
}


def _enter(figures: dict[str, float], name: str, partition: str | None, value: float) -> None:
    """Add a count to those of other partitions; take a figure of all of them, if there is any."""
    if name in ("sent", "judged"):
        figures[name] = figures.get(name, 0.0) + value
    elif partition == ALL_PARTITIONS and not math.isnan(value):
        figures[name] = value


def _quality(kind: tuple[str, str], figures: Mapping[str, float]) -> Quality:
    return Quality(
        target=kind[0],
        horizon=kind[1],
        sent=int(figures.get("sent", 0)),
        judged=int(figures.get("judged", 0)),
        base_rate=figures.get("base_rate"),
        auc=figures.get("auc"),
        calibration_error=figures.get("calibration_error"),
    )


class DemoWorker(Child):
    """A worker that reads from ``brokers``; settings of the user's own stay in force otherwise.

    Parameters
    ----------
    brokers
        host:port.
    folder
        Where its log goes.
    model
        Folder of the ranking model that it is to load; None for that of the user's settings, if
        there is any.
    environment
        What it starts from.
    """

    def __init__(
        self,
        brokers: str,
        folder: Path,
        model: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._port = free_port()
        settings = {
            **SETTINGS,
            "brokers": brokers,
            "metrics_port": str(self._port),
        }
        if model is not None:
            settings["model"] = str(model)
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

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self._port}/metrics"

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
