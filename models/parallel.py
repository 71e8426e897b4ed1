"""Training spread over processes, on one machine or several: each takes a part of every batch.

The gradients of the parts are added up by Gloo's collectives on the CPU, weighed by how many places
each part asks for, so that a step is the same as that of one process with the whole batch. All
processes hold the same weights. Dropout is drawn by each for its own part.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from models.checkpoint import placed, plain
from stream_app.errors import StreamAppError
from stream_app.manifest import PADDING

AXIS = "parts"
EVERYWHERE, BY_PART = PartitionSpec(), PartitionSpec(AXIS)
LOOK_SECONDS = 0.2  # between two looks at the processes
STOP_SECONDS = 10.0  # for a process to end when asked

Loss = Callable[[Any, jax.Array], jax.Array]
Step = Callable[[Any, Any, npt.NDArray[np.int32]], jax.Array]


class ParallelError(StreamAppError):
    """A process of a parallel run has failed; its own words, above, say who must do what."""


def join(coordinator: str, processes: int, number: int) -> None:
    """Become one of several processes; before any other use of jax.

    Parameters
    ----------
    coordinator
        host:port, where the process of number 0 listens.
    processes, number
        How many there are, and which of them this is.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, number)


class Spread:
    """The processes of a run, all of which must call the same in the same order."""

    def __init__(self) -> None:
        self.mesh = jax.make_mesh((jax.device_count(),), (AXIS,), (jax.sharding.AxisType.Auto,))

    def place(self, *modules: nnx.Module | nnx.Optimizer[Any]) -> None:
        """Give every process the same weights, which they have computed from the same seed."""
        everywhere = NamedSharding(self.mesh, EVERYWHERE)
        for module in modules:
            own = nnx.state(module)
            nnx.update(module, jax.tree.map(lambda x: placed(plain(x), x, everywhere), own))

    def step(self, loss: Loss) -> Step:
        """Return a step: network, optimizer and a batch's windows, (B, L + 1) tokens -> the loss.

        Parameters
        ----------
        loss
            Of a network and windows: a mean over those places that ask for an item, which are all
            but padding among the first L.
        """
        mesh, count = self.mesh, jax.device_count()
        by_part = NamedSharding(mesh, BY_PART)

        @nnx.jit
        def stepped(network: Any, optimizer: Any, windows: jax.Array) -> jax.Array:
            (found, slope), counts = _slope(loss, mesh, network, windows)
            nnx.update(network, counts)
            optimizer.update(network, slope)
            mean: jax.Array = found
            return mean

        def step(network: Any, optimizer: Any, windows: npt.NDArray[np.int32]) -> jax.Array:
            filled = np.pad(windows, ((0, -len(windows) % count), (0, 0)))  # PADDING asks nothing
            own = np.split(filled, jax.process_count())[jax.process_index()]
            given = jax.make_array_from_process_local_data(by_part, own, filled.shape)
            found: jax.Array = stepped(network, optimizer, given)
            return found

        return step


def _slope(loss: Loss, mesh: jax.sharding.Mesh, network: Any, windows: jax.Array) -> Any:
    """Return the loss of a batch and its gradient, and the counts of chance after it."""
    parts: Any = nnx.split(network, nnx.Param, nnx.Not(nnx.Param))
    graph, weights, rest = parts

    def part(weights: Any, rest: Any, windows: jax.Array) -> Any:
        here = jax.lax.axis_index(AXIS)
        chance = jax.tree.map(lambda leaf: _own_chance(leaf, here), rest)

        def own(weights: Any) -> Any:
            model = nnx.merge(graph, weights, chance)
            return loss(model, windows), nnx.state(model, nnx.RngCount)

        (found, counts), slope = jax.value_and_grad(own, has_aux=True)(weights)
        asked = (windows[:, :-1] != PADDING).sum()
        share = asked / jnp.maximum(jax.lax.psum(asked, AXIS), 1)
        total = jax.tree.map(lambda each: jax.lax.psum(each * share, AXIS), (found, slope))
        return total, counts

    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(EVERYWHERE, EVERYWHERE, BY_PART),
        out_specs=EVERYWHERE,
        check_vma=False,
    )(weights, rest, windows)


def _own_chance(leaf: Any, number: jax.Array) -> Any:
    """Return a key of chance for a part; anything else as it is."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.fold_in(leaf, number) if is_key else leaf


# --- processes of one machine ---------------------------------------------------------------------


def free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launch(commands: Sequence[Sequence[str]]) -> None:
    """Run commands beside each other; when one fails, stop the others.

    Standard output is that of the first; all write to standard error.

    Raises
    ------
    ParallelError
        When one has failed.
    """
    running = [
        subprocess.Popen(command, stdout=None if number == 0 else subprocess.DEVNULL)
        for number, command in enumerate(commands)
    ]
    try:
        while None in (codes := [each.poll() for each in running]):
            if any(codes):  # one has failed: the others would wait for it
                break
            time.sleep(LOOK_SECONDS)
    finally:
        for each in running:
            if each.poll() is None:
                each.terminate()
        for each in running:
            try:
                each.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
    failed = next((number for number, code in enumerate(codes) if code), None)
    if failed is not None:
        raise ParallelError(
            f"process {failed} of {len(running)} ended with exit code {codes[failed]}: see what it "
            f"said above, then run the same again, which goes on from the last checkpoint"
        )
