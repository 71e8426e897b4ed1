"""A graph that was trained elsewhere scores in a worker as it does by itself, or is refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from models.__main__ import commands
from models.adapt import WrapError
from models.compress import compress
from models.folder import Inputs, session
from models.precision import Precision
from models.variants import RowsError, made_up
from models.wrap import About, wrap
from stream_app.clock import monotonic_seconds
from stream_app.errors import ModelError, StreamAppError
from stream_app.hashing import id_hash
from stream_app.manifest import FIRST_ITEM, HISTORY, Data
from stream_app.ranker import Ranker
from stream_app.registry import Registry, RegistryError
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES
from tests.onnx_model import graph

app = commands()

ITEMS = [f"sku-{number}" for number in range(150)]
WIDTH = len(FEATURE_NAMES)
NAMES = {id_hash(item): token for token, item in enumerate(ITEMS, FIRST_ITEM)}
ROWS = np.random.default_rng(3).uniform(0, 2, (400, WIDTH)).astype(np.float32)
ASKED = made_up(len(ITEMS), ROWS, 20).inputs
DATA = Data("elsewhere", datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC), 9)
ABOUT = About("foreign", "1", DATA, (4,), "Apache-2.0")

Scores = npt.NDArray[Any]


def write(folder: Path, model: onnx.ModelProto | bytes, items: str | None = None) -> Path:
    """Write a graph and the items; return the path of the graph."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "items.txt").write_text("\n".join(ITEMS) + "\n" if items is None else items)
    (folder / "foreign.onnx").write_bytes(data)
    return folder / "foreign.onnx"


def wrapped(folder: Path, model: onnx.ModelProto | bytes, about: About = ABOUT) -> Ranker:
    """Wrap a graph, publish what came of it, and return it as a worker loads it."""
    wrap(write(folder, model), folder / "items.txt", folder / "out", about)
    registry = Registry(str(folder / "registry"))
    registry.fetch(registry.publish(folder / "out", POOL_SIZE), folder / "fetched")
    return Ranker.load(
        folder / "fetched", clock=monotonic_seconds, milliseconds_max=1e6, pool_min=POOL_SIZE
    )


def answers(ranker: Ranker, inputs: Inputs) -> list[Scores]:
    """Return the scores that a worker gets, asked with hashes of items as the stream does it."""
    hashes = np.array([0, id_hash("nobody knows it"), *NAMES], np.uint64)
    found = []
    for place in range(len(inputs)):
        past, real = hashes[inputs.history[place]], inputs.candidates[place] != 0
        items = hashes[inputs.candidates[place][real]]
        rows = inputs.features[place][real]
        found.append(
            np.array(ranker.scores(past[past != 0].tolist(), items.tolist(), rows.tolist()))
        )
    return found


def differ(ranker: Ranker, wanted: list[Scores]) -> float:
    """Return the greatest difference between a worker's scores and the wanted ones."""
    pairs = zip(answers(ranker, ASKED), wanted, strict=True)
    return max(float(np.abs(own - right).max()) for own, right in pairs)


def rows_of(place: int) -> npt.NDArray[np.float32]:
    """Return the features of a request's real candidates."""
    rows: npt.NDArray[np.float32] = ASKED.features[place][ASKED.candidates[place] != 0]
    return rows


