"""A table of items in float16 or int8: what it computes, what it may lose, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from models.__main__ import commands
from models.compress import compress, compress_graph, quantized
from models.data import Requests
from models.folder import Inputs, probed, score, session
from models.precision import CompressError, Precision
from models.variants import RowsError, check_rows, compare, held, made_up
from stream_app.clock import monotonic_seconds
from stream_app.hashing import id_hash
from stream_app.manifest import FIRST_ITEM, HISTORY, read_folder, read_manifest
from stream_app.ops.demo_shops import MODEL_FOLDER
from stream_app.ranker import Ranker
from stream_app.registry import Registry
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES
from tests.onnx_model import graph, parameters, write_model
from tests.training.shop import VOCABULARY, requests

app = commands()

ITEMS = VOCABULARY.item_ids
WIDTH = len(FEATURE_NAMES)
ROWS = np.random.default_rng(5).normal(size=(99, WIDTH)).astype(np.float32)
SMALLER = [Precision.FLOAT16, Precision.INT8]


def changed(made: bytes, **constants: npt.NDArray[Any]) -> bytes:
    """Return a graph with other constants."""
    model = onnx.load_from_string(made)
    for place, each in enumerate(model.graph.initializer):
        if each.name in constants:
            new = numpy_helper.from_array(constants[each.name], each.name)
            model.graph.initializer[place].CopyFrom(new)
    data: bytes = model.SerializeToString()
    return data


def lookup(*behind: onnx.NodeProto) -> bytes:
    """Return a graph with a free first axis that scores by the greatest number of an item's row.

    A sum is rounded otherwise in another batch, a maximum is not. Nodes from "rows" to "seen" may
    stand behind what is looked up.
    """
    model = onnx.load_from_string(graph(len(ITEMS), opset=18))
    nodes = [
        helper.make_node("Gather", ["table", "candidates"], ["rows" if behind else "seen"]),
        *behind,
        helper.make_node("ReduceMax", ["seen", "axis"], ["scores"], keepdims=0),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = "n"
    data: bytes = model.SerializeToString()
    return data


def by_hand(inputs: Inputs, table: npt.NDArray[Any], place: int) -> npt.NDArray[np.float32]:
    """Return the scores of the small graph with a table of embeddings, by numpy alone."""
    _, weights = parameters(len(ITEMS))
    past = table[inputs.history[place]].mean(axis=0)
    scores: npt.NDArray[np.float32] = (
        table[inputs.candidates[place]] @ past + (inputs.features[place] @ weights)[:, 0]
    )
    return scores


# --- what it computes -----------------------------------------------------------------------------


def test_scores_are_those_of_a_table_rounded_by_hand() -> None:
    """Each precision scores as numpy does with the table rounded, and not as float32 does."""
    table, _ = parameters(len(ITEMS))
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    steps[0] = 1.0  # the row of padding is zeros
    tables = {
        Precision.FLOAT16: table.astype(np.float16).astype(np.float32),
        Precision.INT8: np.round(table / steps).astype(np.int8).astype(np.float32) * steps,
    }
    inputs = made_up(len(ITEMS), ROWS, 20).inputs
    for precision, rounded in tables.items():
        running = session(compress_graph(graph(len(ITEMS)), precision))
        found = np.array([score(running, inputs, place) for place in range(20)])
        wanted, before = (
            np.array([by_hand(inputs, each, place) for place in range(20)])
            for each in (rounded, table)
        )
        assert np.abs(found - wanted).max() < 5e-6
        assert np.abs(found - before).max() > 1e-4


def test_rows_are_rounded_each_by_its_own_scale() -> None:
    """No number is further off than half a step of its row; zeros stay zeros."""
    rows = np.array([[0, 0, 0], [1e-6, -2e-6, 5e-7], [100.0, -254.0, 1.0]], np.float32)
    whole, scales = quantized(rows)
    assert (np.abs(whole * scales - rows) <= scales * 0.5001).all()
    assert whole[:, 1].tolist() == [0, -127, -127]
    assert scales[:, 0] == pytest.approx([0.0, 2e-6 / 127, 2.0])


def test_float32_changes_no_byte() -> None:
    """The first precision is the graph as it is."""
    assert compress_graph(graph(), Precision.FLOAT32) == graph()


def test_the_demo_s_network_shrinks() -> None:
    """Its one table, looked up twice, is most of it; scores stay close, lists nearly all the same.

    Bytes: 2 a number are saved by float16; 3 by int8, less a scale of 4 a row.
    """
    folder = read_folder(MODEL_FOLDER, POOL_SIZE)
    tokens = folder.manifest.items + FIRST_ITEM
    graphs = {each.value: compress_graph(folder.graph, each) for each in Precision}
    known = probed(folder.manifest)
    asked = made_up(folder.manifest.items, known.features[known.candidates != 0], 100)
    whole, half, quarter = compare(graphs, asked)
    assert whole.bytes - half.bytes == pytest.approx(tokens * 64 * 2, rel=1e-3)
    assert whole.bytes - quarter.bytes == pytest.approx(tokens * (64 * 3 - 4), rel=1e-3)
    assert whole.score_difference == whole.changed == whole.exchanged == 0
    assert 0 < half.score_difference < 2e-3
    assert half.score_difference < quarter.score_difference < 0.1
    assert half.exchanged <= quarter.exchanged <= quarter.changed < 0.2
    for precision, made in graphs.items():
        check_rows(session(made), asked.inputs.first(20), precision)


# --- the same bits beside others ------------------------------------------------------------------


@pytest.mark.parametrize("precision", list(Precision))
def test_rows_are_bit_equal_alone_and_in_a_batch(precision: Precision) -> None:
    """With a free first axis, what is looked up does not depend on the other requests."""
    smaller = compress_graph(lookup(), precision)
    check_rows(session(smaller), made_up(len(ITEMS), ROWS, 40).inputs, precision)


def test_scales_taken_while_it_runs_are_refused() -> None:
    """A scale over the whole batch lets a request depend on its neighbours."""
    moving = lookup(
        helper.make_node("DynamicQuantizeLinear", ["rows"], ["whole", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["seen"]),
    )
    inputs = made_up(len(ITEMS), ROWS, 40).inputs
    with pytest.raises(RowsError, match="other scores beside other requests than alone"):
        check_rows(session(moving), inputs, "int8")


def test_chance_is_refused(tmp_path: Path) -> None:
    """A graph that draws numbers scores a request otherwise the second time, and is not written."""
    model = onnx.load_from_string(graph(len(ITEMS)))
    model.graph.node[-1].CopyFrom(helper.make_node("Add", ["sum", "noise"], ["scores"]))
    noise = helper.make_node("RandomUniform", [], ["noise"], shape=[1, POOL_SIZE])
    model.graph.node.insert(0, noise)
    folder = write_model(tmp_path / "model", item_ids=ITEMS, onnx=model.SerializeToString())
    asked = made_up(len(ITEMS), ROWS, 9)
    with pytest.raises(RowsError, match="when it is asked in another order"):
        compress(folder, tmp_path / "out", Precision.INT8, asked, 1.0)
    assert not (tmp_path / "out").exists()


# --- what it may lose -----------------------------------------------------------------------------


def close_shop() -> tuple[bytes, Requests]:
    """Return a graph that tells items apart by numbers that int8 rounds away, and requests.

    Everybody has bought the first item and then buys the last one, which float32 ranks first.
    """
    table = np.zeros((len(ITEMS) + 2, 3), np.float32)
    table[2:] = [[1.0, 0.0001 * place, 0.0] for place in range(len(ITEMS))]
    table[2] = [0.0, 50.0, 0.0]
    made = changed(graph(len(ITEMS)), table=table, weights=np.zeros((WIDTH, 1), np.float32))
    given = requests(40)
    first, last = id_hash(ITEMS[0]), id_hash(ITEMS[-1])
    given.history[:] = 0
    given.history[:, -1] = first
    given.candidates[given.candidates == first] = id_hash("nobody knows it")
    given.bought[:] = given.candidates == last
    given.targets[:] = last
    return made, given


def test_a_variant_that_loses_too_much_is_not_written(tmp_path: Path) -> None:
    """The sentence has the loss and its bound; a variant that loses nothing is written."""
    made, given = close_shop()
    folder = write_model(tmp_path / "model", item_ids=ITEMS, onnx=made, probes=[_probe(made)])
    asked = held(given, ITEMS)
    with pytest.raises(CompressError) as refused:
        compress(folder, tmp_path / "out", Precision.INT8, asked, 0.005)
    found = str(refused.value)
    assert "of NDCG@10 (1.0000 to 0." in found
    assert "in 40 held requests), more than the 0.50% of --loss-max" in found
    assert not (tmp_path / "out").exists()
    whole, half, quarter = compress(folder, tmp_path / "out", Precision.FLOAT16, asked, 0.005)
    assert (whole.ndcg_at_10, half.ndcg_loss) == (1.0, 0.0)
    assert quarter.ndcg_loss is not None
    assert f"int8 loses {quarter.ndcg_loss:.2%}" in found
    compress(folder, tmp_path / "out", Precision.INT8, asked, quarter.ndcg_loss)


def test_requests_that_tell_nothing_judge_nothing(tmp_path: Path) -> None:
    """Where float32 finds nothing, no loss can be told."""
    made, given = close_shop()
    given.bought[:] = False
    folder = write_model(tmp_path / "model", item_ids=ITEMS, onnx=made, probes=[_probe(made)])
    with pytest.raises(CompressError, match="float32 finds none of what was bought"):
        compress(folder, tmp_path / "out", Precision.FLOAT16, held(given, ITEMS), 1.0)


def _probe(made: bytes) -> dict[str, Any]:
    """Return a probe with the scores that a graph gives."""
    inputs = made_up(len(ITEMS), ROWS, 1).inputs
    real = inputs.candidates[0] != 0
    return {
        "history": inputs.history[0].tolist(),
        "candidates": inputs.candidates[0].tolist(),
        "features": inputs.features[0].tolist(),
        "scores": score(session(made), inputs, 0)[real].tolist(),
    }


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", list(Precision))
def test_a_worker_loads_and_publishes_it(tmp_path: Path, precision: Precision) -> None:
    """The folder names its precision and figures; a worker's scores are the graph's."""
    folder = write_model(tmp_path / "model", item_ids=ITEMS)
    old = read_manifest(folder)
    assert (old.precision, old.licence) == ("float32", None)  # keys that it does not have
    given = requests(30)
    variants = compress(folder, tmp_path / "out", precision, held(given, ITEMS), 1.0)
    ranker = Ranker.load(
        tmp_path / "out", clock=monotonic_seconds, milliseconds_max=1e6, pool_min=POOL_SIZE
    )
    manifest = ranker.manifest
    (own,) = (each for each in variants if each.precision == precision)
    assert manifest.precision == precision
    assert manifest.version == ("7" if precision == "float32" else f"7-{precision}")
    assert manifest.metrics == {"recall@10": 0.25} | own.metrics()
    assert own.metrics().keys() >= {"bytes", "milliseconds", "ndcg_at_10", "recall_at_10"}
    smaller = session(compress_graph(graph(len(ITEMS)), precision))
    again = score(smaller, probed(manifest), 0)[: len(manifest.probes[0].scores)]
    assert list(manifest.probes[0].scores) == again.tolist()
    for row in range(len(given)):
        past, real = given.history[row], given.candidates[row] != 0
        found = ranker.scores(
            past[past != 0].tolist(),
            given.candidates[row][real].tolist(),
            given.features[row][real].tolist(),
        )
        asked = held(given, ITEMS).inputs
        assert list(found) == score(smaller, asked, row)[real].tolist()
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"version {manifest.version}\n" in card
    assert f"| {precision} | {own.bytes / 1e6:.2f} |" in card
    registry = Registry(str(tmp_path / "registry"))
    release = registry.publish(tmp_path / "out", POOL_SIZE)
    assert release in registry.releases()


def test_the_table_of_an_older_card_is_replaced(tmp_path: Path) -> None:
    """Compressed again in place, a float32 folder has one table, and no second version."""
    folder = write_model(tmp_path / "model", item_ids=ITEMS)
    for _ in range(2):
        compress(folder, folder, Precision.FLOAT32, made_up(len(ITEMS), ROWS, 5), 1.0)
    card = (folder / "README.md").read_text("utf-8")
    assert card.count("## Precisions") == card.count("| float16 |") == 1
    assert "not known" in card
    assert read_manifest(folder).version == "7"


# --- what is refused ------------------------------------------------------------------------------


def test_a_graph_without_such_a_table_is_refused() -> None:
    """No table, one that is used as a whole too, and numbers beyond float16 are each a sentence."""
    model = onnx.load_from_string(graph())
    del model.graph.node[:5]
    model.graph.node[0].input[0] = "features"
    with pytest.raises(CompressError, match="there is nothing to make smaller"):
        compress_graph(model.SerializeToString(), Precision.INT8)
    model = onnx.load_from_string(graph())
    model.graph.node.append(helper.make_node("ReduceMax", ["table"], ["most"]))
    with pytest.raises(CompressError, match="used by Gather and ReduceMax as a whole"):
        compress_graph(model.SerializeToString(), Precision.INT8)
    large = changed(graph(), table=np.full((14, 3), 1e5, np.float32))
    with pytest.raises(CompressError, match="float16 cannot hold"):
        compress_graph(large, Precision.FLOAT16)
    broken = changed(graph(), table=np.full((14, 3), math.nan, np.float32))
    with pytest.raises(CompressError, match="int8 cannot hold"):
        compress_graph(broken, Precision.INT8)


def test_tables_of_other_things_stay_as_they_are() -> None:
    """What no token looks up keeps its bits: a table of places, and the weights."""
    model = onnx.load_from_string(graph(len(ITEMS)))
    places = np.zeros((HISTORY, 3), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(places, "places_table"))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(HISTORY), "order"))
    model.graph.node.insert(0, helper.make_node("Gather", ["places_table", "order"], ["p"]))
    smaller = onnx.load_from_string(compress_graph(model.SerializeToString(), Precision.INT8))
    kinds = {each.name: each.data_type for each in smaller.graph.initializer}
    assert kinds["places_table"] == kinds["weights"] == TensorProto.FLOAT
    assert kinds["table.int8"] == TensorProto.INT8
    assert "table" not in kinds


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_costs(tmp_path: Path) -> None:
    """Without held requests it says that no loss is known; with them it has one."""
    folder = write_model(tmp_path / "model", item_ids=ITEMS)
    out = ("--to", str(tmp_path / "out"))
    run = CliRunner()
    done = run.invoke(app, ["compress", str(folder), *out])
    assert done.exit_code == 0, done.output
    assert "no loss is known" in done.stderr
    said = json.loads(done.stdout)
    assert [each["precision"] for each in said["variants"]] == ["float32", "float16", "int8"]
    assert said["variants"][2]["ndcg_loss"] is None
    refused = run.invoke(app, ["compress", str(folder), *out, "--loss-max", "0.1"])
    assert refused.exit_code == 2
    assert "needs --build" in " ".join(refused.output.split())
    until_ms = int(read_manifest(folder).data.until.timestamp() * 1_000)
    given = requests(50)
    given.time_ms[:] += until_ms - 20_000  # the first twenty came before
    given.save(tmp_path / "build" / "requests.npz")
    build_ = ("--build", str(tmp_path / "build"), "--loss-max", "1")
    done = run.invoke(app, ["compress", str(folder), *out, *build_])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["variants"][2]["requests"] == 30
    assert 0 <= json.loads(done.stdout)["variants"][2]["ndcg_loss"] <= 1


def test_what_is_missing_or_done_already_is_a_sentence(tmp_path: Path) -> None:
    """A build without requests, or with none that is new, and an int8 folder are named."""
    folder = write_model(tmp_path / "model", item_ids=ITEMS)
    run = CliRunner()

    def refusal(*more: str) -> str:
        done = run.invoke(app, ["compress", str(folder), "--to", str(folder), *more])
        assert isinstance(done.exception, CompressError)
        return str(done.exception)

    assert "has no requests.npz" in refusal("--build", str(tmp_path))
    requests(5).save(tmp_path / "requests.npz")
    assert "has no request after 2017-11-05" in refusal("--build", str(tmp_path))
    assert run.invoke(app, ["compress", str(folder), "--to", str(folder)]).exit_code == 0
    assert "holds int8 already: compress the float32 model" in refusal()
