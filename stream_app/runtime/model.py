"""The ranking model of a worker: loaded before anything is processed, swapped while it goes on.

Which model serves is a setting: a folder, or a registry that is asked now and then. A model is
loaded beside the one that serves, tried out, warmed up on the requests that the other was asked
last, and takes over between two batches. One that is refused changes nothing.
"""

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stream_app import metrics
from stream_app.clock import monotonic_seconds
from stream_app.config import Settings
from stream_app.errors import ModelError
from stream_app.ranker import Asked, Ranker
from stream_app.registry import Registry, RegistryError, Release
from stream_app.runtime.task import World
from stream_app.stages.candidates import POOL_SIZE

logger = logging.getLogger(__name__)


class ModelKeeper:
    """Keeps the models of a :class:`World`: the one that ranks, and the one in its shadow.

    Parameters
    ----------
    settings
        Of the program.
    partitions
        Of the source topic. Popularity is counted a partition, so a model that was trained with
        another number of them is used, but with a warning.
    world
        Whose ``ranker`` and ``shadow`` are set. While there is no ranker, the formula ranks.
    """

    def __init__(self, settings: Settings, partitions: int, world: World) -> None:
        self._settings, self._partitions, self._world = settings, partitions, world
        self._registry = Registry(settings.registry) if settings.registry else None
        # The releases that were seen last, whether they were taken or refused.
        self._now: Release | None = None
        self._shadow: Release | None = None
        self._complaint = ""

    async def start(self) -> None:
        """Load what is to serve; call it before anything is processed."""
        folder = self._settings.model
        if folder is not None:
            self._world.ranker = await asyncio.to_thread(self._load, folder, ())
            _tell(self._world.ranker)
        await self.look()

    async def run(self) -> None:
        """Ask the registry now and then, until cancelled."""
        while self._registry is not None:
            await asyncio.sleep(self._settings.registry_seconds)
            await self.look()

    async def look(self) -> None:
        """Ask the registry once, and follow it. When it does not answer, all stays as it is."""
        if self._registry is None:
            return
        try:
            wanted = await asyncio.to_thread(self._registry.served)
            if wanted.now is not None and wanted.now != self._now:
                ranker = await self._fetch(wanted.now)
                if ranker is not None:
                    self._world.ranker = ranker  # the next batch is ranked by it
                    metrics.MODEL_SWAPS.inc()
                _tell(self._world.ranker)
                self._now = wanted.now
            if wanted.shadow != self._shadow:
                self._world.shadow = await self._fetch(wanted.shadow) if wanted.shadow else None
                self._shadow = wanted.shadow
        except RegistryError as error:
            self._complain(str(error))
        else:
            self._complaint = ""

    async def _fetch(self, release: Release) -> Ranker | None:
        """Return a release, ready to serve; None when it is refused."""
        assert self._registry is not None, "a release is of a registry"
        serving = self._world.ranker
        requests = tuple(serving.recent) if isinstance(serving, Ranker) else ()
        with tempfile.TemporaryDirectory(prefix="stream_app-model-") as name:
            folder = Path(name)
            try:
                await asyncio.to_thread(self._registry.fetch, release, folder)
            except ModelError as error:
                _refuse(error)
                return None
            return await asyncio.to_thread(self._load, folder, requests)

    def _load(self, folder: Path, requests: Sequence[Asked]) -> Ranker | None:
        """Return the model in a folder, warmed up; None when it is refused, which is told."""
        try:
            ranker = Ranker.load(
                folder,
                clock=monotonic_seconds,
                milliseconds_max=self._settings.model_ms_max,
                pool_min=POOL_SIZE,
            )
            ranker.warm_up(requests)
        except ModelError as error:
            _refuse(error)
            return None
        _introduce(ranker, self._partitions)
        return ranker

    def _complain(self, complaint: str) -> None:
        """Log what is wrong with the registry, once until something else is or it answers."""
        if complaint != self._complaint:
            logger.warning("%s; what serves goes on serving", complaint)
        self._complaint = complaint


def _refuse(error: ModelError) -> None:
    metrics.MODEL_REFUSALS.labels(error.reason).inc()
    logger.error("model refused (%s): %s. What ranked before ranks on", error.reason, error)


def _tell(ranker: object) -> None:
    """Set the gauge that names the model."""
    metrics.MODEL_INFO.clear()
    if isinstance(ranker, Ranker):
        metrics.MODEL_INFO.labels(ranker.name, ranker.version).set(1)


def _introduce(ranker: Ranker, partitions: int) -> None:
    """Log what a model is, and what may be wrong with its use here."""
    manifest = ranker.manifest
    logger.info(
        "model %s, version %s: %d items, trained on %s from %s until %s, %.2f ms an answer",
        manifest.name,
        manifest.version,
        manifest.items,
        manifest.data.source,
        manifest.data.since.isoformat(),
        manifest.data.until.isoformat(),
        ranker.milliseconds,
    )
    if partitions not in manifest.partitions:
        logger.warning(
            "model %s was trained with %s partitions and the topic has %d: features that are "
            "counted a partition mean something else to it. Train it with %d as well",
            manifest.name,
            " or ".join(map(str, manifest.partitions)) or "no",
            partitions,
            partitions,
        )
