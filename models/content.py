"""The content tower: what an item is like -> the embedding that behaviour would have given it.

A network reads the vectors of an item's text and picture, either of which may be missing, and says
the item's row in the ranker's table of embeddings, and its bias. It learns from the items that the
ranker knows, so an item that nobody has bought yet can be ranked at once.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from rich.console import Console
from rich.progress import track

from models.text_encoder import Vectors
from stream_app.errors import StreamAppError
from stream_app.event import Item

_LEAST = 1e-12  # what a spread is divided by at least
ITEMS_MIN = 50  # of which the ranker has an embedding and the catalogue a text or a picture


class ContentError(StreamAppError):
    """Nothing can be learned of a catalogue; whoever made it acts."""


class TowerSettings(msgspec.Struct, frozen=True):
    """How to train; each value with its reason.

    A tenth of the items, ``validation_share``, says when to stop: ``patience`` epochs after the
    best. ``hidden`` and ``dropout`` were the best of a few on these. In ``blind_share`` of the
    examples with both the text or the picture is taken away, so that either alone is understood.
    """

    hidden: int = 512
    dropout: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 256
    epochs_max: int = 60
    patience: int = 6
    validation_share: float = 0.1
    blind_share: float = 0.2
    seed: int = 0


class Content(msgspec.Struct, frozen=True):
    """Vectors of items' texts (n, T) and pictures (n, P); zeros where there is none."""

    text: Vectors
    image: Vectors

    def __len__(self) -> int:
        return len(self.text)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Whether an item has a text, and a picture; (n, 2)."""
        return np.stack([self.text.any(axis=1), self.image.any(axis=1)], axis=1)

    def take(self, places: npt.NDArray[np.integer[Any] | np.bool_]) -> "Content":
        """Return some of the items."""
        return Content(self.text[places], self.image[places])

    def rows(self) -> Vectors:
        """Return what the tower reads: text, picture, and whether each is there; (n, T + P + 2)."""
        return np.concatenate([self.text, self.image, self.known], axis=1, dtype=np.float32)


def text_of(item: Item, description: str = "") -> str:
    """Return what is said of an item, the most particular first.

    >>> text_of(Item(item_id="1", title="Sencha", category=["kitchen", "tea"], brand="Ito"))
    'Sencha, tea, kitchen, Ito'
    """
    parts = [item.title, *reversed(item.category), item.brand, description]
    return ", ".join(dict.fromkeys(part.strip() for part in parts if part and part.strip()))


class Tower(nnx.Module):
    """Rows of :meth:`Content.rows` -> rows of the tables of the ranker, side by side."""

    def __init__(
        self, inputs: int, settings: TowerSettings, mean: jax.Array, scale: jax.Array
    ) -> None:
        rngs = nnx.Rngs(settings.seed)
        self.inner = nnx.Linear(inputs, settings.hidden, rngs=rngs)
        self.middle = nnx.Linear(settings.hidden, settings.hidden, rngs=rngs)
        self.outer = nnx.Linear(settings.hidden, len(mean), rngs=rngs)
        self.dropout = nnx.Dropout(settings.dropout, rngs=rngs)
        self.mean, self.scale = nnx.Variable(mean), nnx.Variable(scale)  # of what it says

    def __call__(self, rows: jax.Array) -> jax.Array:
        """Return rows of the tables; (n, T + P + 2) -> (n, D)."""
        return self.normed(rows) * self.scale[...] + self.mean[...]

    def normed(self, rows: jax.Array) -> jax.Array:
        """Return the same, less the mean of all items and in units of their spread."""
        x = self.dropout(jax.nn.gelu(self.inner(rows)))  # (n, hidden)
        x = self.dropout(jax.nn.gelu(self.middle(x)))
        found: jax.Array = self.outer(x)
        return found


class Fitted(msgspec.Struct, frozen=True):
    """A tower that has learned, and how well it does on items held back.

    ``explained`` has, for each table, the share of its rows' spread about their mean that the tower
    explains there; ``epochs`` that of the first table after each epoch.
    """

    tower: Tower
    widths: list[int]
    explained: list[float]
    epochs: list[float]

    def rows(self, content: Content) -> list[Vectors]:
        """Return the rows of items in each table; (n, width)."""
        found = np.asarray(_said(self.tower, content.rows()))
        return np.split(found, np.cumsum(self.widths)[:-1], axis=1)


def fit(
    content: Content,
    tables: Sequence[Vectors],
    settings: TowerSettings = TowerSettings(),  # noqa: B008  (it is frozen)
) -> Fitted:
    """Return a tower that has learned the rows of items.

    Parameters
    ----------
    content
        Of n items.
    tables
        Their embeddings, and what else the ranker holds of an item, such as biases; (n, width).
    settings
        How to train.

    Raises
    ------
    ContentError
        When there are too few items, or their contents say nothing of their embeddings.
    """
    usable = np.flatnonzero(content.known.any(axis=1))
    if len(usable) < ITEMS_MIN:
        raise ContentError(
            f"the catalogue has a text or a picture of {len(usable)} items that the model knows, "
            f"and {ITEMS_MIN} are needed to learn from: give the whole catalogue"
        )
    order = np.random.default_rng(settings.seed).permutation(usable)
    held, learned = np.split(order, [max(int(len(order) * settings.validation_share), 5)])
    targets, rows = np.concatenate(tables, axis=1), content.rows()
    mean, scale = targets[learned].mean(axis=0), np.concatenate([_scale(t) for t in tables])
    tower = Tower(rows.shape[1], settings, jnp.asarray(mean), jnp.asarray(scale))
    pace = _pace(settings.learning_rate, settings.weight_decay)
    optimizer = nnx.Optimizer(tower, pace, wrt=nnx.Param)
    shapes = content.text.shape[1], content.image.shape[1]
    wanted = (targets - mean) / scale
    fitted = Fitted(tower, [table.shape[1] for table in tables], [], [])
    best = nnx.state(tower)
    console = Console(stderr=True)
    for number in track(
        range(settings.epochs_max), "tower", console=console, disable=not console.is_terminal
    ):
        tower.train()
        for places, blind in _batches(learned, content.known, settings, number):
            _step(tower, optimizer, rows[places] * _seen(blind, shapes), wanted[places])
        tower.eval()
        fitted.epochs.append(_explained(fitted, rows[held], targets[held])[0])
        if fitted.epochs[-1] == max(fitted.epochs):
            best = jax.tree.map(jnp.copy, nnx.state(tower))
        if len(fitted.epochs) - fitted.epochs.index(max(fitted.epochs)) > settings.patience:
            break
    nnx.update(tower, best)
    fitted.explained.extend(_explained(fitted, rows[held], targets[held]))
    if not fitted.explained[0] > 0:
        raise ContentError(
            "what the catalogue says of items tells nothing of how they are bought: on items held "
            f"back the tower explains {fitted.explained[0]:.1%} of their embeddings; give better "
            "texts or pictures"
        )
    return fitted


@cache
def _pace(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Return AdamW; the same object for the same numbers, so that a step is compiled once."""
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def _scale(table: Vectors) -> Vectors:
    """Return the spread of a table's rows about their mean, one for all its columns; (width,)."""
    spread = np.sqrt(table.var(axis=0).mean())
    return np.full(table.shape[1], spread if spread > 0 else 1.0, np.float32)


