"""Two processes train as one does; a process that fails ends the run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from models import fit
from models.__main__ import commands
from models.data_card import leave_one_out
from models.descent import Epoch
from models.fit import CURVE, SCORES, WEIGHTS
from models.leave_one_out import Quality
from models.parallel import ParallelError, launch
from models.sources import Source, read_log
from stream_app.clock import monotonic_seconds
from stream_app.config import StageSettings
from stream_app.manifest import CARD, read_manifest
from tests.training.rounds import TINY, write_rounds

app = commands()


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    """With half of each batch in each, the losses differ by at most 1e-4; so do the weights.

    What they leave says how good it is, and on what terms it may be used.
    """
    # Nine histories a step: the halves are not of the same size.
    path = write_rounds(tmp_path / "rounds.jsonl")
    settings = msgspec.structs.replace(TINY, dropout=0.0, epochs=2)
    options = {
        "--model": "sasrec",
        "--data": str(path),
        "--folder": str(tmp_path / "two"),
        "--width": str(settings.width),
        "--blocks": str(settings.blocks),
        "--places": str(settings.places),
        "--dropout": "0",
        "--epochs": str(settings.epochs),
        "--processes": "2",
        "--licence": "CC0",
    }
    words = [word for pair in options.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "models", "train", *words],
        capture_output=True,
        text=True,
        timeout=270,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "connected to 1 peer ranks" in done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("{")]
    check_left(tmp_path / "two", msgspec.json.decode(said[-1]), str(path))
    fit.run(leave_one_out(read_log(Source(str(path)), StageSettings())), settings, tmp_path / "one")
    one, two = (
        msgspec.json.decode((tmp_path / name / CURVE).read_bytes(), type=list[Epoch])
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 2
    assert one[0].loss != one[1].loss
    for first, second in zip(one, two, strict=True):
        assert first.loss == pytest.approx(second.loss, abs=1e-4)
    with (
        np.load(tmp_path / "one" / WEIGHTS) as first,
        np.load(tmp_path / "two" / WEIGHTS) as second,
    ):
        # A bias of keys changes no attention: its gradient is rounding, which Adam makes steps of.
        for name in set(first) - {each for each in first if "['key']['bias']" in each}:
            assert np.allclose(first[name], second[name], atol=1e-5), name


def check_left(folder: Path, found: dict[str, Any], source: str) -> None:
    """Require a graph of all scores, and a model with its figures that tells what int8 loses."""
    served = found["served"]
    assert set(served) == set(Quality.__struct_fields__)
    assert found["parity"] <= 1e-4
    assert (folder / SCORES).exists()
    manifest = read_manifest(folder / "model")
    assert (manifest.name, manifest.data.source) == ("sasrec-with-counts", source)
    assert manifest.licence == "CC0"
    assert (
        manifest.metrics.items()
        >= {name: served[name] for name in ("recall_at_10", "ndcg_at_10")}.items()
    )
    card = (folder / "model" / CARD).read_text("utf-8")
    assert f"recall_at_10 {served['recall_at_10']:.4f}" in card
    assert "**Licence.** CC0" in card
    words = ["compress", str(folder / "model"), "--to", str(folder / "int8")]
    done = CliRunner().invoke(app, [*words, "--build", str(folder), "--loss-max", "1"])
    assert done.exit_code == 0, done.output
    metrics = read_manifest(folder / "int8").metrics
    assert metrics["compared_requests"] == 48
    assert metrics["ndcg_loss"] <= 1.0


def test_a_process_that_fails_ends_the_run() -> None:
    """The others are stopped at once, and the error names the one that failed."""
    sleeping = [sys.executable, "-c", "import time; time.sleep(200)"]
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    began = monotonic_seconds()
    with pytest.raises(ParallelError, match="process 1 of 2 ended with exit code 3"):
        launch([sleeping, failing])
    assert monotonic_seconds() - began < 60.0
    launch([[sys.executable, "-c", "pass"]] * 2)


def test_what_cannot_be_spread_is_told() -> None:
    """Networks of sets, and a process without a coordinator, are refused with a sentence."""
    for words, said in (
        (["--model", "cfgan"], "cfgan trains in one process: leave --processes out"),
        (["--process", "1"], "give --coordinator host:port"),
        (["--process", "2", "--coordinator", "127.0.0.1:1"], "a --process below --processes"),
    ):
        options = ["train", "--model", "sasrec", "--data", "synthetic", "--processes", "2", *words]
        done = CliRunner().invoke(app, options)
        assert isinstance(done.exception, ParallelError)
        assert said in str(done.exception)
