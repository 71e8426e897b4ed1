"""``python -m models extend``: a model learns items that nobody has bought yet from what they are.

The rows of its tables that belong to items it knows teach a content tower (:mod:`models.content`);
the tower says the rows of the others, which are put below. What was there stays bit for bit, so
known items score as before, and the folder that comes of it is published and swapped in like any.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import typer
from rich.console import Console

from models.content import Content, Fitted, fit, text_of
from models.folder import Inputs, probed, probes, session, write
from models.image_encoder import Images, of_items
from models.longer import ExtendError, check_longer, item_tables, with_rows
from models.precision import Precision
from models.text_encoder import EncoderError, Texts, Vectors
from models.variants import check_rows, made_up
from stream_app.event import Item
from stream_app.manifest import (
    CARD,
    FIRST_ITEM,
    HISTORY,
    PADDING,
    Folder,
    Manifest,
    read_folder,
)
from stream_app.sources.mapping import load_mapping
from stream_app.sources.mapping_records import items_of
from stream_app.sources.mapping_values import Misfit, check_id, typed
from stream_app.sources.rows import read_rows
from stream_app.stages.candidates import POOL_SIZE

ADDED = "content_items"  # in the manifest's metrics: so many of the last items came from content
REQUESTS = 50  # that both graphs are compared on
_SECTION = "\n## Items from their content\n"
_PRECISIONS = "\n## Precisions\n"  # of the model before, which `models compress` writes anew


class Extended(msgspec.Struct, frozen=True):
    """What came of it, as the command prints it."""

    to: str
    version: str
    items: int
    added: int
    learned_from: int
    explained: list[float]
    without_content: int
    misfits: int


# --- the catalogue --------------------------------------------------------------------------------


class Catalog(msgspec.Struct, frozen=True):
    """The items of a file, the last row of each, with more text where the rows have some."""

    items: dict[str, Item]
    descriptions: dict[str, str]
    misfits: list[str]

    def content(
        self, item_ids: Sequence[str], texts: Texts | None, pictures: tuple[Images, Path] | None
    ) -> Content:
        """Return what is known of items; nothing of those that are not in the catalogue."""
        n = len(item_ids)
        text, image = np.zeros((n, 0), np.float32), np.zeros((n, 0), np.float32)
        known = [self.items.get(item_id) for item_id in item_ids]
        if texts is not None:
            told = [
                text_of(item, self.descriptions.get(item.item_id, "")) if item else ""
                for item in known
            ]
            text = texts.vectors(told)
        if pictures is not None:
            files = of_items(pictures[1], item_ids)
            image = pictures[0].vectors(
                [file if item else None for file, item in zip(files, known, strict=True)]
            )
        elif any(item and item.embedding for item in known):
            image = _own_vectors(known)
        return Content(text, image)


def read_catalog(path: Path, mapping: str | None = None, more: str = "description") -> Catalog:
    """Return the items of a file as ``stream-app catalog load`` takes it.

    Parameters
    ----------
    path
        Of items in our own schema, or of rows that a mapping's [item] makes items of.
    mapping
        The name of a ready one, or a path.
    more
        A column or field beside, whose text is taken too.

    Raises
    ------
    ConfigError
        When file or mapping cannot be read.
    ExtendError
        When there is no item in the file.
    """
    how = None if mapping is None else load_mapping(mapping)
    found = Catalog({}, {}, [])
    for place, row, fault in read_rows(path, None):
        try:
            if how is not None:
                items = [item for _, item in items_of(how, row, fault) if item is not None]
            elif fault is not None:
                raise Misfit("row", row.get("line"), fault)  # noqa: TRY301 - as one that does not fit
            else:
                items = [typed({k: v for k, v in row.items() if k != "delete"}, Item)]
            for item in items:
                check_id("item_id", item.item_id)
        except Misfit as misfit:
            found.misfits.append(f"row {place}: {misfit}")
            continue
        for item in items:
            found.items[item.item_id] = item
            if isinstance(row.get(more), str):
                found.descriptions[item.item_id] = row[more]
    if not found.items:
        raise ExtendError(
            f"{path} has no item ({found.misfits[0] if found.misfits else 'it is empty'}): give "
            "the file that `stream-app catalog load` takes, with its --mapping"
        )
    return found


def _own_vectors(items: Sequence[Item | None]) -> Vectors:
    """Return the shop's own vectors of items, of length 1; zeros where there is none."""
    lengths = {len(item.embedding) for item in items if item and item.embedding}
    if len(lengths) != 1:
        raise ExtendError(
            f"the catalogue has embeddings of {' and '.join(map(str, sorted(lengths)))} numbers: "
            "give all items embeddings of one encoder"
        )
    none = [0.0] * lengths.pop()
    found = np.array([(item and item.embedding) or none for item in items], np.float32)
    spans = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return np.asarray(found / spans, np.float32)


