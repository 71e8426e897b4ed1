"""Online learners: River's contract, exact rows, warmth, half precision, and what is learned."""

import copy
import math
import random
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.checks import clf, common

from stream_app.learners import WARM_EACH, Learner, Vector

NAMES = ("a", "b", "c", "d")
VECTOR = Vector(NAMES)
TARGETS = ("left", "right")
Sample = tuple[dict[str, float], list[bool]]


def fresh(names: Sequence[str] = NAMES, targets: Sequence[str] = TARGETS) -> Learner:
    """Return a learner that has seen nothing."""
    return Learner(Vector(names), targets)


def stream(count: int, seed: int = 1) -> list[Sample]:
    """Return samples in which `a` speaks for the first target and against the second."""
    rng = random.Random(seed)
    samples: list[Sample] = []
    for _ in range(count):
        features = VECTOR.unpack(VECTOR.pack([rng.gauss(0, 1) for _ in NAMES]))
        odds = features["a"] + 0.3 * rng.gauss(0, 1)
        samples.append((features, [odds > 0, odds < 0.5]))
    return samples


def taught(learner: Learner, samples: Sequence[Sample]) -> Learner:
    """Return the learner after some samples."""
    for features, happened in samples:
        learner.learn(features, happened)
    return learner


def reloaded(learner: Learner) -> Learner:
    """Return the learner as another process would read it back."""
    return fresh(learner.names, learner.targets).load(learner.encode())


# --- River's own contract -------------------------------------------------------------------------

# Those of its checks that say what our learners ask of a model, on features of ours: most of the
# data sets that River would take come with scikit-learn.
CHECKS = (
    common.check_learn_one,
    common.check_predict_one_pure,
    common.check_predict_one_before_any_learn,
    common.check_no_state_aliasing_with_input,
    common.check_shuffle_features_no_impact,
    common.check_emerging_features,
    common.check_disappearing_features,
    common.check_radically_disappearing_features,
    common.check_clone_is_independent,
    common.check_bounded_memory_growth,
    clf.check_predict_proba_one,
    clf.check_predict_proba_one_binary,
)


@pytest.mark.parametrize("check", CHECKS)
def test_model_keeps_the_contract_of_river(check: Callable[[object, object], None]) -> None:
    """The estimator, as it is set here, passes River's checks of purity and memory."""
    samples = [(features, happened[0]) for features, happened in stream(1_000)]
    check(fresh().models[0].clone(), samples)


def test_predict_changes_nothing() -> None:
    """Predicting leaves the learner and the features as they are, and so may happen any time."""
    learner = taught(fresh(), stream(100))
    before, features = learner.encode(), stream(1, 7)[0][0]
    given_ = copy.deepcopy(features)
    first = learner.predict(features)
    assert [learner.predict(features) for _ in range(5)] == [first] * 5
    assert learner.encode() == before
    assert features == given_
    assert fresh().predict(features) is not None
    assert learner.raised(features) is not None
    assert learner.encode() == before


def test_learn_keeps_its_arguments() -> None:
    """Learning changes neither features nor labels, nor does it keep a reference to them."""
    learner = fresh()
    (features, happened), *rest = stream(60)
    given_ = copy.deepcopy((features, happened))
    learner.learn(features, happened)
    assert (features, happened) == given_
    before = learner.encode()
    features["a"] = 1e9
    assert learner.encode() == before
    taught(learner, rest)
    assert learner.encode() != before


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2, 7, 50])
def test_reloaded_learner_goes_on_the_same(every: int) -> None:
    """Reading a learner back, however often, changes no prediction and no later learning."""
    whole = fresh()
    pieces = fresh()
    for number, (features, happened) in enumerate(stream(300)):
        assert repr(pieces.predict(features)) == repr(whole.predict(features))
        whole.learn(features, happened)
        pieces.learn(features, happened)
        if number % every == 0:
            pieces = reloaded(pieces)
        assert pieces.encode() == whole.encode()
    assert pieces.positives == whole.positives
    assert pieces.samples == whole.samples == 300


FINITE = st.floats(-100, 100, width=16)


@given(st.lists(st.tuples(st.lists(FINITE, min_size=4, max_size=4), st.booleans()), max_size=30))
def test_encoding_is_the_identity(samples: list[tuple[list[float], bool]]) -> None:
    """Reading a row back gives the same row; where nothing was learned there is none."""
    learner = fresh()
    for values, label in samples:
        learner.learn(dict(zip(NAMES, values, strict=True)), [label, not label])
    assert reloaded(learner).encode() == learner.encode()
    assert (learner.encode() == b"") is (not samples)


def test_added_feature_begins_without_weight() -> None:
    """A feature that a new version adds changes no prediction until something is learned of it."""
    old = taught(fresh(), stream(200))
    new = fresh((*NAMES[:2], "new", *NAMES[2:])).load(old.encode())
    for features, _ in stream(20, 3):
        wider = {name: features.get(name, 5.0) for name in new.names}
        assert new.predict(wider) == old.predict(features)
    assert (new.samples, new.positives) == (old.samples, old.positives)
    again = reloaded(new)
    for number, (features, happened) in enumerate(stream(30, 4)):
        wider = {name: features.get(name, float(happened[0])) for name in new.names}
        new.learn(wider, happened)
        again.learn(wider, happened)
        if number % 3 == 0:
            again = reloaded(again)
        assert again.encode() == new.encode(), "the new feature has been seen less often"
    assert new.models[0].weights["new"] > 0