# --- graphs from elsewhere ------------------------------------------------------------------------


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    **constants: npt.NDArray[Any],
) -> onnx.ModelProto:
    """Return a graph."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes,
        "foreign",
        [info(name, *each) for name, each in inputs.items()],
        [info(name, *each) for name, each in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


def fitted() -> LogisticRegression:
    """Return a logistic regression of scikit-learn."""
    right = ROWS[:, 0] + ROWS[:, 3] > 2
    return LogisticRegression().fit(ROWS, right)


def table_model(*, zipmap: bool = False, opset: int = 17, **over: Any) -> onnx.ModelProto:
    """Return what skl2onnx makes of it: labels, and probabilities of both classes."""
    fit = fitted()
    weights = fit.coef_[0]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "raw"],
            domain="ai.onnx.ml",
            coefficients=[*(-weights).tolist(), *weights.tolist()],
            intercepts=[-float(fit.intercept_[0]), float(fit.intercept_[0])],
            classlabels_ints=[0, 1],
            multi_class=0,
            post_transform="LOGISTIC",
        ),
        helper.make_node("Normalizer", ["raw"], ["normed"], domain="ai.onnx.ml", norm="L1"),
        helper.make_node(
            "ZipMap", ["normed"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]
        )
        if zipmap
        else helper.make_node("Identity", ["normed"], ["probabilities"]),
    ]
    inputs = {"X": (TensorProto.FLOAT, [None, WIDTH])} | over
    outputs = {"label": (TensorProto.INT64, [None])}
    model = model_of(nodes, inputs, outputs | {"probabilities": (TensorProto.FLOAT, [None, 2])})
    model.opset_import[0].version = opset
    if zipmap:
        kind = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        value = helper.make_value_info("probabilities", helper.make_sequence_type_proto(kind))
        model.graph.output[1].CopyFrom(value)
    return model


LENGTH = 20  # of the towers' history
TABLES = np.random.default_rng(8).normal(size=(2, len(ITEMS) + FIRST_ITEM, 6)).astype(np.float32)


def towers(
    length: int | None = LENGTH,
    *,
    tokens: int = TensorProto.INT64,
    names: tuple[str, str] = ("user_history", "item_id"),
    rows: int | None = None,
    pool: int | None = None,
) -> onnx.ModelProto:
    """Return a two-tower model: the mean of the history by the candidate; (batch, N, 1)."""
    nodes = [
        helper.make_node("Gather", ["users", names[0]], ["past"]),
        helper.make_node("ReduceMean", ["past"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Transpose", ["mean"], ["column"], perm=[0, 2, 1]),
        helper.make_node("Gather", ["items", names[1]], ["now"]),
        helper.make_node("MatMul", ["now", "column"], ["dot"]),
    ]
    return model_of(
        nodes,
        {names[0]: (tokens, ["n", length]), names[1]: (tokens, ["n", pool])},
        {"dot": (TensorProto.FLOAT, ["n", pool, 1])},
        users=TABLES[0][:rows],
        items=TABLES[1][:rows],
    )


# --- what a worker gets ---------------------------------------------------------------------------


def test_a_table_model_scores_as_scikit_learn_does(tmp_path: Path) -> None:
    """The probability of the last class is the score; the history does not matter."""
    ranker = wrapped(tmp_path, table_model())
    wanted = [fitted().predict_proba(rows_of(place))[:, 1] for place in range(len(ASKED))]
    assert differ(ranker, wanted) < 1e-6
    assert np.concatenate(wanted).std() > 0.1
    manifest = ranker.manifest
    assert (manifest.name, manifest.licence, manifest.partitions) == ("foreign", "Apache-2.0", (4,))
    assert manifest.data == DATA
    assert manifest.metrics["parity"] == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "not at the history" in card
    assert "**Licence.** Apache-2.0" in card


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        GradientBoostingClassifier(n_estimators=5, random_state=0),
    ],
    ids=["logistic regression", "boosted trees"],
)
def test_what_skl2onnx_makes_scores_as_scikit_learn_does(tmp_path: Path, estimator: Any) -> None:
    """The real converter's graph, of a pipeline and of trees, needs no more than the option."""
    from skl2onnx import to_onnx  # noqa: PLC0415 - only here

    fit = estimator.fit(ROWS, ROWS[:, 0] + ROWS[:, 3] > 2)
    made = to_onnx(fit, ROWS[:1], options={id(fit): {"zipmap": False}}, target_opset=17)
    ranker = wrapped(tmp_path, made)
    wanted = [fit.predict_proba(rows_of(place))[:, 1] for place in range(len(ASKED))]
    assert differ(ranker, wanted) < 1e-5


