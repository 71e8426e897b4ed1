"""Mult-VAE and CFGAN as recommenders: both learn a user's set of items, without its order."""

from collections.abc import Callable, Iterator, Sequence
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
from models.leave_one_out import CELLS_MAX, Scores, validation_ndcg
from models.networks import CFGAN, Discriminator, Generator, MultVAE
from models.sequences import Items, Sequences, fitting, padded
from stream_app.manifest import FIRST_ITEM, PADDING

LENGTH_MAX = 512  # newest items of a history that are read
LOG_LEAST = 1e-9  # is added to chances before their logarithm
LEARNED_MAX = 32  # items of a history that are learned from in an epoch, drawn anew for each


class MultVAESettings(msgspec.Struct, frozen=True):
    """How to train; docs/decisions/0016 and 0018 tell what was tried.

    ``dropout`` is the share of a history that is hidden, and to be told from the rest.
    ``beta_max`` is what the divergence from the prior counts for in the end, ``anneal_steps`` the
    steps until then: from the start, it would leave nothing of the users in the latent space.
    """

    hidden: int = 256
    width: int = 128
    dropout: float = 0.5
    beta_max: float = 0.2
    anneal_steps: int = 2_000
    learning_rate: float = 1e-3
    users: int = 256
    patience: Patience = Patience()
    seed: int = 0


class CFGANSettings(msgspec.Struct, frozen=True):
    """How to train; docs/decisions/0016 tells what was tried.

    ``dropout`` is the share of a history that is hidden from both networks. At every step a share
    ``zeros`` of the items is drawn: who does not have one of them shall not be given it. There the
    generator must say 0, weighed with ``zeros_weight``, and the discriminator sees what it says.
    ``bought_weight`` is that of the purchases themselves: by the discriminator's word alone the
    generator had learned nothing within 14 epochs (docs/decisions/0018). The discriminator learns
    at ``discriminator_share`` of the generator's rate, or it is never fooled.
    """

    hidden: int = 128
    dropout: float = 0.5
    zeros: float = 0.2
    zeros_weight: float = 0.1
    bought_weight: float = 1.0
    learning_rate: float = 2e-3
    discriminator_share: float = 0.1
    users: int = 128
    patience: Patience = Patience()
    seed: int = 0


Settings = MultVAESettings | CFGANSettings


