"""``python -m models train``: a network on any data, which a kill only interrupts; with curves."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import jax
import matplotlib as mpl
import msgspec
import numpy as np
import typer
from flax import nnx

from models.checkpoint import SECONDS, Checkpoints, write_arrays
from models.compress import REQUESTS
from models.data_card import leave_one_out, temporal
from models.data_commands import (
    DATA_HELP,
    TYPES_TEXT,
    ItemEventsOption,
    LicenceOption,
    MappingOption,
    TypesOption,
    chosen,
)
from models.demo_ranker import BUILD, train_ranker
from models.descent import Epoch, Patience
from models.item_sets import CFGANSettings, ItemSets, MultVAESettings
from models.leave_one_out import judge
from models.mix import describe
from models.networks import LRURec, SASRec
from models.next_item import NextItem, NextItemSettings
from models.parallel import ParallelError, Spread, free_port, join, launch
from models.sequences import Sequences
from models.served import Served
from models.sources import Log, Source, SourceError, read_log
from stream_app.clock import monotonic_seconds
from stream_app.manifest import Data

Name = Literal["sasrec", "lrurec", "mult-vae", "cfgan"]
ModelName = Literal["ranker", "sasrec", "lrurec", "mult-vae", "cfgan"]
Split = Literal["leave-one-out", "temporal"]
WEIGHTS, CURVE, PICTURE, ITEMS = "network.npz", "curve.json", "curve.png", "items.txt"
SCORES = "scores.onnx"  # a history -> scores of all items, in the order of ITEMS

app = typer.Typer()


def _named(text: str) -> ModelName:
    """Return a model's name as we write it; ``mult_vae``, as `benchmark` has it, will do too."""
    name, names = text.replace("_", "-"), get_args(ModelName)
    if name not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return cast("ModelName", name)


class FitSettings(msgspec.Struct, frozen=True):
    """What to train: the settings that a run shares with none that differ in one of them."""

    network: Name = "sasrec"
    width: int | None = None  # None is what the network has by default, here and below
    blocks: int | None = None
    dropout: float | None = None
    learning_rate: float | None = None
    places: int = 1024
    epochs: int = Patience().epochs_max
    patience: int = Patience().epochs
    seed: int = 0


@app.command("train")
def train_(  # noqa: PLR0913, PLR0917 - an argument is an option
    model: Annotated[
        ModelName,
        typer.Option(
            parser=_named, metavar="NAME", help=f"one of {', '.join(get_args(ModelName))}"
        ),
    ] = "ranker",
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    mapping: MappingOption = None,
    folder: Annotated[
        Path | None, typer.Option(help="weights, curves, checkpoints [default: build/MODEL]")
    ] = None,
    split: Annotated[Split, typer.Option(help="what is held back")] = "leave-one-out",
    types: TypesOption = TYPES_TEXT,
    item_events_min: ItemEventsOption = 1,
    width: Annotated[int | None, typer.Option(min=2, help="of the vectors")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="of sasrec and lrurec")] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.99, help="share")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="of Adam")] = None,
    places: Annotated[int, typer.Option(min=2, help="of histories in a step")] = 1024,
    epochs: Annotated[int | None, typer.Option(min=1, help="at most")] = None,
    patience: Annotated[int, typer.Option(min=1, help="epochs without a gain")] = Patience().epochs,
    seed: Annotated[int, typer.Option(help="of all chance")] = 0,
    checkpoint_seconds: Annotated[float, typer.Option(min=0, help="between two")] = SECONDS,
    processes: Annotated[int, typer.Option(min=1, help="that share each step")] = 1,
    process: Annotated[int | None, typer.Option(min=0, help="which this is, from 0")] = None,
    coordinator: Annotated[str | None, typer.Option(help="host:port of process 0")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="of the ranker's topic")] = 4,
    households: Annotated[int | None, typer.Option(min=1, help="a part of the ranker's")] = None,
    licence: LicenceOption = None,
    *,
    serve: Annotated[
        bool,
        typer.Option(help="leave FOLDER/scores.onnx, and FOLDER/model (sasrec and lrurec)"),
    ] = True,
) -> None:
    """Train a model; without options the demo's ranker, which `evaluate` and `export` take up.

    The others learn from data of any source and, started again after a kill, go on. They leave
    FOLDER/scores.onnx, from a history to the scores of all items in FOLDER/items.txt. With
    --processes 2 two processes of this machine share each step (sasrec and lrurec). On several
    machines start each process with its --process and the same --coordinator and folder.

    For example:

        python -m models train

        python -m models train --model lrurec --data shop.csv --mapping rees46 --processes 2
    """
    if model == "ranker":
        if licence is not None:
            raise SourceError("the ranker's --licence is said at its export: give it to `export`")
        if data is not None:
            raise SourceError(
                "the ranker learns from other data by `python -m models retrain --data ...`; name "
                "another --model, or leave --data out"
            )
        trained = train_ranker(folder or BUILD, partitions, households, epochs)
        print(msgspec.json.encode(trained.summary()).decode())
        return
    if data is None:
        raise SourceError(f"give --data, what {model} is to learn from: {DATA_HELP}")
    network, folder = model, folder or Path("build") / model
    if processes > 1:
        if network not in {"sasrec", "lrurec"}:
            raise ParallelError(f"{network} trains in one process: leave --processes out")
        if process is None:
            launch(_commands(processes))
            return
        if coordinator is None or process >= processes:
            raise ParallelError("give --coordinator host:port, and a --process below --processes")
        join(coordinator, processes, process)
    log = read_log(Source(data, mapping))
    divide = leave_one_out if split == "leave-one-out" else temporal
    given = divide(log, chosen(types), item_events_min)
    most = epochs or Patience().epochs_max
    settings = FitSettings(
        network, width, blocks, dropout, learning_rate, places, most, patience, seed
    )
    spread = Spread() if processes > 1 else None
    about = _about(data, log) if serve else None
    found = run(given, settings, folder, checkpoint_seconds, spread, about, licence)
    if jax.process_index() == 0:
        print(msgspec.json.encode(found).decode())


