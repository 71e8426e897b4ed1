"""What a smaller graph of a model costs: bytes, time, scores, and the lists of ten that change.

All variants answer the same requests, one a run as workers do, in turns, so that whatever else the
machine does slows all of them down.
"""

import statistics
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from rich.console import Console
from rich.progress import track

from models.data import Requests, Vocabulary
from models.evaluate import gains, top
from models.folder import Inputs, score, session
from stream_app.clock import monotonic_seconds
from stream_app.errors import StreamAppError
from stream_app.manifest import FIRST_ITEM, HISTORY, UNKNOWN
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

ROWS = 64  # requests that are scored again beside others
MADE_UP = 500

Scores = npt.NDArray[np.float32]


class RowsError(StreamAppError):
    """A graph scores a request otherwise beside others than alone; whoever made it changes it."""


class Asked(msgspec.Struct, frozen=True):
    """Requests to compare variants on; what was bought is known of ``held`` ones alone."""

    inputs: Inputs
    held: Requests | None


class Variant(msgspec.Struct, frozen=True):
    """Figures of a graph; differences and shares are to the first one, over the same requests.

    ``changed`` is the share of the lists of ten that hold other items or hold them in another
    order, ``exchanged`` of those that hold other items. The last three are None unless it is known
    what was bought; ``ndcg_loss`` is relative.
    """

    precision: str
    bytes: int
    milliseconds: float
    requests: int
    score_difference: float
    changed: float
    exchanged: float
    ndcg_at_10: float | None = None
    recall_at_10: float | None = None
    ndcg_loss: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return what the manifest says of it."""
        found = {
            "bytes": self.bytes,
            "milliseconds": self.milliseconds,
            "compared_requests": self.requests,
            "score_difference": self.score_difference,
            "top_10_changed": self.changed,
            "top_10_exchanged": self.exchanged,
            "ndcg_at_10": self.ndcg_at_10,
            "recall_at_10": self.recall_at_10,
            "ndcg_loss": self.ndcg_loss,
        }
        return {name: value for name, value in found.items() if value is not None}


def held(requests: Requests, item_ids: list[str]) -> Asked:
    """Return requests that a model with these items never learned from."""
    words = Vocabulary(item_ids)
    tokens = words.tokens(requests.history), words.tokens(requests.candidates)
    return Asked(Inputs(*tokens, requests.features), requests)


def made_up(items: int, rows: npt.NDArray[np.float32], count: int = MADE_UP) -> Asked:
    """Return requests drawn evenly from a model's items, the same each time.

    Parameters
    ----------
    items
        Number of items that the model knows.
    rows
        Features to draw those of a candidate from, (m, F).
    count
        Number of requests.
    """
    rng = np.random.default_rng(0)
    history = rng.integers(UNKNOWN, items + FIRST_ITEM, (count, HISTORY), np.int32)
    candidates = np.zeros((count, POOL_SIZE), np.int32)
    features = np.zeros((count, POOL_SIZE, len(FEATURE_NAMES)), np.float32)
    for place in range(count):
        history[place, : rng.integers(HISTORY + 1)] = 0
        size = int(rng.integers(1, min(POOL_SIZE, items + 1) + 1))
        candidates[place, :size] = rng.choice(items + 1, size, replace=False) + UNKNOWN
        features[place, :size] = rows[rng.integers(len(rows), size=size)]
    return Asked(Inputs(history, candidates, features), None)


def check_rows(
    running: onnxruntime.InferenceSession, inputs: Inputs, what: str, output: str = "scores"
) -> None:
    """Raise RowsError unless each request gets the same bits among others as alone.

    A graph of one request a run has no neighbours: its requests are run again in another order. One
    with a free first axis gets them in batches of several sizes, each request at several places.
    ``what`` names the graph; ``output`` is "proposals" of one that proposes candidates.
    """
    count = min(len(inputs), ROWS)
    taken = {each.name for each in running.get_inputs()}

    def rows(begin: int, end: int) -> list[bytes]:
        given = {name: x for name, x in inputs.feeds(slice(begin, end)).items() if name in taken}
        return [row.tobytes() for row in np.asarray(running.run([output], given)[0])]

    alone = [rows(place, place + 1)[0] for place in range(count)]
    if isinstance(running.get_inputs()[0].shape[0], int):
        again = {place: rows(place, place + 1)[0] for place in reversed(range(count))}
        wrong = [place for place in range(count) if again[place] != alone[place]]
        how = "when it is asked in another order"
    else:
        wrong, how = [], "beside other requests than alone"
        for size in (count, count // 2 + 1, 3):
            for begin in range(0, count, size):
                found = rows(begin, min(begin + size, count))
                wrong += [begin + n for n, row in enumerate(found) if row != alone[begin + n]]
    if wrong:
        raise RowsError(
            f"the {what} graph gives request {wrong[0]} other {output} {how}, and a user's list "
            "must not depend on that: export it with a fixed shape of one request, and without "
            "chance or scales taken while it runs"
        )


def compare(graphs: Mapping[str, bytes], asked: Asked) -> list[Variant]:
    """Return the figures of each graph; the first is what the others are compared with."""
    running = {name: session(graph) for name, graph in graphs.items()}
    shape = asked.inputs.candidates.shape
    scores: dict[str, Scores] = {name: np.zeros(shape, np.float32) for name in graphs}
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    for each in running.values():
        score(each, asked.inputs, 0)  # the first run is slower
    console = Console(stderr=True)
    for place in track(
        range(shape[0]), "comparing", console=console, disable=not console.is_terminal
    ):
        for name, each in running.items():
            began = monotonic_seconds()
            scores[name][place] = score(each, asked.inputs, place)
            seconds[name].append(monotonic_seconds() - began)
    first, *_ = scores.values()
    return [
        _variant(name, len(graphs[name]), statistics.median(seconds[name]), (first, own), asked)
        for name, own in scores.items()
    ]


def _variant(
    name: str, size: int, seconds: float, scores: tuple[Scores, Scores], asked: Asked
) -> Variant:
    """Return the figures of a graph; ``scores`` are those of the first graph and its own."""
    first, own = scores
    ids = asked.inputs.candidates.astype(np.uint64)
    if asked.held is not None:
        ids = asked.held.candidates
    before, after = top(first, ids), top(own, ids)
    real = asked.inputs.candidates != 0
    one = Variant(
        name,
        size,
        round(1_000 * seconds, 4),
        len(own),
        float(np.abs(own - first)[real].max(initial=0.0)),
        _share(_listed(before, real) != _listed(after, real)),
        _share(np.sort(_listed(before, real), axis=1) != np.sort(_listed(after, real), axis=1)),
    )
    if asked.held is None or not len(own):
        return one
    bought, sizes = asked.held.bought, asked.held.basket_sizes
    recall, _, ndcg = gains(own, ids, bought, sizes).mean(axis=0).tolist()
    best = float(gains(first, ids, bought, sizes).mean(axis=0)[2])
    return msgspec.structs.replace(
        one,
        ndcg_at_10=round(ndcg, 6),
        recall_at_10=round(recall, 6),
        ndcg_loss=round((best - ndcg) / best, 6) if best else None,
    )


def _listed(places: npt.NDArray[np.intp], real: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return the places of the lists, -1 where a list of fewer than ten ends; (n, 10)."""
    return np.where(np.take_along_axis(real, places, axis=1), places, -1)


def _share(differ: npt.NDArray[np.bool_]) -> float:
    return round(float(differ.any(axis=1).mean()), 6)
