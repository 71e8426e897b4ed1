"""The ranking model of a worker: loaded before anything is processed, or refused with a reason."""

import logging

from stream_app import metrics
from stream_app.clock import monotonic_seconds
from stream_app.config import Settings
from stream_app.errors import ModelError
from stream_app.ranker import Ranker
from stream_app.stages.candidates import POOL_SIZE

logger = logging.getLogger(__name__)


def load_model(settings: Settings, partitions: int) -> Ranker | None:
    """Return the model in the folder that is set, warmed up.

    None when no folder is set, or when the model is refused: the worker goes on, and the formula
    ranks. A refusal is logged and counted by its reason.

    Parameters
    ----------
    settings
        Of the program.
    partitions
        Of the source topic. Popularity is counted a partition, so a model that was trained with
        another number of them is used, but with a warning.
    """
    if settings.model is None:
        return None
    try:
        ranker = Ranker.load(
            settings.model,
            clock=monotonic_seconds,
            milliseconds_max=settings.model_ms_max,
            pool_min=POOL_SIZE,
        )
    except ModelError as error:
        metrics.MODEL_REFUSALS.labels(error.reason).inc()
        logger.error("model refused (%s): %s. The formula ranks", error.reason, error)  # noqa: TRY400 - the message is for the operator
        return None
    manifest = ranker.manifest
    metrics.MODEL_INFO.clear()  # of the model before
    metrics.MODEL_INFO.labels(manifest.name, manifest.version).set(1)
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
    return ranker
