"""Trains the ranker by gradient descent: two losses at once, early stopping, checkpoints, curves.

The encoder learns by the full softmax over all items of the next basket (the cross-entropy that
Klenitskiy & Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, found to be what SASRec lacked);
the head, and the encoder through it, by a softmax over the candidates of the request, each basket
weighing as much as recall lets it: a hit in a basket of n items counts 1 / n.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
import optax
import orbax.checkpoint as ocp
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.checkpoint import Checkpoints, plain
from models.data import Requests, Vocabulary
from models.evaluate import Quality, gains, quality
from models.networks import FAR, Sizes
from models.ranker_network import Ranker
from stream_app.manifest import FIRST_ITEM, HISTORY, PADDING, UNKNOWN

TARGETS_MAX = 24  # items of a basket that the full softmax is asked for; of more, a draw
_LEAST_DEVIATION = 1e-3  # of a feature that is used
_EVALUATED = 512  # requests at a time, where nothing is learned


class TrainSettings(msgspec.Struct, frozen=True):
    """How to train; each value with its reason.

    ``width`` 64 holds 18,000 items in 4.6 MB; ``unknown_share`` of the candidates lose their name
    while training, so that the head learns to judge items outside the vocabulary by their features;
    ``encoder_weight`` .3 of the encoder's loss was a little better than 1 on validation (.2358 to
    .2351 of Recall@10);
    validation NDCG peaks within the first epochs, since the features carry most of what there is to
    know, so training stops after ``patience`` epochs without a gain.
    """

    width: int = 64
    blocks: int = 2
    heads: int = 2
    hidden: int = 128
    dropout: float = 0.2
    encoder_weight: float = 0.3
    unknown_share: float = 0.1
    batch: int = 256
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    epochs_max: int = 3
    patience: int = 1
    seed: int = 0


class Examples(msgspec.Struct, frozen=True):
    """Requests as tokens: (n, L), (n, N), (n, N, F), (n, N), (n, T) and the baskets' sizes (n,)."""

    history: npt.NDArray[np.int32]
    candidates: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]
    bought: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.float32]

    def take(self, places: npt.NDArray[np.intp]) -> tuple[npt.NDArray[Any], ...]:
        """Return a batch of them."""
        return tuple(getattr(self, name)[places] for name in self.__struct_fields__)


def examples(requests: Requests, vocabulary: Vocabulary, seed: int) -> Examples:
    """Return requests as the network reads them."""
    rng = np.random.default_rng(seed)
    tokens = vocabulary.tokens(requests.targets)
    targets = np.full((len(requests), TARGETS_MAX), PADDING, np.int32)
    for row, (begin, end) in enumerate(
        zip(requests.starts[:-1].tolist(), requests.starts[1:].tolist(), strict=True)
    ):
        known = tokens[begin:end]
        known = known[known >= FIRST_ITEM]
        if len(known) > TARGETS_MAX:
            known = rng.permutation(known)[:TARGETS_MAX]
        targets[row, : len(known)] = known
    return Examples(
        vocabulary.tokens(requests.history),
        vocabulary.tokens(requests.candidates),
        requests.features,
        requests.bought,
        targets,
        requests.basket_sizes.astype(np.float32),
    )


def build(settings: TrainSettings, tokens: int, mean: jax.Array, scale: jax.Array) -> Ranker:
    """Return a fresh network; the features are centred by ``mean`` and multiplied by ``scale``."""
    sizes = Sizes(
        tokens, HISTORY, settings.width, settings.blocks, settings.heads, settings.dropout
    )
    return Ranker(sizes, settings.hidden, mean, scale, nnx.Rngs(settings.seed))


# --- what is minimised ----------------------------------------------------------------------------