@pytest.mark.parametrize(
    ("length", "tokens", "names"),
    [
        (LENGTH, TensorProto.INT64, ("user_history", "item_id")),
        (None, TensorProto.INT32, ("history", "candidates")),
        (HISTORY, TensorProto.INT32, ("History:0", "Candidates:0")),
    ],
)
def test_two_towers_score_as_numpy_does(
    tmp_path: Path, length: int | None, tokens: int, names: tuple[str, str]
) -> None:
    """Shorter histories are the newest items; ids of 64 bits and other names are no matter."""
    ranker = wrapped(tmp_path, towers(length, tokens=tokens, names=names))
    wanted = []
    for place in range(len(ASKED)):
        real = ASKED.candidates[place][ASKED.candidates[place] != 0]
        past = TABLES[0][ASKED.history[place, -(length or HISTORY) :]].mean(axis=0)
        wanted.append(TABLES[1][real] @ past)
    assert differ(ranker, wanted) < 1e-5
    assert np.concatenate(wanted).std() > 0.1


def test_features_are_told_by_their_type(tmp_path: Path) -> None:
    """Beside tokens an input of floats is the features, whatever its name has in it."""
    own = onnx.load_from_string(graph(len(ITEMS)))
    own.graph.input[2].name = "item_numbers"
    for node in own.graph.node:
        node.input[:] = ["item_numbers" if each == "features" else each for each in node.input]
    wanted = answers(wrapped(tmp_path, graph(len(ITEMS))), ASKED)
    (tmp_path / "other").mkdir()
    assert differ(wrapped(tmp_path / "other", own), wanted) == 0


def test_a_graph_that_fits_already_keeps_its_scores(tmp_path: Path) -> None:
    """History, candidates and features as a worker has them pass through."""
    own = graph(len(ITEMS))
    ranker = wrapped(tmp_path, own)
    running = session(own)
    wanted = [
        running.run(["scores"], ASKED.feeds(slice(place, place + 1)))[0][0][
            ASKED.candidates[place] != 0
        ]
        for place in range(len(ASKED))
    ]
    assert differ(ranker, wanted) == 0


def test_doubles_are_taken_too(tmp_path: Path) -> None:
    """A graph of float64 gets and gives it; a regression has one column."""
    weights = np.linspace(-1, 1, WIDTH).reshape(WIDTH, 1)
    model = model_of(
        [helper.make_node("MatMul", ["in", "weights"], ["variable"])],
        {"in": (TensorProto.DOUBLE, [None, WIDTH])},
        {"variable": (TensorProto.DOUBLE, [None, 1])},
        weights=weights,
    )
    wanted = [rows_of(place).astype(np.float64) @ weights[:, 0] for place in range(len(ASKED))]
    assert differ(wrapped(tmp_path, model), wanted) < 1e-6


def test_what_was_wrapped_can_be_compressed(tmp_path: Path) -> None:
    """The towers' tables are found behind the nodes around them."""
    wrapped(tmp_path, towers())
    asked = made_up(len(ITEMS), ROWS, 5)
    whole, _, quarter = compress(tmp_path / "out", tmp_path / "small", Precision.INT8, asked, 1.0)
    assert whole.bytes - quarter.bytes > 0.8 * TABLES.size
    assert 0 < quarter.score_difference < 0.1


# --- what is refused ------------------------------------------------------------------------------


def refusal(folder: Path, model: onnx.ModelProto | bytes, items: str | None = None) -> str:
    """Return the sentence with which a graph is refused; nothing may be written."""
    with pytest.raises(StreamAppError) as refused:
        wrap(write(folder, model, items), folder / "items.txt", folder / "out", ABOUT)
    assert not (folder / "out").exists()
    assert isinstance(refused.value, WrapError | RowsError | ModelError)
    return str(refused.value)


def test_other_inputs_are_refused_with_what_is_wanted(tmp_path: Path) -> None:
    """Another width, another number of candidates, too long a history, unknown names."""
    narrow = refusal(tmp_path, table_model(X=(TensorProto.FLOAT, [None, 13])))
    assert "takes `X` float (any, 13) for the features" in narrow
    assert "wanted is one input of floats (n, 14)" in narrow
    assert "`X` float (7, 14)" in refusal(tmp_path, table_model(X=(TensorProto.FLOAT, [7, WIDTH])))
    assert "`item_id` int64 (any, 9) for the candidates" in refusal(tmp_path, towers(pool=9))
    assert "`user_history` int64 (any, 80) for the history" in refusal(tmp_path, towers(80))
    unknown = refusal(tmp_path, towers(names=("user_history", "sku")))
    assert "takes `user_history` int64 (any, 20) and `sku` int64 (any, any), and wanted" in unknown
    words = towers(tokens=TensorProto.INT64)
    words.graph.input[1].type.tensor_type.elem_type = TensorProto.STRING
    assert "`item_id` string (any, any) for the candidates" in refusal(tmp_path, words)


