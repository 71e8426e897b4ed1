"""A network as one graph that scores all items for a history: checked on histories, then written.

As all graphs here it has one fixed shape, one history a run (docs/decisions/0011): a row has no
neighbours, and what was run before it must not matter either.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from models.export import PARITY_MAX, ParityError, graph_of
from models.folder import session
from models.leave_one_out import CELLS_MAX, Scores
from models.sequences import Items, padded

HISTORIES = 64  # that ONNX and the network are compared on, fewer if there are very many items


def write_all_scores(
    network: Callable[[jax.Array], jax.Array],
    scores: Callable[[Sequence[Items]], Scores],
    histories: Sequence[Items],
    length: int,
    path: Path,
) -> float:
    """Write a network as ONNX, weights included; return the greatest difference to the network.

    Parameters
    ----------
    network
        What is written: (1, ``length``) tokens -> scores of all items, (1, items).
    scores
        What the network says of histories as it was judged: n -> (n, items).
    histories
        Real ones; a part of them is compared, spread over all.
    length
        Places of the graph's ``history``, filled up left with 0.
    path
        The file, whole or not at all.

    Raises
    ------
    ParityError
        When a score differs by more than 1e-4, or a history gets other bits when others were asked
        in between. Nothing is written then.
    """
    graph = graph_of(network, {"history": jax.ShapeDtypeStruct((1, length), jnp.int32)}, "scores")
    running = session(graph)
    items = scores(histories[:1]).shape[1]
    count = min(HISTORIES, max(CELLS_MAX // items, 1), len(histories))
    chosen = [histories[place] for place in np.linspace(0, len(histories) - 1, count).astype(int)]
    tokens = padded(chosen, length)
    alone = np.array([_scores(running, tokens[place : place + 1]) for place in range(count)])
    difference = float(np.abs(alone - scores(chosen)).max())
    if not difference <= PARITY_MAX:
        raise ParityError(
            f"scores of the exported graph differ by {difference:.2e} from the network's, more "
            f"than {PARITY_MAX:.0e}: do not use it; train again or report a defect"
        )
    for place in reversed(range(count)):
        if _scores(running, tokens[place : place + 1]).tobytes() != alone[place].tobytes():
            raise ParityError(
                f"the exported graph gives history {place} other scores in another order: do not "
                "use it; report a defect"
            )
    beside = path.with_suffix(".new")
    beside.write_bytes(graph)
    beside.replace(path)
    return difference


def _scores(running: onnxruntime.InferenceSession, tokens: Items) -> Scores:
    found = running.run(["scores"], {"history": tokens})[0][0]
    assert isinstance(found, np.ndarray)
    return found
