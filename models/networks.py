"""The ranker: a sequence encoder reads the history, a head weighs what it says with the features.

Shapes are in comments: B requests, L places of the history, N candidates, F features, D width,
V tokens (0 is padding, 1 any item outside the vocabulary).

The encoder is SASRec (Kang & McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018). It
is asked for one thing only, the state after the newest item, so the last block computes one query.
"""

import jax
import jax.numpy as jnp
import msgspec
from flax import nnx

from stream_app.manifest import PADDING

_TRAITS = 16  # numbers that the head sees of an item, whoever asks
FAR = -1e9  # what a score gets that attention must not look at


class Shape(msgspec.Struct, frozen=True):
    """The sizes of a ranker: V, L, D, the encoder's blocks and heads, and the head's inner width.

    ``dropout`` is the share of activations that are dropped while training.
    """

    tokens: int
    length: int
    width: int
    blocks: int
    heads: int
    hidden: int
    dropout: float


class Block(nnx.Module):
    """Causal self-attention and a position-wise network, each with its own way around it."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        width = shape.width
        self.heads = shape.heads
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm_inner = nnx.LayerNorm(width, rngs=rngs)
        self.inner = nnx.Linear(width, width, rngs=rngs)
        self.outer = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(shape.dropout, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, queries: int) -> jax.Array:
        """Return the last ``queries`` states; x (B, L, D), mask (B, L, L) -> (B, queries, D)."""
        normed = self.norm_attention(x)
        kept = x[:, -queries:]
        q = self._split(self.query(normed[:, -queries:]))  # (B, H, queries, D / H)
        k, v = self._split(self.key(normed)), self._split(self.value(normed))  # (B, H, L, D / H)
        scores = q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])  # (B, H, queries, L)
        scores = jnp.where(mask[:, None, -queries:, :], scores, FAR)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2)  # (B, queries, H, D / H)
        kept = kept + self.dropout(self.out(mixed.reshape(kept.shape)))
        inner = jax.nn.relu(self.inner(self.norm_inner(kept)))
        return kept + self.dropout(self.outer(self.dropout(inner)))

    def _split(self, x: jax.Array) -> jax.Array:
        """(B, L, D) -> (B, H, L, D / H)."""
        b, length, width = x.shape
        return x.reshape(b, length, self.heads, width // self.heads).swapaxes(1, 2)


class SASRec(nnx.Module):
    """Reads a history; its state scores every item by the product with the item's embedding."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        small = nnx.initializers.normal(0.02)
        self.items = nnx.Embed(shape.tokens, shape.width, embedding_init=small, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(shape.tokens))
        self.places = nnx.Param(small(rngs.params(), (shape.length, shape.width)))
        self.dropout = nnx.Dropout(shape.dropout, rngs=rngs)
        self.blocks = nnx.List([Block(shape, rngs) for _ in range(shape.blocks)])
        self.norm = nnx.LayerNorm(shape.width, rngs=rngs)

    def __call__(self, history: jax.Array) -> jax.Array:
        """Return the state after the newest item; (B, L) tokens, newest last -> (B, D)."""
        length = history.shape[1]
        known = history != PADDING  # (B, L)
        mask = jnp.tril(jnp.ones((length, length), bool)) & known[:, None, :]  # (B, L, L)
        x = self.dropout(self.items(history) * self.items.features**0.5 + self.places[...])
        *early, last = self.blocks
        for block in early:
            x = block(x, mask, length)
        state: jax.Array = self.norm(last(x, mask, 1)[:, 0])
        return state

    def scores(self, state: jax.Array, items: jax.Array) -> jax.Array:
        """Return how well items fit a state; (B, D), (B, N) tokens -> (B, N)."""
        return jnp.einsum("bd,bnd->bn", state, self.items(items)) + self.bias[...][items]

    def all_scores(self, state: jax.Array) -> jax.Array:
        """Return the scores of all tokens, for the full softmax; (B, D) -> (B, V)."""
        scores: jax.Array = state @ self.items.embedding[...].T + self.bias[...]
        return scores


class Ranker(nnx.Module):
    """The encoder and the head: what the stream serves."""

    def __init__(self, shape: Shape, mean: jax.Array, scale: jax.Array, rngs: nnx.Rngs) -> None:
        self.encoder = SASRec(shape, rngs)
        self.mean, self.scale = nnx.Variable(mean), nnx.Variable(scale)  # of the features; (F,)
        self.trait = nnx.Linear(shape.width, _TRAITS, rngs=rngs)
        inputs = len(mean) + 1 + _TRAITS
        self.inner = nnx.Linear(inputs, shape.hidden, rngs=rngs)
        self.outer = nnx.Linear(shape.hidden, 1, rngs=rngs)
        self.straight = nnx.Linear(inputs, 1, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(shape.dropout, rngs=rngs)

    def __call__(self, history: jax.Array, candidates: jax.Array, features: jax.Array) -> jax.Array:
        """Return the scores; (B, L) tokens, (B, N) tokens, (B, N, F) -> (B, N)."""
        return self.head(self.encoder(history), candidates, features)

    def head(self, state: jax.Array, candidates: jax.Array, features: jax.Array) -> jax.Array:
        """Return the scores of candidates for a state; (B, D), (B, N), (B, N, F) -> (B, N)."""
        fit = self.encoder.scores(state, candidates)[..., None]  # (B, N, 1)
        trait = self.trait(self.encoder.items(candidates))  # (B, N, 16)
        normed = (features - self.mean[...]) * self.scale[...]  # (B, N, F)
        x = jnp.concatenate([normed, fit, trait], axis=-1)  # (B, N, F + 17)
        hidden = self.dropout(jax.nn.relu(self.inner(x)))  # (B, N, hidden)
        return (self.outer(hidden) + self.straight(x))[..., 0]
