"""The folder that workers load, written once their own loader has tried out what goes into it."""

import hashlib
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from stream_app.clock import monotonic_seconds
from stream_app.manifest import CARD, GRAPH, HISTORY, ITEMS, MANIFEST, PROPOSER, Manifest, Probe
from stream_app.ranker import Ranker
from stream_app.registry import Registry
from stream_app.stages.candidates import POOL_SIZE


class Inputs(msgspec.Struct, frozen=True):
    """Requests as a graph takes them.

    ``history`` int32 (n, 50), ``candidates`` int32 (n, pool), ``features`` float32 (n, pool, F).
    """

    history: npt.NDArray[np.int32]
    candidates: npt.NDArray[np.int32]
    features: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.history)

    def first(self, count: int) -> "Inputs":
        """Return the first requests."""
        return Inputs(*(getattr(self, name)[:count] for name in self.__struct_fields__))

    def feeds(self, rows: slice) -> dict[str, npt.NDArray[np.generic]]:
        """Return some of the requests by the names of the graph's inputs."""
        return {name: getattr(self, name)[rows] for name in self.__struct_fields__}


def session(graph: bytes) -> onnxruntime.InferenceSession:
    """Return a session on one thread, as a worker has it; onnxruntime's errors pass through."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised; the log would say them again
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def score(
    running: onnxruntime.InferenceSession, inputs: Inputs, place: int
) -> npt.NDArray[np.float32]:
    """Return the scores of one request in a run of its own; (pool,)."""
    found = running.run(["scores"], inputs.feeds(slice(place, place + 1)))[0][0]
    assert isinstance(found, np.ndarray)
    return found


def probes(running: onnxruntime.InferenceSession, inputs: Inputs) -> tuple[Probe, ...]:
    """Return requests with the scores that the graph gives them."""
    return tuple(
        Probe(
            tuple(inputs.history[place].tolist()),
            tuple(candidates.tolist()),
            tuple(map(tuple, inputs.features[place].tolist())),
            tuple(score(running, inputs, place)[candidates != 0].tolist()),
        )
        for place, candidates in enumerate(inputs.candidates)
    )


def probed(manifest: Manifest) -> Inputs:
    """Return the requests that a model's manifest holds as probes."""
    return Inputs(
        np.array([probe.history for probe in manifest.probes], np.int32).reshape(-1, HISTORY),
        np.array([probe.candidates for probe in manifest.probes], np.int32),
        np.array([probe.features for probe in manifest.probes], np.float32),
    )


def write(  # noqa: PLR0913, PLR0917 - one for each file
    to: Path,
    graph: bytes,
    items: bytes,
    manifest: Manifest,
    card: str,
    proposer: bytes | None = None,
) -> None:
    """Write a model's files and the model card, if a worker would load them.

    Parameters
    ----------
    to
        The folder, made if missing; what it holds is replaced.
    graph, items, proposer
        What the files hold; ``manifest`` gets their hashes.
    manifest
        What to say of them.
    card
        The model card, Markdown.

    Raises
    ------
    ModelError, RegistryError
        When a worker would refuse it or nobody could publish it; nothing is written then.
    """
    files = {GRAPH: graph, ITEMS: items}
    if proposer is not None:
        files[PROPOSER] = proposer
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    text = msgspec.json.format(
        msgspec.json.encode(msgspec.structs.replace(manifest, files=hashes)), indent=1
    )
    files |= {MANIFEST: text + b"\n", CARD: card.encode()}
    with TemporaryDirectory() as place:
        beside = Path(place) / "model"
        _write(beside, files)
        # How fast a worker wants it is a setting of the worker.
        Ranker.load(beside, clock=monotonic_seconds, milliseconds_max=math.inf, pool_min=POOL_SIZE)
        Registry(f"{place}/registry").publish(beside, POOL_SIZE)
    _write(to, files)


def _write(to: Path, files: dict[str, bytes]) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (to / name).write_bytes(data)
