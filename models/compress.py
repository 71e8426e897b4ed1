"""``python -m models compress``: a model whose table of items takes half the room or a quarter.

The table of embeddings is nearly all of a graph. It is stored as float16, or as int8 with one scale
a row, and the rows that a request looks up are made float32 again before anything is computed. All
scales are part of the file: none is taken while the graph runs, so a request cannot depend on its
neighbours. (onnxruntime's own quantisation has one scale for a whole table, which the rarest item
with the largest number sets, and makes the activations int8 as well.)
"""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from models.card import table, with_variants
from models.data import Requests
from models.folder import probed, probes, session, write
from models.precision import LOSS_MAX, CompressError, Precision, PrecisionOption
from models.variants import Asked, Variant, check_rows, compare, held, made_up
from stream_app.manifest import CARD, Manifest, read_folder
from stream_app.stages.candidates import POOL_SIZE

REQUESTS = "requests.npz"  # where `train` leaves them in its folder
_INT8_MAX = 127
_FAR_FUTURE_MS = 2**62


# --- the graph ------------------------------------------------------------------------------------


def tables(
    model: onnx.ModelProto, inputs: Collection[str] = ("history", "candidates")
) -> dict[str, list[onnx.NodeProto]]:
    """Return each table of embeddings with the nodes that look rows of it up.

    A table is a float32 initializer of two axes whose rows a Gather takes at places worked out from
    the ``inputs``.
    """
    from_tokens = set(inputs)
    for node in model.graph.node:  # in the order of their computation, as ONNX has it
        if from_tokens.intersection(node.input):
            from_tokens.update(node.output)
    wide = {
        each.name
        for each in model.graph.initializer
        if each.data_type == TensorProto.FLOAT and len(each.dims) == 2  # noqa: PLR2004 - axes
    }
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if (
            node.op_type == "Gather"
            and node.input[0] in wide
            and node.input[1] in from_tokens
            and all(each.i == 0 for each in node.attribute if each.name == "axis")
        ):
            found.setdefault(node.input[0], []).append(node)
    return found


def compress_graph(graph: bytes, precision: Precision) -> bytes:
    """Return a graph with its tables of embeddings stored in a precision; float32 changes nothing.

    Raises
    ------
    CompressError
        When there is no such table, it is used otherwise too, or holds what float16 cannot.
    """
    if precision is Precision.FLOAT32:
        return graph
    model = onnx.load_from_string(graph)
    found = tables(model)
    if not found:
        raise CompressError(
            "the graph has no table of float32 embeddings that `history` or `candidates` look up, "
            "so there is nothing to make smaller: serve it as it is"
        )
    for name, gathers in found.items():
        uses = [node.op_type for node in model.graph.node if name in node.input]
        if len(uses) != len(gathers):
            raise CompressError(
                f"table {name} is looked up, and used by {' and '.join(sorted(set(uses)))} as a "
                "whole: export a graph that scores the candidates alone"
            )
        _replace(model.graph, name, gathers, precision)
    smaller: bytes = model.SerializeToString()
    return smaller


