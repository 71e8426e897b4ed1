"""A small shop whose users buy in a fixed round, as requests; nothing is streamed."""

import numpy as np

from models.data import Requests, Vocabulary
from stream_app.hashing import id_hash
from stream_app.manifest import HISTORY
from stream_app.stages.candidates import POOL_SIZE
from stream_app.steps import FEATURE_NAMES

ITEMS = [f"item-{number}" for number in range(30)]
VOCABULARY = Vocabulary(ITEMS[:25])  # five items have no name


def requests(count: int, seed: int = 0, steps: int = 1) -> Requests:
    """Return requests of users of whom each buys the item ``steps`` after the last one.

    The features are noise: only the history tells what comes next.
    """
    rng = np.random.default_rng(seed)
    hashes = np.array([id_hash(item) for item in ITEMS], np.uint64)
    history = np.zeros((count, HISTORY), np.uint64)
    candidates = np.zeros((count, POOL_SIZE), np.uint64)
    features = np.zeros((count, POOL_SIZE, len(FEATURE_NAMES)), np.float32)
    bought = np.zeros((count, POOL_SIZE), np.bool_)
    targets = []
    for row in range(count):
        length, last = int(rng.integers(1, HISTORY)), int(rng.integers(25))
        round_ = [(last - back) % 25 for back in reversed(range(length))]
        history[row, HISTORY - length :] = hashes[round_]
        wanted = hashes[(last + steps) % 25]
        pool = rng.permutation(30)
        candidates[row, :30] = hashes[pool]
        features[row, :30] = rng.normal(size=(30, len(FEATURE_NAMES)))
        bought[row, :30] = candidates[row, :30] == wanted
        targets.append(wanted)
    return Requests(
        np.arange(count, dtype=np.int32) % 7,
        np.arange(count, dtype=np.int64) * 1_000,
        np.ones(count, np.bool_),
        history,
        candidates,
        features,
        bought,
        np.array(targets, np.uint64),
        np.arange(count + 1, dtype=np.int64),
    )
