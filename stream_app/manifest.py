"""The folder of a ranking model: its manifest, its items and its graph, read and checked.

A worker reads three files: ``ranker.onnx``, ``items.txt`` (one item id a line) and
``manifest.json``; a model that also proposes candidates has a fourth, ``proposer.onnx``. Each is
read once, so what was hashed is what is used. The model card is for people.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream_app.errors import ModelError
from stream_app.steps import FEATURE_NAMES

GRAPH, ITEMS, MANIFEST = "ranker.onnx", "items.txt", "manifest.json"
PROPOSER = "proposer.onnx"
CARD = "README.md"  # the model card, for people
FORMAT = 1
HISTORY = 50
PADDING, UNKNOWN, FIRST_ITEM = 0, 1, 2  # tokens: filling, an unknown item, the first of items.txt
OPSETS = range(7, 29)  # that onnxruntime 1.32 runs
AGAIN = "export the model again"

_Count = Annotated[int, Meta(ge=1)]
_Text = Annotated[str, Meta(min_length=1, max_length=200)]
_Moment = Annotated[datetime, Meta(tz=True)]


class Data(Struct, frozen=True):
    """What a model was trained on: ``events`` events from ``since`` to before ``until``."""

    source: str
    since: _Moment = msgspec.field(name="from")
    until: _Moment
    events: Annotated[int, Meta(ge=0)]


class Probe(Struct, frozen=True):
    """An input, filled up to the graph's shape, and the scores of its real candidates."""

    history: tuple[int, ...]
    candidates: tuple[int, ...]
    features: tuple[tuple[float, ...], ...]
    scores: tuple[float, ...]


class Manifest(Struct, frozen=True):
    """What an export says of a model; keys that are not known here are passed over.

    ``partitions`` are the numbers of partitions it was trained with, ``pool`` the candidates that
    it takes at once, ``items`` the lines of ``items.txt``, ``files`` the SHA-256 of the other
    files, in hexadecimal. ``licence`` says on what terms the model may be used, ``precision`` how
    its embeddings are stored, ``proposes`` how many items ``proposer.onnx`` gives for a history, 0
    where there is no such file; older folders lack the three.
    """

    format: int
    name: _Text
    version: _Text
    data: Data
    partitions: tuple[int, ...]
    history: int
    pool: _Count
    features: tuple[str, ...]
    items: _Count
    opset: int
    metrics: dict[str, float]
    files: dict[str, str]
    probes: Annotated[tuple[Probe, ...], Meta(min_length=1)]
    licence: _Text | None = None
    precision: _Text = "float32"
    proposes: Annotated[int, Meta(ge=0)] = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Which files there are beside the manifest."""
        return (GRAPH, ITEMS, PROPOSER) if self.proposes else (GRAPH, ITEMS)


class _Format(Struct):
    """The one key that the manifest of every format has."""

    format: int


class Folder(Struct, frozen=True):
    """What is in a model's folder; item ids in the order of their tokens."""

    manifest: Manifest
    item_ids: tuple[str, ...]
    graph: bytes
    proposer: bytes | None = None


def read_manifest(folder: Path) -> Manifest:
    """Return what a model's folder says of itself; whether it holds is for :func:`read_folder`.

    Raises
    ------
    ModelError
        When there is no manifest, or what is there is none.
    """
    return _decode(_read(folder / MANIFEST))


def read_folder(folder: Path, pool_min: int) -> Folder:
    """Read and check the files of a model; what the graph computes is not checked here.

    Parameters
    ----------
    folder
        That an export has written.
    pool_min
        How many candidates a request may have.

    Raises
    ------
    ModelError
        When the files are missing, damaged, do not fit each other, or do not fit this program.
    """
    manifest = read_manifest(folder)
    _check_fit(manifest, pool_min)
    for number, probe in enumerate(manifest.probes, 1):
        _check_probe(manifest, number, probe)
    graph = _read_hashed(folder / GRAPH, manifest)
    proposer = _read_hashed(folder / PROPOSER, manifest) if manifest.proposes else None
    item_ids = _item_ids(_read_hashed(folder / ITEMS, manifest), manifest)
    return Folder(manifest, item_ids, graph, proposer)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            "missing",
            f"{path} cannot be read: {error.strerror}; set `model` to a folder that an export has "
            f"written, with {MANIFEST}, {GRAPH} and {ITEMS} in it",
        ) from None


def _decode(data: bytes) -> Manifest:
    try:
        number = msgspec.json.decode(data, type=_Format).format
        if number != FORMAT:
            raise ModelError(
                "mismatch",
                f"{MANIFEST} has format {number}, and this program reads {FORMAT}: export the "
                "model with the version of the program that serves it",
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError("corrupt", f"{MANIFEST} is not a manifest: {error}; {AGAIN}") from None


def _check_fit(manifest: Manifest, pool_min: int) -> None:
    """Raise ModelError unless the model was made for this program's requests."""
    wrong = None
    if manifest.features != FEATURE_NAMES:
        wrong = (
            f"its features are {', '.join(manifest.features)}, and this program has "
            f"{', '.join(FEATURE_NAMES)}, in this order: train it on them"
        )
    elif manifest.history != HISTORY:
        wrong = f"it takes a history of {manifest.history} items, and this program has {HISTORY}"
    elif manifest.pool < pool_min:
        wrong = f"it takes {manifest.pool} candidates, and a request has up to {pool_min}"
    elif manifest.opset not in OPSETS:
        wrong = (
            f"its opset is {manifest.opset}, and onnxruntime here runs {OPSETS[0]} to {OPSETS[-1]}"
        )
    if wrong:
        raise ModelError("mismatch", f"model {manifest.name} does not fit: {wrong}; {AGAIN}")


def _check_probe(manifest: Manifest, number: int, probe: Probe) -> None:
    """Raise ModelError unless a probe has the graph's shape and knows its items."""
    real = [token for token in probe.candidates if token != PADDING]
    width, tokens = len(manifest.features), range(manifest.items + FIRST_ITEM)
    good = (
        len(probe.history) == HISTORY
        and len(probe.candidates) == len(probe.features) == manifest.pool
        and all(len(row) == width for row in probe.features)
        and 0 < len(real) == len(probe.scores)
        and not any(probe.candidates[len(real) :])
        and all(token in tokens for token in (*probe.history, *real))
    )
    if not good:
        raise ModelError(
            "mismatch",
            f"probe {number} of {MANIFEST} has not the shape of a request to the model, or tokens "
            f"that it does not have: {AGAIN}",
        )


def _read_hashed(path: Path, manifest: Manifest) -> bytes:
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != manifest.files.get(path.name):
        raise ModelError(
            "corrupt",
            f"{path.name} is not the file that {MANIFEST} names: its SHA-256 is another one; copy "
            f"the folder again, or {AGAIN}",
        )
    return data


def _item_ids(data: bytes, manifest: Manifest) -> tuple[str, ...]:
    """Return the lines of ``items.txt``; an id may hold any character but a newline."""
    try:
        *item_ids, rest = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelError("corrupt", f"{ITEMS} is not UTF-8: {error}; {AGAIN}") from None
    wrong = None
    if rest:
        wrong = "does not end with a newline"
    elif len(item_ids) != manifest.items:
        wrong = f"has {len(item_ids)} items, and {MANIFEST} says {manifest.items}"
    elif len(set(item_ids)) != len(item_ids):
        wrong = "names an item twice"
    if wrong:
        raise ModelError("mismatch", f"{ITEMS} {wrong}: {AGAIN}")
    return tuple(item_ids)