def run(  # noqa: PLR0913, PLR0917 - how to go on, to spread and to serve
    data: Sequences,
    settings: FitSettings,
    folder: Path,
    checkpoint_seconds: float = SECONDS,
    spread: Spread | None = None,
    about: Data | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Train, or go on with training; leave weights, curve and items in ``folder``; return figures.

    With ``about``, what the data is, the network is exported too, and a sequence network also left
    as a model for workers, with the requests that `compress` tells the loss on.

    Raises
    ------
    CheckpointError
        When the folder holds checkpoints of other data or settings.
    ParityError, RowsError
        When an exported graph does not compute what the network does, or not always the same.
    """
    began = monotonic_seconds()
    checkpoints = Checkpoints(folder / "checkpoints", _name_of(data, settings), checkpoint_seconds)
    model = _MODELS[settings.network](settings, checkpoints, spread).fit(data)
    quality = judge(model.scores, data.before_test, data.test, data.items)
    found: dict[str, Any] = {"test": msgspec.to_builtins(quality), "epochs": len(model.epochs)}
    if jax.process_index() == 0:
        leaves = jax.tree_util.tree_leaves_with_path(nnx.state(model.network, nnx.Param))
        weights = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        write_arrays(folder / WEIGHTS, weights)
        (folder / ITEMS).write_text("".join(f"{name}\n" for name in data.names), "utf-8")
        (folder / CURVE).write_bytes(msgspec.json.encode(model.epochs))
        picture(model.epochs, folder / PICTURE)
        if about is not None:
            found["parity"] = model.export(folder / SCORES, data.before_test)
        if about is not None and isinstance(model, NextItem):
            served = Served(model, folder / "model", about, settings.network).fit(data)
            found["served"] = _left(served, data, about, licence)
    return found | {"seconds": round(monotonic_seconds() - began, 1)}


def _left(served: Served, data: Sequences, about: Data, licence: str | None) -> dict[str, float]:
    """Judge a served model, say so in its folder, and leave the requests for the test items."""
    quality = judge(served.scores, data.before_test, data.test, data.items)
    metrics = {name: getattr(quality, name) for name in ("recall_at_10", "ndcg_at_10")}
    describe(served.folder, metrics, licence)
    until_ms = int(about.until.timestamp() * 1_000)
    served.held(data.before_test, data.test, until_ms).save(served.folder.parent / REQUESTS)
    figures: dict[str, float] = msgspec.to_builtins(quality)
    return figures


def picture(epochs: Sequence[Epoch], path: Path) -> None:
    """Draw the training loss and the validation's NDCG over the epochs."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    numbers = range(1, len(epochs) + 1)
    for axis, values, label in zip(
        axes,
        ([each.loss for each in epochs], [each.ndcg_at_10 for each in epochs]),
        ("training loss, nats", "validation NDCG@10"),
        strict=True,
    ):
        axis.plot(numbers, values, marker="o")
        axis.set(xlabel="epoch", ylabel=label)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _next_item(network: Any) -> Callable[..., NextItem]:
    def build(settings: FitSettings, checkpoints: Checkpoints, spread: Spread | None) -> NextItem:
        how = NextItemSettings(
            places=settings.places,
            patience=Patience(settings.epochs, settings.patience),
            seed=settings.seed,
            **_given(settings, width="width", blocks="blocks"),
        )
        return NextItem(network, how, checkpoints, spread)

    return build


def _item_sets(kind: Any) -> Callable[..., ItemSets]:
    def build(settings: FitSettings, checkpoints: Checkpoints, _: Spread | None) -> ItemSets:
        how = kind(
            patience=Patience(settings.epochs, settings.patience),
            seed=settings.seed,
            **_given(settings, width="hidden"),
        )
        return ItemSets(how, checkpoints)

    return build


def _given(settings: FitSettings, **names: str) -> dict[str, Any]:
    """Return what was asked for otherwise than by default, by the names that a network has."""
    names |= {"dropout": "dropout", "learning_rate": "learning_rate"}
    asked = {own: getattr(settings, name) for name, own in names.items()}
    return {own: value for own, value in asked.items() if value is not None}


_MODELS: dict[Name, Callable[..., NextItem | ItemSets]] = {
    "sasrec": _next_item(SASRec),
    "lrurec": _next_item(LRURec),
    "mult-vae": _item_sets(MultVAESettings),
    "cfgan": _item_sets(CFGANSettings),
}


def _about(name: str, log: Log) -> Data:
    """Return what the manifest of a served model says of its data."""
    first, last = (datetime.fromtimestamp(int(ms) / 1000, UTC) for ms in log.time_ms[[0, -1]])
    return Data(name, first, last, len(log))


def _name_of(data: Sequences, settings: FitSettings) -> str:
    """Return what a run is of: its settings, and a hash of its data."""
    digest = hashlib.sha256("\n".join(data.names).encode())
    for history in data.learned:
        digest.update(len(history).to_bytes(8, "little") + history.tobytes())
    for held in (data.judged, data.validation, data.test):
        digest.update(held.tobytes())
    return f"{msgspec.json.encode(settings).decode()} {digest.hexdigest()}"


def _commands(processes: int) -> list[list[str]]:
    """Return the command of this process, once for each of several."""
    place = f"127.0.0.1:{free_port()}"
    same = [sys.executable, "-m", "models", *sys.argv[1:], "--coordinator", place]
    return [[*same, "--process", str(number)] for number in range(processes)]
