"""Gradient descent with early stopping: epochs until validation stops getting better.

With checkpoints, a run that was killed goes on where its last one was made.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.checkpoint import Checkpoints


class Patience(msgspec.Struct, frozen=True):
    """How long to go on: ``epochs_max`` at most, and ``epochs`` without a gain."""

    epochs_max: int = 60
    epochs: int = 5


class Epoch(msgspec.Struct, frozen=True):
    """What one pass over the data came to: the mean loss, and NDCG@10 on validation."""

    loss: float
    ndcg_at_10: float


class Course(msgspec.Struct):
    """How far a descent has come: its epochs, and the losses of the one that is under way."""

    epochs: list[Epoch] = []
    losses: list[Any] = []

    @property
    def best_ndcg(self) -> float:
        """NDCG of the best epoch; -1 before the first."""
        return max((each.ndcg_at_10 for each in self.epochs), default=-1.0)

    def goes_on(self, patience: Patience) -> bool:
        """Tell whether another epoch is due."""
        each = [epoch.ndcg_at_10 for epoch in self.epochs]
        since = len(each) - each.index(max(each)) - 1 if each else 0
        return len(each) < patience.epochs_max and since < patience.epochs


def descend(  # noqa: PLR0913, PLR0917 - each is a part of its own
    model: nnx.Module,
    steps: Callable[[int, int], Iterable[jax.Array]],
    steps_max: int,
    judge: Callable[[], float],
    patience: Patience,
    optimizers: Sequence[nnx.Optimizer[Any]] = (),
    checkpoints: Checkpoints | None = None,
) -> list[Epoch]:
    """Leave the model with the weights of its best epoch; return all epochs.

    ``steps`` takes an epoch and how many of its steps are left out at the beginning, and yields the
    losses of the others, ``steps_max`` in all at most, while it changes the model by the
    ``optimizers``; ``judge`` returns the NDCG of the model as it is.
    """
    console, name = Console(stderr=True, quiet=jax.process_index() > 0), type(model).__name__
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    course, best = Course(), nnx.state(model)

    def state() -> dict[str, Any]:
        return {
            "model": nnx.state(model),
            "best": best,
            "optimizers": list(map(nnx.state, optimizers)),
        }

    def save() -> None:
        assert checkpoints is not None, "it was asked for"
        notes = Course(course.epochs, [float(loss) for loss in course.losses])
        checkpoints.save(len(course.epochs), len(course.losses), state(), notes)

    kept = checkpoints.latest(state()) if checkpoints is not None else None
    if kept is not None:
        course = msgspec.convert(kept[1], Course)
        best = kept[0]["best"]
        for module, own in zip(
            (model, *optimizers), (kept[0]["model"], *kept[0]["optimizers"]), strict=True
        ):
            nnx.update(module, own)
        console.print(
            f"{name} goes on after {len(course.epochs)} epochs, {len(course.losses)} steps"
        )
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        while course.goes_on(patience):
            number, done = len(course.epochs), len(course.losses)
            task = bar.add_task(f"{name} epoch {number + 1}", total=steps_max, completed=done)
            model.train()
            for loss in steps(number, done):
                course.losses.append(loss)
                bar.advance(task)
                if checkpoints is not None and checkpoints.due():
                    save()
            model.eval()
            before = course.best_ndcg
            losses = np.array(course.losses or [0.0], np.float32)  # 0 where nothing can be learned
            mean = float(np.mean(losses))
            course.epochs.append(Epoch(round(mean, 4), judge()))
            course.losses = []
            bar.remove_task(task)
            console.print(_told(name, number + 1, course.epochs[-1]))
            if course.epochs[-1].ndcg_at_10 > before:
                best = jax.tree.map(jnp.copy, nnx.state(model))
            if checkpoints is not None:
                save()
    nnx.update(model, best)
    model.eval()
    return course.epochs


def _told(name: str, number: int, epoch: Epoch) -> str:
    """Return an epoch in words."""
    return f"{name} epoch {number}: loss {epoch.loss}, validation NDCG@10 {epoch.ndcg_at_10}"
