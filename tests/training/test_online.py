"""The online re-scorer begins as the ranker and learns from what was bought."""

import msgspec
import numpy as np

from models.evaluate import gains
from models.online import rescore
from stream_app.steps import FEATURE_NAMES
from tests.training.shop import requests

COUNT = 600


def test_it_begins_as_the_ranker_and_learns() -> None:
    """Where the ranker knows nothing and a feature tells all, it is right soon, not at once."""
    given = requests(COUNT)
    features = given.features.copy()
    features[..., 3] += 6.0 * given.bought
    given = msgspec.structs.replace(given, features=features)
    noise = np.random.default_rng(5).normal(size=given.bought.shape)
    width = len(FEATURE_NAMES)
    found = rescore(given, noise, np.zeros(width), np.ones(width))
    real = given.candidates[0] != 0
    assert np.array_equal(found[0][real], noise[0][real])
    assert np.isneginf(found[0][~real]).all()
    each = gains(found, given.candidates, given.bought, given.basket_sizes)[:, 2]
    before = gains(noise, given.candidates, given.bought, given.basket_sizes)[:, 2]
    assert each[-100:].mean() > before[-100:].mean() + 0.3


def test_it_never_sees_a_basket_before_it_is_judged() -> None:
    """What a later basket holds changes no earlier score."""
    given = requests(20)
    other = given.bought.copy()
    other[10:] = False
    noise = np.random.default_rng(5).normal(size=given.bought.shape)
    width = len(FEATURE_NAMES)
    scale = np.zeros(width), np.ones(width)
    one = rescore(given, noise, *scale)
    two = rescore(msgspec.structs.replace(given, bought=other), noise, *scale)
    assert np.array_equal(one[:11], two[:11])
    assert not np.array_equal(one[11:], two[11:])
