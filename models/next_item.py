"""SASRec and LRURec as recommenders: each place of a history is asked for the item that follows.

The loss is the cross-entropy over all items (Klenitskiy & Vasilev, "Turning Dross Into Gold Loss",
RecSys 2023: it, not the network, is what the published figures of SASRec lacked).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from models.all_scores import write_all_scores
from models.checkpoint import Checkpoints
from models.descent import Epoch, Patience, descend
from models.leave_one_out import Scores, validation_ndcg
from models.networks import LRURec, SASRec, Sizes
from models.parallel import Spread, Step
from models.sequences import Items, Sequences, fitting, padded
from stream_app.manifest import FIRST_ITEM, PADDING

Network = SASRec | LRURec
BLOCK = 128  # rows of the softmax that are in memory at once
LENGTHS = (2, 4, 8, 16, 32, 64)  # places of a batch: few shapes to compile, little filling


class NextItemSettings(msgspec.Struct, frozen=True):
    """How to train; each value with its reason.

    ``width``, ``blocks`` and ``dropout`` are what holds up on small public sets, where less dropout
    learns the training histories by heart; a step learns from ``places`` places of histories,
    filling included, whatever their lengths, so that its steps take the same time; ``patience``
    outlasts the first epochs, which find little more than what is popular.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.5
    learning_rate: float = 1e-3
    places: int = 1024
    patience: Patience = Patience()
    seed: int = 0


class NextItem:
    """A sequence network with what trains it; ``network`` is there after :meth:`fit`.

    With ``checkpoints`` a run that was killed goes on; with ``spread`` over several processes.
    """

    def __init__(
        self,
        build: Callable[[Sizes, nnx.Rngs], Network],
        settings: NextItemSettings = NextItemSettings(),  # noqa: B008  (it is frozen)
        checkpoints: Checkpoints | None = None,
        spread: Spread | None = None,
    ) -> None:
        self.build, self.settings = build, settings
        self.checkpoints, self.spread = checkpoints, spread
        self.network: Network
        self.epochs: list[Epoch] = []

    def fit(self, data: Sequences) -> Self:
        """Learn until the NDCG of the validation items stops rising."""
        settings, given = self.settings, _windows(data.learned)
        sizes = Sizes(
            data.items + FIRST_ITEM,
            LENGTHS[-1],
            settings.width,
            settings.blocks,
            settings.heads,
            settings.dropout,
        )
        self.network = self.build(sizes, nnx.Rngs(settings.seed))
        optimizer = nnx.Optimizer(
            self.network,
            optax.adam(settings.learning_rate),
            wrt=nnx.Param,
        )

        step: Step = _step
        if self.spread is not None:
            self.spread.place(self.network, optimizer)
            step = self.spread.step(loss)

        def steps(epoch: int, begin: int) -> Iterator[jax.Array]:
            rng = np.random.default_rng([settings.seed, epoch])
            for windows in islice(_batches(given, settings.places, rng), begin, None):
                yield step(self.network, optimizer, windows)

        self.epochs = descend(
            self.network,
            steps,
            len(list(_batches(given, settings.places, np.random.default_rng(0)))),
            lambda: validation_ndcg(self.scores, data),
            settings.patience,
            [optimizer],
            self.checkpoints,
        )
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return how well each item fits as the next; n histories -> (n, items)."""
        length = fitting(histories, LENGTHS[-1])
        rows = 1 << max(len(histories) - 1, 0).bit_length()  # few shapes to compile
        filled = np.pad(padded(histories, length), ((0, rows - len(histories)), (0, 0)))
        found: Scores = np.asarray(_next_scores(self.network, filled))
        return found[: len(histories), FIRST_ITEM:]

    def export(self, path: Path, histories: Sequence[Items]) -> float:
        """Write the network as ONNX: history, (1, 64) tokens -> scores, (1, items).

        It is compared on some of the histories; the greatest difference is returned.
        """
        network = self.network
        network.eval()
        return write_all_scores(
            lambda history: network.all_scores(network(history)[:, 0])[:, FIRST_ITEM:],
            self.scores,
            histories,
            LENGTHS[-1],
            path,
        )


# --- one step -------------------------------------------------------------------------------------


def loss(network: Network, windows: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of the items that follow; (B, L + 1) tokens -> ()."""
    history, targets = windows[:, :-1], windows[:, 1:].ravel()  # (B, L), (R,) where R = B L
    states = network(history, history.shape[1]).reshape(len(targets), -1)  # (R, D)
    embedding, bias = network.items.embedding[...], network.bias[...]
    return cross_entropy(states, embedding, bias, targets, (history != PADDING).ravel())


