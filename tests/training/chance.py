"""A graph that draws a little at each run: what nobody may serve."""

import onnx
from onnx import helper


def with_chance(graph: bytes, output: str = "scores", most: float = 1e-6) -> bytes:
    """Return a graph whose output has something drawn added to it, ``most`` at most."""
    model = onnx.load_from_string(graph)
    (said,) = (each for each in model.graph.output if each.name == output)
    shape = [each.dim_value for each in said.type.tensor_type.shape.dim]
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == output:
                node.output[place] = "sober"
    drawn = helper.make_node("RandomUniform", [], ["drawn"], low=0.0, high=most, shape=shape)
    model.graph.node.append(drawn)
    model.graph.node.append(helper.make_node("Add", ["sober", "drawn"], [output]))
    data: bytes = model.SerializeToString()
    return data
