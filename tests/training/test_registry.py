"""``python -m models publish | promote | roll-back | shadow | list``, as one types them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from models.__main__ import main
from tests.onnx_model import NAME, flip_bit, write_model


class Ran(NamedTuple):
    """What a command came to."""

    returncode: object
    stdout: str
    stderr: str


Run = Callable[..., Ran]


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command of the models: in this process, since each new one would load JAX again."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["models", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ran(ended.value.code, *capsys.readouterr())

    return run


def test_a_model_is_published_promoted_and_rolled_back(models: Run, tmp_path: Path) -> None:
    """The commands say what they did, and `list --json` says what serves."""
    where = ("--registry", str(tmp_path / "registry"))
    for version in ("1", "2"):
        folder = write_model(tmp_path / version, version=version)
        assert models("publish", str(folder), *where, "--promote").returncode == 0
    assert models("shadow", NAME, "1", *where).stdout == "tiny 1 is in the shadow\n"
    listed = json.loads(models("list", *where, "--json").stdout)
    assert [each["version"] for each in listed["releases"]] == ["1", "2"]
    assert listed["served"]["promotions"][-1]["release"]["version"] == "2"
    assert listed["served"]["shadow"]["version"] == "1"
    assert models("roll-back", *where).stdout == "tiny 1 serves again\n"
    assert models("promote", NAME, "2", *where).stdout == "tiny 2 serves now\n"


def test_a_smaller_model_must_say_what_it_lost(models: Run, tmp_path: Path) -> None:
    """One in int8 is not published unless its manifest has a loss of NDCG@10 within the bound."""
    where = ("--registry", str(tmp_path / "registry"))
    for metrics, more, said in (
        ({}, (), "does not say what NDCG@10 lost by that: compress the float32 model again"),
        ({"ndcg_loss": 0.01}, (), "lost 1.00% of NDCG@10 by int8, more than the 0.50%"),
        ({"ndcg_loss": 0.01}, ("--loss-max", "0.02"), None),
    ):
        folder = write_model(tmp_path / "model", precision="int8", metrics=metrics)
        result = models("publish", str(folder), *where, *more)
        assert result.returncode == (0 if said is None else 2)
        assert (said or "") in result.stderr.replace("\n", " ")


def test_what_cannot_be_is_one_sentence(models: Run, tmp_path: Path) -> None:
    """A damaged model and an unknown release are refused with what to do, and the exit code 2."""
    where = ("--registry", str(tmp_path / "registry"))
    folder = write_model(tmp_path / "model")
    flip_bit(folder / "ranker.onnx")
    for arguments, said in (
        (("publish", str(folder)), "is not the file that manifest.json names"),
        (("promote", NAME, "9"), "has no release tiny 9: publish it first"),
    ):
        result = models(*arguments, *where)
        assert result.returncode == 2
        assert said in result.stderr.replace("\n", " ")
        assert "Traceback" not in result.stderr