def test_dropped_feature_is_gone() -> None:
    """A feature that a new version drops counts no more; the rest keep their weights."""
    old = taught(fresh(), stream(200))
    new = fresh(("d", "a", "b")).load(old.encode())
    for features, _ in stream(20, 3):
        narrower = {name: features[name] for name in new.names}
        usual = features | {"c": old.scaler.means["c"]}
        assert new.predict(narrower) == pytest.approx(old.predict(usual), abs=1e-3)
    assert reloaded(new).encode() == new.encode()


# --- predictions ----------------------------------------------------------------------------------


def test_cold_learner_predicts_nothing() -> None:
    """A target is predicted from the moment on that enough of both its outcomes have been seen."""
    learner, features = fresh(), stream(1)[0][0]
    assert all(map(math.isnan, learner.predict(features)))
    for number in range(1, 3 * WARM_EACH):
        learner.learn(features, [True, number > WARM_EACH])
        left, right = learner.predict(features)
        assert math.isnan(left), "it has never failed to happen"
        assert math.isnan(right) is (number < 2 * WARM_EACH)
    for number in range(1, WARM_EACH + 1):
        learner.learn(features, [False, True])
        assert math.isnan(learner.predict(features)[0]) is (number < WARM_EACH)


def test_predictions_are_half_precision() -> None:
    """A probability is what two bytes hold, so that it is the same once it was stored."""
    learner = taught(fresh(), stream(300))
    for features, _ in stream(50, 3):
        predicted = learner.predict(features)
        assert struct.unpack("<2e", struct.pack("<2e", *predicted)) == predicted
        assert all(0 <= probability <= 1 for probability in predicted)


def test_prediction_after_a_fixed_stream() -> None:
    """What is predicted is pinned: a release of River that learns differently is noticed here."""
    learner = taught(fresh(), stream(500))
    predicted = [learner.predict(features) for features, _ in stream(3, 3)]
    assert predicted == [
        (0.5361328125, 0.7392578125),
        (0.357421875, 0.84423828125),
        (0.88525390625, 0.2384033203125),
    ]


@pytest.mark.parametrize("label", [True, False])
def test_labels_move_the_probability_their_way(label: bool) -> None:  # noqa: FBT001
    """What happened raises the probability of the like, what did not lowers it as much."""
    learner = taught(fresh(), stream(100))
    features = stream(1, 9)[0][0]
    probabilities = [learner.predict(features)]
    for _ in range(20):
        learner.learn(features, [label, not label])
        probabilities.append(learner.predict(features))
    left, right = zip(*probabilities, strict=True)
    assert list(left) == sorted(left, reverse=not label)
    assert list(right) == sorted(right, reverse=label)
    assert min(abs(left[-1] - left[0]), abs(right[-1] - right[0])) > 0.003


def test_learner_tells_what_tells() -> None:
    """After a while the feature that decides is told from those that do not."""
    learner = taught(fresh(), stream(800))
    flat = dict.fromkeys(NAMES, 0.0)
    low, high = learner.predict(flat | {"a": -2.0}), learner.predict(flat | {"a": 2.0})
    assert max(low[0], high[1]) < 0.2
    assert min(low[1], high[0]) > 0.8
    for name in "bcd":
        assert abs(learner.models[0].weights[name]) < learner.models[0].weights["a"] / 4


def test_raised_names_what_raised_the_probability() -> None:
    """Only features that add to a target's log odds are named, the strongest first."""
    learner = taught(fresh(), stream(500))
    for features, _ in stream(30, 5):
        for place, model in enumerate(learner.models):
            scaled = learner.scaler.transform_one(features)
            parts = {name: model.weights[name] * value for name, value in scaled.items()}
            named = learner.raised(features, place)
            assert dict(named) == {name: scaled[name] for name in NAMES if parts[name] > 0}
            strengths = [parts[name] for name, _ in named]
            assert strengths == sorted(strengths, reverse=True)


# --- vectors --------------------------------------------------------------------------------------


def test_vector_rounds() -> None:
    """Values come back by name, rounded to what two bytes hold."""
    vector = Vector(("one", "two"))
    data = vector.pack((0.25, 0.2))
    assert len(data) == vector.bytes == 4
    assert vector.unpack(data) == {"one": 0.25, "two": 0.199951171875}


@pytest.mark.parametrize("huge", [70_000.0, -70_000.0, 1e300, -1e300])
def test_vector_bounds_what_half_precision_cannot_hold(huge: float) -> None:
    """A value that is too large becomes the largest there is, and its neighbour stays itself."""
    found = Vector(("one", "two"))
    values = found.unpack(found.pack((huge, 0.5)))
    assert values == {"one": math.copysign(65_504.0, huge), "two": 0.5}
