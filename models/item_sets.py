"""Mult-VAE and CFGAN as recommenders: both learn a user's set of items, without its order."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from flax import nnx

from models.checkpoint import Checkpoints
from models.descent import Epoch, Patience, descend
from models.export import write_all_scores
from models.leave_one_out import CELLS_MAX, Scores, judge
from models.networks import CFGAN, MultVAE
from models.sequences import Items, Sequences, fitting, padded
from stream_app.manifest import FIRST_ITEM, PADDING

LENGTH_MAX = 512  # newest items of a history that are read


class MultVAESettings(msgspec.Struct, frozen=True):
    """How to train; each value with its reason.

    ``beta_max`` is what the divergence from the prior counts for in the end, ``anneal_steps`` the
    steps until then: from the start, it would leave nothing of the users in the latent space.
    """

    hidden: int = 600
    width: int = 200
    dropout: float = 0.5
    beta_max: float = 0.2
    seen_weight: float = 1.0
    tied: bool = False
    scale: float = 0.0
    drop: float = 0.0
    decay: float = 0.0
    anneal_steps: int = 2_000
    learning_rate: float = 1e-3
    users: int = 256
    patience: Patience = Patience()
    seed: int = 0


class CFGANSettings(msgspec.Struct, frozen=True):
    """How to train; each value with its reason.

    Of the items that a user does not have, ``zeros`` (a share) are drawn anew at every step for
    the generator to give 0, weighed with ``zeros_weight``, and ``masked`` for the discriminator to
    see: without them the generator would say yes to everything.
    """

    hidden: int = 256
    dropout: float = 0.5
    zeros: int = 600
    zeros_weight: float = 0.1
    condition: str = "seen"
    decay: float = 0.0
    d_rate: float = 1.0
    d_steps: int = 1
    learning_rate: float = 1e-3
    users: int = 256
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
        histories = [np.unique(history[-LENGTH_MAX:]) for history in data.learned if len(history)]
        size = max(min(settings.users, CELLS_MAX // data.items), 1)
        count = max(len(histories) // size, 1)
        step, optimizers = self._start(data.items + FIRST_ITEM)

        def steps(epoch: int, begin: int) -> Iterator[jax.Array]:
            order = np.random.default_rng([settings.seed, epoch]).permutation(len(histories))
            for number in range(begin, count):
                users = order[number * size : (number + 1) * size]
                given = _filled([histories[user] for user in users])
                yield step(given, epoch * count + number)

        self.epochs = descend(
            self.network,
            steps,
            count,
            lambda: (
                judge(self.scores, data.before_validation, data.validation, data.items).ndcg_at_10
            ),
            settings.patience,
            optimizers,
            self.checkpoints,
        )
        return self

    def scores(self, histories: Sequence[Items]) -> Scores:
        """Return how well each item fits as the next; n histories -> (n, items)."""
        found: Scores = np.asarray(_all_scores(self.network, _filled(histories)))
        return found[: len(histories), FIRST_ITEM:]

    def export(self, path: Path) -> None:
        """Write the network as ONNX: history, (1, 512) tokens -> scores, (1, items)."""
        network = self.network
        network.eval()
        write_all_scores(lambda history: network(history)[:, FIRST_ITEM:], LENGTH_MAX, path)

    def _start(
        self, tokens: int
    ) -> tuple[Callable[[Items, int], jax.Array], list[nnx.Optimizer[Any]]]:
        """Make the network; return a step: histories, its number -> the loss; and optimizers."""
        settings, rngs = self.settings, nnx.Rngs(self.settings.seed)
        adam = optax.adamw(settings.learning_rate, weight_decay=settings.decay)
        key = jax.random.key(settings.seed)
        if isinstance(settings, MultVAESettings):
            vae = self.network = MultVAE(tokens, settings.hidden, settings.width, rngs, settings.tied, settings.scale, settings.drop)
            optimizer = nnx.Optimizer(vae, adam, wrt=nnx.Param)

            def descend_vae(given: Items, number: int) -> jax.Array:
                beta = settings.beta_max * min(1.0, number / settings.anneal_steps)
                return _vae_step(
                    vae, optimizer, given, jax.random.fold_in(key, number), beta, settings
                )

            return descend_vae, [optimizer]
        gan = self.network = CFGAN(tokens, settings.hidden, rngs)
        generator = nnx.Optimizer(gan.generator, adam, wrt=nnx.Param)
        discriminator = nnx.Optimizer(gan.discriminator, optax.adamw(settings.learning_rate*settings.d_rate, weight_decay=settings.decay), wrt=nnx.Param)

        def descend_gan(given: Items, number: int) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, number), 2)
            return _gan_step(gan, generator, discriminator, given, settings, keys)

        return descend_gan, [generator, discriminator]


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


def _hidden(history: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """Return histories without a share of their items; (B, L) tokens -> (B, L)."""
    return jnp.where(jax.random.bernoulli(key, share, history.shape), PADDING, history)


# --- Mult-VAE -------------------------------------------------------------------------------------


def vae_loss(
    network: MultVAE, history: jax.Array, noise: jax.Array, beta: float, seen, seen_weight
) -> jax.Array:
    """Return the negative evidence bound of users' items; (B, L) tokens, (B, D) -> ()."""
    mean, log_variance = network.encode(seen)  # (B, D)
    scores = network.decode(mean + noise * jnp.exp(0.5 * log_variance))  # (B, V)
    known = (history != PADDING) * jnp.where(seen != PADDING, seen_weight, 1.0)
    right = jnp.take_along_axis(scores, history, axis=1)  # (B, L)
    likelihood = ((right - jax.nn.logsumexp(scores, axis=1, keepdims=True)) * known).sum(axis=1)
    divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1)
    real = (history != PADDING).any(axis=1)
    return jnp.sum((beta * divergence - likelihood) * real) / jnp.maximum(real.sum(), 1)


