"""``python -m models``: the ranker from nothing to a folder, a benchmark, and what serves."""

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import jax.numpy as jnp
import msgspec
import numpy as np
import typer
from rich.console import Console

from models import (
    benchmark,
    compress,
    data_commands,
    encode,
    evaluation,
    evaluation_behavior,
    extend,
    fit,
    registry,
    report,
    retrain,
    wrap,
)
from models.benchmark import NAMES
from models.card import card
from models.compress import LOSS_MAX, REQUESTS, LossMax, Precision, PrecisionOption
from models.data import Requests, Vocabulary
from models.data_commands import LicenceOption
from models.demo_ranker import (
    BUILD,
    CHECKPOINT,
    LICENCE,
    RUN,
    SHOP_BEGINS_MS,
    TOKENS,
    VALIDATION_MS,
    Run,
)
from models.evaluation_ranking import read_shop
from models.export import Card, export
from models.ranker_network import Ranker
from models.replay import END_MS, TEST_MS
from models.sequences import read
from models.train import build, load
from models.variants import held
from stream_app.errors import StreamAppError
from stream_app.manifest import Data
from stream_app.ops.demo_shops import MODEL_FOLDER
from stream_app.sources.completejourney import SOURCE, CompleteJourney
from stream_app.steps import FEATURE_NAMES

PARITY_REQUESTS = 500
EVALUATION = "evaluation.json"

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
for each in (data_commands, fit, compress, wrap, encode, extend, registry, retrain):
    app.registered_commands += each.app.registered_commands
console = Console(stderr=True, width=100)

Folder = Annotated[Path, typer.Option(help="where data, weights and reports lie")]


@app.command()
def evaluate(
    folder: Folder = BUILD,
    *,
    write: Annotated[bool, typer.Option(help="docs/results/ranker.*")] = False,
    report_to: Annotated[
        Path | None,
        typer.Option("--report", help="a folder for one page with pictures on all that is learned"),
    ] = None,
) -> None:
    """Compare the ranker with the formula and fitted baselines on weeks that it never saw.

    A report says more of that, and judges the stream's own predictions, which takes minutes.
    """
    requests, words, run, model = _read(folder)
    earlier, later = requests.between(VALIDATION_MS, TEST_MS), requests.between(TEST_MS, END_MS)
    scores = report.score(model, words, earlier.before_baskets(), later.before_baskets())
    found = report.compare(model, words, later, scores)
    console.print(found.table())
    figures = found.figures() | {"partitions": run.partitions, "train_seconds": run.seconds}
    (folder / EVALUATION).write_bytes(msgspec.json.encode(figures))
    if write:
        report.write(found, figures, run.epochs)
    if report_to is not None:
        users = frozenset(map(str, np.unique(requests.user).tolist()))
        console.print("report: the year of these households through the stream ...")
        judged = evaluation.judge(
            later.before_baskets(),
            scores,
            read_shop(CompleteJourney().events(users), TEST_MS),
            evaluation_behavior.completejourney(run.partitions, users),
            VALIDATION_MS,
            run.epochs,
            run.partitions,
        )
        console.print(f"{report_to}: {', '.join(evaluation.write(judged, report_to))}")
    print(msgspec.json.encode(figures).decode())
    if found.of("ranker").recall_at_10 <= found.of("formula").recall_at_10:
        console.print("the ranker is no better than the formula: do not export it")
        raise typer.Exit(1)


@app.command("export")
def export_(
    folder: Folder = BUILD,
    to: Annotated[Path, typer.Option(help="the folder that workers load")] = MODEL_FOLDER,
    precision: PrecisionOption = Precision.FLOAT32,
    loss_max: LossMax = LOSS_MAX,
    licence: LicenceOption = LICENCE,
) -> None:
    """Write ONNX, items and manifest, and check that ONNX computes what the network does.

    All precisions are compared on the weeks that the network never saw.
    """
    requests, words, run, model = _read(folder)
    tested = requests.between(TEST_MS, END_MS)
    sample = tested.between(TEST_MS, int(tested.time_ms[min(PARITY_REQUESTS, len(tested)) - 1]))
    figures, metrics = None, {}
    if (folder / EVALUATION).exists():
        figures = msgspec.json.decode((folder / EVALUATION).read_bytes())
        metrics = {"recall_at_10": figures["ranker"]["recall_at_10"]}
    data = Data(SOURCE, _moment(SHOP_BEGINS_MS), _moment(TEST_MS), run.events)
    with TemporaryDirectory() as place:
        whole = Path(place)
        about = Card(data, (run.partitions,), metrics, licence)
        told = partial(card, figures=figures)
        difference = export(model, words, sample, about, whole, told)
        asked = held(tested.before_baskets(), words.item_ids)
        variants = compress.compress(whole, to, precision, asked, loss_max)
    size = sum(path.stat().st_size for path in to.iterdir())
    said = {"parity": difference, "bytes": size, "to": str(to), "variants": variants}
    print(msgspec.json.encode(said).decode())


@app.command("benchmark")
def benchmark_(
    sequences: Annotated[Path, typer.Option(help="lines `user item item ...`, oldest first")],
    models: Annotated[str | None, typer.Option(help=f"some of {','.join(NAMES)}")] = None,
    seed: Annotated[int, typer.Option(help="of all chance")] = 0,
    *,
    json: Annotated[bool, typer.Option(help="no table, the line of JSON only")] = False,
    write: Annotated[bool, typer.Option(help="docs/results/<name of the file>.*")] = False,
) -> None:
    """Train every network and baseline on a file of sequences and compare them, leave-one-out."""
    try:
        data = read(sequences)
        with TemporaryDirectory() as folder:
            results = benchmark.run(data, benchmark.chosen(models), seed, Path(folder))
    except StreamAppError as error:
        console.print(str(error))
        raise typer.Exit(1) from None
    if not json:
        console.print(benchmark.table(results))
    if write:
        benchmark.write(results, data, sequences.stem)
    print(msgspec.json.encode(benchmark.figures(results)).decode())


def _read(folder: Path) -> tuple[Requests, Vocabulary, Run, Ranker]:
    """Return what `train` left: the data, the items known by name, how it went, the network."""
    if not (folder / RUN).exists():
        console.print(f"{folder} holds no trained ranker: run `python -m models train` first")
        raise typer.Exit(1)
    words = Vocabulary((folder / TOKENS).read_text("utf-8").split("\n")[:-1])
    run = msgspec.json.decode((folder / RUN).read_bytes(), type=Run)
    # The scaling of the features is one of the weights.
    neutral = jnp.zeros(len(FEATURE_NAMES)), jnp.ones(len(FEATURE_NAMES))
    model = build(run.settings, words.size, *neutral)
    load(model, folder / CHECKPOINT)
    return Requests.load(folder / REQUESTS), words, run, model


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def main() -> None:
    """Run the command line; an error of ours is a message, not a traceback."""
    try:
        app()
    except StreamAppError as error:
        console.print(f"models: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