def losses(
    model: Ranker,
    batch: tuple[jax.Array, ...],
    settings: TrainSettings,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return the weighted sum of both losses, and each: of the encoder and of the head."""
    history, candidates, features, bought, targets, sizes = batch
    state = model.encoder(history)[:, 0]  # (B, D)
    scores = model.encoder.all_scores(state)  # (B, V)
    asked = targets != PADDING  # (B, T)
    each = jax.nn.logsumexp(scores, axis=-1, keepdims=True) - jnp.take_along_axis(
        scores, targets, axis=1
    )
    count = asked.sum(axis=1)  # (B,)
    per_basket = (each * asked).sum(axis=1) / jnp.maximum(count, 1)
    encoder = per_basket.sum() / jnp.maximum((count > 0).sum(), 1)
    nameless = jax.random.bernoulli(key, settings.unknown_share, candidates.shape)
    named = jnp.where(nameless & (candidates != PADDING), UNKNOWN, candidates)  # (B, N)
    ranks = model.head(state, named, features)  # (B, N)
    logs = jax.nn.log_softmax(jnp.where(candidates != PADDING, ranks, FAR))
    head = -((logs * bought).sum(axis=1) / sizes).mean()
    return settings.encoder_weight * encoder + head, (encoder, head)


@nnx.jit(static_argnames="settings")
def _step(
    model: Ranker,
    optimizer: nnx.Optimizer[Ranker],
    batch: Any,
    settings: TrainSettings,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    slope = nnx.value_and_grad(losses, has_aux=True)
    (_, parts), gradient = slope(model, batch, settings, key)
    optimizer.update(model, gradient)
    return parts  # type: ignore[no-any-return]


@nnx.jit
def _scores(
    model: Ranker, history: jax.Array, candidates: jax.Array, features: jax.Array
) -> jax.Array:
    return model(history, candidates, features)


def predict(model: Ranker, given: Examples) -> npt.NDArray[np.float32]:
    """Return the scores of all candidates; (n, N)."""
    still = nnx.merge(*nnx.split(model))
    still.eval()
    found = []
    for begin in range(0, len(given.history), _EVALUATED):
        short = max(begin + _EVALUATED - len(given.history), 0)  # one shape, compiled once
        batch: list[Any] = [
            np.pad(each[begin : begin + _EVALUATED], [(0, short), *[(0, 0)] * (each.ndim - 1)])
            for each in (given.history, given.candidates, given.features)
        ]
        scores = _scores(still, batch[0], batch[1], batch[2])
        found.append(np.asarray(scores)[: _EVALUATED - short])
    return np.concatenate(found)


# --- the run --------------------------------------------------------------------------------------


class Epoch(msgspec.Struct, frozen=True):
    """What one pass over the data came to; the curves are made of these."""

    encoder_loss: float
    head_loss: float
    validation: Quality | None


class Course(msgspec.Struct):
    """How far a training has come: its epochs, and both losses of each step of the one under way.

    ``best`` is the place of the best epoch.
    """

    epochs: list[Epoch] = []
    steps: list[Any] = []

    @property
    def best(self) -> int:
        """The first of the best epochs by validation NDCG, the last without validation."""
        each = [found.validation.ndcg_at_10 for found in self.epochs if found.validation]
        return each.index(max(each)) if each else len(self.epochs) - 1

    def goes_on(self, settings: TrainSettings) -> bool:
        """Tell whether another epoch is due."""
        since = len(self.epochs) - 1 - self.best
        return len(self.epochs) < settings.epochs_max and since <= settings.patience


def train(  # noqa: PLR0913, PLR0917 - each is a part of its own
    training: Requests,
    validation: Requests | None,
    vocabulary: Vocabulary,
    settings: TrainSettings,
    folder: Path,
    warm: Callable[[Ranker], object] = id,
    checkpoints: Callable[[str], Checkpoints] | None = None,
) -> tuple[Ranker, list[Epoch]]:
    """Return the network of the best epoch by validation NDCG, or of the last without validation.

    ``folder`` gets the weights of it. ``warm`` may give the fresh network earlier weights.
    ``checkpoints`` takes what the run is of, in words: from there a killed run goes on to the same
    bits.
    """
    given = examples(training, vocabulary, settings.seed)
    rows = training.features[training.candidates != 0]
    mean, scale = rows.mean(axis=0), _scale(rows)
    model = build(settings, vocabulary.size, jnp.asarray(mean), jnp.asarray(scale))
    warm(model)
    useful = np.flatnonzero(given.bought.any(axis=1) | (given.targets != PADDING).any(axis=1))
    total = max(len(useful) // settings.batch, 1) * settings.epochs_max
    warmup = min(settings.warmup_steps, total // 2)
    pace = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, warmup, total)
    optimizer = nnx.Optimizer(model, optax.adam(pace), wrt=nnx.Param)
    judged = examples(validation, vocabulary, settings.seed) if validation is not None else None
    kept = None
    if checkpoints is not None:
        kept = checkpoints(_name_of(settings, vocabulary, model, given, judged))
    course, best = _resumed(model, optimizer, kept)
    while course.goes_on(settings):
        number, done = len(course.epochs), len(course.steps)
        model.train()
        for places, key in _batches(useful, settings, number, done):
            course.steps.append(_step(model, optimizer, given.take(places), settings, key))
            if kept is not None and kept.due():
                _save(kept, model, optimizer, best, course)
        encoder, head = np.asarray(course.steps, np.float64).mean(axis=0).tolist()
        found = None
        if judged is not None and validation is not None:
            found = _judged(model, judged, validation)
        course.epochs.append(Epoch(round(encoder, 4), round(head, 4), found))
        course.steps = []
        Console(stderr=True).print(_told(number + 1, course.epochs[-1]))
        if course.best == number:
            best = jax.tree.map(jnp.copy, nnx.state(model))
        if kept is not None:
            _save(kept, model, optimizer, best, course)
    nnx.update(model, best)
    model.eval()
    save(model, folder)
    return model, course.epochs


def _judged(model: Ranker, judged: Examples, validation: Requests) -> Quality:
    """Return how good the network is as it is."""
    scores = predict(model, judged)
    each = gains(scores, validation.candidates, validation.bought, validation.basket_sizes)
    return quality(each, validation.user)


def _name_of(
    settings: TrainSettings,
    vocabulary: Vocabulary,
    model: Ranker,
    given: Examples,
    judged: Examples | None,
) -> str:
    """Return what a run is of: its settings, and a hash of its data and of its first weights."""
    digest = hashlib.sha256("\n".join(vocabulary.item_ids).encode())
    tables = [given] if judged is None else [given, judged]
    arrays = [getattr(table, name) for table in tables for name in table.__struct_fields__]
    for array in [*arrays, *map(plain, jax.tree.leaves(nnx.state(model)))]:
        digest.update(np.ascontiguousarray(array).data)
    return f"{msgspec.json.encode(settings).decode()} {digest.hexdigest()}"


def _resumed(
    model: Ranker, optimizer: nnx.Optimizer[Ranker], kept: Checkpoints | None
) -> tuple[Course, Any]:
    """Return the course so far and the weights of its best epoch; the network is as it was then."""
    best = nnx.state(model)
    found = kept.latest(_state(model, optimizer, best)) if kept is not None else None
    if found is None:
        return Course(), best
    state, notes = found
    nnx.update(model, state["model"])
    nnx.update(optimizer, state["optimizer"])
    course = msgspec.convert(notes, Course)
    Console(stderr=True).print(
        f"goes on after {len(course.epochs)} epochs, {len(course.steps)} steps"
    )
    return course, state["best"]


def _save(
    kept: Checkpoints, model: Ranker, optimizer: nnx.Optimizer[Ranker], best: Any, course: Course
) -> None:
    notes = Course(course.epochs, [[float(loss) for loss in each] for each in course.steps])
    kept.save(len(course.epochs), len(course.steps), _state(model, optimizer, best), notes)


def _state(model: Ranker, optimizer: nnx.Optimizer[Ranker], best: Any) -> dict[str, Any]:
    return {"model": nnx.state(model), "optimizer": nnx.state(optimizer), "best": best}


def _scale(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what each feature is multiplied by: 1 / its deviation, 0 where it hardly varies.

    Nothing is known of a feature that was the same all the time, so it must not count when served.
    """
    deviation = rows.std(axis=0)
    varies = deviation > _LEAST_DEVIATION
    return np.where(varies, 1.0 / np.maximum(deviation, _LEAST_DEVIATION), 0.0).astype(np.float32)


def _told(number: int, epoch: Epoch) -> str:
    """Return an epoch in words."""
    text = f"epoch {number}: losses {epoch.encoder_loss} (encoder), {epoch.head_loss} (head)"
    if epoch.validation is not None:
        text += f"; validation NDCG@10 {epoch.validation.ndcg_at_10}"
    return text


def _batches(
    useful: npt.NDArray[np.intp], settings: TrainSettings, epoch: int, begin: int
) -> Iterator[tuple[npt.NDArray[np.intp], jax.Array]]:
    """Yield places and key of each batch of an epoch, from one on; a bar on standard error."""
    order = np.random.default_rng([settings.seed, epoch]).permutation(useful)
    steps = max(len(useful) // settings.batch, 1)  # few requests are one small batch
    keys = jax.random.split(jax.random.key(settings.seed * 1_000 + epoch), steps)
    console = Console(stderr=True)
    columns = TextColumn("epoch {task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        for step in bar.track(range(begin, steps), description=str(epoch + 1)):
            places = order[step * settings.batch : (step + 1) * settings.batch]
            yield np.sort(places), keys[step]


def save(model: Ranker, folder: Path) -> None:
    """Write a checkpoint of the network into ``folder``, in place of an earlier one."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), nnx.state(model), force=True)


def load(model: Ranker, folder: Path) -> None:
    """Give a network of the same shape the weights of a checkpoint."""
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(model, checkpointer.restore(folder.absolute(), nnx.state(model)))
    model.eval()
