"""The neural ranking model: an ONNX graph on one thread, tried out before it answers anything.

A model that is damaged, was made for other features, gives wrong scores or is too slow is refused
with a reason. One that is loaded has answered its probes, and requests that no probe covers.

The graph has one fixed shape, of one request: ``history`` int32 (1, 50), ``candidates`` int32
(1, pool), ``features`` float32 (1, pool, features) -> ``scores`` float32 (1, pool). Items are
tokens there, as :mod:`stream_app.manifest` has them. The history is filled up on the left, the
candidates on the right. A second graph may propose candidates: ``history`` -> ``proposals`` int32
(1, proposes), the best first.
"""

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import ExecutionMode, InferenceSession, SessionOptions

from stream_app.errors import ModelError
from stream_app.hashing import event_hash
from stream_app.manifest import (
    AGAIN,
    FIRST_ITEM,
    GRAPH,
    HISTORY,
    PADDING,
    PROPOSER,
    UNKNOWN,
    Folder,
    Manifest,
    Probe,
    read_folder,
)
from stream_app.steps import SCORE_ABS_MAX

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3  # between a probe's scores here and where the model was made
TIMED_RUNS = 11
RECENT = 16  # requests that the next model is warmed up on

Asked = tuple[Sequence[int], Sequence[int], Sequence[Sequence[float]]]  # history, items, features

_FATAL = 4  # what onnxruntime logs from here on; its errors are raised, and reported by us


