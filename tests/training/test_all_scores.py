"""A network as one graph that scores all items for a history, written only if it holds."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models import all_scores
from models.all_scores import write_all_scores
from models.export import ParityError, graph_of
from models.fit import SCORES
from models.leave_one_out import Scores
from models.sequences import Items
from tests.training.chance import with_chance

TABLE = np.random.default_rng(0).normal(size=(18, 16)).astype(np.float32)
TABLE[0] = 0.0  # filling


def scores_of(histories: Sequence[Items]) -> Scores:
    """Return the sums of the rows of the items, worked out by numpy."""
    return np.array([TABLE[each + 2].sum(axis=0) for each in histories])


def test_a_graph_of_all_scores_that_does_not_hold_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that differ, and scores that are not always the same, are each a sentence; no file."""
    histories = [np.array([place % 16, 3], np.int32) for place in range(40)]
    path = tmp_path / SCORES

    def written(by: float = 0.0) -> float:
        return write_all_scores(
            lambda tokens: jnp.asarray(TABLE)[tokens].sum(axis=1) + by,
            scores_of,
            histories,
            4,
            path,
        )

    with pytest.raises(ParityError, match=r"differ by 1\.00e-03 from the network"):
        written(1e-3)
    with monkeypatch.context() as patch:
        patch.setattr(all_scores, "graph_of", lambda *given: with_chance(graph_of(*given)))
        with pytest.raises(ParityError, match="other scores in another order"):
            written()
    assert not list(tmp_path.iterdir())
    assert written() <= 1e-4
    assert [each.name for each in tmp_path.iterdir()] == [SCORES]
