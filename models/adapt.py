"""What a graph from elsewhere takes and gives, and the nodes around it that make it a ranker.

Its weights stay as they are. The features reach a graph that knows a table as a row for each
candidate, and of two classes the last is the score; a graph that knows items gets their tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, compose, helper, numpy_helper

from models.folder import Inputs
from stream_app.errors import StreamAppError
from stream_app.manifest import HISTORY, ITEMS
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

OPSET_MIN = 13  # from here on the nodes around have the form that they are written in
OPSET = 17  # of the nodes around, where a graph has none of ONNX's own operators
_INNER = "inner/"
_WIDTH = len(FEATURE_NAMES)

# What the name of an input of tokens has in it, the first that fits; floats are the features.
_ROLES = {"history": ("history",), "candidates": ("candidate", "item")}
_TYPES = {
    "history": (TensorProto.INT32, TensorProto.INT64),
    "candidates": (TensorProto.INT32, TensorProto.INT64),
    "features": (TensorProto.FLOAT, TensorProto.DOUBLE),
}
_WANTED = (
    f"wanted is one input of floats (n, {_WIDTH}), a row of features for each candidate; or "
    f"`history` (1, {HISTORY}) and `candidates` (1, {POOL_SIZE}), integers, beside which there may "
    f"be `features` (1, {POOL_SIZE}, {_WIDTH})"
)


class WrapError(StreamAppError):
    """A graph from elsewhere cannot be served as it is; whoever exported it there acts."""


class Input(msgspec.Struct, frozen=True):
    """An input of a graph: None in the shape is an axis of any length."""

    name: str
    type: int
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        lengths = ", ".join("any" if axis is None else str(axis) for axis in self.shape)
        return f"`{self.name}` {TensorProto.DataType.Name(self.type).lower()} ({lengths})"


# --- what a graph takes ---------------------------------------------------------------------------


def read_graph(path: Path) -> onnx.ModelProto:
    """Return a graph with its weights, those that lie beside it included."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise WrapError(f"{path} cannot be read: {error.strerror}; give an ONNX file") from None
    except Exception as error:  # noqa: BLE001 - of protobuf or of onnx's checker
        raise WrapError(
            f"{path} is no ONNX graph: {line(error)}; export the model to ONNX again"
        ) from None
    opset = opset_of(model)
    if opset < OPSET_MIN:
        raise WrapError(
            f"{path} has opset {opset}, and {OPSET_MIN} is the least: export it with a newer "
            "target opset"
        )
    return model


def roles(model: onnx.ModelProto) -> dict[str, Input]:
    """Return which input of a graph gets the history, the candidates and the features.

    Raises
    ------
    WrapError
        When the inputs are others, with what is wanted.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = [_input(each) for each in model.graph.input if each.name not in weights]
    found: dict[str, Input] = {}
    if len(inputs) == 1 and inputs[0].type in _TYPES["features"]:
        found = {"features": inputs[0]}
    else:
        for each in inputs:
            name = each.name.lower()
            fits = [role for role, words in _ROLES.items() if any(word in name for word in words)]
            if each.type in _TYPES["features"]:
                fits = ["features"]
            found |= {role: each for role in fits[:1] if role not in found}
        known = {each.name for each in found.values()}
        if {"history", "candidates"} - found.keys() or len(known) != len(inputs):
            raise WrapError(
                f"the graph takes {' and '.join(map(str, inputs)) or 'nothing'}, and {_WANTED}: "
                "export it with such inputs"
            )
    for role, each in found.items():
        _check_input(role, each)
    return found


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators in a graph, or that of the nodes around it."""
    return next((each.version for each in model.opset_import if not each.domain), OPSET)


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in kind.shape.dim
    )
    return Input(value.name, kind.elem_type, shape)


def _check_input(role: str, each: Input) -> None:
    """Raise WrapError unless an input can take what a worker has for it."""
    wanted: dict[int, tuple[int, ...]] = {2: (1, POOL_SIZE)}
    if role == "history":
        length = (each.shape[1:2] or (None,))[0]
        wanted = {2: (1, min(length or HISTORY, HISTORY))}
    elif role == "features":
        wanted = {2: (POOL_SIZE, _WIDTH), 3: (1, POOL_SIZE, _WIDTH)}
    axes = wanted.get(len(each.shape))
    if (
        each.type not in _TYPES[role]
        or axes is None
        or any(own not in {None, axis} for own, axis in zip(each.shape, axes, strict=True))
    ):
        raise WrapError(f"the graph takes {each} for the {role}, and {_WANTED}: export it so")


def _original_feeds(found: Mapping[str, Input], inputs: Inputs, place: int) -> dict[str, Any]:
    """Return a request as the graph itself takes it, without anything around it."""
    feeds = {}
    for role, value in inputs.feeds(slice(place, place + 1)).items():
        if role not in found:
            continue
        each = found[role]
        if role == "history":
            value = value[:, -(each.shape[1] or HISTORY) :]  # noqa: PLW2901 - the same, shorter
        elif len(each.shape) == 2 and role == "features":  # noqa: PLR2004 - axes
            value = value[0]  # noqa: PLW2901 - the same, without the first axis
        feeds[each.name] = value.astype(helper.tensor_dtype_to_np_dtype(each.type))
    return feeds


