"""Online learners: River's logistic regression behind its scaler, held as canonical arrays.

A learner predicts several targets from the same features. They are dense, in a fixed order, and
rounded to half precision before they are used, so that what waits for its label in a user's row is
exactly what was predicted from, and sums are the same in every process. River is pinned, and a test
says so when a release predicts differently.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from struct import Struct

from river.linear_model import LogisticRegression
from river.optim import AdaGrad
from river.optim.schedulers import InverseScaling
from river.preprocessing import StandardScaler
from river.utils import VectorDict

from stream_app.errors import StateError

# Nothing is predicted until so many samples of each outcome have been learned from.
WARM_EACH = 20
NAN = math.nan
MODEL, MODEL_VERSION = "river-logistic-regression", "1"  # as outputs name it

_LEARNING_RATE = 0.1
_INTERCEPT_RATE, _INTERCEPT_POWER = 1.0, 0.5
_COUNTS = Struct("<HHI")  # bytes of names, targets, samples
_HALF_MAX = 65_504.0
_HALVES = [Struct(f"<{count}e") for count in range(8)]


class Vector:
    """The features of one kind of prediction, in order, and how they are stored: half precision.

    >>> vector = Vector(("one", "two"))
    >>> vector.unpack(vector.pack((0.1, 70_000.0)))
    {'one': 0.0999755859375, 'two': 65504.0}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._layout = Struct(f"<{len(names)}e")
        self.bytes = self._layout.size

    def pack(self, values: Sequence[float]) -> bytes:
        """Return values, given in the order of the names, as bytes."""
        try:
            return self._layout.pack(*values)
        except OverflowError:
            return self._layout.pack(*[max(-_HALF_MAX, min(value, _HALF_MAX)) for value in values])

    def unpack(self, data: bytes) -> dict[str, float]:
        """Return the values by name, rounded as they were stored."""
        return dict(zip(self.names, self._layout.unpack(data), strict=True))


class Learner:
    """A running scaler and, for each target, a logistic regression trained by AdaGrad.

    AdaGrad: Duchi, Hazan & Singer, "Adaptive subgradient methods", JMLR 12 (2011).

    Parameters
    ----------
    vector
        The features.
    targets
        What is predicted.
    """

    def __init__(self, vector: Vector, targets: Sequence[str]) -> None:
        self.names = vector.names
        self.targets = tuple(targets)
        self.samples = 0
        self.positives = [0] * len(targets)
        self.scaler = StandardScaler()
        self.models = [
            LogisticRegression(
                AdaGrad(_LEARNING_RATE),
                intercept_lr=InverseScaling(_INTERCEPT_RATE, _INTERCEPT_POWER),
            )
            for _ in targets
        ]

    def load(self, data: bytes) -> "Learner":
        """Take over what :meth:`encode` returned, and return this learner.

        A feature that this version has added begins without weight; one it has dropped is gone.

        Raises
        ------
        StateError
            When it was written for another number of targets.
        """
        if not data:
            return self
        size, count, self.samples = _COUNTS.unpack_from(data)
        if count != len(self.targets):
            raise StateError(
                f"a learner's row has {count} targets, this program {len(self.targets)}: "
                "start a new `app` name, which learns from the log anew"
            )
        start = _COUNTS.size + size
        stored = data[_COUNTS.size : start].decode().split("\n")
        self.positives = list(array("Q", data[start : start + 8 * count]))
        tables = self._tables(stored, array("d", data[start + 8 * count :]))
        scaler = self.scaler
        scaler.counts.update({name: int(number) for name, number in next(tables).items()})
        scaler.means.update(next(tables))
        scaler.vars.update(next(tables))
        for model in self.models:
            model._weights = VectorDict(next(tables))  # noqa: SLF001 - River has no setter
            model.optimizer.g2.update(next(tables))
            model.optimizer.n_iterations = self.samples
        intercepts = array("d", data[-8 * count :])
        for model, intercept in zip(self.models, intercepts, strict=True):
            model.intercept = intercept
        return self

    def _tables(self, stored: Sequence[str], numbers: "array[float]") -> Iterator[dict[str, float]]:
        """Yield one number for each of this version's features, again and again."""
        width = len(stored)
        for start in range(0, len(numbers), width):
            held = dict(zip(stored, numbers[start : start + width], strict=False))
            yield {name: held.get(name, 0.0) for name in self.names}

    def encode(self) -> bytes:
        """Return the learner as bytes.

        Names, counts, and then doubles in the order of the names: the scaler's counts (a feature
        that was added later has seen less), means and variances, for each target weights and sums
        of squared gradients; last the intercepts.
        """
        if not self.samples:
            return b""
        names, scaler = self.names, self.scaler
        label = "\n".join(names).encode()
        head = _COUNTS.pack(len(label), len(self.targets), self.samples)
        numbers = array("d")
        for table in (scaler.counts, scaler.means, scaler.vars):
            numbers.extend([table[name] for name in names])
        for model in self.models:
            for table in (model.weights, model.optimizer.g2):
                numbers.extend([table[name] for name in names])
        numbers.extend([model.intercept for model in self.models])
        return head + label + array("Q", self.positives).tobytes() + numbers.tobytes()

    def predict(self, features: dict[str, float]) -> tuple[float, ...]:
        """Return a probability for each target, in half precision; NaN while it is not warm."""
        scaled = self.scaler.transform_one(features)
        samples, halves = self.samples, _HALVES[len(self.targets)]
        found = [
            model.predict_proba_one(scaled)[True]
            if WARM_EACH <= positives <= samples - WARM_EACH
            else NAN
            for model, positives in zip(self.models, self.positives, strict=True)
        ]
        return halves.unpack(halves.pack(*found))

    def learn(self, features: dict[str, float], happened: Sequence[bool]) -> None:
        """Learn from one closed prediction, of every target alike."""
        self.scaler.learn_one(features)
        scaled = self.scaler.transform_one(features)
        self.samples += 1
        for place, (model, label) in enumerate(zip(self.models, happened, strict=True)):
            self.positives[place] += label
            model.learn_one(scaled, label)

    def raised(self, features: dict[str, float], place: int = 0) -> list[tuple[str, float]]:
        """Return the features that raise a target's probability, the strongest first.

        Compared with a user whose features are all at their means; with each goes its distance from
        the mean, in standard deviations.
        """
        scaled = self.scaler.transform_one(features)
        weights = self.models[place].weights
        parts = {name: weights.get(name, 0.0) * value for name, value in scaled.items()}
        raising = sorted((name for name in parts if parts[name] > 0), key=lambda name: -parts[name])
        return [(name, scaled[name]) for name in raising]
