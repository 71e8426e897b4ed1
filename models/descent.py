"""Gradient descent with early stopping: epochs until validation stops getting better."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Patience(msgspec.Struct, frozen=True):
    """How long to go on: ``epochs_max`` at most, and ``epochs`` without a gain."""

    epochs_max: int = 60
    epochs: int = 5


class Epoch(msgspec.Struct, frozen=True):
    """What one pass over the data came to: the mean loss, and NDCG@10 on validation."""

    loss: float
    ndcg_at_10: float


def descend(
    model: nnx.Module,
    steps: Callable[[int], Iterable[jax.Array]],
    steps_max: int,
    judge: Callable[[], float],
    patience: Patience,
) -> list[Epoch]:
    """Leave the model with the weights of its best epoch; return all epochs.

    ``steps`` yields the losses of an epoch's steps, ``steps_max`` at most, while it changes the
    model; ``judge`` returns the NDCG of the model as it is.
    """
    console, name = Console(stderr=True), type(model).__name__
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    best, best_ndcg, epochs = nnx.state(model), -1.0, list[Epoch]()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        while len(epochs) < patience.epochs_max:
            task = bar.add_task(f"{name} epoch {len(epochs) + 1}", total=steps_max)
            model.train()
            losses = []
            for loss in steps(len(epochs)):
                losses.append(loss)
                bar.advance(task)
            model.eval()
            epochs.append(Epoch(round(float(np.mean(losses)), 4), judge()))
            bar.remove_task(task)
            console.print(_told(name, len(epochs), epochs[-1]))
            if epochs[-1].ndcg_at_10 > best_ndcg:
                best, best_ndcg = jax.tree.map(jnp.copy, nnx.state(model)), epochs[-1].ndcg_at_10
            since = len(epochs) - [each.ndcg_at_10 for each in epochs].index(best_ndcg) - 1
            if since >= patience.epochs:
                break
    nnx.update(model, best)
    model.eval()
    return epochs


def _told(name: str, number: int, epoch: Epoch) -> str:
    """Return an epoch in words."""
    return f"{name} epoch {number}: loss {epoch.loss}, validation NDCG@10 {epoch.ndcg_at_10}"