# --- the folder -----------------------------------------------------------------------------------


def extend(
    folder: Path,
    catalog: Catalog,
    to: Path,
    texts: Texts | None,
    pictures: tuple[Images, Path] | None = None,
) -> Extended:
    """Write a model that knows the items of a catalogue, too; return what came of it.

    Parameters
    ----------
    folder
        Of the model, in float32.
    catalog
        Of items that the model knows, to learn from, and of others.
    to
        The folder to write.
    texts
        The encoder of what is said of items; None where nothing is.
    pictures
        The encoder of pictures, and the folder that they are in.

    Raises
    ------
    ExtendError, ContentError, EncoderError
        When model, catalogue or encoders cannot be used for it. Nothing is written then.
    ModelError, RegistryError
        When a worker would refuse it, or nobody could publish it.
    """
    found = read_folder(folder, POOL_SIZE)
    if found.manifest.precision != Precision.FLOAT32:
        raise ExtendError(
            f"{folder} holds {found.manifest.precision}: extend the float32 model that it was made "
            "from, and compress what comes of it"
        )
    model = onnx.load_from_string(found.graph)
    tables = item_tables(model, len(found.item_ids) + FIRST_ITEM)
    content, new, without = _contents(found, catalog, texts, pictures)
    learned = len(found.item_ids) - int(found.manifest.metrics.get(ADDED, 0))
    rows = [each.reshape(len(each), -1)[FIRST_ITEM:][:learned] for each in tables.values()]
    tower = fit(content.take(np.arange(learned)), rows)
    said = tower.rows(content.take(np.arange(len(found.item_ids), len(content))))
    known = probed(found.manifest)
    features = known.features[known.candidates != PADDING]
    asked = made_up(len(found.item_ids), features, REQUESTS).inputs
    check_longer(model, tables, len(new), asked)
    graph = with_rows(
        model,
        {
            name: each.reshape(-1, *table.shape[1:])
            for (name, table), each in zip(tables.items(), said, strict=True)
        },
    )
    manifest = _manifest(found, graph, len(new), tower)
    running = session(graph)
    check_rows(running, made_up(manifest.items, features, REQUESTS).inputs, "extended")
    manifest = msgspec.structs.replace(
        manifest,
        probes=(*found.manifest.probes, *probes(running, _new_request(found, len(new), features))),
    )
    learned_from = int(content.known[:learned].any(axis=1).sum())
    card = _card(folder, found.manifest, manifest, tower, len(new), learned_from)
    items = "".join(f"{item_id}\n" for item_id in (*found.item_ids, *new))
    write(to, graph, items.encode(), manifest, card)
    return Extended(
        str(to),
        manifest.version,
        manifest.items,
        len(new),
        learned_from,
        tower.explained,
        without,
        len(catalog.misfits),
    )


def _contents(
    found: Folder, catalog: Catalog, texts: Texts | None, pictures: tuple[Images, Path] | None
) -> tuple[Content, list[str], int]:
    """Return what is known of the model's items and of new ones below, these, and who lacks it."""
    before = set(found.item_ids)
    new = [item_id for item_id in catalog.items if item_id not in before]
    if not new:
        raise ExtendError(
            "the model knows all items of the catalogue already: serve it as it is, or give the "
            "catalogue that has the new ones"
        )
    content = catalog.content([*found.item_ids, *new], texts, pictures)
    told: npt.NDArray[np.bool_] = content.known.max(axis=1)
    told[: len(before)] = True
    if told.sum() == len(before):
        raise ExtendError(
            "no new item of the catalogue has a text or a picture: give an encoder for what they "
            "have, --encoder for texts or --image-encoder and --images for pictures"
        )
    kept = [item_id for item_id, is_told in zip(new, told[len(before) :], strict=True) if is_told]
    return content.take(told), kept, len(new) - len(kept)