class Ranker:
    """A model that scores candidates, one request a run; see :meth:`load`.

    Its buffers are used again for each request, so only one thread may call it at a time.

    Parameters
    ----------
    folder
        What is in the model's folder.

    Attributes
    ----------
    milliseconds
        The median time of a run, measured when it was loaded; NaN before.
    recent
        The last requests, for the model that comes next to be warmed up on.

    Raises
    ------
    ModelError
        When the graph cannot be loaded, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, folder: Folder) -> None:
        self.manifest = manifest = folder.manifest
        self.name, self.version = manifest.name, manifest.version
        self.milliseconds = math.nan
        # (`event_hash` is `id_hash` without the cache, which they would wash out.)
        self._hashes = [event_hash(item_id) for item_id in folder.item_ids]
        self._tokens: dict[int, int] = {}
        for token, item in enumerate(self._hashes, FIRST_ITEM):
            # Two ids of one hash are one item to the whole program; the first of them stands for
            # both.
            self._tokens.setdefault(item, token)
        self._session = _session(folder.graph, GRAPH)
        _check_signature(self._session, manifest)
        self._proposer = None
        if folder.proposer is not None:
            self._proposer = _session(folder.proposer, PROPOSER)
            _check_proposer(self._proposer, manifest)
        width = len(manifest.features)
        self._history = np.zeros(HISTORY, np.int32)
        self._candidates = np.zeros(manifest.pool, np.int32)
        self._features = np.zeros(manifest.pool * width, np.float32)
        self._feeds = {  # views: what is written into the buffers is what a run reads
            "history": self._history[np.newaxis],
            "candidates": self._candidates[np.newaxis],
            "features": self._features.reshape(1, manifest.pool, width),
        }
        self._failed = False
        self.recent: deque[Asked] = deque(maxlen=RECENT)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        clock: Callable[[], float],
        milliseconds_max: float,
        pool_min: int,
    ) -> "Ranker":
        """Return the model of a folder, checked and warmed up.

        Parameters
        ----------
        folder
            That an export has written.
        clock
            Returns seconds from an arbitrary start.
        milliseconds_max
            What the median run may take.
        pool_min
            How many candidates a request may have.

        Raises
        ------
        ModelError
            When the model is refused; it says why, and who must do what.
        """
        ranker = cls(read_folder(folder, pool_min))
        ranker._answer_probes()
        ranker._measure(clock, milliseconds_max)
        return ranker

    def scores(
        self, history: Sequence[int], items: Sequence[int], features: Sequence[Sequence[float]]
    ) -> tuple[float, ...]:
        """Return a score for each item, as :meth:`stream_app.steps.Scorer.scores` has it.

        Parameters
        ----------
        history
            Hashes of the user's last items, the oldest first; all but the last 50 are passed over.
        items
            Hashes of the candidates, at most ``pool`` of them.
        features
            A row of :data:`stream_app.steps.FEATURE_NAMES` for each candidate.
        """
        if not items:
            return ()
        self.recent.append((history, items, features))
        token = self._tokens.get
        self._fill(
            [token(item, UNKNOWN) for item in history[-HISTORY:]],
            [token(item, UNKNOWN) for item in items],
            features,
        )
        try:
            return tuple(self._run()[0, : len(items)].tolist())
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            self._complain(error)
            return (math.nan,) * len(items)

    def propose(self, history: Sequence[int]) -> tuple[int, ...]:
        """Return the hashes of items that may follow, as :meth:`stream_app.steps.Scorer.propose`.

        Of the history, hashes of items, the oldest first, all but the last 50 are passed over.
        """
        if self._proposer is None:
            return ()
        token = self._tokens.get
        self._fill([token(item, UNKNOWN) for item in history[-HISTORY:]], (), ())
        try:
            tokens = self._run_proposer()
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            self._complain(error)
            return ()
        hashes = self._hashes
        return tuple([hashes[place - FIRST_ITEM] for place in tokens if place >= FIRST_ITEM])

    def _complain(self, error: Exception) -> None:
        """Log what the graph cannot answer, once."""
        if not self._failed:
            self._failed = True
            logger.warning("model %s cannot answer a request: %s", self.name, _line(error))

    def warm_up(self, requests: Iterable[Asked]) -> None:
        """Answer real requests, those of the model that serves; raise ModelError if that fails."""
        for request in requests:
            self.propose(request[0])
            scores = self.scores(*request)
            if not all(-SCORE_ABS_MAX <= score <= SCORE_ABS_MAX for score in scores):
                raise ModelError(
                    "not_finite",
                    f"{GRAPH} answers a request of the stream with a score that is no number, or "
                    f"beyond {SCORE_ABS_MAX:,.0f}: train the model again, and look at its loss",
                )

    def _fill(
        self,
        history: Sequence[int],
        candidates: Sequence[int],
        features: Sequence[Sequence[float]],
    ) -> None:
        """Write a request into the buffers, and nothing but padding around it."""
        start, count = HISTORY - len(history), len(candidates)
        self._history[:start] = PADDING
        self._history[start:] = history
        self._candidates[:count] = candidates
        self._candidates[count:] = PADDING
        size = count * len(self.manifest.features)
        # Measured: a fifth faster than np.array of the rows, and too large a number becomes
        # infinite, where the struct module would raise.
        self._features[:size] = np.fromiter(chain.from_iterable(features), np.float32, size)
        self._features[size:] = 0.0

    def _run(self) -> Any:
        """Return the scores of what is in the buffers, float32 (1, pool)."""
        (scores,) = self._session.run(["scores"], self._feeds)
        return scores

    def _run_proposer(self) -> list[int]:
        """Return the proposed tokens for the history that is in the buffer."""
        assert self._proposer is not None
        (proposals,) = self._proposer.run(["proposals"], {"history": self._feeds["history"]})
        return proposals[0].tolist()  # type: ignore[no-any-return]

    def _answer_probes(self) -> None:
        """Raise ModelError unless every probe gives finite scores, and those it is known to give.

        Inputs that training may never have met are tried as well: no history, unknown items, and
        the last item, whose token is the highest.
        """
        for name, probe in self._probes():
            count = len(probe.candidates)
            self._fill(probe.history, probe.candidates, probe.features)
            try:
                scores = self._run()
            except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
                raise ModelError(
                    "mismatch",
                    f"{GRAPH} cannot answer {name}: {_line(error)}; do its items and features "
                    f"number as the manifest says? If not, {AGAIN}",
                ) from None
            if scores.shape != (1, self.manifest.pool):
                raise ModelError(
                    "mismatch",
                    f"{GRAPH} gives scores of the shape {scores.shape} in place of "
                    f"{(1, self.manifest.pool)}: {AGAIN}",
                )
            found = scores[0, :count].tolist()
            if not all(-SCORE_ABS_MAX <= score <= SCORE_ABS_MAX for score in found):
                raise ModelError(
                    "not_finite",
                    f"{GRAPH} answers {name} with a score that is no number, or beyond "
                    f"{SCORE_ABS_MAX:,.0f}: train the model again, and look at its loss",
                )
            pairs = zip(found, probe.scores, strict=False)  # probes of ours know no scores
            error_max = max((abs(score - known) for score, known in pairs), default=0.0)
            if error_max > TOLERANCE:
                raise ModelError(
                    "wrong_scores",
                    f"{GRAPH} answers {name} with scores that are up to {error_max:.3g} from those "
                    f"in the manifest, {TOLERANCE} at most: {AGAIN}, from one state of the model",
                )
            if self._proposer is not None:
                self._check_proposals(name)

    def _check_proposals(self, name: str) -> None:
        """Raise ModelError unless the items proposed for what is in the buffers are items."""
        try:
            tokens = self._run_proposer()
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            raise ModelError(
                "mismatch", f"{PROPOSER} cannot answer {name}: {_line(error)}; {AGAIN}"
            ) from None
        count = self.manifest.items + FIRST_ITEM
        if len(tokens) != self.manifest.proposes or not all(0 <= each < count for each in tokens):
            raise ModelError(
                "mismatch",
                f"{PROPOSER} answers {name} with tokens that are none of the "
                f"{self.manifest.items:,} items: {AGAIN}",
            )

    def _probes(self) -> Iterator[tuple[str, Probe]]:
        """Yield the manifest's probes, and some more, without padding; each with its name."""
        for number, probe in enumerate(self.manifest.probes, 1):
            count = len(probe.scores)
            yield (
                f"probe {number}",
                Probe(
                    probe.history,
                    probe.candidates[:count],
                    probe.features[:count],
                    probe.scores,
                ),
            )
        last = self.manifest.items + FIRST_ITEM - 1
        zeros = ((0.0,) * len(self.manifest.features),)
        yield "a request without history", Probe((), (UNKNOWN, last), zeros * 2, ())
        full = (last,) * HISTORY, (UNKNOWN,) * self.manifest.pool
        yield "a full request", Probe(*full, zeros * self.manifest.pool, ())

    def _measure(self, clock: Callable[[], float], milliseconds_max: float) -> None:
        """Time full requests, which is what the buffers still hold; refuse what is too slow."""
        times = []
        for _ in range(TIMED_RUNS):
            began = clock()
            if self._proposer is not None:
                self._run_proposer()
            self._run()
            times.append(clock() - began)
        self.milliseconds = 1_000 * statistics.median(times)
        if self.milliseconds > milliseconds_max:
            raise ModelError(
                "too_slow",
                f"{GRAPH} takes {self.milliseconds:.1f} ms an answer (median of {TIMED_RUNS}), at "
                f"most {milliseconds_max:g} are allowed: raise model_ms_max, or train a smaller "
                "model",
            )


