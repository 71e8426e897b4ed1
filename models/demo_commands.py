"""``python -m models evaluate | export``: the demo's ranker judged, and written for the workers."""

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
    compress,
    evaluation,
    evaluation_behavior,
    evaluation_networks,
    evaluation_page,
    report,
)
from models.card import card
from models.compress import REQUESTS
from models.data import Requests, Vocabulary
from models.data_commands import (
    DATA_HELP,
    TYPES_TEXT,
    LicenceOption,
    MappingOption,
    TypesOption,
    chosen,
)
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
from models.evaluation import Evaluation, Judged
from models.evaluation_networks import (
    DEMO_EPOCHS,
    DEMO_HOUSEHOLDS,
    DEMO_ITEM_USERS_MIN,
    Households,
    How,
)
from models.evaluation_ranking import read_shop
from models.export import Card, export
from models.fit import Split
from models.precision import LOSS_MAX, LossMax, Precision, PrecisionOption
from models.ranker_network import Ranker
from models.replay import END_MS, TEST_MS
from models.sources import Source, SourceError, read_log
from models.train import build, load
from models.variants import held
from stream_app.manifest import Data, read_manifest
from stream_app.ops.demo_shops import MODEL_FOLDER
from stream_app.sources.completejourney import SOURCE, CompleteJourney
from stream_app.steps import FEATURE_NAMES

PARITY_REQUESTS = 500
EVALUATION = "evaluation.json"

app = typer.Typer()
console = Console(stderr=True, width=100)

Folder = Annotated[Path, typer.Option(help="where data, weights and reports lie")]


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917 - an argument is an option
    folder: Folder = BUILD,
    report_to: Annotated[
        Path | None,
        typer.Option("--report", help="a folder for one page with pictures on all that is learned"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help=f"report on networks for other data: {DATA_HELP}")
    ] = None,
    mapping: MappingOption = None,
    split: Annotated[Split, typer.Option(help="what is held back")] = "temporal",
    types: TypesOption = TYPES_TEXT,
    item_events_min: Annotated[
        int | None, typer.Option(min=1, help="rarer items are left out [default: 1, demo 10]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="of each network at most [default: 60, demo 20]")
    ] = None,
    width: Annotated[int | None, typer.Option(min=2, help="of the networks' vectors")] = None,
    networks: Annotated[
        str | None, typer.Option(help="some of sasrec,lrurec,mult-vae,cfgan [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="of all chance")] = 0,
    *,
    write: Annotated[bool, typer.Option(help="docs/results/ranker.*")] = False,
) -> None:
    """Compare the ranker with the formula and fitted baselines on weeks that it never saw.

    A report also judges each network beside every baseline among all items, and the stream's own
    predictions, which takes a quarter of an hour or so. With --data it is of the networks alone.

    For example:

        python -m models evaluate --report report

        python -m models evaluate --report report --data shop.csv --mapping rees46
    """
    how = How(
        split,
        tuple(chosen(types)),
        item_events_min or (DEMO_ITEM_USERS_MIN if data is None else 1),
        width,
        epochs or (DEMO_EPOCHS if data is None else How().epochs),
        seed,
        None if networks is None else tuple(map(str.strip, networks.split(","))),
    )
    if data is not None:
        if report_to is None:
            raise SourceError("give --report, the folder for what is found about --data")
        own = evaluation_networks.judge(read_log(Source(data, mapping)), Path(data).name, how)
        files = evaluation_page.write(Evaluation(networks=own), report_to)
        console.print(f"{report_to}: {', '.join(files)}")
        print(msgspec.json.encode(own.summary()).decode())
        return
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
        judged = evaluation.judge_ranker(
            later.before_baskets(),
            scores,
            read_shop(CompleteJourney().events(users), TEST_MS),
            run.epochs,
            run.partitions,
            (evaluation.version(model, TEST_MS), read_manifest(MODEL_FOLDER).version),
        )
        files = evaluation_page.write(_whole(judged, users, run.partitions, how), report_to)
        console.print(f"{report_to}: {', '.join(files)}")
    print(msgspec.json.encode(figures).decode())
    if found.of("ranker").recall_at_10 <= found.of("formula").recall_at_10:
        console.print("the ranker is no better than the formula: do not export it")
        raise typer.Exit(1)


def _whole(judged: Judged, users: frozenset[str], partitions: int, how: How) -> Evaluation:
    """Return the demo's evaluation: of the ranker, of networks, and of the stream's predictions."""
    some = frozenset(sorted(users)[:DEMO_HOUSEHOLDS])
    name = f"{SOURCE}, {len(some):,} of {len(users):,} households"
    networks = evaluation_networks.judge(read_log(Households(some)), name, how)
    console.print("report: the year of these households through the stream ...")
    cases = evaluation_behavior.completejourney(partitions, users)
    judgements, few = evaluation.judge_behavior(cases, VALIDATION_MS, SOURCE)
    console.print("report: the made-up shop through the stream ...")
    made_up, middle_ms = evaluation_behavior.synthetic()
    others, fewer = evaluation.judge_behavior(made_up, middle_ms, "a made-up shop")
    return Evaluation(judged, networks, judgements + others, few + fewer)


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