def _batches(
    learned: npt.NDArray[np.intp],
    known: npt.NDArray[np.bool_],
    settings: TowerSettings,
    epoch: int,
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]]:
    """Yield the places of each batch, and what of them is taken away; (B,) and (B, 2)."""
    rng = np.random.default_rng([settings.seed, epoch])
    size = min(settings.batch, len(learned))  # one shape, compiled once
    order = rng.permutation(learned)
    for begin in range(0, len(order) - size + 1, size):
        places = order[begin : begin + size]
        blind = np.zeros((size, 2), np.bool_)
        blind[np.arange(size), rng.integers(2, size=size)] = rng.random(size) < settings.blind_share
        yield places, blind & known[places].all(axis=1, keepdims=True)


def _seen(blind: npt.NDArray[np.bool_], shapes: tuple[int, int]) -> Vectors:
    """Return 0 where a row's number belongs to what is taken away, else 1; (B, T + P + 2)."""
    parts = np.repeat(~blind, shapes, axis=1), ~blind
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _explained(fitted: Fitted, rows: Vectors, targets: Vectors) -> list[float]:
    """Return which share of the spread about the mean a tower explains, for each table."""
    wrong = (np.asarray(_said(fitted.tower, rows)) - targets) ** 2
    spread = (targets - np.asarray(fitted.tower.mean[...])) ** 2
    ends = np.cumsum(fitted.widths)[:-1]
    return [
        round(1 - float(each.sum() / max(whole.sum(), _LEAST)), 4)
        for each, whole in zip(
            np.split(wrong, ends, axis=1), np.split(spread, ends, axis=1), strict=True
        )
    ]


@nnx.jit
def _step(tower: Tower, optimizer: nnx.Optimizer[Tower], rows: Any, wanted: Any) -> jax.Array:
    def loss(model: Tower) -> jax.Array:
        wrong: jax.Array = ((model.normed(rows) - wanted) ** 2).mean()
        return wrong

    found: jax.Array
    found, gradient = nnx.value_and_grad(loss)(tower)
    optimizer.update(tower, gradient)
    return found


@nnx.jit
def _said(tower: Tower, rows: Any) -> jax.Array:
    said: jax.Array = tower(rows)
    return said
