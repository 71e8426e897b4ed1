"""Every network and baseline on one file of sequences, judged in one way."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from models.counts import EASE, CoVisitation, PersonalFrequency, Popularity
from models.item_sets import CFGANSettings, ItemSets, MultVAESettings
from models.leave_one_out import Quality, Recommender, judge
from models.networks import LRURec, SASRec
from models.next_item import NextItem, NextItemSettings
from models.sequences import Sequences
from models.served import Served
from stream_app.clock import monotonic_seconds
from stream_app.errors import StreamAppError

RESULTS = Path("docs/results")
NOTES = "\n## Notes\n"
SERVED, PART = "served", "sasrec"  # what the stages answer with that network


Settings = TypeVar("Settings", NextItemSettings, MultVAESettings, CFGANSettings)


def _at_most(epochs: int | None, settings: Settings) -> Settings:
    """Return settings with so many epochs at most; with their own, where none are given."""
    if epochs is None:
        return settings
    patience = msgspec.structs.replace(settings.patience, epochs_max=epochs)
    return msgspec.structs.replace(settings, patience=patience)


# By name, in the order of the report: made anew from a seed, and epochs at most or None.
MODELS: dict[str, Callable[[int, int | None], Recommender]] = {
    "popularity": lambda *_: Popularity(),
    "personal_frequency": lambda *_: PersonalFrequency(),
    "co_visitation": lambda *_: CoVisitation(),
    "ease": lambda *_: EASE(),
    "mult_vae": lambda seed, most: ItemSets(_at_most(most, MultVAESettings(seed=seed))),
    "cfgan": lambda seed, most: ItemSets(_at_most(most, CFGANSettings(seed=seed))),
    "lrurec": lambda seed, most: NextItem(LRURec, _at_most(most, NextItemSettings(seed=seed))),
    "sasrec": lambda seed, most: NextItem(SASRec, _at_most(most, NextItemSettings(seed=seed))),
}
NAMES = (*MODELS, SERVED)


class UnknownModelError(StreamAppError):
    """A model that there is not was asked for."""


class FailedPartError(StreamAppError):
    """What a model is made of has failed before."""


class Result(msgspec.Struct, frozen=True):
    """How a model ranks the test items, and what it took to fit it (its parts included)."""

    quality: Quality
    seconds: float

    def figures(self) -> dict[str, float]:
        """Return it as plain data."""
        return {**msgspec.to_builtins(self.quality), "seconds": self.seconds}


def chosen(names: str | None) -> list[str]:
    """Return the models of a list ``a,b,...``, or all; in the order of the report.

    ``mult-vae`` is ``mult_vae``.

    Raises
    ------
    UnknownModelError
        When there is no model of a name.
    """
    words = [] if names is None else names.replace("-", "_").split(",")
    asked = set(NAMES if names is None else filter(None, map(str.strip, words)))
    unknown = sorted(asked - set(NAMES))
    if unknown or not asked:
        raise UnknownModelError(
            f"there is no model {', '.join(unknown) or 'asked for'}: "
            f"name some of {', '.join(NAMES)} with --models"
        )
    return [name for name in NAMES if name in asked]


def run(
    data: Sequences, names: Sequence[str], seed: int, folder: Path, epochs_max: int | None = None
) -> dict[str, Result | None]:
    """Return how good each model is, fitted anew; what it says meanwhile is on standard error.

    A model that fails is None, and a sentence says why: what was measured of others is not lost.
    Each is let go when it is judged. What was served is in ``folder`` afterwards.
    """
    console = Console(stderr=True)
    found: dict[str, Result | None] = {}
    kept: dict[str, tuple[Recommender, float]] = {}  # what another is made of

    def fit(name: str) -> tuple[Recommender, float]:
        console.print(f"{name} ...")
        model: Recommender
        if name == SERVED:
            if PART in found and PART not in kept:
                raise FailedPartError(f"it is made of {PART}, which failed")
            network, before = kept.pop(PART) if PART in kept else fit(PART)
            assert isinstance(network, NextItem)
            model = Served(network, folder)
        else:
            model, before = MODELS[name](seed, epochs_max), 0.0
        began = monotonic_seconds()
        model.fit(data)
        fitted = model, before + monotonic_seconds() - began
        if name == PART and SERVED in names:
            kept[name] = fitted
        return fitted

    def judged(name: str) -> Result:
        model, seconds = fit(name)
        quality = judge(model.scores, data.before_test, data.test, data.items)
        console.print(f"{name}: NDCG@10 {quality.ndcg_at_10} on the test, {seconds:.0f} s")
        return Result(quality, round(seconds, 1))

    for name in names:
        try:
            found[name] = judged(name)
        except Exception as error:  # noqa: BLE001 - hours of other models depend on it
            found[name] = None
            if not isinstance(error, StreamAppError | MemoryError):
                console.print_exception()  # a defect of ours, or of a library
            reason = str(error) or type(error).__name__
            console.print(f"{name} is left out: {reason}", markup=False, soft_wrap=True)
    return found


def figures(results: Mapping[str, Result | None]) -> dict[str, Any]:
    """Return results as plain data: model -> metric -> value, or None for a model that failed."""
    return {name: result and result.figures() for name, result in results.items()}


def table(results: Mapping[str, Result | None]) -> Table:
    """Return results as a table, the best last."""
    found = Table("", title="The item that came next, among all items")
    for name in ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10", "seconds"):
        found.add_column(name, justify="right")
    for name, result in _ordered(results):
        found.add_row(name, *_cells(result))
    return found


def write(results: Mapping[str, Result | None], data: Sequences, name: str) -> None:
    """Write the page and the figures of a file of sequences into docs/results.

    What somebody wrote below the heading ``## Notes`` of an older page is kept.
    """
    count = sum(map(len, data.learned))
    rows = [f"| {each} | {' | '.join(_cells(result))} |" for each, result in _ordered(results)]
    lines = [
        f"# Next items on `{name}`",
        "",
        f"Made by `python -m models benchmark --sequences {name}.txt --write`.",
        f"{len(data.learned):,} users, {data.items:,} items, {count:,} interactions to learn from.",
        "Of every user the last item is the test, the last but one the validation; all items are",
        "ranked but those of the history. Fitting took the seconds, early stopping included.",
        "",
        "| model | Recall@5 | NDCG@5 | Recall@10 | NDCG@10 | seconds |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]
    page = RESULTS / f"{name}.md"
    _, heading, notes = page.read_text("utf-8").partition(NOTES) if page.exists() else ("", "", "")
    page.write_text("\n".join(lines) + heading + notes, "utf-8")
    text = msgspec.json.format(msgspec.json.encode(figures(results)), indent=1)
    (RESULTS / f"{name}.json").write_bytes(text + b"\n")


def _ordered(results: Mapping[str, Result | None]) -> list[tuple[str, Result]]:
    known = [(name, result) for name, result in results.items() if result is not None]
    return sorted(known, key=lambda each: each[1].quality.ndcg_at_10)


def _cells(result: Result) -> list[str]:
    metrics = msgspec.structs.astuple(result.quality)
    return [*(f"{metric:.4f}" for metric in metrics), f"{result.seconds:.0f}"]
