"""``python -m models`` from nothing to a served folder, on a part of the shop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from models.__main__ import COMMANDS, commands
from stream_app.clock import monotonic_seconds
from stream_app.ranker import Ranker
from stream_app.stages.candidates import POOL_SIZE

app = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_in_the_module_that_is_named(name: str) -> None:
    """What is imported for a command has it, and all of them are what all modules have."""
    assert name in _names(commands(name))
    assert _names(app) == set(COMMANDS)


def _names(given: typer.Typer) -> set[str]:
    return set(vars(typer.main.get_command(given))["commands"])


def test_a_model_is_promoted_without_what_trains_it() -> None:
    """The commands of the registry wait for none of the packages that take seconds to import."""
    code = "import sys; from models.__main__ import commands; commands('list'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "onnx", "river"} & set(done.stdout.split())


def test_train_evaluate_export(tmp_path: Path) -> None:
    """Eight households give a model, its figures, and a folder that the stream's loader takes."""
    run, build, served = CliRunner(), tmp_path / "build", tmp_path / "served"
    made = run.invoke(app, ["train", "--folder", str(build), "--households", "8", "--epochs", "1"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout.splitlines()[-1])["epochs"] == 1
    judged = run.invoke(app, ["evaluate", "--folder", str(build)])
    figures = json.loads(judged.stdout.splitlines()[-1])
    names = {"formula", "logistic regression", "boosted trees", "ranker"}
    assert names <= figures.keys()
    worse = figures["ranker"]["recall_at_10"] <= figures["formula"]["recall_at_10"]
    assert judged.exit_code == int(worse)
    sent = run.invoke(app, ["export", "--folder", str(build), "--to", str(served)])
    assert sent.exit_code == 0, sent.output
    assert json.loads(sent.stdout.splitlines()[-1])["parity"] <= 1e-4
    ranker = Ranker.load(served, clock=monotonic_seconds, milliseconds_max=1e6, pool_min=POOL_SIZE)
    assert f"version {ranker.version}" in (served / "README.md").read_text("utf-8")


def test_evaluate_before_train_says_what_to_do(tmp_path: Path) -> None:
    """Without a trained model there is a sentence, no traceback."""
    done = CliRunner().invoke(app, ["evaluate", "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "run `python -m models train` first" in " ".join(done.output.split())
