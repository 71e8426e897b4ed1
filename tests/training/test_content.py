"""Items that nobody has bought are ranked by what is said and shown of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.numpy
import tokenizers
from flax import nnx
from onnx import TensorProto, helper
from PIL import Image
from scipy.special import erf
from typer.testing import CliRunner

from models.__main__ import commands
from models.compress import compress
from models.content import ITEMS_MIN, Content, ContentError, TowerSettings, fit, text_of
from models.extend import Catalog, extend, read_catalog
from models.folder import probed
from models.image_encoder import Images, of_items, read
from models.longer import ExtendError
from models.precision import Precision
from models.text_encoder import EncoderError, Sizes, TextEncoder, Texts, _named, export, load
from models.variants import made_up
from stream_app.clock import monotonic_seconds
from stream_app.errors import StreamAppError
from stream_app.event import Item, encode
from stream_app.hashing import id_hash
from stream_app.manifest import read_folder
from stream_app.ranker import Ranker
from stream_app.registry import Registry
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES
from tests.onnx_model import WIDTH, parameters, write_model

app = commands()

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tea", "green", "pot", "##s", "##pot", "un", ","]
SIZES = Sizes(len(WORDS), 16, 2, 4, 24, 10)
LENGTH = 8
TOWER = TowerSettings(hidden=64, batch=64, epochs_max=40, dropout=0.0, learning_rate=5e-3)
KNOWN = [f"i-{number}" for number in range(200)]
NEW = [f"new-{number}" for number in range(20)]

Array = npt.NDArray[Any]


# --- texts ----------------------------------------------------------------------------------------


def write_weights(folder: Path) -> dict[str, Array]:
    """Write the folder of a tiny BERT in the published form; return its weights."""
    drawn = np.random.default_rng(0)
    weights = {}
    for name, (variable, turned) in _named(TextEncoder(SIZES, nnx.Rngs(0))).items():
        shape = variable[...].shape[:: -1 if turned else 1]
        weights[name] = drawn.normal(0, 0.5, shape).astype(np.float32)
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    config = {name: getattr(SIZES, name) for name in SIZES.__struct_fields__}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    pieces = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")  # noqa: S106 - no password
    tokenizer = tokenizers.Tokenizer(pieces)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny BERT."""
    folder = tmp_path_factory.mktemp("bert")
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Path:
    """Return the folder of the same, as the command exports it."""
    words = f"encode --weights {weights} --to {weights}/exported --length {LENGTH} --check"
    done = CliRunner().invoke(app, words.split())
    figures = json.loads(done.stdout)
    assert figures["parity"] <= 1e-4
    assert done.exit_code == (0 if figures["orders_right"] else 1)
    return weights / "exported"


