"""What one report on all that is learned is made of, and how each part is judged."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models import evaluation_behavior, evaluation_ranking
from models.data import Requests
from models.evaluation_behavior import Cases, Judgement
from models.evaluation_networks import Networks
from models.evaluation_ranking import Rankings, Shop
from models.export import NAME, REQUEST, graph_of
from models.ranker_network import Ranker
from models.train import Epoch
from stream_app.judge import Kind


class Judged(msgspec.Struct, frozen=True):
    """How the ranker and others rank what the stream proposed, which ranker, how it learned."""

    version: str
    packaged: str
    from_ms: int
    until_ms: int
    partitions: int
    rankings: Rankings
    epochs: Sequence[Epoch]


class Evaluation(msgspec.Struct, frozen=True):
    """What the report is made of; it has sections for what there is.

    ``unjudged`` are kinds of predictions with too few outcomes, by shop.
    """

    ranker: Judged | None = None
    networks: Networks | None = None
    judgements: Sequence[Judgement] = ()
    unjudged: Sequence[tuple[str, Kind]] = ()

    def figures(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        found: dict[str, Any] = {}
        if self.ranker is not None:
            found["ranker"] = {"name": NAME, "version": self.ranker.version}
            found["ranking"] = msgspec.to_builtins(self.ranker.rankings)
            found["training"] = [
                {
                    "encoder_loss": each.encoder_loss,
                    "head_loss": each.head_loss,
                    "recall_at_10": each.validation.recall_at_10 if each.validation else None,
                    "ndcg_at_10": each.validation.ndcg_at_10 if each.validation else None,
                }
                for each in self.ranker.epochs
            ]
        if self.networks is not None:
            found["networks"] = msgspec.to_builtins(self.networks)
        if self.judgements or self.unjudged:
            found["behavior"] = [msgspec.to_builtins(each.figures) for each in self.judgements]
            found["unjudged"] = [
                {"shop": shop, "target": kind.target, "horizon_ms": kind.horizon_ms}
                for shop, kind in self.unjudged
            ]
        return found


def version(model: Ranker, until_ms: int) -> str:
    """Return the version that an export gives a ranker trained on what was before a time."""
    graph = hashlib.sha256(graph_of(model, REQUEST, "scores")).hexdigest()
    return f"{datetime.fromtimestamp(until_ms / 1000, UTC):%Y-%m-%d}.{graph[:8]}"


def judge_ranker(  # noqa: PLR0913, PLR0917 - each is a part of its own
    judged: Requests,
    scores: Mapping[str, npt.NDArray[np.floating]],
    shop: Shop,
    epochs: Sequence[Epoch],
    partitions: int,
    versions: tuple[str, str],
) -> Judged:
    """Judge every way to rank the stream's candidates; ``versions`` are own and packaged ranker's.

    The first of ``scores`` is what the others are compared to.
    """
    return Judged(
        *versions,
        int(judged.time_ms[0]),
        int(judged.time_ms[-1]),
        partitions,
        evaluation_ranking.judge(judged, scores, shop),
        epochs,
    )


def judge_behavior(
    cases: Mapping[Kind, Cases], from_ms: int, shop: str
) -> tuple[list[Judgement], list[tuple[str, Kind]]]:
    """Judge every kind of prediction in a shop from a time on; return those with too few, too."""
    found = {
        kind: evaluation_behavior.judge(kind, own, from_ms, shop) for kind, own in cases.items()
    }
    return (
        [each for each in found.values() if each is not None],
        [(shop, kind) for kind, each in found.items() if each is None],
    )
