"""A small ranking model for tests: a folder such as an export writes, with a graph of a few nodes.

score = features · weights + embedding(candidate) · mean of the history's embeddings. An embedding
has three numbers; that of padding is zeros.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

NAME, VERSION = "tiny", "7"
POOL = POOL_SIZE
HISTORY = 50
ITEMS = tuple(f"i-{n}" for n in range(12))
WIDTH = len(FEATURE_NAMES)


def parameters(items: int, seed: int = 0) -> tuple[Any, Any]:
    """Return embeddings (items + 2, 3) and weights (features, 1), the same for a seed."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(items + 2, 3)).astype(np.float32)
    table[0] = 0.0
    return table, rng.normal(size=(WIDTH, 1)).astype(np.float32)


def graph(  # noqa: PLR0913 - each is a way to be wrong
    items: int = len(ITEMS),
    *,
    pool: int = POOL,
    opset: int = 17,
    width: int = WIDTH,
    tokens: int = TensorProto.INT32,
    output: str = "scores",
    last: str = "Identity",
    seed: int = 0,
) -> bytes:
    """Return an ONNX model; ``last`` is an operator that every score goes through at the end."""
    table, weights = parameters(items, seed)
    weights = np.resize(weights, (width, 1))
    nodes = [
        helper.make_node("Gather", ["table", "history"], ["past"]),
        helper.make_node("ReduceSum", ["past", "places"], ["total"], keepdims=1),
        helper.make_node("Div", ["total", "length"], ["mean"]),
        helper.make_node("Gather", ["table", "candidates"], ["now"]),
        helper.make_node("Mul", ["now", "mean"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["likeness"], keepdims=0),
        helper.make_node("MatMul", ["features", "weights"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["linear"]),
        helper.make_node("Add", ["likeness", "linear"], ["sum"]),
        helper.make_node(last, ["sum"], [output]),
    ]
    inputs = [
        helper.make_tensor_value_info("history", tokens, [1, HISTORY]),
        helper.make_tensor_value_info("candidates", tokens, [1, pool]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, pool, width]),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, pool])]
    constants = {
        "table": table,
        "weights": weights,
        "length": np.array(HISTORY, np.float32),
        "places": np.array([1], np.int64),
        "axis": np.array([2], np.int64),
    }
    body = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def proposer(items: int = len(ITEMS), count: int = 4, *, shift: int = 0, seed: int = 0) -> bytes:
    """Return an ONNX model of the tokens with the best table · mean of the history's embeddings.

    ``shift`` is added to each token.
    """
    table, _ = parameters(items, seed)
    nodes = [
        helper.make_node("Gather", ["table", "history"], ["past"]),
        helper.make_node("ReduceSum", ["past", "places"], ["total"], keepdims=0),
        helper.make_node("Gemm", ["total", "table"], ["likeness"], transB=1),
        helper.make_node("TopK", ["likeness", "count"], ["values", "places_64"]),
        helper.make_node("Cast", ["places_64"], ["tokens"], to=TensorProto.INT32),
        helper.make_node("Add", ["tokens", "shift"], ["proposals"]),
    ]
    constants = {
        "table": table,
        "places": np.array([1], np.int64),
        "count": np.array([count], np.int64),
        "shift": np.array(shift, np.int32),
    }
    body = helper.make_graph(
        nodes,
        "proposer",
        [helper.make_tensor_value_info("history", TensorProto.INT32, [1, HISTORY])],
        [helper.make_tensor_value_info("proposals", TensorProto.INT32, [1, count])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def expected(
    history: Sequence[int],
    candidates: Sequence[int],
    features: Sequence[Sequence[float]],
    items: int = len(ITEMS),
) -> list[float]:
    """Return what the graph gives for tokens, worked out with numpy alone."""
    table, weights = parameters(items)
    past = table[[0] * (HISTORY - len(history)) + list(history)].mean(0)
    rows = np.array(features, np.float32).reshape(len(candidates), WIDTH)
    scores: list[float] = (table[list(candidates)] @ past + (rows @ weights)[:, 0]).tolist()
    return scores


def probe(items: int = len(ITEMS)) -> dict[str, Any]:
    """Return a probe: a short history and three candidates, one of them unknown."""
    history, candidates = [3, 5, 3], [2, 1, items + 1]
    features = [[0.25 * n + m for n in range(WIDTH)] for m in range(len(candidates))]
    rest = POOL - len(candidates)
    return {
        "history": [0] * (HISTORY - len(history)) + history,
        "candidates": candidates + [0] * rest,
        "features": features + [[0.0] * WIDTH] * rest,
        "scores": expected(history, candidates, features, items),
    }


def write_model(
    folder: Path,
    *,
    item_ids: Sequence[str] = ITEMS,
    onnx: bytes | None = None,
    items: bytes | None = None,
    proposing: bytes | None = None,
    **over: Any,
) -> Path:
    """Write a model's folder, and return it.

    Parameters
    ----------
    folder
        Made if missing.
    item_ids
        That the model knows.
    onnx, items
        Bytes of the two files in place of good ones; the manifest has their hashes.
    proposing
        Bytes of ``proposer.onnx``, if there is to be one; of four items, unless ``over`` says
        otherwise.
    over
        Keys of the manifest that are changed; with None a key is left out.
    """
    onnx = graph(len(item_ids)) if onnx is None else onnx
    items = "".join(f"{item_id}\n" for item_id in item_ids).encode() if items is None else items
    files = {"ranker.onnx": onnx, "items.txt": items}
    if proposing is not None:
        files["proposer.onnx"] = proposing
    manifest: dict[str, Any] = {
        "format": 1,
        "name": NAME,
        "version": VERSION,
        "data": {
            "source": "made up",
            "from": "2017-01-01T00:00:00Z",
            "until": "2017-11-05T00:00:00Z",
            "events": 1_000,
        },
        "partitions": [1, 4],
        "history": HISTORY,
        "pool": POOL,
        "features": list(FEATURE_NAMES),
        "items": len(item_ids),
        "opset": 17,
        "metrics": {"recall@10": 0.25},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "proposes": 0 if proposing is None else 4,
        "probes": [probe(len(item_ids))],
        "made_with": "a key that this program does not know",
    } | over
    kept = {name: value for name, value in manifest.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(kept))
    return folder


def flip_bit(path: Path, place: int | None = None, bit: int = 0) -> None:
    """Change one bit of a file, of the byte in its middle unless another is given."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1 << bit
    path.write_bytes(data)