class ItemSets:
    """A network of sets of items with what trains it; ``network`` is there after :meth:`fit`.

    With ``checkpoints`` a run that was killed goes on.
    """

    def __init__(self, settings: Settings, checkpoints: Checkpoints | None = None) -> None:
        self.settings, self.checkpoints = settings, checkpoints
        self.network: MultVAE | CFGAN
        self.epochs: list[Epoch] = []

    def fit(self, data: Sequences) -> Self:
        """Learn until the NDCG of the validation items stops rising."""
        settings = self.settings
        histories = [np.unique(history) for history in data.learned if len(history)]
        size = max(min(settings.users, CELLS_MAX // data.items), 1)
        count = max(len(histories) // size, 1)
        step, optimizers = self._start(_popularity(histories, data.items))

        def steps(epoch: int, begin: int) -> Iterator[jax.Array]:
            rng = np.random.default_rng([settings.seed, epoch])
            drawn = [rng.permutation(history)[:LEARNED_MAX] for history in histories]
            order = rng.permutation(len(histories))
            for number in range(begin, count):
                users = order[number * size : (number + 1) * size]
                given = _filled([drawn[user] for user in users])
                yield step(given, epoch * count + number)

        self.epochs = descend(
            self.network,
            steps,
            count,
            lambda: validation_ndcg(self.scores, data),
            settings.patience,
            optimizers,
            self.checkpoints,
        )
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return how well each item fits as the next; n histories -> (n, items)."""
        found: Scores = np.asarray(_all_scores(self.network, _filled(histories)))
        return found[: len(histories), FIRST_ITEM:]

    def export(self, path: Path, histories: Sequence[Items]) -> float:
        """Write the network as ONNX: history, (1, 512) tokens -> scores, (1, items).

        It is compared on some of the histories; the greatest difference is returned.
        """
        network = self.network
        network.eval()
        return write_all_scores(
            lambda history: network(history)[:, FIRST_ITEM:],
            self.scores,
            histories,
            LENGTH_MAX,
            path,
        )

    def _start(
        self, popularity: npt.NDArray[np.float32]
    ) -> tuple[Callable[[Items, int], jax.Array], list[nnx.Optimizer[Any]]]:
        """Make the network; return a step: histories, its number -> the loss; and optimizers.

        Of each token the share of the users who have it is where the network begins: (V,).
        """
        tokens, log_odds = len(popularity), jnp.log(popularity / (1 - popularity))
        settings, rngs = self.settings, nnx.Rngs(self.settings.seed)
        adam = optax.adam(settings.learning_rate)
        key = jax.random.key(settings.seed)
        if isinstance(settings, MultVAESettings):
            vae = self.network = MultVAE(tokens, settings.hidden, settings.width, rngs)
            vae.bias[...] = log_odds
            optimizer = nnx.Optimizer(vae, adam, wrt=nnx.Param)

            def descend_vae(given: Items, number: int) -> jax.Array:
                beta = settings.beta_max * min(1.0, number / settings.anneal_steps)
                own_key = jax.random.fold_in(key, number)
                return _vae_step(vae, optimizer, given, settings.dropout, beta, own_key)

            return descend_vae, [optimizer]
        gan = self.network = CFGAN(tokens, settings.hidden, rngs)
        gan.generator.bias[...] = log_odds
        generator = nnx.Optimizer(gan.generator, adam, wrt=nnx.Param)
        slower = optax.adam(settings.learning_rate * settings.discriminator_share)
        discriminator = nnx.Optimizer(gan.discriminator, slower, wrt=nnx.Param)

        def descend_gan(given: Items, number: int) -> jax.Array:
            own_key = jax.random.fold_in(key, number)
            return _gan_step(gan, generator, discriminator, given, settings, own_key)

        return descend_gan, [generator, discriminator]


def _popularity(histories: Sequence[Items], items: int) -> npt.NDArray[np.float32]:
    """Return the share of users who have each token, never 0 or 1; (V,)."""
    counts = np.bincount(np.concatenate(histories) + FIRST_ITEM, minlength=items + FIRST_ITEM)
    shares = (counts + 0.5) / (len(histories) + 1)
    return shares.astype(np.float32)


def _filled(histories: Sequence[Items]) -> Items:
    """Return histories as tokens, in few shapes: powers of two of rows and of places."""
    rows = 1 << max(len(histories) - 1, 0).bit_length()
    filled = padded(histories, fitting(histories, LENGTH_MAX))
    return np.pad(filled, ((0, rows - len(histories)), (0, 0)))


def _owned(history: jax.Array, tokens: int) -> jax.Array:
    """Return 1 where a user has an item; (B, L) tokens -> (B, V)."""
    rows = jnp.arange(len(history))[:, None]
    owned: jax.Array = jnp.zeros((len(history), tokens)).at[rows, history].set(history != PADDING)
    return owned


@nnx.jit
def _all_scores(network: MultVAE | CFGAN, history: Any) -> jax.Array:
    return network(history)


def _partly(history: jax.Array, hidden: float, key: jax.Array) -> jax.Array:
    """Return histories with a share of the items hidden; (B, L) tokens -> (B, L)."""
    return jnp.where(jax.random.bernoulli(key, hidden, history.shape), PADDING, history)


# --- Mult-VAE -------------------------------------------------------------------------------------


def vae_loss(
    network: MultVAE, seen: jax.Array, history: jax.Array, noise: jax.Array, beta: float
) -> jax.Array:
    """Return the negative evidence bound of users' items, told from those that are seen.

    Seen and all items (B, L) tokens, noise (B, D) -> ().
    """
    mean, log_variance = network.encode(seen)  # (B, D)
    scores = network.decode(mean + noise * jnp.exp(0.5 * log_variance))  # (B, V)
    known = history != PADDING  # (B, L)
    right = jnp.take_along_axis(scores, history, axis=1)  # (B, L)
    likelihood = ((right - jax.nn.logsumexp(scores, axis=1, keepdims=True)) * known).sum(axis=1)
    divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1)
    real = known.any(axis=1)
    return jnp.sum((beta * divergence - likelihood) * real) / jnp.maximum(real.sum(), 1)


@nnx.jit
def _vae_step(  # noqa: PLR0913, PLR0917 - the step is of these
    network: MultVAE,
    optimizer: nnx.Optimizer[Any],
    history: Any,
    hidden: float,
    beta: float,
    key: jax.Array,
) -> jax.Array:
    keys = jax.random.split(key)
    noise = jax.random.normal(keys[0], (len(history), network.inner.in_features))
    seen = _partly(history, hidden, keys[1])
    found: jax.Array
    found, gradient = nnx.value_and_grad(vae_loss)(network, seen, history, noise, beta)
    optimizer.update(network, gradient)
    return found


# --- CFGAN ----------------------------------------------------------------------------------------


def _mean(losses: jax.Array, users: jax.Array) -> jax.Array:
    """Return the mean over the rows that are a user's; losses and 1 or 0, (B,) each -> ()."""
    return (losses * users).sum() / jnp.maximum(users.sum(), 1.0)


@nnx.jit(static_argnames="settings")
def _gan_step(  # noqa: PLR0913, PLR0917 - the step is of these
    network: CFGAN,
    generator: nnx.Optimizer[Any],
    discriminator: nnx.Optimizer[Any],
    history: Any,
    settings: CFGANSettings,
    key: jax.Array,
) -> jax.Array:
    """Let the discriminator learn, then the generator; return the generator's loss.

    Zero reconstruction and partial masking of the paper (CFGAN_ZP), with three differences. One
    draw of items serves both and all users of the step, so that the networks make nothing of the
    size of users times items. Part of the history is hidden, so that the rest has to be told, not
    copied. And the purchases are reconstructed as the zeros are, by their cross-entropy.
    """
    keys = jax.random.split(key)
    tokens = network.generator.items.num_embeddings
    known = (history != PADDING).astype(jnp.float32)  # (B, L)
    users = known.max(axis=1)  # (B,): 0 where a row fills the batch up
    drawn = max(round(settings.zeros * (tokens - FIRST_ITEM)), 1)
    others = jax.random.randint(keys[0], (drawn,), FIRST_ITEM, tokens)  # (N,)
    free = 1 - _owned(history, tokens)[:, others]  # (B, N)
    seen = _partly(history, settings.dropout, keys[1])

    def made(generator: Generator) -> tuple[jax.Array, jax.Array]:
        state = generator.state(seen)
        own, shared = generator.some(state, history), generator.shared(state, others)
        return jax.nn.sigmoid(own) * known, jax.nn.sigmoid(shared) * free

    def looks(critic: Discriminator, own: jax.Array, shared: jax.Array) -> jax.Array:
        return critic(seen, (history, own), (others, shared))

    fake = made(network.generator)

    def unmasked(critic: Discriminator) -> jax.Array:
        real = looks(critic, known, jnp.zeros_like(free))
        return _mean(jax.nn.softplus(-real) + jax.nn.softplus(looks(critic, *fake)), users)

    def caught(generator: Generator) -> jax.Array:
        own, shared = made(generator)
        fooled = _mean(jax.nn.softplus(-looks(network.discriminator, own, shared)), users)
        zeros = settings.zeros_weight * (shared**2).sum(axis=1)
        bought = -settings.bought_weight * jnp.log(jnp.where(known > 0, own, 1.0) + 1e-9).sum(
            axis=1
        )
        return fooled + _mean(zeros + bought, users)

    discriminator.update(network.discriminator, nnx.grad(unmasked)(network.discriminator))
    found: jax.Array
    found, gradient = nnx.value_and_grad(caught)(network.generator)
    generator.update(network.generator, gradient)
    return found
