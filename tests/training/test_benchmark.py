"""The benchmark of all models, on files such as others have: `user item item ...`."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

import models.benchmark
from models.__main__ import commands
from models.benchmark import NAMES, UnknownModelError, chosen
from models.counts import Popularity
from models.networks import SASRec, SequenceNetwork
from models.next_item import NextItemSettings, _windows
from models.sequences import Sequences, SequencesError, read
from stream_app.manifest import PADDING

app = commands()

ITEMS = 12
SMALL = NextItemSettings(width=16, blocks=1)  # compiled in less time


class TooLarge(Popularity):
    """A model that memory is too small for."""

    def fit(self, data: Sequences) -> Self:  # noqa: ARG002 - it comes to nothing
        """Fail."""
        raise MemoryError


def shop(path: Path, *lengths: int) -> Path:
    """Write histories of such lengths around a ring of items, and users of few items or none."""
    starts = np.random.default_rng(0).integers(ITEMS, size=len(lengths))
    lines = [
        [f"u{user}", *(str((int(start) + place) % ITEMS) for place in range(length))]
        for user, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    lines += [["one", "3"], ["two", "4", "4"], ["three", "5", "5", "5"], ["none"]]
    path.write_text("".join(" ".join(line) + "\n" for line in lines), "utf-8")
    return path


def benchmark(path: Path, *options: str) -> Result:
    """Run the command on a file."""
    return CliRunner().invoke(app, ["benchmark", "--sequences", str(path), *options])


def figures(done: Result) -> dict[str, Any]:
    """Return the line of JSON."""
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_benchmark_ends_with_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every model it has the four metrics and the seconds; a line without an item is told."""
    monkeypatch.setattr(models.benchmark, "NextItemSettings", partial(replace, SMALL))
    done = benchmark(shop(tmp_path / "ring.txt", *[7] * 40), "--epochs", "1")
    assert done.exit_code == 0, done.output
    found = figures(done)
    assert tuple(found) == NAMES
    names = {"recall_at_5", "ndcg_at_5", "recall_at_10", "ndcg_at_10", "seconds"}
    for name, each in found.items():
        assert each.keys() == names, name
        assert all(map(math.isfinite, each.values())), name
    assert found["co_visitation"]["ndcg_at_10"] > found["popularity"]["ndcg_at_10"]
    assert "1 lines name a user and no item" in " ".join(done.stderr.split())


def test_a_model_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is null, a sentence says why, the command ends with 1; the others are judged all the same.

    So is what is made of it.
    """
    for name in ("ease", "sasrec"):
        monkeypatch.setitem(models.benchmark.MODELS, name, lambda *_: TooLarge())
    path = shop(tmp_path / "ring.txt", 7, 7)
    done = benchmark(path, "--json", "--models", "ease,co_visitation,sasrec,served")
    assert done.exit_code == 1
    found = figures(done)
    assert [name for name, each in found.items() if each is None] == ["ease", "sasrec", "served"]
    assert found["co_visitation"]["recall_at_10"] > 0
    assert "ease is left out: MemoryError" in done.stderr
    assert "served is left out: it is made of sasrec, which failed" in done.stderr


def test_very_long_histories_are_read_whole(tmp_path: Path) -> None:
    """Who has hundreds of items is judged as others are, and each item but the first is learned."""
    path = shop(tmp_path / "long.txt", 300, 300, 7, 2_300)
    counted = "popularity,personal_frequency,co_visitation,ease"
    done = benchmark(path, "--json", "--models", counted)
    assert done.exit_code == 0, done.output
    assert all(map(math.isfinite, figures(done)["ease"].values()))
    learned = read(path).learned
    asked = sum(
        int((windows[:, 1:] * (windows[:, :-1] != PADDING) > 0).sum())
        for windows in _windows(learned)
    )
    assert asked == sum(len(history) - 1 for history in learned)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "there is no file"),
        (b"u a b\nv\n", "no user has three items"),
        (b"u a b c\xff\n", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(
    lines: bytes | None, message: str, tmp_path: Path
) -> None:
    """The command says who must do what, and ends with 1."""
    path = tmp_path / "sequences.txt"
    if lines is not None:
        path.write_bytes(lines)
    with pytest.raises(SequencesError, match=message):
        read(path)
    done = benchmark(path)
    assert (done.exit_code, "Traceback" in done.output) == (1, False)


def test_models_are_chosen_by_name() -> None:
    """All of them by default, in the order of the report; a name that there is not is refused."""
    assert chosen(None) == list(NAMES)
    assert chosen("sasrec, mult-vae") == chosen("mult_vae,sasrec") == ["mult_vae", "sasrec"]
    with pytest.raises(UnknownModelError, match="no model bert4rec: name some of popularity"):
        chosen("ease,bert4rec")
    assert issubclass(SASRec, SequenceNetwork)


def test_train_takes_the_same_names() -> None:
    """`mult_vae` is `mult-vae` there, too; another name is refused with those that there are."""
    run = CliRunner()
    meant = run.invoke(app, ["train", "--model", "mult_vae"])
    assert "what mult-vae is to learn from" in str(meant.exception)
    wrong = run.invoke(app, ["train", "--model", "bert4rec"])
    assert wrong.exit_code == 2
    assert "is none of" in wrong.output
