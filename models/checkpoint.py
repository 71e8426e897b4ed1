"""Checkpoints that a killed run goes on from, to the same bits as if it had not been killed.

A checkpoint is one file of arrays: weights, the state of optimizers and of chance, the weights of
the best epoch, and notes: the epochs so far and the losses of the one under way. The order of the
data follows from seed and epoch, so that the place in it is a number.
"""

import hashlib
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from jax.experimental import multihost_utils

from stream_app.clock import monotonic_seconds
from stream_app.errors import StreamAppError

KEPT = 2  # checkpoints: if the newest cannot be read, the one before serves
SECONDS = 60.0  # between two of them; at the end of an epoch there is one in any case
_NAME = re.compile(r"epoch-(\d{6})-step-(\d{9})\.npz")
_NOTES, _RUN = "notes", "run"


class CheckpointError(StreamAppError):
    """A checkpoint is not of this run; whoever trains names another folder or empties this one."""


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    folder
        Where they are; with several machines, a folder that all of them see.
    run
        What the run is of: data and settings, in any words. A checkpoint of another is refused.
    seconds
        Between two checkpoints within an epoch.
    clock
        Seconds that pass.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        seconds: float = SECONDS,
        clock: Callable[[], float] = monotonic_seconds,
    ) -> None:
        self.folder, self.run = folder, run
        self._seconds, self._clock, self._saved = seconds, clock, clock()

    def due(self) -> bool:
        """Tell whether the last one is long ago."""
        return self._clock() - self._saved >= self._seconds

    def save(self, epoch: int, step: int, state: Any, notes: Any) -> None:
        """Write a checkpoint, whole or not at all, and remove all but the newest two.

        Of several processes the first writes.

        Parameters
        ----------
        epoch, step
            How many whole epochs, and steps behind them, have been made.
        state
            A tree of arrays.
        notes
            What msgspec takes as JSON.
        """
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            arrays = {name: plain(leaf) for name, leaf in _leaves(state)}
            arrays[_NOTES] = _bytes(msgspec.json.encode(notes))
            arrays[_RUN] = _bytes(self.run.encode())
            write_arrays(self.folder / f"epoch-{epoch:06}-step-{step:09}.npz", arrays)
            for path in self._paths()[KEPT:]:
                path.unlink()
        self._saved = self._clock()

    def latest(self, like: Any) -> tuple[Any, Any] | None:
        """Return state and notes of the newest checkpoint that can be read; None without one.

        Parameters
        ----------
        like
            A tree as :meth:`save` got it: the names, shapes, types and places of the arrays.

        Raises
        ------
        CheckpointError
            When it is of another run, or the processes of a run do not see the same.
        """
        found = next((each for each in map(_read, self._paths()) if each is not None), None)
        if jax.process_count() > 1:
            place = -1 if found is None else zlib.crc32(found[_NOTES].tobytes())
            try:
                multihost_utils.assert_equal(np.int64(place), "checkpoints differ")
            except AssertionError:
                raise CheckpointError(
                    f"the processes do not see the same checkpoints in {self.folder}: give a "
                    "--folder that all machines share"
                ) from None
        if found is None:
            return None
        run, notes = found.pop(_RUN).tobytes().decode(), found.pop(_NOTES).tobytes()
        wanted = dict(_leaves(like))
        if run != self.run or {name: plain(each).shape for name, each in wanted.items()} != {
            name: each.shape for name, each in found.items()
        }:
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another run, with other data or settings: "
                "empty it, or give another --folder"
            )
        leaves = [placed(found[name], leaf, leaf.sharding) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), msgspec.json.decode(notes)

    def _paths(self) -> list[Path]:
        """Return the files, the newest first; names sort as the run went."""
        found = self.folder.glob("epoch-*.npz")
        return sorted((path for path in found if _NAME.fullmatch(path.name)), reverse=True)


def of_run(folder: Path, run: str, seconds: float = SECONDS) -> Checkpoints:
    """Return the checkpoints of a run in ``folder``, once those of other runs are gone from it.

    For what is always begun anew when its data has changed.
    """
    own = folder / hashlib.sha256(run.encode()).hexdigest()[:16]
    for other in folder.glob("*"):
        if other != own:
            shutil.rmtree(other)
    return Checkpoints(own, run, seconds)


def write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays so that a file of this name is a whole one, even if the power fails."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        np.savez(file, **cast("dict[str, Any]", arrays))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Return the arrays of a file; None of one that is damaged."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in pairs]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> npt.NDArray[Any]:
    """Return an array as NumPy's; a key of chance as its numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def placed(array: npt.NDArray[Any], like: Any, sharding: jax.sharding.Sharding) -> Any:
    """Return an array of :func:`plain` as jax's, of the kind of another, on these devices.

    Where devices of other processes are among them, these must call it with the same array.
    """
    if _is_key(like):
        numbers = placed(array, array, sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(like))
    array = array.astype(like.dtype)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, array)


def _bytes(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)
