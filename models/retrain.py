"""``python -m models retrain``: train the served ranker anew, on a schedule or when it drifts.

Each cycle reads the data, starts from the last weights, trains up to the newest window, judges the
new model and the one that serves on that window, publishes the new one, and promotes it unless it
is worse by more than a bound.
"""

import math
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from models import report
from models.data_commands import DataOption, LicenceOption, MappingOption
from models.export import ParityError
from models.ranker_trainer import RankerTrainer
from models.registry import Url
from models.sources import Source
from models.train import TrainSettings
from stream_app.errors import StreamAppError
from stream_app.manifest import read_folder
from stream_app.registry import Registry, Release
from stream_app.stages.candidates import POOL_SIZE

LAST = "retrain.json"
LOOK_SECONDS = 60.0  # between two looks whether a cycle is due
_METRICS_SECONDS = 10.0  # to wait for a worker's answer
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer()


class RetrainError(StreamAppError):
    """It cannot be told when a cycle is due, or a model cannot be used."""


class Trainer(Protocol):
    """What trains and judges; made anew for each cycle, since the data has grown."""

    def train(self, into: Path) -> None:
        """Train, and export a folder for workers."""
        ...

    def judge(self, folder: Path) -> float:
        """Return the NDCG@10 of an exported folder on the newest window, never trained on."""
        ...

    def keep(self) -> None:
        """Let the next training start from these weights."""
        ...


class Outcome(msgspec.Struct, frozen=True):
    """What a cycle came to. NDCG@10 is of the newest window.

    ``served_ndcg`` is None where nothing serves. Where ``served_saw_window``, the serving model was
    trained on a part of the window, which flatters it.
    """

    release: Release
    ndcg: float
    served: Release | None
    served_ndcg: float | None
    served_saw_window: bool
    promoted: bool
    reason: str


class Last(msgspec.Struct, frozen=True):
    """What the next cycle knows of the last: when it was, and the drifts counted by then."""

    at: datetime
    drifts: float
    outcome: Outcome


# --- one cycle ------------------------------------------------------------------------------------


def cycle(trainer: Trainer, registry: Registry, worse_max: float, at: datetime) -> Outcome:
    """Train, judge against what serves, publish, and promote unless worse by too much.

    Parameters
    ----------
    trainer
        Of the data as it is now.
    registry
        Where the release goes, and what serves comes from.
    worse_max
        The NDCG@10 may be less than that of the serving release by at most so much.
    at
        The time of the promotion.

    Raises
    ------
    RegistryError, ModelError
        When the registry cannot be used, or the serving release not be read.
    """
    served = registry.served().now
    with tempfile.TemporaryDirectory() as place:
        made, old = Path(place) / "made", Path(place) / "served"
        trainer.train(made)
        ndcg, served_ndcg, saw = trainer.judge(made), None, False
        if served is not None:
            registry.fetch(served, old)
            served_ndcg = trainer.judge(old)
            until = read_folder(made, POOL_SIZE).manifest.data.until
            saw = read_folder(old, POOL_SIZE).manifest.data.until > until
        release = _published(registry, made)
    good = served_ndcg is None or ndcg >= served_ndcg - worse_max
    if good:
        registry.promote(release, at)
        trainer.keep()
    if served_ndcg is None:
        reason = "nothing served before"
    else:
        said = "not worse" if good else "worse"
        reason = f"{said} by more than {worse_max:g}: {ndcg:.5f} to {served_ndcg:.5f}"
    return Outcome(release, ndcg, served, served_ndcg, saw, good, reason)


def _published(registry: Registry, folder: Path) -> Release:
    """Publish a folder; the same model twice, as of the same data, is the same release."""
    manifest = read_folder(folder, POOL_SIZE).manifest
    same = [
        each
        for each in registry.releases()
        if (each.name, each.version) == (manifest.name, manifest.version)
    ]
    return same[0] if same else registry.publish(folder, POOL_SIZE)


# --- when -----------------------------------------------------------------------------------------


class Measured(msgspec.Struct, frozen=True):
    """What a worker's metrics say: changes for the worse that it found, and the least AUC.

    ``auc`` is over all cases so far, the least of all targets; None before the first.
    """

    drifts: float
    auc: float | None


def measured(text: str) -> Measured:
    """Return what matters of a worker's /metrics."""
    drifts, aucs = 0.0, []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "stream_app_drifts_total":
                drifts += sample.value * (sample.labels.get("direction") == "worse")
            elif sample.name == "stream_app_auc" and not math.isnan(sample.value):
                aucs.append(sample.value)
    return Measured(drifts, min(aucs, default=None))


