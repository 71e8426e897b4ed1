"""A killed run goes on to the same bits; what is damaged or of another run is not taken."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import onnx
import pytest

from models import fit
from models.checkpoint import KEPT, CheckpointError, Checkpoints, of_run
from models.data_card import leave_one_out
from models.fit import CURVE, ITEMS, PICTURE, SCORES, WEIGHTS
from models.sources import Source, read_log
from stream_app.config import StageSettings
from stream_app.manifest import Data
from tests.training.rounds import TINY, write_rounds

ABOUT = Data("rounds", datetime(2023, 11, 14, tzinfo=UTC), datetime(2023, 11, 15, tzinfo=UTC), 480)
# Kills itself, as kill -9 does, half through writing the checkpoint of step 3 of the second epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
from models import checkpoint, fit
from models.data_card import leave_one_out
from models.sources import Source, read_log
from tests.training.rounds import TINY

def write(path, arrays):
    whole(path, arrays)
    if path.name == "epoch-000001-step-000000003.npz":
        data = path.read_bytes()
        path.unlink()
        path.with_suffix(".new").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

whole, checkpoint.write_arrays = checkpoint.write_arrays, write
data = leave_one_out(read_log(Source(sys.argv[1])))
fit.run(data, TINY, Path(sys.argv[2]), checkpoint_seconds=0)
"""


def data_of(path: Path) -> Any:
    """Return the sequences of a file."""
    return leave_one_out(read_log(Source(str(path)), StageSettings()))


def same(one: Path, other: Path) -> None:
    """Require the same curve and the same weights, bit by bit."""
    assert (one / CURVE).read_bytes() == (other / CURVE).read_bytes()
    with np.load(one / WEIGHTS) as first, np.load(other / WEIGHTS) as second:
        assert set(first) == set(second)
        for name in first:
            assert np.array_equal(first[name], second[name]), name


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """After SIGKILL within an epoch, weights and curve are those of a run that was left alone."""
    path = write_rounds(tmp_path / "rounds.jsonl")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "killed")],
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr.decode()[-2_000:]
    kept = sorted(each.name for each in (tmp_path / "killed" / "checkpoints").glob("*.npz"))
    assert kept[-1] == "epoch-000001-step-000000002.npz"
    data = data_of(path)
    found = fit.run(data, TINY, tmp_path / "killed", checkpoint_seconds=0)
    assert found["epochs"] == 3
    fit.run(data, TINY, tmp_path / "alone")
    same(tmp_path / "killed", tmp_path / "alone")
    assert (tmp_path / "alone" / PICTURE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("network", ["lrurec", "mult-vae", "cfgan"])
def test_each_network_goes_on(
    network: fit.Name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, also with two optimizers, it comes to the weights of a run that was not.

    A network of sets leaves a graph with a score for each line of items.txt.
    """
    data = data_of(write_rounds(tmp_path / "rounds.jsonl", users=512, length=6))
    sets = network != "lrurec"
    settings = msgspec.structs.replace(TINY, network=network, epochs=2)
    if sets:  # these read the newest 512
        settings = msgspec.structs.replace(settings, places=512)
    fit.run(data, settings, tmp_path / "alone")
    save = Checkpoints.save

    def saved(self: Checkpoints, epoch: int, step: int, *rest: Any) -> None:
        save(self, epoch, step, *rest)
        if (epoch, step) == (1, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", saved)
        with pytest.raises(KeyboardInterrupt):
            fit.run(data, settings, tmp_path / "stopped", checkpoint_seconds=0)
    about = ABOUT if sets else None  # a network of sequences would be served as well
    found = fit.run(data, settings, tmp_path / "stopped", about=about)
    same(tmp_path / "stopped", tmp_path / "alone")
    if about is not None:
        assert found["parity"] <= 1e-4
        graph = onnx.load(tmp_path / "stopped" / SCORES).graph
        items = (tmp_path / "stopped" / ITEMS).read_text("utf-8").splitlines()
        shape = [each.dim_value for each in graph.output[0].type.tensor_type.shape.dim]
        assert (graph.input[0].name, graph.output[0].name) == ("history", "scores")
        assert shape == [1, len(items)]
        assert not (tmp_path / "stopped" / "model").exists()


def state(seed: int) -> dict[str, Any]:
    """Return weights and a key of chance."""
    return {"weights": jnp.arange(3.0) + seed, "key": jax.random.key(seed)}


def test_the_newest_that_can_be_read_is_taken(tmp_path: Path) -> None:
    """Two are kept; where the newest is damaged, the one before serves; half files are none."""
    checkpoints = Checkpoints(tmp_path, "run")
    assert checkpoints.latest(state(0)) is None
    for step in range(4):
        checkpoints.save(0, step, state(step), {"step": step})
    paths = sorted(tmp_path.glob("*.npz"))
    assert len(paths) == KEPT
    found, notes = checkpoints.latest(state(0)) or ({}, {})
    assert notes == {"step": 3}
    assert found["weights"].tolist() == [3.0, 4.0, 5.0]
    assert (
        jax.random.key_data(found["key"]).tolist()
        == jax.random.key_data(jax.random.key(3)).tolist()
    )
    data = bytearray(paths[-1].read_bytes())
    data[len(data) // 3] ^= 1
    paths[-1].write_bytes(data)
    (tmp_path / "epoch-000009-step-000000000.new").write_bytes(b"half")
    assert (checkpoints.latest(state(0)) or ({}, {}))[1] == {"step": 2}


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Other settings, or arrays of other shapes, are told, not mixed in."""
    Checkpoints(tmp_path, "run").save(0, 1, state(0), None)
    with pytest.raises(CheckpointError, match="empty it, or give another --folder"):
        Checkpoints(tmp_path, "another").latest(state(0))
    wider = state(0) | {"weights": jnp.arange(4.0)}
    with pytest.raises(CheckpointError, match="of another run"):
        Checkpoints(tmp_path, "run").latest(wider)


def test_a_run_that_is_begun_anew_removes_those_of_others(tmp_path: Path) -> None:
    """The same run finds its own; another begins without any, and leaves none of the first."""
    for run in ("run", "run", "another"):
        kept = of_run(tmp_path, run)
        found = kept.latest(state(0))
        kept.save(0, 1, state(0), run)
    assert found is None
    assert (of_run(tmp_path, "another").latest(state(0)) or ({}, {}))[1] == "another"
    assert len(list(tmp_path.iterdir())) == 1
    assert of_run(tmp_path, "run").latest(state(0)) is None


def test_checkpoints_are_due_by_the_clock(tmp_path: Path) -> None:
    """One is due after so many seconds, counted from the last."""
    now = [0.0]
    checkpoints = Checkpoints(tmp_path, "run", 60.0, lambda: now[0])
    assert not checkpoints.due()
    now[0] = 61.0
    assert checkpoints.due()
    checkpoints.save(0, 1, state(0), None)
    assert not checkpoints.due()