def by_hand(weights: dict[str, Array], tokens: Sequence[int]) -> Array:
    """Return the vector of a text, worked out by numpy from the paper."""

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + SIZES.layer_norm_eps)
        found: Array = x * weights[f"{name}.weight"] + weights[f"{name}.bias"]
        return found

    def linear(x: Array, name: str) -> Array:
        found: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return found

    def table(name: str) -> Array:
        return weights[f"embeddings.{name}_embeddings.weight"].astype(np.float64)

    x = table("word")[list(tokens)] + table("position")[: len(tokens)] + table("token_type")[0]
    x = norm(x, "embeddings.LayerNorm")
    each = SIZES.hidden_size // SIZES.num_attention_heads
    for number in range(SIZES.num_hidden_layers):
        at = f"encoder.layer.{number}"
        q, k, v = (linear(x, f"{at}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for begin in range(0, SIZES.hidden_size, each):
            part = slice(begin, begin + each)
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(each))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        mixed = linear(np.concatenate(heads, 1), f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(0)
    found: Array = mean / np.linalg.norm(mean)
    return found


def test_encoder_computes_what_the_paper_says(weights: Path, encoder: Path) -> None:
    """Flax and ONNX give the vectors that numpy gives for the published weights."""
    given = safetensors.numpy.load_file(weights / "model.safetensors")
    texts = ["Green tea", "teapots, green pots"]
    ids = [[2, 5, 4, 3], [2, 4, 8, 7, 10, 5, 6, 3]]
    wanted = np.array([by_hand(given, each) for each in ids])
    tokens = np.array([each + [0] * (LENGTH - len(each)) for each in ids], np.int32)
    assert np.abs(np.asarray(load(weights)(jnp.asarray(tokens))) - wanted).max() < 1e-5
    assert np.abs(Texts(encoder).vectors(texts) - wanted).max() < 1e-5


def test_words_are_cut_into_the_longest_pieces(encoder: Path) -> None:
    """Texts become the pieces that WordPiece's rule gives by hand, framed, cut and filled up."""
    cases = {
        "TEA": [2, 4, 3, 0, 0, 0, 0, 0],
        "teapots": [2, 4, 8, 7, 3, 0, 0, 0],  # tea ##pot ##s
        "pots,unpot": [2, 6, 7, 10, 9, 8, 3, 0],
        "green sofa": [2, 5, 1, 3, 0, 0, 0, 0],  # no piece for it
        "teasofa tea": [2, 1, 4, 3, 0, 0, 0, 0],  # nor for all of it
        "téa": [2, 4, 3, 0, 0, 0, 0, 0],
        "tea tea tea tea tea tea tea tea": [2, 4, 4, 4, 4, 4, 4, 3],
    }
    assert Texts(encoder).tokens(list(cases)).tolist() == list(cases.values())


def test_vector_of_a_text_is_the_same_beside_others(encoder: Path) -> None:
    """A text has one vector, of length 1, whatever is asked with it; an empty one has zeros."""
    texts = Texts(encoder)
    many = texts.vectors(["green tea", "", "pots", "green tea"])
    assert many[0].tobytes() == many[3].tobytes() == texts.vectors(["green tea"])[0].tobytes()
    assert np.allclose(np.linalg.norm(many, axis=1), [1, 0, 1, 1])


def broken(weights: Path, folder: Path, how: str) -> Path:
    """Return a copy of an encoder's weights with one thing wrong."""
    folder.mkdir()
    for path in weights.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    if how in {"config.json", "model.safetensors", "tokenizer.json"}:
        (folder / how).write_bytes(b"{}")
        return folder
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    if how == "lacks":
        del tensors["encoder.layer.1.output.dense.bias"]
    else:
        tensors["embeddings.LayerNorm.bias"] = np.zeros(3, np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("config.json", "is not that of a BERT"),
        ("model.safetensors", "cannot be read"),
        ("tokenizer.json", "is no tokenizer"),
        ("lacks", r"lacks encoder\.layer\.1\.output\.dense\.bias"),
        ("shape", r"is \(3,\), and config\.json asks for \(16,\)"),
    ],
)
def test_broken_weights_are_refused(weights: Path, tmp_path: Path, how: str, said: str) -> None:
    """What is wrong with an encoder's files is said in a sentence."""
    folder = broken(weights, tmp_path / "broken", how)
    with pytest.raises(EncoderError, match=said):
        export(folder, tmp_path / "to", ["tea"], LENGTH)


def test_missing_encoder_is_named(tmp_path: Path) -> None:
    """Who names no encoder is told what writes one."""
    with pytest.raises(EncoderError, match="--weights"):
        load(tmp_path)
    with pytest.raises(EncoderError, match="models encode"):
        Texts(tmp_path)


# --- pictures -------------------------------------------------------------------------------------


def picture_graph(path: Path, shape: Sequence[int | str] = (1, 3, 4, 6), **notes: str) -> Path:
    """Write an encoder of pictures: the mean of each colour, or of each column."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "means",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], shape[1]])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_any_encoder_of_pictures_is_plugged_in(tmp_path: Path) -> None:
    """Pictures of any size become what the graph says of them, resized, and none becomes zeros."""
    Image.new("RGB", (50, 20), (255, 0, 0)).save(tmp_path / "red.png")
    np.save(tmp_path / "blue.npy", np.full((4, 6, 3), (0.0, 0.0, 0.5), np.float32))
    np.save(tmp_path / "wide.npy", np.full((8, 9, 3), (0, 51, 0), np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    files = of_items(tmp_path, ["red", "none", "blue", "wide", "notes"])
    images = Images(picture_graph(tmp_path / "means.onnx"))
    assert (images.size, images.width) == ((4, 6), 3)
    found = images.vectors(files)
    assert np.allclose(found, [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
    normed = Images(picture_graph(tmp_path / "n.onnx", ("n", 3, 4, 6), mean="1,0,1", std="1,1,2"))
    assert np.allclose(normed.vectors(files[3:4]), np.array([[-1, 0.2, -0.5]]) / np.sqrt(1.29))


@pytest.mark.parametrize(
    ("shape", "notes", "said"),
    [
        ((1, 3, 4), {}, "wanted is float32"),
        ((2, 3, 4, 4), {}, "wanted is float32"),
        ((1, 3, "h", "w"), {}, "with fixed sizes"),
        ((1, 3, 4, 4), {"mean": "red"}, "three numbers"),
    ],
)
def test_other_graphs_are_no_encoders_of_pictures(
    tmp_path: Path, shape: Sequence[int | str], notes: dict[str, str], said: str
) -> None:
    """A graph that takes something else is refused with what is wanted."""
    path = picture_graph(tmp_path / "g.onnx", (1, 3, 4, 4), **notes)
    if len(shape) != 4 or shape != (1, 3, 4, 4):
        model = onnx.load(path)
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        model.graph.input[0].CopyFrom(value)
        model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("axes", [len(shape) - 1]))
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        if len(shape) == 4:
            model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("axes", [2, 3]))
        onnx.save(model, path)
    with pytest.raises(EncoderError, match=said):
        Images(path)


def test_broken_picture_is_named(tmp_path: Path) -> None:
    """A file that is no picture is named in the error, as is a graph that is not there."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    np.save(tmp_path / "b.npy", np.zeros(3))
    for name in ("a.png", "b.npy"):
        with pytest.raises(EncoderError, match=f"{name} is no picture"):
            read(tmp_path / name, (4, 4))
    with pytest.raises(EncoderError, match="there is no file"):
        Images(tmp_path / "none.onnx")


# --- the tower ------------------------------------------------------------------------------------


def drawn_content(count: int, seed: int = 0) -> Content:
    """Return random vectors of texts, 6 numbers, and of pictures, 4 numbers."""
    rng = np.random.default_rng(seed)
    return Content(
        rng.normal(size=(count, 6)).astype(np.float32),
        rng.normal(size=(count, 4)).astype(np.float32),
    )


def test_tower_learns_a_linear_map() -> None:
    """Embeddings and biases that follow from text and picture are found for items held back."""
    rng = np.random.default_rng(1)
    of_text, of_image, of_bias = (rng.normal(size=shape) for shape in ((6, 5), (4, 5), (6, 1)))
    content = drawn_content(600)
    embeddings = (content.text @ of_text + content.image @ of_image).astype(np.float32)
    biases = (7 + content.text @ of_bias).astype(np.float32)
    found = fit(content, [embeddings, biases], TowerSettings(hidden=64, dropout=0.0, blind_share=0))
    assert min(found.explained) > 0.9
    assert len(found.epochs) > 1
    fresh = drawn_content(100, seed=9)
    said, bias = found.rows(fresh)
    wanted = fresh.text @ of_text + fresh.image @ of_image
    assert np.abs(said - wanted).mean() < 0.3 * np.abs(wanted).mean()
    assert np.abs(bias - 7 - fresh.text @ of_bias).mean() < 0.5


def test_text_or_picture_may_be_missing() -> None:
    """Where both say the same, either alone is enough, and nothing at all gives the mean item."""
    rng = np.random.default_rng(2)
    meaning = rng.normal(size=(600, 3))
    content = Content(
        (meaning @ rng.normal(size=(3, 6))).astype(np.float32),
        (meaning @ rng.normal(size=(3, 4))).astype(np.float32),
    )
    content.image[::3] = 0
    content.text[1::3] = 0
    embeddings = meaning.astype(np.float32)
    found = fit(content, [embeddings], TOWER)
    assert found.explained[0] > 0.8
    for blind in (
        Content(content.text[2::3], np.zeros_like(content.image[2::3])),
        Content(np.zeros_like(content.text[2::3]), content.image[2::3]),
    ):
        (said,) = found.rows(blind)
        assert ((said - embeddings[2::3]) ** 2).mean() < 0.3
    assert content.known[:3].tolist() == [[True, False], [False, True], [True, True]]
    assert content.rows()[:3, -2:].tolist() == [[1, 0], [0, 1], [1, 1]]


def test_contents_that_say_nothing_are_refused() -> None:
    """A tower that explains nothing of items held back, or has too few to learn from, is none."""
    noise = np.random.default_rng(5).normal(size=(100, 3)).astype(np.float32)
    quick = TowerSettings(hidden=64, epochs_max=8, batch=16, learning_rate=1e-2, dropout=0.0)
    with pytest.raises(ContentError, match="tells nothing"):
        fit(drawn_content(100), [noise], quick)
    few = drawn_content(ITEMS_MIN - 1)
    with pytest.raises(ContentError, match=f"of {ITEMS_MIN - 1} items"):
        fit(few, [noise[: len(few)]])


def test_text_of_an_item_is_what_is_said_of_it() -> None:
    """Title, category from the particular to the general, brand and description, each once."""
    item = Item(item_id="1", title="Tea ", category=["Food", "Tea"], brand="")
    assert text_of(item, "green") == "Tea, Food, green"
    assert not text_of(Item(item_id="1"))


# --- extend ---------------------------------------------------------------------------------------


def vectors_of(rows: Array) -> list[list[float]]:
    """Return the shop's own vectors of items with these embeddings; their length is no matter."""
    turn = np.random.default_rng(4).normal(size=(3, 5))
    found: list[list[float]] = np.append(rows @ turn, np.ones((len(rows), 1)), axis=1).tolist()
    return found


def shop(folder: Path, **over: Any) -> tuple[Path, Catalog, Array]:
    """Write a model of 200 items; return it, a catalogue with 20 more, and these's embeddings."""
    model = write_model(folder, item_ids=KNOWN, **over)
    new = np.random.default_rng(6).normal(size=(len(NEW), 3)).astype(np.float32)
    rows = np.concatenate([parameters(len(KNOWN))[0][2:], new])
    items = {
        item_id: Item(item_id=item_id, embedding=vector)
        for item_id, vector in zip([*KNOWN, *NEW], vectors_of(rows), strict=True)
    }
    return model, Catalog(items, {}, []), new


def loaded(folder: Path) -> Ranker:
    """Return a model as a worker loads it."""
    return Ranker.load(folder, clock=monotonic_seconds, milliseconds_max=1e6, pool_min=POOL_SIZE)


def test_extended_model_ranks_unseen_items(tmp_path: Path) -> None:
    """Workers take the new folder; known items score the same bits, new ones by their content."""
    model, catalog, new = shop(tmp_path / "model")
    done = extend(model, catalog, tmp_path / "longer", None)
    assert (done.items, done.added, done.learned_from) == (220, 20, 200)
    before, after = loaded(model), loaded(tmp_path / "longer")
    assert after.version == done.version != before.version
    rng = np.random.default_rng(8)
    hashes = np.array([id_hash(item) for item in KNOWN], np.uint64)
    for _ in range(20):
        history, asked = rng.choice(hashes, 30).tolist(), rng.choice(hashes, 60).tolist()
        features = rng.normal(size=(60, WIDTH)).tolist()
        assert before.scores(history, asked, features) == after.scores(history, asked, features)
    history = hashes[:9].tolist()
    zeros = [[0.0] * WIDTH] * len(NEW)
    said = after.scores(history, [id_hash(item) for item in NEW], zeros)
    wanted = new @ parameters(len(KNOWN))[0][2:11].sum(0) / 50
    assert np.corrcoef(said, wanted)[0, 1] > 0.9
    unknown = before.scores(history, [id_hash(item) for item in NEW], zeros)
    assert len(set(unknown)) == 1  # one row for all that has no name
    manifest = read_folder(tmp_path / "longer", POOL_SIZE).manifest
    assert manifest.probes[:-1] == read_folder(model, POOL_SIZE).manifest.probes
    assert probed(manifest).candidates[-1].max() == 221
    assert "Items from their content" in (tmp_path / "longer/README.md").read_text()


def test_model_is_extended_again_and_hot_swapped(tmp_path: Path) -> None:
    """A later catalogue adds to what an earlier one has added, as releases that workers follow."""
    model, catalog, _ = shop(tmp_path / "model")
    first = {name: item for name, item in catalog.items.items() if name not in NEW[10:]}
    one = extend(model, Catalog(first, {}, []), tmp_path / "one", None)
    two = extend(tmp_path / "one", catalog, tmp_path / "two", None)
    assert (one.added, two.added, two.items, two.learned_from) == (10, 10, 220, 200)
    registry = Registry(str(tmp_path / "registry"))
    releases = [registry.publish(tmp_path / name, POOL_SIZE) for name in ("model", "one", "two")]
    assert len({release.version for release in releases}) == 3
    again = extend(tmp_path / "one", catalog, tmp_path / "again", None)
    assert again.version == two.version  # the same from the same


def test_compressed_models_are_refused(tmp_path: Path) -> None:
    """Rows are put below those of the float32 model, which is then compressed itself."""
    model, catalog, _ = shop(tmp_path / "model")
    asked = made_up(len(KNOWN), np.ones((1, len(FEATURE_NAMES)), np.float32), 5)
    compress(model, tmp_path / "small", Precision.INT8, asked, 1.0)
    with pytest.raises(ExtendError, match="holds int8"):
        extend(tmp_path / "small", catalog, tmp_path / "to", None)
    extend(model, catalog, tmp_path / "longer", None)
    compress(tmp_path / "longer", tmp_path / "both", Precision.INT8, asked, 1.0)
    assert len(read_folder(tmp_path / "both", POOL_SIZE).item_ids) == 220


def limiting(tokens: int) -> bytes:
    """Return a graph that takes the last item for all beyond it."""
    from tests.onnx_model import graph  # noqa: PLC0415

    model = onnx.load_from_string(graph(len(KNOWN)))
    limit = helper.make_tensor("limit", TensorProto.INT32, [], [tokens - 1])
    model.graph.initializer.append(limit)
    for node in list(model.graph.node):
        if node.op_type == "Gather":
            name = node.input[1]
            node.input[1] = f"{name}.limited"
            model.graph.node.insert(0, helper.make_node("Min", [name, "limit"], [node.input[1]]))
    data: bytes = model.SerializeToString()
    return data


def test_graphs_that_cannot_grow_are_refused(tmp_path: Path) -> None:
    """A graph that would not read the new rows is found out before anything is written."""
    model, catalog, _ = shop(tmp_path / "model", onnx=limiting(len(KNOWN) + 2))
    with pytest.raises(ExtendError, match="does not read rows at the end"):
        extend(model, catalog, tmp_path / "to", None)
    assert not (tmp_path / "to").exists()


def test_useless_catalogues_are_refused(tmp_path: Path) -> None:
    """Whoever gives a catalogue that adds nothing, or is none, is told what to give."""
    model, catalog, _ = shop(tmp_path / "model")
    known = {name: catalog.items[name] for name in KNOWN}
    bare = {name: Item(item_id=name) for name in NEW}
    odd = {NEW[0]: Item(item_id=NEW[0], embedding=[1.0])}
    for items, said in (
        (known, "knows all items"),
        (known | bare, "no new item of the catalogue has a text or a picture"),
        (known | odd, "embeddings of 1 and 6 numbers"),
        (dict(list(catalog.items.items())[160:]), "of 40 items that the model knows"),
    ):
        with pytest.raises(StreamAppError, match=said):
            extend(model, Catalog(items, {}, []), tmp_path / "to", None)
    (tmp_path / "broken.jsonl").write_text('{"title": "no id"}\nno json\n')
    with pytest.raises(ExtendError, match=r"row 1: item_id .*required"):
        read_catalog(tmp_path / "broken.jsonl")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ExtendError, match="it is empty"):
        read_catalog(tmp_path / "empty.csv")


