"""Every network and baseline on one file of sequences, judged in one way."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from models.counts import EASE, CoVisitation, PersonalFrequency, Popularity, TooManyItemsError
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

# By name, in the order of the report: made anew from a seed.
MODELS: dict[str, Callable[[int], Recommender]] = {
    "popularity": lambda _: Popularity(),
    "personal_frequency": lambda _: PersonalFrequency(),
    "co_visitation": lambda _: CoVisitation(),
    "ease": lambda _: EASE(),
    "mult_vae": lambda seed: ItemSets(MultVAESettings(seed=seed)),
    "cfgan": lambda seed: ItemSets(CFGANSettings(seed=seed)),
    "lrurec": lambda seed: NextItem(LRURec, NextItemSettings(seed=seed)),
    "sasrec": lambda seed: NextItem(SASRec, NextItemSettings(seed=seed)),
}
NAMES = (*MODELS, SERVED)


class UnknownModelError(StreamAppError):
    """A model that there is not was asked for."""


class Result(msgspec.Struct, frozen=True):
    """How a model ranks the test items, and what it took to fit it (its parts included)."""

    quality: Quality
    seconds: float

    def figures(self) -> dict[str, float]:
        """Return it as plain data."""
        return {**msgspec.to_builtins(self.quality), "seconds": self.seconds}


def chosen(names: str | None) -> list[str]:
    """Return the models of a list ``a,b,...``, or all; in the order of the report.

    Raises
    ------
    UnknownModelError
        When there is no model of a name.
    """
    asked = set(NAMES if names is None else filter(None, map(str.strip, names.split(","))))
    unknown = sorted(asked - set(NAMES))
    if unknown or not asked:
        raise UnknownModelError(
            f"there is no model {', '.join(unknown) or 'asked for'}: "
            f"name some of {', '.join(NAMES)} with --models"
        )
    return [name for name in NAMES if name in asked]


def run(data: Sequences, names: Sequence[str], seed: int, folder: Path) -> dict[str, Result]:
    """Return how good each model is, fitted anew; what it says meanwhile is on standard error.

    What was served is in ``folder`` afterwards.
    """
    console = Console(stderr=True)
    fitted: dict[str, tuple[Recommender, float]] = {}

    def fit(name: str) -> tuple[Recommender, float]:
        if name not in fitted:
            console.print(f"{name} ...")
            model: Recommender
            if name == SERVED:
                network, before = fit(PART)
                assert isinstance(network, NextItem)
                model = Served(network, folder)
            else:
                model, before = MODELS[name](seed), 0.0
            began = monotonic_seconds()
            model.fit(data)
            fitted[name] = model, before + monotonic_seconds() - began
        return fitted[name]

    found = {}
    for name in names:
        try:
            model, seconds = fit(name)
        except TooManyItemsError as error:
            console.print(f"{name} is left out: {error}")
            continue
        quality = judge(model.scores, data.before_test, data.test, data.items)
        found[name] = Result(quality, round(seconds, 1))
        console.print(f"{name}: NDCG@10 {quality.ndcg_at_10} on the test, {seconds:.0f} s")
    return found


def figures(results: Mapping[str, Result]) -> dict[str, Any]:
    """Return results as plain data: model -> metric -> value."""
    return {name: result.figures() for name, result in results.items()}


def table(results: Mapping[str, Result]) -> Table:
    """Return results as a table, the best last."""
    found = Table("", title="The item that came next, among all items")
    for name in ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10", "seconds"):
        found.add_column(name, justify="right")
    for name, result in _ordered(results):
        found.add_row(name, *_cells(result))
    return found


def write(results: Mapping[str, Result], data: Sequences, name: str) -> None:
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


def _ordered(results: Mapping[str, Result]) -> list[tuple[str, Result]]:
    return sorted(results.items(), key=lambda each: each[1].quality.ndcg_at_10)


def _cells(result: Result) -> list[str]:
    metrics = msgspec.structs.astuple(result.quality)
    return [*(f"{metric:.4f}" for metric in metrics), f"{result.seconds:.0f}"]