def test_other_outputs_are_refused_with_what_is_wanted(tmp_path: Path) -> None:
    """Maps in place of a tensor, and two outputs that could both be the scores."""
    said = refusal(tmp_path, table_model(zipmap=True))
    assert "`label` int64 (100,) and `probabilities` no tensor" in said
    assert "zipmap=False" in said
    two = table_model()
    two.graph.output.append(helper.make_tensor_value_info("raw", TensorProto.FLOAT, [None, 2]))
    assert "`raw` float32 (100, 2) for 100 candidates, and wanted is one" in refusal(tmp_path, two)


def test_tables_with_too_few_rows_are_refused(tmp_path: Path) -> None:
    """Each item of the file needs a row, and so do padding and the unknown item."""
    assert "has 151 rows, and 152 are wanted" in refusal(tmp_path, towers(rows=151))


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A graph that takes a logarithm of what may be negative is not written."""
    broken = towers()
    broken.graph.node[-1].output[0] = "product"
    broken.graph.node.append(helper.make_node("Log", ["product"], ["dot"]))
    assert "gives scores that are no numbers" in refusal(tmp_path, broken)


def test_chance_is_refused(tmp_path: Path) -> None:
    """Scores that differ from run to run are no scores."""
    dice = towers(pool=POOL_SIZE)
    dice.graph.node[-1].output[0] = "product"
    dice.graph.node.append(
        helper.make_node("RandomUniform", [], ["noise"], shape=[1, POOL_SIZE, 1])
    )
    dice.graph.node.append(helper.make_node("Add", ["product", "noise"], ["dot"]))
    assert "scores differ by" in refusal(tmp_path, dice)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no graph", "is no ONNX graph"),
        (b"", "is no ONNX graph"),
        (table_model(opset=12).SerializeToString(), "has opset 12, and 13 is the least"),
        (towers().SerializeToString()[:-40], "is no ONNX graph"),
    ],
)
def test_damaged_graphs_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    """A file that is no graph is a sentence, not a traceback."""
    assert said in refusal(tmp_path, data)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("", "is empty in line 1"),
        ("a\n\nb\n", "is empty in line 2"),
        ("a\nb\na\n", "names an item twice"),
        ("a\r\nb\r\n", "end as on Windows"),
    ],
)
def test_item_files_are_checked(tmp_path: Path, items: str, said: str) -> None:
    """A file of items with an empty line, a double or Windows's ends is refused."""
    assert said in refusal(tmp_path, towers(), items)


def test_a_name_that_cannot_be_published_is_refused(tmp_path: Path) -> None:
    """A name that makes no folder is noticed before anything is written."""
    about = About("a/b", "1", DATA, ())
    with pytest.raises(RegistryError, match="makes no folder"):
        wrap(write(tmp_path, towers()), tmp_path / "items.txt", tmp_path / "out", about)
    assert not (tmp_path / "out").exists()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_the_folder_and_says_what_it_wrote(tmp_path: Path) -> None:
    """Options reach the manifest; without days the data is all there was until now."""
    file, out = write(tmp_path, towers()), tmp_path / "out"
    words = ["wrap", str(file), "--items", str(tmp_path / "items.txt"), "--out", str(out)]
    words += ["--name", "towers", "--version", "2", "--licence", "MIT", "--partitions", "4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "towers"
    found = json.loads((out / "manifest.json").read_bytes())
    assert (found["licence"], found["partitions"], found["opset"]) == ("MIT", [4], 17)
    assert found["data"]["source"] == "not said"
    assert found["data"]["from"] == "1970-01-01T00:00:00Z"
    days = ["--from", "2021-01-01", "--until", "2020-01-01"]
    assert "--from is after --until" in CliRunner().invoke(app, words + days).output
    missing = [each if each != str(file) else str(tmp_path / "none.onnx") for each in words]
    refused = CliRunner().invoke(app, missing)
    assert "none.onnx cannot be read: No such file" in str(refused.exception)
