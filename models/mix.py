"""A sequence network as a model that workers load: it proposes candidates, and scores all of them.

:class:`Mix` scores by the network's chance of a candidate together with the share of it among what
users went on to, by the stream's own counts.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx

from models.card import mixture
from models.export import OPSET, PARITY_MAX, REQUEST, ParityError, graph_of
from models.folder import Inputs, probes, score, session, write
from models.networks import FAR, LRURec, SASRec
from models.variants import check_rows, made_up
from stream_app.manifest import FIRST_ITEM, FORMAT, HISTORY, PADDING, Data, Manifest, read_folder
from stream_app.stages.candidates import POOL_MODEL, POOL_SIZE
from stream_app.steps import FEATURE_NAMES

FOLLOW = FEATURE_NAMES.index("log_neighbour")
# Of a candidate, whatever network and counts say of it.
CHANCE_LEAST, SHARE_LEAST = 1e-9, 1e-2
PARITY_REQUESTS, PROBES = 64, 3
DIFFERING_MAX = 1  # proposals, at the end of the list, where scores are nearly the same

Network = SASRec | LRURec


class Mix(nnx.Module):
    """The network's chance of a candidate and the counts' share of it, both as logarithms.

    Shapes: B requests, L places of the history, N candidates, F features.
    """

    def __init__(self, network: Network, weight: float) -> None:
        self.network, self.weight = network, weight

    def __call__(self, history: jax.Array, candidates: jax.Array, features: jax.Array) -> jax.Array:
        """Return the scores; (B, L) tokens, (B, N) tokens, (B, N, F) -> (B, N)."""
        chance, share = parts(self.network, history, candidates, features)
        scores: jax.Array = mixed(chance, share, self.weight)
        return scores


def parts(
    network: Network, history: jax.Array, candidates: jax.Array, features: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the logarithms of chances and shares among the candidates; (B, N) each."""
    real = candidates != PADDING
    state = network(history)[:, 0]
    chance = jax.nn.softmax(jnp.where(real, network.scores(state, candidates), FAR), axis=-1)
    follow = jnp.where(real, jnp.expm1(features[..., FOLLOW]), 0.0)
    share = follow / jnp.maximum(follow.sum(axis=-1, keepdims=True), CHANCE_LEAST)
    return jnp.log(chance + CHANCE_LEAST), jnp.log(share + SHARE_LEAST)


def mixed(chance: Any, share: Any, weight: float) -> Any:
    """Return the weighted mean of the logarithms; arrays of one shape."""
    return weight * chance + (1 - weight) * share


class Proposer(nnx.Module):
    """The items that the network finds likeliest to follow."""

    def __init__(self, network: Network, proposed: int) -> None:
        self.network, self.proposed = network, proposed

    def __call__(self, history: jax.Array) -> jax.Array:
        """Return their tokens, the best first; (B, L) tokens -> (B, proposed)."""
        scores = self.network.all_scores(self.network(history)[:, 0])[:, FIRST_ITEM:]
        _, places = jax.lax.top_k(scores, self.proposed)
        return (places + FIRST_ITEM).astype(jnp.int32)


class About(msgspec.Struct, frozen=True):
    """What the manifest says of a model that it cannot know itself."""

    name: str
    data: Data
    metrics: dict[str, float]
    licence: str | None = None


def export(network: Network, names: Sequence[str], weight: float, about: About, to: Path) -> float:
    """Write the folder that workers load; return the greatest difference between ONNX and Flax.

    Raises
    ------
    ParityError
        When that is more than 1e-4, or ONNX proposes other items.
    RowsError
        When a request gets other bits in another order.
    ModelError, RegistryError
        When a worker would refuse the folder, or nobody could publish it. Nothing is written then.
    """
    network.eval()
    proposed = min(POOL_MODEL, len(names))
    mix, propose = Mix(network, weight), Proposer(network, proposed)
    graph = graph_of(mix, REQUEST, "scores")
    proposing = graph_of(propose, {"history": REQUEST["history"]}, "proposals")
    drawn = np.random.default_rng(0).uniform(size=(1_000, len(FEATURE_NAMES))).astype(np.float32)
    asked = made_up(len(names), drawn, PARITY_REQUESTS).inputs
    difference = _parity(mix, graph, asked)
    _check_proposals(propose, proposing, asked)
    check_rows(session(graph), asked, "exported")
    check_rows(session(proposing), asked, "exported", "proposals")
    manifest = Manifest(
        format=FORMAT,
        name=about.name,
        version=f"{about.data.until:%Y-%m-%d}.{sha256(graph).hexdigest()[:8]}",
        data=about.data,
        partitions=(1,),
        history=HISTORY,
        pool=POOL_SIZE,
        features=FEATURE_NAMES,
        items=len(names),
        opset=OPSET,
        metrics=about.metrics | {"parity": difference, "weight": weight},
        files={},
        probes=probes(session(graph), asked.first(PROBES)),
        licence=about.licence,
        proposes=proposed,
    )
    items = "".join(f"{name}\n" for name in names).encode()
    write(to, graph, items, manifest, mixture(manifest), proposing)
    return difference


def describe(folder: Path, metrics: dict[str, float], licence: str | None) -> None:
    """Add to what manifest and card of an exported folder say."""
    found = read_folder(folder, POOL_SIZE)
    manifest = msgspec.structs.replace(
        found.manifest, metrics=found.manifest.metrics | metrics, licence=licence
    )
    items = "".join(f"{item_id}\n" for item_id in found.item_ids).encode()
    write(folder, found.graph, items, manifest, mixture(manifest), found.proposer)


def _parity(mix: Mix, graph: bytes, asked: Inputs) -> float:
    """Return the greatest difference of a score between ONNX and Flax, if it is small enough."""
    given = map(jnp.asarray, (asked.history, asked.candidates, asked.features))
    wanted = np.asarray(nnx.jit(mix)(*given))
    running = session(graph)
    found = np.array([score(running, asked, place) for place in range(len(asked))])
    difference = float(np.abs(found - wanted)[asked.candidates != PADDING].max())
    if not difference <= PARITY_MAX:
        raise ParityError(
            f"scores of the exported graph differ by {difference:.2e} from the network's, more "
            f"than {PARITY_MAX:.0e}: do not publish it; train again or report a defect"
        )
    return difference


def _check_proposals(propose: Proposer, graph: bytes, asked: Inputs) -> None:
    """Raise ParityError where ONNX proposes other items; two of nearly the same score may swap."""
    wanted = np.asarray(nnx.jit(propose)(jnp.asarray(asked.history)))
    running = session(graph)
    for place, tokens in enumerate(wanted):
        (found,) = running.run(["proposals"], {"history": asked.history[place : place + 1]})
        differing = len(set(tokens.tolist()) ^ set(np.asarray(found)[0].tolist())) // 2
        if differing > DIFFERING_MAX:
            raise ParityError(
                f"the exported graph proposes {differing} items that the network does not: do not "
                "publish it; train again or report a defect"
            )