@nnx.jit(static_argnames="settings")
def _vae_step(
    network: MultVAE, optimizer: nnx.Optimizer[Any], history: Any, key: jax.Array, beta: float,
    settings: MultVAESettings
) -> jax.Array:
    keys = jax.random.split(key)
    noise = jax.random.normal(keys[0], (len(history), network.inner.in_features))
    seen = _hidden(history, settings.dropout, keys[1])
    found: jax.Array
    found, gradient = nnx.value_and_grad(vae_loss)(
        network, history, noise, beta, seen, settings.seen_weight
    )
    optimizer.update(network, gradient)
    return found


# --- CFGAN ----------------------------------------------------------------------------------------


@nnx.jit(static_argnames="settings")
def _gan_step(network, generator, discriminator, history, settings, keys):
    tokens = network.generator.items.num_embeddings
    known = (history != PADDING).astype(jnp.float32)
    others = jax.random.randint(keys[0], (settings.zeros,), FIRST_ITEM, tokens)
    free = 1 - _owned(history, tokens)[:, others]
    seen = _hidden(history, settings.dropout, keys[1])
    condition = seen if settings.condition == "seen" else history

    def make(generator):
        state = generator.state(seen)
        return (
            jax.nn.sigmoid(generator.some(state, history)) * known,
            jax.nn.sigmoid(generator.shared(state, others)) * free,
        )

    def d_loss(discriminator: nnx.Module) -> jax.Array:
        real = discriminator(condition, known, history, jnp.zeros_like(free), others)
        fake = discriminator(condition, bought, history, shared, others)
        return (jax.nn.softplus(-real) + jax.nn.softplus(fake)).mean()

    def g_loss(generator: nnx.Module) -> jax.Array:
        bought, shared = make(generator)
        fooled = jax.nn.softplus(
            -network.discriminator(condition, bought, history, shared, others)
        ).mean()
        return fooled + settings.zeros_weight * (shared**2).sum(axis=1).mean()

    bought, shared = make(network.generator)
    for _ in range(settings.d_steps):
        d_found, gradient = nnx.value_and_grad(d_loss)(network.discriminator)
        discriminator.update(network.discriminator, gradient)
    found: jax.Array
    found, gradient = nnx.value_and_grad(g_loss)(network.generator)
    generator.update(network.generator, gradient)
    return found
