"""``python -m models wrap``: a graph that was trained elsewhere becomes a folder that workers load.

Nodes around it turn what a worker hands over into what it takes, so its weights stay as they are:

- one that knows a table of features, such as skl2onnx makes of a scikit-learn model, gets a row for
  each candidate, and the last column of what it gives is the score;
- one that knows items, such as a two-tower model of Keras, gets the tokens of history and
  candidates, and the features if it takes them.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import onnxruntime
import typer

from models.adapt import (
    Input,
    WrapError,
    around,
    line,
    opset_of,
    read_graph,
    roles,
    scored,
)
from models.card import foreign
from models.compress import tables
from models.data_commands import LicenceOption
from models.folder import probes, score, session, write
from models.variants import check_rows, made_up
from stream_app.manifest import FIRST_ITEM, FORMAT, GRAPH, HISTORY, Data, Manifest
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

PARITY_MAX = 1e-4  # between the scores of the graph by itself and as workers run it
PROBES = 3
REQUESTS = 100  # that both are compared on
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class About(msgspec.Struct, frozen=True):
    """What only whoever brings a model knows of it."""

    name: str
    version: str
    data: Data
    partitions: tuple[int, ...]
    licence: str | None = None


# --- the folder -----------------------------------------------------------------------------------


def read_items(path: Path) -> list[str]:
    """Return the item ids of a file, one a line, in the order of the model's tokens."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise WrapError(
            f"{path} cannot be read: {error.strerror}; give a file with one item id a line"
        ) from None
    except UnicodeDecodeError as error:
        raise WrapError(f"{path} is not UTF-8: {error}; write it again as UTF-8") from None
    item_ids = text.removesuffix("\n").split("\n")
    wrong = None
    if not all(item_ids):
        wrong = f"is empty in line {item_ids.index('') + 1}"
    elif len(set(item_ids)) != len(item_ids):
        wrong = "names an item twice"
    elif all(item_id.endswith("\r") for item_id in item_ids):
        wrong = "has lines that end as on Windows, and a carriage return would be part of the id"
    if wrong:
        raise WrapError(f"{path} {wrong}: give one item id a line, in the order of the tokens")
    return item_ids


def wrap(file: Path, items: Path, to: Path, about: About) -> Manifest:
    """Write the folder of a model that was trained elsewhere; return its manifest.

    Raises
    ------
    WrapError
        When the graph takes or gives something else than can be adapted, or knows fewer items.
    RowsError
        When a request gets other scores at another time.
    ModelError, RegistryError
        When a worker would refuse what came of it, or nobody could publish it. Nothing is written
        then, as with the others.
    """
    model, item_ids = read_graph(file), read_items(items)
    found = roles(model)
    tokens = len(item_ids) + FIRST_ITEM
    own = frozenset(each.name for role, each in found.items() if role != "features")
    rows = {each.name: each.dims[0] for each in model.graph.initializer if each.dims}
    for table in tables(model, own):
        if rows[table] < tokens:
            raise WrapError(
                f"the table {table} of the graph has {rows[table]:,} rows, and {tokens:,} are "
                f"wanted: for padding, an unknown item, and the {len(item_ids):,} of {items}"
            )
    drawn = np.random.default_rng(1).uniform(size=(1_000, len(FEATURE_NAMES))).astype(np.float32)
    asked = made_up(len(item_ids), drawn, REQUESTS).inputs
    output, wanted = scored(found, _running(model.SerializeToString(), file), asked)
    if not np.isfinite(wanted).all():
        raise WrapError(
            "the graph gives scores that are no numbers for features from 0 to 1: train "
            "the model again, and look at its loss"
        )
    graph = around(model, found, output)
    running = _running(graph, file)
    got = np.array([score(running, asked, place) for place in range(len(asked))])
    parity = float(np.abs(got - wanted).max())
    if not parity <= PARITY_MAX:
        raise WrapError(
            f"scores differ by {parity:.2e} once the graph stands in a fixed shape, more than "
            f"{PARITY_MAX:.0e}: export it for one request of {POOL_SIZE} candidates a run"
        )
    check_rows(running, asked, "wrapped")
    manifest = Manifest(
        format=FORMAT,
        name=about.name,
        version=about.version,
        data=about.data,
        partitions=about.partitions,
        history=HISTORY,
        pool=POOL_SIZE,
        features=FEATURE_NAMES,
        items=len(item_ids),
        opset=opset_of(model),
        metrics={"parity": parity},
        files={},
        probes=probes(running, asked.first(PROBES)),
        licence=about.licence,
    )
    card = foreign(manifest, _reads(found), len(asked))
    write(to, graph, "".join(f"{item_id}\n" for item_id in item_ids).encode(), manifest, card)
    return manifest


def _running(graph: bytes, file: Path) -> onnxruntime.InferenceSession:
    try:
        return session(graph)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        raise WrapError(
            f"onnxruntime cannot load {file}: {line(error)}; export it without custom operators"
        ) from None


def _reads(found: Mapping[str, Input]) -> str:
    """Say what a graph looks at."""
    numbers = f"the {len(FEATURE_NAMES)} numbers about each candidate"
    if "history" not in found:
        return f"It looks at {numbers}, not at the history."
    more = f", and {numbers}" if "features" in found else ""
    return f"It looks at the items of the history, those of the candidates{more}."


# --- the command ----------------------------------------------------------------------------------

app = typer.Typer()


@app.command("wrap")
def wrap_(  # noqa: PLR0913, PLR0917 - each is an option
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="trained elsewhere")],
    items: Annotated[Path, typer.Option(help="one item id a line; the first has token 2")],
    name: Annotated[str, typer.Option(help="of the model")],
    version: Annotated[str, typer.Option(help="of the model")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    data_source: Annotated[str, typer.Option(help="what it was trained on")] = "not said",
    since: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="first day of its data, UTC"),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="day after its data, UTC; now if not given"),
    ] = None,
    events: Annotated[int, typer.Option(min=0, help="that it was trained on")] = 0,
    partitions: Annotated[
        list[int] | None, typer.Option(help="of the topic its features were made with")
    ] = None,
    licence: LicenceOption = None,
) -> None:
    """Make a folder that workers load out of an ONNX file that was trained elsewhere.

    For example:

        python -m models wrap trees.onnx --items items.txt --name trees --version 1 --out trees
    """
    first = since.replace(tzinfo=UTC) if since else _BEGINNING
    last = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    if first > last:
        raise typer.BadParameter("--from is after --until")
    data = Data(data_source, first, last, events)
    about = About(name, version, data, tuple(partitions or ()), licence)
    manifest = wrap(file, items, out, about)
    size = (out / GRAPH).stat().st_size
    said = {"name": manifest.name, "version": manifest.version, "bytes": size}
    print(msgspec.json.encode(said | manifest.metrics | {"to": str(out)}).decode())
