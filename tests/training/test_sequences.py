"""The published networks and the baselines, on histories with a pattern."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import optax
import pytest
from flax import nnx

from models import counts, leave_one_out, mix
from models.counts import EASE, CoVisitation, PersonalFrequency, Popularity
from models.descent import Patience
from models.export import ParityError, graph_of
from models.item_sets import LENGTH_MAX, CFGANSettings, ItemSets, MultVAESettings, _gan_step
from models.leave_one_out import Recommender, Scores, judge, quality, rank, validation_ndcg
from models.mix import About, Mix, export
from models.networks import CFGAN, LRURec, SASRec, SequenceNetwork, Sizes
from models.next_item import LENGTHS, NextItem, NextItemSettings, cross_entropy
from models.sequences import Items, Sequences, padded, split
from models.served import SPAN_MS, STEP_MS, RejectedError, Served, pace_ms
from models.variants import RowsError
from stream_app.manifest import FIRST_ITEM, PADDING, Data, read_manifest
from stream_app.stages.candidates import POOL_MODEL
from tests.training.chance import with_chance

ITEMS = 20
SIZES = Sizes(ITEMS + FIRST_ITEM, 16, 8, 2, 2, 0.0)
BRIEF = Patience(epochs_max=6, epochs=6)
SEQUENCE = NextItemSettings(width=16, blocks=1, dropout=0.1, learning_rate=1e-2, patience=BRIEF)
LEARNERS: dict[str, Callable[[], Recommender]] = {
    "sasrec": lambda: NextItem(SASRec, SEQUENCE),
    "lrurec": lambda: NextItem(LRURec, SEQUENCE),
    "mult_vae": lambda: ItemSets(
        MultVAESettings(hidden=32, width=16, learning_rate=1e-2, users=32, patience=BRIEF)
    ),
    "cfgan": lambda: ItemSets(
        CFGANSettings(hidden=32, zeros=0.2, learning_rate=1e-2, users=32, patience=Patience(20, 20))
    ),
    "co_visitation": CoVisitation,
    "ease": lambda: EASE(10.0),
}


def ring(users: int = 200, seed: int = 0) -> list[list[str]]:
    """Return histories around a ring of items: after an item comes the next one."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(ITEMS, size=users)
    return [[f"i{(start + place) % ITEMS}" for place in range(7)] for start in starts]


@pytest.fixture(scope="module", params=[SASRec, LRURec])
def fresh(request: pytest.FixtureRequest) -> SASRec | LRURec:
    """Each sequence network, untrained and small."""
    network: SASRec | LRURec = request.param(SIZES, nnx.Rngs(0))
    return network


@nnx.jit(static_argnames="asked")
def states(network: SASRec | LRURec, history: jax.Array, asked: int) -> jax.Array:
    """Return what a network says, compiled at once."""
    return network(history, asked)