def quantized(
    rows: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows (V, D) as int8, and their scales (V, 1): a row is about its int8 x its scale."""
    scales = (np.abs(rows).max(axis=1, keepdims=True) / np.float32(_INT8_MAX)).astype(np.float32)
    steps = np.where(scales > 0, scales, np.float32(1.0))  # a row of zeros has no scale
    return np.rint(rows / steps).clip(-_INT8_MAX, _INT8_MAX).astype(np.int8), scales


def _replace(
    graph: onnx.GraphProto, name: str, gathers: list[onnx.NodeProto], precision: Precision
) -> None:
    """Store a table in a precision, and turn the rows looked up into float32 again."""
    (stored,) = (each for each in graph.initializer if each.name == name)
    rows = numpy_helper.to_array(stored)
    parts: dict[str, npt.NDArray[Any]]
    if precision is Precision.FLOAT16:
        with np.errstate(over="ignore"):
            parts = {f"{name}.float16": rows.astype(np.float16)}
    elif np.isfinite(rows).all():
        whole, scales = quantized(rows)
        parts = {f"{name}.int8": whole, f"{name}.scales": scales}
    else:
        parts = {name: rows}
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise CompressError(
            f"table {name} has numbers that {precision} cannot hold, the greatest of them "
            f"{np.abs(rows).max():.3g}: choose float32, or train with a smaller learning rate"
        )
    graph.initializer.remove(stored)
    graph.initializer.extend(numpy_helper.from_array(part, key) for key, part in parts.items())
    for node in gathers:
        out = node.output[0]
        looked_up = [f"{out}.{place}" for place in range(len(parts))]
        made = [
            helper.make_node("Gather", [part, node.input[1]], [given])
            for part, given in zip(parts, looked_up, strict=True)
        ]
        cast = out if len(parts) == 1 else f"{out}.float32"
        made.append(helper.make_node("Cast", [looked_up[0]], [cast], to=TensorProto.FLOAT))
        if len(parts) > 1:
            made.append(helper.make_node("Mul", [cast, looked_up[1]], [out]))
        place = list(graph.node).index(node)
        del graph.node[place]
        for offset, each in enumerate(made):
            graph.node.insert(place + offset, each)


# --- the folder -----------------------------------------------------------------------------------


def compress(
    folder: Path, to: Path, precision: Precision, asked: Asked, loss_max: float
) -> list[Variant]:
    """Write a model's folder with its table in a precision; return the figures of all precisions.

    Parameters
    ----------
    folder
        Of a model in float32.
    to
        The folder to write; it may be the same.
    precision
        What ``to`` gets. The version has it at its end, since a release never changes.
    asked
        Requests to compare the precisions on.
    loss_max
        What the model may lose of its NDCG@10, relative; it counts where ``asked`` has held
        requests.

    Raises
    ------
    CompressError
        When the graph cannot be made smaller or loses more; nothing is written then.
    RowsError
        When a request gets other scores beside others.
    ModelError
        When a worker would refuse what is in ``folder``, or what came of it.
    """
    found = read_folder(folder, POOL_SIZE)
    manifest = found.manifest
    if manifest.precision != Precision.FLOAT32:
        raise CompressError(
            f"{folder} holds {manifest.precision} already: compress the float32 model that it was "
            "made from"
        )
    graphs = {each: compress_graph(found.graph, each) for each in Precision}
    variants = compare({each.value: graph for each, graph in graphs.items()}, asked)
    (chosen,) = (each for each in variants if each.precision == precision)
    if asked.held is not None and chosen is not variants[0]:
        _check_loss(chosen, variants[0], loss_max)
    running = session(graphs[precision])
    check_rows(running, asked.inputs, precision)
    written = msgspec.structs.replace(
        manifest,
        version=_version(manifest, precision),
        precision=precision.value,
        metrics=manifest.metrics | chosen.metrics(),
        probes=probes(running, probed(manifest)),
    )
    card = f"# Model card: {manifest.name}, version {manifest.version}\n"
    if (folder / CARD).exists():
        card = (folder / CARD).read_text("utf-8")
    card = card.replace(f"version {manifest.version}\n", f"version {written.version}\n")
    items = "".join(f"{item_id}\n" for item_id in found.item_ids)
    write(
        to,
        graphs[precision],
        items.encode(),
        written,
        with_variants(card, variants, precision),
        found.proposer,
    )
    return variants


def _version(manifest: Manifest, precision: Precision) -> str:
    if precision is Precision.FLOAT32:
        return manifest.version
    return f"{manifest.version}-{precision}"


def _check_loss(chosen: Variant, first: Variant, loss_max: float) -> None:
    """Raise CompressError when a variant loses more of the first one's NDCG@10 than it may."""
    if chosen.ndcg_loss is None or chosen.ndcg_at_10 is None:
        raise CompressError(
            f"float32 finds none of what was bought in {chosen.requests:,} held requests, so a "
            "loss cannot be told: give requests of the shop that the model was trained for"
        )
    if chosen.ndcg_loss > loss_max:
        raise CompressError(
            f"{chosen.precision} loses {chosen.ndcg_loss:.2%} of NDCG@10 ({first.ndcg_at_10:.4f} "
            f"to {chosen.ndcg_at_10:.4f} in {chosen.requests:,} held requests), more than the "
            f"{loss_max:.2%} of --loss-max: choose another precision, or allow more"
        )


def held_after(build: Path, until: datetime, item_ids: list[str]) -> Asked:
    """Return the requests before baskets of a build's folder that came after the training data."""
    if not (build / REQUESTS).exists():
        raise CompressError(
            f"{build} has no {REQUESTS}: give the folder in which `python -m models train` left it"
        )
    all_ = Requests.load(build / REQUESTS).before_baskets()
    requests = all_.between(int(until.timestamp() * 1_000), _FAR_FUTURE_MS)
    if not len(requests):
        raise CompressError(
            f"{build}/{REQUESTS} has no request after {until:%Y-%m-%d}, the end of the model's "
            "training data: make requests of later weeks"
        )
    return held(requests, item_ids)


# --- the command ----------------------------------------------------------------------------------

app = typer.Typer()


@app.command("compress")
def compress_(
    folder: Annotated[Path, typer.Argument(help="of a model in float32")],
    to: Annotated[Path, typer.Option(help="the folder to write")],
    precision: PrecisionOption = Precision.INT8,
    build: Annotated[
        Path | None, typer.Option(help="that has the requests of `train`, to tell the loss")
    ] = None,
    loss_max: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help=f"of NDCG@10, relative; {LOSS_MAX} with --build"),
    ] = None,
) -> None:
    """Store the table of items in float16 or int8, and tell what that costs.

    For example:

        python -m models compress build/ranker --to build/ranker-int8 --build build/model
    """
    found = read_folder(folder, POOL_SIZE)
    if build is not None:
        asked = held_after(build, found.manifest.data.until, list(found.item_ids))
    elif loss_max is not None:
        raise typer.BadParameter("--loss-max needs --build: a loss shows on held requests alone")
    else:
        known = probed(found.manifest)
        asked = made_up(found.manifest.items, known.features[known.candidates != 0])
    variants = compress(folder, to, precision, asked, LOSS_MAX if loss_max is None else loss_max)
    console = Console(stderr=True, width=100)
    console.print(table(variants), markup=False, soft_wrap=True)
    if asked.held is None:
        console.print(
            "no loss is known: the requests were drawn from the model's items, and nobody bought "
            "anything; give --build for held ones"
        )
    print(
        msgspec.json.encode({"to": str(to), "precision": precision, "variants": variants}).decode()
    )