# --- what a graph gives ---------------------------------------------------------------------------


class Output(msgspec.Struct, frozen=True):
    """The output of a graph that has the scores, and its shape for one request."""

    name: str
    shape: tuple[int, ...]

    def scores(self, value: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the scores of the candidates; (pool,)."""
        own = value[:, -1] if self.has_classes else value.reshape(POOL_SIZE)
        return own.astype(np.float32)

    @property
    def has_classes(self) -> bool:
        """Whether the last axis has two classes, not bought and bought."""
        return self.shape == (POOL_SIZE, 2)


def scored(
    found: Mapping[str, Input], running: onnxruntime.InferenceSession, inputs: Inputs
) -> tuple[Output, npt.NDArray[np.float32]]:
    """Return where the scores of a graph come out, and those of all requests; (n, pool).

    Raises
    ------
    WrapError
        When the graph cannot answer, or gives no scores that can be told from the rest.
    """
    names = [each.name for each in running.get_outputs()]
    try:
        values = [
            dict(zip(names, running.run(names, _original_feeds(found, inputs, place)), strict=True))
            for place in range(len(inputs))
        ]
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        raise WrapError(
            f"the graph cannot answer a request: {line(error)}; it must take {POOL_SIZE} "
            f"candidates, and the tokens 0 for padding, 1 for an unknown item, 2 and on for "
            f"the lines of {ITEMS}"
        ) from None
    shapes = {(POOL_SIZE,), (POOL_SIZE, 1), (POOL_SIZE, 2), (1, POOL_SIZE), (1, POOL_SIZE, 1)}
    fit, others = [], []
    for name, value in values[0].items():
        floats = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)
        if floats and value.shape in shapes:
            fit.append(Output(name, value.shape))
        shape = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "no tensor"
        others.append(f"`{name}` {shape}")
    if len(fit) != 1:
        raise WrapError(
            f"the graph gives {' and '.join(others)} for {POOL_SIZE} candidates, and wanted is one "
            f"output of floats, ({POOL_SIZE}, 1), ({POOL_SIZE}, 2) or (1, {POOL_SIZE}): export it "
            "with that alone; a classifier of skl2onnx with the option zipmap=False"
        )
    (output,) = fit
    return output, np.array([output.scores(each[output.name]) for each in values])


# --- the nodes around -----------------------------------------------------------------------------


class _Nodes:
    """Nodes to stand around a graph, and the constants that they take."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, given: str, *constants: Any, out: str = "", **more: Any) -> str:
        """Append a node behind ``given``, and return what it gives."""
        out = out or f"around/{len(self.made)}/{given}"
        names = [f"{out}/{place}" for place in range(len(constants))]
        for name, value in zip(names, constants, strict=True):
            self.constants.append(numpy_helper.from_array(np.array(value, np.int64), name))
        self.made.append(helper.make_node(op, [given, *names], [out], **more))
        return out


def around(model: onnx.ModelProto, found: Mapping[str, Input], output: Output) -> bytes:
    """Return a graph that takes and gives what a worker wants, with ``model`` inside."""
    made = compose.add_prefix(model, _INNER)
    before, after = _Nodes(), _Nodes()
    for role, each in found.items():
        value = role
        if role == "history" and each.shape[1] not in {None, HISTORY}:
            assert each.shape[1] is not None, "an axis of any length gets all of the history"
            value = before.add("Slice", value, [-each.shape[1]], [HISTORY], [1])
        if role == "features" and len(each.shape) == 2:  # noqa: PLR2004 - axes
            value = before.add("Reshape", value, [POOL_SIZE, _WIDTH])
        before.add("Cast", value, out=_INNER + each.name, to=each.type)
    value = _INNER + output.name
    if output.has_classes:
        value = after.add("Gather", value, 1, axis=1)
    value = after.add("Reshape", value, [1, POOL_SIZE])
    after.add("Cast", value, out="scores", to=TensorProto.FLOAT)
    graph = made.graph
    nodes = [*before.made, *graph.node, *after.made]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.constants, *after.constants])
    info = helper.make_tensor_value_info
    graph.input.extend(
        [
            info("history", TensorProto.INT32, [1, HISTORY]),
            info("candidates", TensorProto.INT32, [1, POOL_SIZE]),
            info("features", TensorProto.FLOAT, [1, POOL_SIZE, _WIDTH]),
        ]
    )
    graph.output.append(info("scores", TensorProto.FLOAT, [1, POOL_SIZE]))
    if not any(each.domain == "" for each in made.opset_import):
        made.opset_import.append(helper.make_opsetid("", OPSET))
    data: bytes = made.SerializeToString()
    return data


def line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