def test_command_extends_a_model(tmp_path: Path, encoder: Path) -> None:
    """From a catalogue with texts and pictures, some of them missing, to a folder, by a command."""
    model = write_model(tmp_path / "model", item_ids=KNOWN)
    table = parameters(len(KNOWN))[0][2:]
    rng = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    lines = []
    for place, item_id in enumerate([*KNOWN, *NEW]):
        row = table[place] if place < len(KNOWN) else rng.normal(size=3)
        if place % 4:  # the others have no picture
            colours = np.clip(0.5 + row / 6, 0, 1).astype(np.float32)
            np.save(tmp_path / f"pictures/{item_id}.npy", np.full((4, 6, 3), colours))
        item = encode(Item(item_id=item_id, title="tea" if row[0] > 0 else "pot"))
        lines.append(item[:-1] + b', "more": "green"}')
    (tmp_path / "items.jsonl").write_bytes(b"\n".join([*lines, b"no json"]))
    words = f"extend {model} --catalog {tmp_path}/items.jsonl --to {tmp_path}/longer"
    words += f" --encoder {encoder} --description more --images {tmp_path}/pictures"
    words += f" --image-encoder {picture_graph(tmp_path / 'means.onnx')}"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["added"], said["misfits"], said["without_content"]) == (20, 1, 0)
    assert said["explained"][0] > 0.3
    assert "row 221" in done.stderr
    assert loaded(tmp_path / "longer").version == said["version"]
