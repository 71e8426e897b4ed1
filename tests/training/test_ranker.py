"""The network learns, is exported, and the stream's own loader gets the same scores from it."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx

from models import export as exporting
from models.checkpoint import Checkpoints, of_run, plain
from models.evaluate import gains
from models.evaluation import version
from models.export import Card, ParityError, export
from models.ranker_network import Ranker
from models.train import Epoch, TrainSettings, build, examples, load, predict, train
from models.variants import RowsError
from stream_app.manifest import FIRST_ITEM, HISTORY, PADDING, UNKNOWN, Data
from stream_app.ranker import Ranker as Served
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES
from tests.training.chance import with_chance
from tests.training.shop import VOCABULARY, requests

SETTINGS = TrainSettings(
    width=16,
    blocks=2,
    hidden=16,
    batch=64,
    learning_rate=1e-2,
    epochs_max=6,
    dropout=0.0,
    encoder_weight=1.0,
)
CARD = Card(
    Data("test", datetime(2017, 1, 1, tzinfo=UTC), datetime(2017, 2, 1, tzinfo=UTC), 9), (4,), {}
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, list[Epoch], Path]:
    """A network that was trained on the small shop, and where its checkpoint lies."""
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    model, epochs = train(requests(1_500), requests(200, 1), VOCABULARY, SETTINGS, folder)
    return model, epochs, folder


def fresh(settings: TrainSettings = SETTINGS) -> Ranker:
    """Return an untrained network."""
    width = len(FEATURE_NAMES)
    model = build(settings, VOCABULARY.size, jnp.zeros(width), jnp.ones(width))
    model.eval()
    return model


def test_it_learns_what_only_the_history_tells(
    trained: tuple[Ranker, list[Epoch], Path],
) -> None:
    """The losses fall, and on users never seen the item that comes next is found."""
    model, epochs, _ = trained
    assert epochs[-1].encoder_loss < epochs[0].encoder_loss
    assert epochs[-1].head_loss < epochs[0].head_loss
    judged = requests(200, 2)
    scores = predict(model, examples(judged, VOCABULARY, seed=0))
    found = gains(scores, judged.candidates, judged.bought, judged.basket_sizes)
    before = gains(
        predict(fresh(), examples(judged, VOCABULARY, seed=0)),
        judged.candidates,
        judged.bought,
        judged.basket_sizes,
    )
    assert before[:, 0].mean() < 0.6
    assert found[:, 0].mean() > 0.9


def test_a_checkpoint_gives_the_same_scores(trained: tuple[Ranker, list[Epoch], Path]) -> None:
    """A fresh network with the weights of the checkpoint is the trained one."""
    model, _, folder = trained
    given = examples(requests(50, 3), VOCABULARY, seed=0)
    other = fresh()
    assert not np.array_equal(predict(other, given), predict(model, given))
    load(other, folder)
    assert np.array_equal(predict(other, given), predict(model, given))


def test_a_killed_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted within its second epoch it comes to the weights and the curve of one left alone.

    So training is repeatable, too.
    """
    short = msgspec.structs.replace(SETTINGS, blocks=1, epochs_max=2, dropout=0.2)
    given, judged, where = requests(130), requests(40, 1), tmp_path / "checkpoints"
    save, saved = Checkpoints.save, list[tuple[int, int]]()

    def noted(self: Checkpoints, epoch: int, step: int, *rest: Any) -> None:
        save(self, epoch, step, *rest)
        saved.append((epoch, step))
        if saved == [(0, 1), (0, 2), (1, 0), (1, 1)]:
            raise KeyboardInterrupt

    def run(name: str, kept: Callable[[str], Checkpoints] | None) -> tuple[Ranker, list[Epoch]]:
        return train(given, judged, VOCABULARY, short, tmp_path / name, id, kept)

    monkeypatch.setattr(Checkpoints, "save", noted)
    kept = partial(of_run, where, seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run("killed", kept)
    again, curve = run("killed", kept)
    assert saved[4:] == [(1, 2), (2, 0)]
    alone, wanted = run("alone", None)
    assert curve == wanted
    for one, other in zip(*(jax.tree.leaves(nnx.state(x)) for x in (again, alone)), strict=True):
        assert np.array_equal(plain(one), plain(other))


def test_padding_and_what_lies_before_it_do_not_matter() -> None:
    """A score depends on the history's items and the candidate's own row alone."""
    model = fresh()
    history = np.full((1, HISTORY), PADDING, np.int32)
    history[0, -3:] = [4, 5, 6]
    candidates = np.full((1, POOL_SIZE), PADDING, np.int32)
    candidates[0, :2] = [7, UNKNOWN]
    features = np.zeros((1, POOL_SIZE, len(FEATURE_NAMES)), np.float32)
    before = np.asarray(model(jnp.asarray(history), jnp.asarray(candidates), jnp.asarray(features)))
    candidates[0, 2:] = FIRST_ITEM
    features[0, 2:] = 3.0
    after = np.asarray(model(jnp.asarray(history), jnp.asarray(candidates), jnp.asarray(features)))
    assert np.array_equal(before[0, :2], after[0, :2])
    assert not np.array_equal(before[0, 2:], after[0, 2:])
    model.encoder.items.embedding[...] = model.encoder.items.embedding[...].at[PADDING].add(9.0)
    padded = np.asarray(model(jnp.asarray(history), jnp.asarray(candidates), jnp.asarray(features)))
    assert np.array_equal(padded[0, :2], after[0, :2])


def test_the_stream_loads_what_was_exported_and_scores_the_same(
    trained: tuple[Ranker, list[Epoch], Path], tmp_path: Path
) -> None:
    """Parity within 1e-4; the loader accepts the folder, and its scores are the network's."""
    model, _, _ = trained
    sample = requests(40, 4)
    difference = export(model, VOCABULARY, sample, CARD, tmp_path)
    assert difference <= 1e-4
    served = Served.load(
        tmp_path, clock=iter(range(10_000)).__next__, milliseconds_max=1e6, pool_min=POOL_SIZE
    )
    assert served.manifest.features == FEATURE_NAMES
    assert served.version.startswith("2017-02-01.")
    assert served.version == version(model, int(CARD.data.until.timestamp() * 1000))
    assert f"version {served.version}\n" in (tmp_path / "README.md").read_text("utf-8")
    wanted = predict(model, examples(sample, VOCABULARY, seed=0))
    for row in range(len(sample)):
        real = sample.candidates[row] != 0
        past = sample.history[row]
        scores = served.scores(
            past[past != 0].tolist(),
            sample.candidates[row][real].tolist(),
            sample.features[row][real].tolist(),
        )
        assert np.abs(np.array(scores) - wanted[row][real]).max() <= 1e-4


def test_a_large_graph_is_one_file() -> None:
    """The weights of more than a megabyte lie in the graph itself, not in a file beside it."""
    large = msgspec.structs.replace(SETTINGS, width=64)
    width = len(FEATURE_NAMES)
    model = build(large, 8_000, jnp.zeros(width), jnp.ones(width))
    graph = exporting.ranker_graph(model)
    given = examples(requests(5, 6), VOCABULARY, seed=0)
    assert len(graph) > 8_000 * 64 * 4
    assert exporting.parity(graph, given, predict(model, given)) <= 1e-4


def test_a_graph_that_computes_something_else_is_not_exported(
    trained: tuple[Ranker, list[Epoch], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ONNX and the network differ, or chance plays a part, there is an error and no file."""
    model, _, _ = trained
    real, made = exporting.graph_of, [exporting.ranker_graph(fresh())]
    monkeypatch.setattr(exporting, "graph_of", lambda *_: made[-1])
    with pytest.raises(ParityError, match="do not publish it"):
        export(model, VOCABULARY, requests(40, 4), CARD, tmp_path)
    made.append(with_chance(real(model, exporting.REQUEST, "scores")))
    with pytest.raises(RowsError, match="the exported graph gives request 0 other scores"):
        export(model, VOCABULARY, requests(40, 4), CARD, tmp_path)
    assert not list(tmp_path.iterdir())
