"""What crosses over to the stream: a folder with the graph in ONNX, item ids, manifest and card.

The graph has one fixed shape, one request a run: with a batch of changing size the same request
got other bits beside other neighbours. The manifest carries probes, requests with their scores, so
that whoever loads the folder can tell that it computes what was trained.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from jax2onnx import to_onnx

from models.card import retrained
from models.data import Requests, Vocabulary
from models.folder import Inputs, score, session, write
from models.ranker_network import Ranker
from models.train import Examples, examples, predict
from models.variants import check_rows
from stream_app.errors import StreamAppError
from stream_app.manifest import FORMAT, HISTORY, Data, Manifest, Probe
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

NAME = "sasrec-head"
OPSET = 20
PARITY_MAX = 1e-4  # greatest difference between a score by ONNX and by JAX
REQUEST: dict[str, Any] = {  # the inputs of a graph that scores candidates
    "history": jax.ShapeDtypeStruct((1, HISTORY), jnp.int32),
    "candidates": jax.ShapeDtypeStruct((1, POOL_SIZE), jnp.int32),
    "features": jax.ShapeDtypeStruct((1, POOL_SIZE, len(FEATURE_NAMES)), jnp.float32),
}


class Card(msgspec.Struct, frozen=True):
    """What the manifest says of a model: data, counts of partitions it fits, figures, licence."""

    data: Data
    partitions: tuple[int, ...]
    metrics: dict[str, float]
    licence: str | None = None


class ParityError(StreamAppError):
    """The exported graph does not compute what the network does; whoever exports it acts."""


def export(  # noqa: PLR0913, PLR0917 - each is a part of its own
    model: Ranker,
    vocabulary: Vocabulary,
    sample: Requests,
    card: Card,
    folder: Path,
    told: Callable[[Manifest], str] = retrained,
) -> float:
    """Write the folder; return the greatest difference between ONNX and JAX on the sample.

    ``told`` makes the model card of the manifest.

    Raises
    ------
    ParityError
        When that is more than 1e-4.
    RowsError
        When a request gets other bits in another order.
    ModelError, RegistryError
        When a worker would refuse the folder, or nobody could publish it. Nothing is written then,
        as with the others.
    """
    graph = ranker_graph(model)
    given = examples(sample, vocabulary, seed=0)
    wanted = predict(model, given)
    difference = parity(graph, given, wanted)
    if not difference <= PARITY_MAX:
        raise ParityError(
            f"scores of the exported graph differ by {difference:.2e} from the network's, more "
            f"than {PARITY_MAX:.0e}: do not publish it; train again or report a defect"
        )
    check_rows(session(graph), _inputs(given), "exported")
    manifest = Manifest(
        format=FORMAT,
        name=NAME,
        version=f"{card.data.until:%Y-%m-%d}.{hashlib.sha256(graph).hexdigest()[:8]}",
        data=card.data,
        partitions=card.partitions,
        history=HISTORY,
        pool=POOL_SIZE,
        features=FEATURE_NAMES,
        items=len(vocabulary.item_ids),
        opset=OPSET,
        metrics=card.metrics | {"parity": difference},
        files={},
        probes=tuple(_probe(given, wanted, place) for place in _probe_places(given)),
        licence=card.licence,
    )
    items = "".join(f"{item}\n" for item in vocabulary.item_ids)
    write(folder, graph, items.encode(), manifest, told(manifest))
    return difference


def ranker_graph(model: Ranker) -> bytes:
    """Return the ranker as ONNX, weights included."""
    model.eval()
    return graph_of(model, REQUEST, "scores")


def graph_of(model: Callable[..., jax.Array], inputs: Mapping[str, Any], output: str) -> bytes:
    """Return a function of named inputs, with their shapes and types, as ONNX with weights."""
    graph = to_onnx(
        model,
        inputs=list(inputs.values()),
        input_names=list(inputs),
        output_names=[output],
        opset=OPSET,
        return_mode="proto",
    )
    # By itself it would put the weights beside it.
    data: bytes = graph.SerializeToString()
    return data


def run(graph: bytes, given: Examples) -> npt.NDArray[np.float32]:
    """Return the scores by onnxruntime, one request a run as the stream does it; (n, N)."""
    running, inputs = session(graph), _inputs(given)
    return np.array([score(running, inputs, place) for place in range(len(inputs))])


def parity(graph: bytes, given: Examples, wanted: npt.NDArray[np.float32]) -> float:
    """Return the greatest absolute difference between the graph's scores and the wanted ones."""
    real = given.candidates != 0
    return float(np.abs(run(graph, given) - wanted)[real].max())


def _inputs(given: Examples) -> Inputs:
    return Inputs(given.history, given.candidates, given.features)


def _probe_places(given: Examples) -> list[int]:
    """Return requests to serve as probes: of the fewest, of middling and of the most candidates."""
    counts = (given.candidates != 0).sum(axis=1)
    order = np.argsort(counts, kind="stable")
    order = order[counts[order] > 0]
    return sorted({int(order[0]), int(order[len(order) // 2]), int(order[-1])})


def _probe(given: Examples, wanted: npt.NDArray[np.float32], place: int) -> Probe:
    """Return one request and its scores, those of its real candidates."""
    candidates = given.candidates[place]
    return Probe(
        tuple(given.history[place].tolist()),
        tuple(candidates.tolist()),
        tuple(map(tuple, given.features[place].tolist())),
        tuple(wanted[place][candidates != 0].tolist()),
    )