@nnx.jit
def step(network: LRURec, memory: jax.Array, item: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return what one more item makes of a memory, compiled at once."""
    return network.step(memory, item)


@pytest.fixture(scope="module")
def data() -> Sequences:
    """Histories that a pattern runs through."""
    return split(ring())


@pytest.fixture(scope="module")
def fitted(data: Sequences) -> dict[str, Recommender]:
    """Every model, fitted to the pattern."""
    return {name: make().fit(data) for name, make in LEARNERS.items()}


@pytest.mark.parametrize("name", LEARNERS)
def test_each_model_finds_the_pattern(
    name: str, data: Sequences, fitted: dict[str, Recommender]
) -> None:
    """Of twenty items the five best hold the next one far more often than popularity finds it."""
    found = judge(fitted[name].scores, data.before_test, data.test, data.items)
    chance = judge(Popularity().fit(data).scores, data.before_test, data.test, data.items)
    assert chance.recall_at_5 < 0.4
    assert found.recall_at_5 > 0.6


@pytest.mark.parametrize("name", ["sasrec", "lrurec", "mult_vae", "cfgan"])
def test_an_exported_network_scores_the_same(
    name: str, data: Sequences, fitted: dict[str, Recommender], tmp_path: Path
) -> None:
    """The ONNX file computes what the network does, whatever the filling."""
    model = fitted[name]
    assert isinstance(model, NextItem | ItemSets)
    assert model.export(tmp_path / "network.onnx", data.before_test) <= 1e-4
    session = onnxruntime.InferenceSession((tmp_path / "network.onnx").read_bytes())
    length = LENGTHS[-1] if isinstance(model, NextItem) else LENGTH_MAX
    histories = data.before_test[:5]
    wanted = model.scores(histories)
    for history, scores in zip(histories, wanted, strict=True):
        given = {"history": padded([history], length)}
        assert np.abs(session.run(None, given)[0][0] - scores).max() < 1e-4


def test_the_future_does_not_leak(fresh: SASRec | LRURec) -> None:
    """Another later item leaves the states before it as they were, and changes its own."""
    history = jnp.asarray([[PADDING, 3, 4, 5, 6, 7, 8, 9]])
    before, after = states(fresh, history, 8), states(fresh, history.at[0, 5].set(15), 8)
    changes = np.abs(np.asarray(before - after)).max(axis=2)[0]
    assert changes[1:5].max() == 0  # the first place is filling: nobody asks for its state
    assert changes[5:].min() > 1e-3


def test_filling_does_not_matter(fresh: SASRec | LRURec) -> None:
    """A history says the same in a long row and in a short one, and of many states and of one."""
    short = jnp.asarray([[3, 4, 5]])
    long = jnp.asarray([[PADDING] * 10 + [3, 4, 5]])
    assert jnp.allclose(states(fresh, short, 3), states(fresh, long, 3), atol=1e-5)
    assert jnp.allclose(states(fresh, long, 1), states(fresh, long, 3)[:, -1:], atol=1e-5)


def test_lrurec_item_by_item_is_lrurec_at_once() -> None:
    """The step form gives the states of the sequence form, for every user of a batch."""
    model = LRURec(SIZES, nnx.Rngs(1))
    history = np.random.default_rng(0).integers(FIRST_ITEM, ITEMS, (4, 13))
    wanted = states(model, jnp.asarray(history), 13)
    memory = model.start(4)
    for place in range(13):
        memory, state = step(model, memory, jnp.asarray(history[:, place]))
        assert jnp.allclose(state, wanted[:, place], atol=1e-4)
    assert jnp.abs(wanted[:, 0] - wanted[:, -1]).max() > 0.1


def test_the_softmax_in_blocks_is_the_softmax() -> None:
    """Its value and slopes are those of the plain formula, over the rows that are asked."""
    rng = np.random.default_rng(0)
    states, embedding = (
        jnp.asarray(rng.normal(size=(300, 8))),
        jnp.asarray(rng.normal(size=(50, 8))),
    )
    bias, targets = jnp.asarray(rng.normal(size=50)), jnp.asarray(rng.integers(50, size=300))
    asked = jnp.asarray(rng.random(300) < 0.6)

    def plain(*given: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(given[0] @ given[1].T + given[2])
        return -(jnp.take_along_axis(logs, targets[:, None], 1)[:, 0] * asked).sum() / asked.sum()

    def blocks(*given: jax.Array) -> jax.Array:
        return cross_entropy(*given, targets, asked)

    given = states, embedding, bias
    wanted = jax.value_and_grad(plain, argnums=(0, 1, 2))(*given)
    found = jax.value_and_grad(blocks, argnums=(0, 1, 2))(*given)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        assert jnp.allclose(one, other, atol=1e-5)


def test_the_metrics_are_those_of_all_orders() -> None:
    """Recall and NDCG are the brute force means over the orders of items that score the same."""
    rng = np.random.default_rng(0)
    histories = [rng.choice(30, 5, replace=False).astype(np.int32) for _ in range(40)]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(30), h)) for h in histories], np.int32)
    scores = rng.integers(0, 6, (40, 30)).astype(np.float32)
    found = quality(*rank(scores.copy(), histories, targets))
    hits, gains = [], []
    for row, history, target in zip(scores, histories, targets, strict=True):
        others = np.setdiff1d(np.arange(30), [*history, target])
        above, equal = (row[others] > row[target]).sum(), (row[others] == row[target]).sum()
        places = np.arange(above, above + equal + 1)
        hits.append((places < 10).mean())
        gains.append(np.where(places < 10, 1 / np.log2(places + 2), 0.0).mean())
    assert found.recall_at_10 == pytest.approx(np.mean(hits), abs=1e-5)
    assert found.ndcg_at_10 == pytest.approx(np.mean(gains), abs=1e-5)
    assert 0 < found.recall_at_5 < found.recall_at_10 < 1


def test_scores_that_are_no_numbers_rank_last() -> None:
    """A network that went astray must not look like a perfect one."""
    histories, targets = [np.array([0], np.int32)] * 2, np.array([1, 2], np.int32)
    astray = judge(
        lambda asked: np.full((len(asked), 30), np.nan, np.float32), histories, targets, 30
    )
    assert astray.recall_at_10 == 0


def test_validation_looks_at_some_of_very_many_users(
    data: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are spread evenly, the same each time; of fewer it looks at all."""
    asked: list[int] = []

    def popular(histories: Sequence[Items]) -> Scores:
        asked.append(len(histories))
        return np.tile(np.arange(data.items, dtype=np.float32), (len(histories), 1))

    wanted = judge(popular, data.before_validation, data.validation, data.items)
    assert validation_ndcg(popular, data) == wanted.ndcg_at_10
    monkeypatch.setattr(leave_one_out, "VALIDATED_MAX", 20)
    assert 0 < validation_ndcg(popular, data) == validation_ndcg(popular, data)
    assert asked == [200, 200, 20, 20]


def test_rows_that_fill_a_batch_up_teach_nothing() -> None:
    """CFGAN's loss over three users is the same in a batch of three rows and of four."""
    settings, rngs = CFGANSettings(hidden=4, dropout=0.0), jax.random.key(0)
    history = padded([np.array(each, np.int32) for each in ([1, 2], [3], [4, 5])], 2)
    losses = []
    for rows in (history, np.pad(history, ((0, 1), (0, 0)))):
        network = CFGAN(ITEMS + FIRST_ITEM, 4, nnx.Rngs(0))
        one = nnx.Optimizer(network.generator, optax.adam(1e-3), wrt=nnx.Param)
        other = nnx.Optimizer(network.discriminator, optax.adam(1e-3), wrt=nnx.Param)
        losses += [_gan_step(network, one, other, rows, settings, rngs) for _ in range(2)]
    assert np.allclose(losses[:2], losses[2:], atol=1e-6)
    assert losses[0] != losses[1]


def test_the_last_two_items_are_held_back() -> None:
    """Nobody learns from the test; who has fewer than three items is learned from alone."""
    found = split([["a", "b", "c", "d"], ["d", "a"]])
    assert found.names == ["a", "b", "c", "d"]
    assert [history.tolist() for history in found.learned] == [[0, 1], [3, 0]]
    assert (found.judged.tolist(), found.validation.tolist(), found.test.tolist()) == (
        [0],
        [2],
        [3],
    )
    assert [history.tolist() for history in found.before_test] == [[0, 1, 2]]


def test_counts_are_what_they_say() -> None:
    """Popularity, frequency and forward co-visitation, by hand."""
    found = split([["a", "b", "a", "x", "y"], ["b", "c", "x", "y"]])
    a, b, c = (found.names.index(name) for name in "abc")
    assert Popularity().fit(found).scores([found.learned[0]])[0, [a, b, c]].tolist() == [
        0.5,
        1,
        0.5,
    ]
    often = PersonalFrequency().fit(found).scores([found.learned[0]])
    assert often[0, [a, b, c]].tolist() == [2.5, 2, 0.5]
    followed = CoVisitation().fit(found).scores([np.array([b, a])])
    assert followed[0, [a, b, c]].tolist() == pytest.approx([0.5 + 0.5 * 1, 1, 0.5 * 1])


def test_ease_is_its_closed_form(data: Sequences) -> None:
    """Its weights are minus the inverse over its diagonal, and 0 there."""
    model = EASE(10.0).fit(data)
    owned = np.zeros((len(data.learned), data.items))
    for row, history in zip(owned, data.learned, strict=True):
        row[history] = 1
    inverse = np.linalg.inv(owned.T @ owned + 10 * np.eye(data.items))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    assert np.allclose(model.weights, wanted, atol=1e-5)


def test_ease_chooses_its_regularization_on_the_validation(data: Sequences) -> None:
    """No other value of the grid beside the chosen one ranks the validation items better."""
    grid = list(counts.EASE_REGULARIZATIONS)
    asked = data.before_validation, data.validation, data.items
    found = [judge(EASE(value).fit(data).scores, *asked).ndcg_at_10 for value in grid]
    assert max(found) > min(found)
    place = grid.index(chosen_by_fit := EASE().fit(data).regularization or 0.0)
    assert chosen_by_fit in grid
    assert found[place] >= max(found[max(place - 1, 0) : place + 2])


def test_ease_ranks_items_beyond_its_limit_by_popularity(
    data: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items that most users have get weights; the others stand below them, by their users."""
    monkeypatch.setattr(counts, "EASE_ITEMS_MAX", 12)
    model = EASE(10.0).fit(data)
    rest = np.setdiff1d(np.arange(ITEMS), model.common)
    assert model.weights.shape == (12, 12)
    assert model.shares[model.common].min() >= model.shares[rest].max()
    scores = model.scores(data.before_test)
    assert (scores[:, model.common].min(axis=1) > scores[:, rest].max(axis=1)).all()
    assert (np.diff(scores[:, rest[np.argsort(-model.shares[rest])]]) <= 0).all()


def test_the_stages_serve_a_network(
    data: Sequences, fitted: dict[str, Recommender], tmp_path: Path
) -> None:
    """With counts and network the stages rank about as well as the better of them; nothing seen."""
    visits, network = fitted["co_visitation"], fitted["sasrec"]
    assert isinstance(network, NextItem)
    served = Served(network, tmp_path / "model").fit(data)
    asked = data.before_validation, data.validation, data.items
    found = [judge(each.scores, *asked).ndcg_at_10 for each in (served, visits, network)]
    assert found[0] >= max(found[1:]) - 0.02
    scores = served.scores(data.before_test)
    assert all((row[h] == 0).all() for row, h in zip(scores, data.before_test, strict=True))
    manifest = read_manifest(tmp_path / "model")
    assert manifest.metrics["weight"] == served.weight
    assert manifest.proposes == min(POOL_MODEL, ITEMS)


def test_an_id_that_the_stages_reject_is_told(
    fitted: dict[str, Recommender], tmp_path: Path
) -> None:
    """An id of too many characters would be missing from the counts, and nobody would know."""
    network = fitted["sasrec"]
    assert isinstance(network, NextItem)
    long = split([[f"{item:0>200}" for item in history] for history in ring()])
    with pytest.raises(RejectedError, match=r"an event is rejected \(not_an_event\)"):
        Served(network, tmp_path / "model").fit(long)


def test_made_up_time_is_bounded() -> None:
    """However many events, counts and rows do not fade meanwhile; few come a second apart."""
    assert pace_ms(1) == pace_ms(167_597) == STEP_MS
    assert [count * pace_ms(count) <= SPAN_MS for count in (10**6, 10**8)] == [True, True]
    assert pace_ms(10**9) == 1


class Average(SequenceNetwork):
    """A network whose state is the mean of what it read; it is exported in no time."""

    def __call__(self, history: jax.Array, asked: int = 1) -> jax.Array:  # noqa: ARG002
        """Return the states; (B, L) tokens -> (B, 1, D)."""
        mean: jax.Array = self.items(history).mean(axis=1, keepdims=True)
        return mean


def test_a_graph_that_is_not_the_network_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity, and that chance plays no part, are checked before anything is written."""
    fresh = cast("LRURec", Average(SIZES, nnx.Rngs(0)))
    about = About("mix", Data("made up", datetime.now(UTC), datetime.now(UTC), 1), {})
    names = [f"i{place}" for place in range(ITEMS)]

    def exported() -> None:
        export(fresh, names, 0.5, about, tmp_path / "model")

    real = graph_of

    def other(model: Any, inputs: Any, output: str) -> bytes:
        changed = Mix(fresh, 0.4) if output == broken == "scores" else model
        if output == broken == "proposals":
            changed = lambda history: ITEMS + FIRST_ITEM - model(history)  # noqa: E731
        made = real(changed, inputs, output)
        return with_chance(made) if broken == "chance" and output == "scores" else made

    monkeypatch.setattr(mix, "graph_of", other)
    monkeypatch.setattr(mix, "POOL_MODEL", 5)
    broken = "scores"
    with pytest.raises(ParityError, match="scores of the exported graph differ"):
        exported()
    broken = "proposals"
    with pytest.raises(ParityError, match="items that the network does not"):
        exported()
    broken = "chance"
    with pytest.raises(RowsError, match="other scores when it is asked in another order"):
        exported()
    assert not (tmp_path / "model").exists()
    broken = ""
    exported()
    assert read_manifest(tmp_path / "model").proposes == 5


def test_the_same_seed_gives_the_same_network(
    data: Sequences, fitted: dict[str, Recommender]
) -> None:
    """Training is repeatable."""
    again = LEARNERS["sasrec"]().fit(data)
    some = data.before_test[:20]
    assert np.array_equal(again.scores(some), fitted["sasrec"].scores(some))
