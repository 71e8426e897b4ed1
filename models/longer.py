"""The tables of a ranker's graph, made longer: rows at their end for items that are new to it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from models.folder import Inputs, score, session
from stream_app.errors import StreamAppError
from stream_app.manifest import FIRST_ITEM


class ExtendError(StreamAppError):
    """A model or a catalogue cannot be used to extend it; whoever gave them acts."""


def item_tables(model: onnx.ModelProto, tokens: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return what a graph holds of each token, such as embeddings (V, D) and biases (V,), by name.

    That is float32 initializers of V rows whose rows a Gather takes at places worked out from
    history or candidates; the widest come first.

    Raises
    ------
    ExtendError
        When there is none, or one is used otherwise too.
    """
    from_tokens = {"history", "candidates"}
    for node in model.graph.node:  # in the order of their computation, as ONNX has it
        if from_tokens.intersection(node.input):
            from_tokens.update(node.output)
    found = {}
    for each in model.graph.initializer:
        uses = [node for node in model.graph.node if each.name in node.input]
        looked_up = [
            node.op_type == "Gather"
            and node.input[0] == each.name
            and node.input[1] in from_tokens
            and all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
            for node in uses
        ]
        if each.data_type != TensorProto.FLOAT or list(each.dims[:1]) != [tokens]:
            continue
        if not any(looked_up):
            continue
        if not all(looked_up):
            raise ExtendError(
                f"the graph uses its table {each.name} otherwise than row by row: export one that "
                "scores the candidates alone"
            )
        found[each.name] = numpy_helper.to_array(each)
    if not found:
        raise ExtendError(
            f"the graph has no table of {tokens:,} rows that history or candidates look up, so it "
            "knows no items: extend a model that does"
        )
    return dict(sorted(found.items(), key=lambda pair: -pair[1].size))


def with_rows(model: onnx.ModelProto, rows: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return a graph with more rows at the end of its tables; what it was given stays as it is."""
    longer = onnx.ModelProto()
    longer.CopyFrom(model)
    for each in longer.graph.initializer:
        if each.name in rows:
            table = np.concatenate([numpy_helper.to_array(each), rows[each.name]])
            each.CopyFrom(numpy_helper.from_array(table, each.name))
    data: bytes = longer.SerializeToString()
    return data


def check_longer(
    model: onnx.ModelProto, tables: Mapping[str, npt.NDArray[np.float32]], added: int, asked: Inputs
) -> None:
    """Raise ExtendError unless a graph reads rows that are put at the end like those before.

    Items get a second row with the same numbers, at the end; requests that name it must get the
    bits of those that name the first.
    """
    tokens = len(next(iter(tables.values())))
    copied = np.arange(added) % (tokens - FIRST_ITEM) + FIRST_ITEM
    longer = session(with_rows(model, {name: each[copied] for name, each in tables.items()}))
    second = np.arange(tokens)
    second[copied] = np.arange(added) + tokens  # of several copies the last
    before = session(model.SerializeToString())
    again = Inputs(
        second[asked.history].astype(np.int32),
        second[asked.candidates].astype(np.int32),
        asked.features,
    )
    for place in range(len(asked)):
        wanted = score(before, asked, place).tobytes()
        if score(longer, asked, place).tobytes() != wanted:
            raise ExtendError(
                "the graph scores items that it knows otherwise once its tables are longer: export "
                "it so that an item's score depends on its row alone"
            )
        if score(longer, again, place).tobytes() != wanted:
            raise ExtendError(
                "the graph does not read rows at the end of its tables, such as where it limits "
                "the tokens to those it has: export it without such a limit"
            )