def _manifest(found: Folder, graph: bytes, added: int, tower: Fitted) -> Manifest:
    manifest = found.manifest
    before = manifest.metrics.get(ADDED, 0.0)
    return msgspec.structs.replace(
        manifest,
        version=f"{manifest.version}-content-{hashlib.sha256(graph).hexdigest()[:8]}",
        items=manifest.items + added,
        metrics=manifest.metrics | {ADDED: before + added, "content_explained": tower.explained[0]},
    )


def _new_request(found: Folder, added: int, features: npt.NDArray[np.float32]) -> Inputs:
    """Return a request with new items among the candidates and at the end of the history."""
    known = probed(found.manifest).first(1)
    count = min(added, POOL_SIZE)
    tokens = len(found.item_ids) + FIRST_ITEM + np.arange(count, dtype=np.int32)
    candidates, rows = np.zeros_like(known.candidates), np.zeros_like(known.features)
    candidates[0, :count] = tokens
    rows[0, :count] = np.resize(features, (count, features.shape[1]))
    history = np.concatenate([known.history, tokens[None, :1]], axis=1)[:, -HISTORY:]
    return Inputs(history, candidates, rows)


def _card(  # noqa: PLR0913, PLR0917 - each is a part of its text
    folder: Path, old: Manifest, new: Manifest, tower: Fitted, added: int, learned_from: int
) -> str:
    text = f"# Model card: {old.name}, version {old.version}\n"
    if (folder / CARD).exists():
        text = (folder / CARD).read_text("utf-8")
    text = text.replace(f"version {old.version}\n", f"version {new.version}\n")
    return (
        f"{text.partition(_SECTION)[0].partition(_PRECISIONS)[0]}{_SECTION}\n"
        f"{int(new.metrics[ADDED]):,} of the {new.items:,} items were not trained: a content tower "
        f"said their rows\n(`python -m models extend`), {added:,} of them in this version. It "
        f"learned from the texts or pictures of\n{learned_from:,} items, and explains "
        f"{tower.explained[0]:.1%} of the embeddings of items held back. All other items score as "
        "in\nthe version before.\n"
    )


# --- the command ----------------------------------------------------------------------------------

app = typer.Typer()


@app.command("extend")
def extend_(  # noqa: PLR0913, PLR0917 - each is an option
    folder: Annotated[Path, typer.Argument(help="of a model in float32")],
    catalog: Annotated[Path, typer.Option(help="as `stream-app catalog load` takes it")],
    to: Annotated[Path, typer.Option(help="the folder to write")],
    mapping: Annotated[str | None, typer.Option(help="that makes items of the rows")] = None,
    description: Annotated[
        str, typer.Option(help="column of more text beside title, category and brand")
    ] = "description",
    encoder: Annotated[
        Path | None, typer.Option(help="of texts: the folder that `encode` wrote")
    ] = None,
    image_encoder: Annotated[
        Path | None, typer.Option(help="of pictures: an ONNX file; else items' own embeddings")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="the folder of pictures, each named as its item's id")
    ] = None,
) -> None:
    """Let a model rank a catalogue's unseen items by their text and pictures, at once.

    For example:

        python -m models extend build/ranker --catalog items.jsonl --encoder build/encoder --to out
    """
    if (image_encoder is None) != (images is None):
        raise typer.BadParameter("--image-encoder and --images go together")
    if images is not None and not images.is_dir():
        raise EncoderError(f"{images} is no folder: give the one that the pictures are in")
    pictures = None
    if image_encoder is not None and images is not None:
        pictures = Images(image_encoder), images
    given = read_catalog(catalog, mapping, description)
    if given.misfits:
        Console(stderr=True).print(
            f"{len(given.misfits)} rows do not fit and are left out, the first of them "
            f"{given.misfits[0]}",
            markup=False,
        )
    texts = None if encoder is None else Texts(encoder)
    print(msgspec.json.encode(extend(folder, given, to, texts, pictures)).decode())