def _session(graph: bytes, name: str) -> InferenceSession:
    """Return a session on one thread, the caller's, of a file of that name."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = _FATAL
    try:
        return InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
        raise ModelError(
            "corrupt", f"onnxruntime cannot load {name}: {_line(error)}; {AGAIN}"
        ) from None


def _check_signature(session: InferenceSession, manifest: Manifest) -> None:
    """Raise ModelError unless inputs and output have the names, types and shapes agreed on."""
    pool, width = manifest.pool, len(manifest.features)
    wanted = {
        "history": ("tensor(int32)", [1, HISTORY]),
        "candidates": ("tensor(int32)", [1, pool]),
        "features": ("tensor(float)", [1, pool, width]),
    }
    _check_tensors(GRAPH, "inputs", session.get_inputs(), wanted)
    scores = {"scores": ("tensor(float)", [1, pool])}
    _check_tensors(GRAPH, "outputs", session.get_outputs(), scores)


def _check_proposer(session: InferenceSession, manifest: Manifest) -> None:
    """Raise ModelError unless the graph that proposes has the input and output agreed on."""
    history = {"history": ("tensor(int32)", [1, HISTORY])}
    _check_tensors(PROPOSER, "inputs", session.get_inputs(), history)
    proposals = {"proposals": ("tensor(int32)", [1, manifest.proposes])}
    _check_tensors(PROPOSER, "outputs", session.get_outputs(), proposals)


def _check_tensors(name: str, what: str, tensors: Iterable[Any], wanted: dict[str, Any]) -> None:
    found = {each.name: (each.type, each.shape) for each in tensors}
    if found != wanted:
        raise ModelError("mismatch", f"{name} has the {what} {found} in place of {wanted}: {AGAIN}")


def _line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