@jax.custom_vjp
def cross_entropy(
    states: jax.Array, embedding: jax.Array, bias: jax.Array, targets: jax.Array, asked: jax.Array
) -> jax.Array:
    """Return the mean of -log softmax(states @ embedding.T + bias)[targets] where ``asked``.

    (R, D), (V, D), (V,), (R,), (R,) -> (). The scores of all tokens, (R, V), would be by far the
    largest array of a step: a block of rows at a time is scored and gives its part of the gradient
    at once, and rows that are not asked are left out. A third of the time of a step is saved.
    """
    return _softmax(states, embedding, bias, targets, asked)[0]


def _softmax(
    states: jax.Array, embedding: jax.Array, bias: jax.Array, targets: jax.Array, asked: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """Return the mean and its gradient by states, embedding and bias."""
    order = jnp.argsort(~asked)  # the rows that are asked come first
    order = jnp.pad(order, (0, -len(order) % BLOCK), constant_values=len(order) - 1)
    count = asked.sum()

    def block(number: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        total, by_states, by_embedding, by_bias = found
        places = number * BLOCK + jnp.arange(BLOCK)
        rows = jax.lax.dynamic_slice(order, (number * BLOCK,), (BLOCK,))
        weights = (places < count) / jnp.maximum(count, 1)  # (BLOCK,)
        x, right = states[rows], targets[rows]
        scores = x @ embedding.T + bias  # (BLOCK, V)
        most = scores.max(axis=1, keepdims=True)
        chances = jnp.exp(scores - most)
        sums = chances.sum(axis=1, keepdims=True)
        fit = jnp.einsum("rd,rd->r", x, embedding[right]) + bias[right]
        total += weights @ (jnp.log(sums) + most)[:, 0] - weights @ fit
        chances *= weights[:, None] / sums
        mine = chances @ embedding - weights[:, None] * embedding[right]
        by_embedding = (by_embedding + chances.T @ x).at[right].add(-weights[:, None] * x)
        by_bias = (by_bias + chances.sum(axis=0)).at[right].add(-weights)
        return total, by_states.at[rows].add(mine), by_embedding, by_bias

    nothing = jnp.zeros(()), *(jnp.zeros_like(each) for each in (states, embedding, bias))
    total, *gradient = jax.lax.fori_loop(0, (count + BLOCK - 1) // BLOCK, block, nothing)
    return total, tuple(gradient)


def _backward(
    gradient: tuple[jax.Array, jax.Array, jax.Array], slope: jax.Array
) -> tuple[jax.Array | None, ...]:
    return *(slope * each for each in gradient), None, None


cross_entropy.defvjp(_softmax, _backward)


@nnx.jit
def _step(network: Network, optimizer: nnx.Optimizer[Any], windows: Any) -> jax.Array:
    found: jax.Array
    found, gradient = nnx.value_and_grad(loss)(network, windows)
    optimizer.update(network, gradient)
    return found


@nnx.jit
def _next_scores(network: Network, history: Any) -> jax.Array:
    return network.all_scores(network(history)[:, 0])


# --- batches --------------------------------------------------------------------------------------


def _windows(histories: Sequence[Items]) -> list[Items]:
    """Return histories as tokens by length: of each L in LENGTHS, (n, L + 1) with L asked.

    A history longer than that is cut, so that every item but its first is asked for once.
    """
    cut: dict[int, list[Items]] = {length: [] for length in LENGTHS}
    for history in histories:
        for end in range(len(history), 1, -LENGTHS[-1]):
            window = history[max(end - LENGTHS[-1] - 1, 0) : end]
            cut[fitting([window[1:]], LENGTHS[-1])].append(window)
    return [padded(windows, length + 1) for length, windows in cut.items() if windows]


def _batches(
    given: Sequence[Items], places: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.int32]]:
    """Yield all windows in chance order, so many at once that the places of a batch are the same.

    What is left over of a length waits for another epoch, unless there is no full batch of it.
    """
    found = []
    for windows in given:
        size = max(places // (windows.shape[1] - 1), 1)
        order = rng.permutation(len(windows))
        found += [windows[order[end - size : end]] for end in range(size, len(order) + 1, size)]
        if len(order) < size:
            found.append(np.pad(windows, ((0, size - len(order)), (0, 0))))
    for place in rng.permutation(len(found)):
        yield found[place]