def measure(url: str) -> Measured:
    """Ask a worker.

    Raises
    ------
    RetrainError
        When it does not answer.
    """
    if not url.startswith(("http://", "https://")):
        raise RetrainError(f"{url} is no URL: give --metrics http://host:port/metrics")
    try:
        with urllib.request.urlopen(url, timeout=_METRICS_SECONDS) as answer:  # noqa: S310 - checked
            return measured(answer.read().decode())
    except (OSError, ValueError) as error:
        raise RetrainError(
            f"{url} does not answer ({error}): start the worker, or give another --metrics"
        ) from error


def due(
    last: Last | None,
    now: datetime,
    every: timedelta | None,
    metrics: Measured | None,
    auc_min: float | None,
) -> str | None:
    """Return why a cycle is due, None if it is not.

    Drifts are counted since the last cycle; a worker that has restarted counts from 0.
    """
    if last is None:
        return "there was none yet"
    if every is not None and now - last.at >= every:
        return f"the last was {last.at:%Y-%m-%d %H:%M}"
    if metrics is None:
        return None
    since = metrics.drifts - (last.drifts if metrics.drifts >= last.drifts else 0.0)
    if since > 0:
        return f"{since:g} drifts since the last"
    if auc_min is not None and metrics.auc is not None and metrics.auc < auc_min:
        return f"an AUC of {metrics.auc:.3f}, below {auc_min:g}"
    return None


def period(text: str) -> timedelta:
    """Return how long ``7d`` is; m, h, d and w are minutes, hours, days and weeks.

    >>> period("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or int(number) == 0 or unit not in _UNITS:
        raise RetrainError(f"{text!r} is no time: write a number and m, h, d or w, such as 7d")
    return timedelta(**{_UNITS[unit]: int(number)})


# --- the command ----------------------------------------------------------------------------------


@app.command()
def retrain(  # noqa: PLR0913, PLR0917 - an argument is an option
    data: DataOption,
    registry: Url,
    mapping: MappingOption = None,
    folder: Annotated[Path, typer.Option(help="keeps weights and the last cycle")] = Path(
        "build/retrain"
    ),
    partitions: Annotated[int, typer.Option(min=1, help="of the topic to be served")] = 4,
    window_days: Annotated[float, typer.Option(min=0.01, help="newest, held out")] = 28.0,
    item_purchases_min: Annotated[int, typer.Option(min=1, help="rarer have no name")] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="at most")] = TrainSettings().epochs_max,
    worse_max: Annotated[float, typer.Option(min=0, help="NDCG@10 that may be lost")] = 0.005,
    every: Annotated[str | None, typer.Option(help="such as 7d: a cycle at least so often")] = None,
    metrics: Annotated[str | None, typer.Option(help="a worker's /metrics: when it drifts")] = None,
    auc_min: Annotated[float | None, typer.Option(help="a cycle below it, too")] = None,
    licence: LicenceOption = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="one cycle if it is due, for cron")] = False,
) -> None:
    """Train the served ranker anew and let it serve unless it is worse on the newest window.

    With --once and neither --every nor --metrics a cycle is due at once. Without --once it goes on
    looking, each minute. Prints one line of JSON a cycle.

    For example:

        python -m models retrain --data shop.jsonl --registry s3://shop/models --every 7d
    """
    if not once and every is None and metrics is None:
        raise RetrainError("say when: give --every 7d, --metrics URL, or --once for one cycle now")
    if auc_min is not None and metrics is None:
        raise RetrainError("--auc-min is that of a worker: give its --metrics, too")
    console, where = Console(stderr=True), Registry(registry)
    often = None if every is None else period(every)
    settings = TrainSettings(epochs_max=epochs)
    kept = folder / LAST

    def look() -> None:
        found = None if metrics is None else measure(metrics)
        last = msgspec.json.decode(kept.read_bytes(), type=Last) if kept.exists() else None
        at = datetime.now(UTC)
        why = due(last, at, often, found, auc_min)
        if once and every is None and metrics is None:
            why = "it was asked for"
        if why is None:
            return
        console.print(f"a cycle, since {why}", markup=False)
        trainer = RankerTrainer(
            Source(data, mapping),
            partitions,
            folder,
            window_days,
            settings,
            item_purchases_min,
            licence,
        )
        outcome = cycle(trainer, where, worse_max, at)
        kept.write_bytes(
            msgspec.json.encode(Last(at, found.drifts if found is not None else 0.0, outcome))
        )
        (folder / "curve.json").write_bytes(msgspec.json.encode(trainer.epochs))
        report.curves(trainer.epochs, folder / "curve.png")
        print(msgspec.json.encode(outcome).decode(), flush=True)

    if once:
        _watched(look)
        return
    while True:
        try:
            _watched(look)
        except StreamAppError as error:  # the next look may fare better
            console.print(f"models: {error}", style="red", markup=False, soft_wrap=True)
        time.sleep(LOOK_SECONDS)


def _watched(look: Callable[[], None]) -> None:
    try:
        look()
    except ParityError as error:
        raise RetrainError(str(error)) from error
