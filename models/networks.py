"""Four published networks that say what a user wants next; each is whole on a screen or two.

Shapes are in comments: B users, L places of a history (oldest first, filled up on the left), D
width, V tokens (0 is padding, 1 any item outside the vocabulary, 2 the first item).

- :class:`SASRec`: attention over the history.
- :class:`LRURec`: a linear recurrence over it, which can also be fed one item at a time.
- :class:`MultVAE`: a variational autoencoder of the set of items.
- :class:`CFGAN`: a generator of that set, taught by a discriminator.

How each learns is told in :mod:`models.next_item` and :mod:`models.item_sets`.
"""

import math

import jax
import jax.numpy as jnp
import msgspec
from flax import nnx

from stream_app.manifest import PADDING

FAR = -1e9  # what a score gets that attention must not look at


class Sizes(msgspec.Struct, frozen=True):
    """The sizes of a sequence network: V, the longest L, D, its blocks and its attention heads.

    ``dropout`` is the share of activations that are dropped while training.
    """

    tokens: int
    length: int
    width: int
    blocks: int
    heads: int
    dropout: float


class SequenceNetwork(nnx.Module):
    """What both sequence networks have: a state scores an item by the product with its embedding.

    One table of embeddings reads the history and scores what comes next.
    """

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        self.items = nnx.Embed(
            sizes.tokens, sizes.width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.bias = nnx.Param(jnp.zeros(sizes.tokens))
        self.dropout = nnx.Dropout(sizes.dropout, rngs=rngs)

    def scores(self, state: jax.Array, items: jax.Array) -> jax.Array:
        """Return how well items fit a state; (..., D), (..., N) tokens -> (..., N)."""
        return jnp.einsum("...d,...nd->...n", state, self.items(items)) + self.bias[...][items]

    def all_scores(self, state: jax.Array) -> jax.Array:
        """Return the scores of all tokens; (..., D) -> (..., V)."""
        scores: jax.Array = state @ self.items.embedding[...].T + self.bias[...]
        return scores


# --- SASRec ---------------------------------------------------------------------------------------


class SASRec(SequenceNetwork):
    """Self-attention over the history (Kang & McAuley, ICDM 2018).

    "Self-Attentive Sequential Recommendation". Places are counted from the newest item, so that a
    history says the same however far it is filled up.
    """

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        super().__init__(sizes, rngs)
        self.places = nnx.Param(0.02 * rngs.params.normal((sizes.length, sizes.width)))
        self.blocks = nnx.List([AttentionBlock(sizes, rngs) for _ in range(sizes.blocks)])
        self.norm = nnx.LayerNorm(sizes.width, rngs=rngs)

    def __call__(self, history: jax.Array, asked: int = 1) -> jax.Array:
        """Return the states after each of the ``asked`` newest; (B, L) tokens -> (B, asked, D)."""
        length = history.shape[1]
        known = history != PADDING  # (B, L)
        mask = jnp.tril(jnp.ones((length, length), bool)) & known[:, None, :]  # (B, L, L)
        x = self.items(history) * self.items.features**0.5 + self.places[...][-length:]
        x = self.dropout(x)  # (B, L, D)
        *early, last = self.blocks
        for block in early:
            x = block(x, mask, length)
        states: jax.Array = self.norm(last(x, mask, asked))
        return states


class AttentionBlock(nnx.Module):
    """Causal self-attention and a position-wise network, each with its own way around it."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        width = sizes.width
        self.heads = sizes.heads
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm_inner = nnx.LayerNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, width, rngs=rngs)
        self.outer = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(sizes.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, asked: int) -> jax.Array:
        """Return the last ``asked`` states; x (B, L, D), mask (B, L, L) -> (B, asked, D)."""
        normed = self.norm_attention(x)
        kept = x[:, -asked:]
        q = self._split(self.query(normed[:, -asked:]))  # (B, H, asked, D / H)
        k, v = self._split(self.key(normed)), self._split(self.value(normed))  # (B, H, L, D / H)
        scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])  # (B, H, asked, L)
        scores = jnp.where(mask[:, None, -asked:, :], scores, FAR)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2)  # (B, asked, H, D / H)
        kept = kept + self.dropout(self.out(mixed.reshape(kept.shape)))
        inner = jax.nn.relu(self.inner(self.norm_inner(kept)))
        return kept + self.dropout(self.outer(self.dropout(inner)))

    def _split(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, H, L, D / H)."""
        b, length, width = x.shape
        return x.reshape(b, length, self.heads, width // self.heads).swapaxes(1, 2)


# --- LRURec ---------------------------------------------------------------------------------------

# A complex array as its real and its imaginary part: ONNX has no complex numbers.
Complex = tuple[jax.Array, jax.Array]
RADIUS_MIN, RADIUS_MAX = 0.8, 0.99  # of the decays at first: how much of its memory a step keeps


class LRURec(SequenceNetwork):
    """A linear recurrence over the history (Yue et al., WSDM 2024).

    "Linear Recurrent Units for Sequential Recommendation". Whole histories are read in parallel
    (``__call__``); a user's memory can also be kept and fed each new item (``step``).
    """

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        super().__init__(sizes, rngs)
        self.norm = nnx.LayerNorm(sizes.width, rngs=rngs)
        self.blocks = nnx.List([RecurrentBlock(sizes, rngs) for _ in range(sizes.blocks)])

    def __call__(self, history: jax.Array, asked: int = 1) -> jax.Array:
        """Return the states after each of the ``asked`` newest; (B, L) tokens -> (B, asked, D)."""
        missing = (1 << (history.shape[1] - 1).bit_length()) - history.shape[1]
        history = jnp.pad(history, ((0, 0), (missing, 0)))  # L is a power of two now
        known = (history != PADDING)[..., None]  # (B, L, 1)
        x = self.norm(self.dropout(self.items(history)))  # (B, L, D)
        for block in self.blocks:
            x = block(x, known)
        states: jax.Array = x[:, -asked:]
        return states

    def start(self, users: int) -> jax.Array:
        """Return the memory of users without a history; (B, blocks, 2, 2 D)."""
        return jnp.zeros((users, len(self.blocks), 2, 2 * self.items.features))

    def step(self, memory: jax.Array, item: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the memory and the state after one more item; item (B,), state (B, D)."""
        x = self.norm(self.dropout(self.items(item)))  # (B, D)
        kept = []
        for place, block in enumerate(self.blocks):
            after, x = block.step(memory[:, place], x)
            kept.append(after)
        return jnp.stack(kept, axis=1), x


class RecurrentBlock(nnx.Module):
    """Memory ``h_t = decay * h_(t-1) + gain * W x_t`` in complex numbers, then a network.

    Every number of the memory decays and turns at a rate of its own, which is learned.
    """

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs) -> None:
        width, inner = sizes.width, 2 * sizes.width
        least, most = RADIUS_MIN**2, RADIUS_MAX**2
        radius = jnp.sqrt(rngs.params.uniform((inner,), minval=least, maxval=most))
        angle = 2 * math.pi * rngs.params.uniform((inner,))
        self.log_rate = nnx.Param(jnp.log(-jnp.log(radius)))
        self.log_angle = nnx.Param(jnp.log(angle))
        self.log_gain = nnx.Param(jnp.log(jnp.sqrt(1 - radius**2)))
        small = nnx.initializers.truncated_normal(0.02)
        self.into = nnx.Linear(width, 2 * inner, kernel_init=small, rngs=rngs)
        self.out = nnx.Linear(2 * inner, width, kernel_init=small, rngs=rngs)
        self.norm_memory = nnx.LayerNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, 4 * width, kernel_init=small, rngs=rngs)
        self.outer = nnx.Linear(4 * width, width, kernel_init=small, rngs=rngs)
        self.norm_outer = nnx.LayerNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(sizes.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, known: jax.Array) -> jax.Array:
        """Return the states of whole sequences; (B, L, D), known (B, L, 1) -> (B, L, D)."""
        real, imaginary = self._input(x)  # (B, L, 2 D) each
        return self._output(x, scan(self._decay(), (real * known, imaginary * known)))

    def step(self, memory: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the memory and the state one item on; (B, 2, 2 D), (B, D) -> the same shapes."""
        before = times(self._decay(), (memory[:, 0], memory[:, 1]))
        given = self._input(x)
        after = before[0] + given[0], before[1] + given[1]
        return jnp.stack(after, axis=1), self._output(x, after)

    def _decay(self) -> Complex:
        """Return the factors that the memory is multiplied by at a step; (2 D,) each."""
        radius = jnp.exp(-jnp.exp(self.log_rate[...]))
        angle = jnp.exp(self.log_angle[...])
        return radius * jnp.cos(angle), radius * jnp.sin(angle)

    def _input(self, x: jax.Array) -> Complex:
        real, imaginary = jnp.split(self.into(x), 2, axis=-1)
        gain = jnp.exp(self.log_gain[...])
        return real * gain, imaginary * gain

    def _output(self, x: jax.Array, memory: Complex) -> jax.Array:
        x = self.norm_memory(x + self.dropout(self.out(jnp.concatenate(memory, axis=-1))))
        inner = self.dropout(jax.nn.gelu(self.inner(x)))
        state: jax.Array = self.norm_outer(x + self.dropout(self.outer(inner)))
        return state


def times(a: Complex, b: Complex) -> Complex:
    """Return the product of complex numbers."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def scan(decay: Complex, given: Complex) -> Complex:
    """Return ``h_t = decay * h_(t-1) + given_t`` for all t; decay (H,), given (B, L, H).

    In log2 L rounds. Each joins neighbouring runs: to the second of two the last memory of the
    first is added, decayed as often as it lies back. L must be a power of two.
    """
    b, length, width = given[0].shape
    powers = decay[0][None], decay[1][None]  # decay ** 1, ..., decay ** run; (run, H) each
    run = 1
    while run < length:
        pairs = [part.reshape(b, length // (2 * run), 2, run, width) for part in given]
        carried = times(powers, (pairs[0][:, :, 0, -1:], pairs[1][:, :, 0, -1:]))
        joined = [
            jnp.concatenate([part[:, :, 0], part[:, :, 1] + more], axis=2)
            for part, more in zip(pairs, carried, strict=True)
        ]  # (B, L / (2 run), 2 run, H) each
        given = joined[0].reshape(b, length, width), joined[1].reshape(b, length, width)
        later = times(powers, (powers[0][-1], powers[1][-1]))
        powers = jnp.concatenate([powers[0], later[0]]), jnp.concatenate([powers[1], later[1]])
        run *= 2
    return given


# --- Mult-VAE -------------------------------------------------------------------------------------


ITEM_START = nnx.initializers.normal(0.07)  # of a row of items that is not followed by a norm


class MultVAE(nnx.Module):
    """A variational autoencoder of the set of a user's items (Liang et al., WWW 2018).

    "Variational Autoencoders for Collaborative Filtering": V -> hidden -> D -> hidden -> V. One
    table is the first layer, a sum of rows since a history names few of all items, and the last.
    """

    def __init__(self, tokens: int, hidden: int, width: int, rngs: nnx.Rngs) -> None:
        self.items = nnx.Embed(tokens, hidden, embedding_init=ITEM_START, rngs=rngs)
        self.offset = nnx.Param(jnp.zeros(hidden))
        self.latent = nnx.Linear(hidden, 2 * width, rngs=rngs)
        self.inner = nnx.Linear(width, hidden, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(tokens))

    def __call__(self, history: jax.Array) -> jax.Array:
        """Return the scores of all tokens, without chance; (B, L) tokens -> (B, V)."""
        return self.decode(self.encode(history)[0])

    def encode(self, history: jax.Array) -> Complex:
        """Return where in the latent space a user is: mean and log variance, (B, D) each."""
        x = jnp.tanh(_bag(self.items, history) + self.offset[...])  # (B, hidden)
        mean, log_variance = jnp.split(self.latent(x), 2, axis=-1)
        return mean, log_variance

    def decode(self, place: jax.Array) -> jax.Array:
        """Return the scores of all tokens; (B, D) -> (B, V)."""
        x = jnp.tanh(self.inner(place))  # (B, hidden)
        scores: jax.Array = x @ self.items.embedding[...].T + self.bias[...]
        return scores


# --- CFGAN ----------------------------------------------------------------------------------------


Purchases = tuple[jax.Array, jax.Array]  # items, and how far they are bought: 0 to 1


class CFGAN(nnx.Module):
    """A generator of purchase vectors and its discriminator (Chae et al., CIKM 2018).

    "CFGAN: A Generic Collaborative Filtering Framework based on Generative Adversarial Networks".
    The generator answers; the discriminator is needed while training only.
    """

    def __init__(self, tokens: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.generator = Generator(tokens, hidden, rngs)
        self.discriminator = Discriminator(tokens, hidden, rngs)

    def __call__(self, history: jax.Array) -> jax.Array:
        """Return the scores of all tokens; (B, L) tokens -> (B, V)."""
        return self.generator(history)


class Generator(nnx.Module):
    """History -> how likely each item is bought."""

    def __init__(self, tokens: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.items = nnx.Embed(tokens, hidden, embedding_init=ITEM_START, rngs=rngs)
        self.offset = nnx.Param(jnp.zeros(hidden))
        self.outer = nnx.Embed(tokens, hidden, embedding_init=ITEM_START, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(tokens))

    def __call__(self, history: jax.Array) -> jax.Array:
        """Return logits of all purchases; (B, L) tokens -> (B, V)."""
        scores: jax.Array = self.state(history) @ self.outer.embedding[...].T + self.bias[...]
        return scores

    def state(self, history: jax.Array) -> jax.Array:
        """Return what is known of users; (B, L) tokens -> (B, hidden)."""
        return jnp.tanh(_bag(self.items, history) + self.offset[...])

    def some(self, state: jax.Array, items: jax.Array) -> jax.Array:
        """Return logits of the users' own N items; (B, hidden), (B, N) tokens -> (B, N)."""
        return jnp.einsum("bd,bnd->bn", state, self.outer(items)) + self.bias[...][items]

    def shared(self, state: jax.Array, items: jax.Array) -> jax.Array:
        """Return logits of N items, the same for all; (B, hidden), (N,) tokens -> (B, N)."""
        logits: jax.Array = state @ self.outer(items).T + self.bias[...][items]
        return logits


class Discriminator(nnx.Module):
    """Purchases, and the user's history as the condition -> how real they look."""

    def __init__(self, tokens: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.items = nnx.Embed(tokens, hidden, embedding_init=ITEM_START, rngs=rngs)
        self.purchases = nnx.Embed(tokens, hidden, embedding_init=ITEM_START, rngs=rngs)
        self.offset = nnx.Param(jnp.zeros(hidden))
        self.outer = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, condition: jax.Array, own: Purchases, shared: Purchases) -> jax.Array:
        """Return logits of being real; condition (B, L) tokens -> (B,).

        ``own`` purchases are (B, N) items of each user, ``shared`` ones (N,) items, the same for
        all users; how far they are bought is (B, N) in both.
        """
        count = (own[0] != PADDING).sum(axis=1, keepdims=True)  # (B, 1)
        bought = jnp.einsum("bn,bnd->bd", own[1], self.purchases(own[0]))
        bought += shared[1] @ self.purchases(shared[0])
        x = bought / jnp.sqrt(jnp.maximum(count, 1)) + _bag(self.items, condition)
        logits: jax.Array = self.outer(jnp.tanh(x + self.offset[...]))[:, 0]
        return logits


def _bag(table: nnx.Embed, history: jax.Array) -> jax.Array:
    """Return the table times the user's items as a vector of length 1; (B, L) tokens -> (B, D)."""
    known = (history != PADDING).astype(jnp.float32)  # (B, L)
    weights = known / jnp.sqrt(jnp.maximum(known.sum(axis=1, keepdims=True), 1.0))
    return jnp.einsum("bl,bld->bd", weights, table(history))
