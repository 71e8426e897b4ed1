"""The served ranker: an encoder reads the history, a head weighs what it says with features.

Shapes are in comments: B requests, L places of the history, N candidates, F features, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models.networks import SASRec, Sizes

_TRAITS = 16  # numbers that the head sees of an item, whoever asks


class Ranker(nnx.Module):
    """The encoder and the head: what the stream serves."""

    def __init__(
        self, sizes: Sizes, hidden: int, mean: jax.Array, scale: jax.Array, rngs: nnx.Rngs
    ) -> None:
        self.encoder = SASRec(sizes, rngs)
        self.mean, self.scale = nnx.Variable(mean), nnx.Variable(scale)  # of the features; (F,)
        self.trait = nnx.Linear(sizes.width, _TRAITS, rngs=rngs)
        inputs = len(mean) + 1 + _TRAITS
        self.inner = nnx.Linear(inputs, hidden, rngs=rngs)
        self.outer = nnx.Linear(hidden, 1, rngs=rngs)
        self.straight = nnx.Linear(inputs, 1, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(sizes.dropout, rngs=rngs)

    def __call__(self, history: jax.Array, candidates: jax.Array, features: jax.Array) -> jax.Array:
        """Return the scores; (B, L) tokens, (B, N) tokens, (B, N, F) -> (B, N)."""
        return self.head(self.encoder(history)[:, 0], candidates, features)

    def head(self, state: jax.Array, candidates: jax.Array, features: jax.Array) -> jax.Array:
        """Return the scores of candidates for a state; (B, D), (B, N), (B, N, F) -> (B, N)."""
        fit = self.encoder.scores(state, candidates)[..., None]  # (B, N, 1)
        trait = self.trait(self.encoder.items(candidates))  # (B, N, 16)
        normed = (features - self.mean[...]) * self.scale[...]  # (B, N, F)
        x = jnp.concatenate([normed, fit, trait], axis=-1)  # (B, N, F + 17)
        hidden = self.dropout(jax.nn.relu(self.inner(x)))  # (B, N, hidden)
        return (self.outer(hidden) + self.straight(x))[..., 0]
