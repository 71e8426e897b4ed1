"""Stage 8: the formula that answers when nothing else can."""

import msgspec
import pytest

from stream_app.stages.score import FORMULA_NAME, FORMULA_VERSION, FORMULA_WEIGHTS, score
from stream_app.steps import FEATURE_NAMES
from tests.conftest import request


def test_formula_weighs_every_feature() -> None:
    """Each feature has a weight, and there is no weight for anything else."""
    assert tuple(FORMULA_WEIGHTS) == FEATURE_NAMES


@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_score_is_linear_in_each_feature(name: str) -> None:
    """A candidate's score is the weighted sum of its features, each by its own weight."""
    row = tuple(2.0 if name == other else 0.0 for other in FEATURE_NAMES)
    asked = msgspec.structs.replace(request(1), features=(row,))
    (scored,) = score([asked])
    assert scored.scores == (2.0 * FORMULA_WEIGHTS[name],)


def test_score_of_several_requests() -> None:
    """Each request has the scores of its own candidates, in their order, beside or alone."""
    rows = [tuple(float(n * 10 + m) for m in range(len(FEATURE_NAMES))) for n in range(3)]
    many = msgspec.structs.replace(request(3), features=tuple(rows))
    single = msgspec.structs.replace(request(1), features=(rows[2],))
    none = request(0)
    together = score([many, none, single])
    assert together == [*score([many]), *score([none]), *score([single])]
    assert together[0].scores[2] == together[2].scores[0]
    assert together[1].scores == ()


def test_score_names_what_made_it() -> None:
    """The formula stands in the answer as model and as the level of fallback."""
    (scored,) = score([request(1)])
    named = (scored.model, scored.model_version, scored.fallback_level)
    assert named == (FORMULA_NAME, FORMULA_VERSION, FORMULA_NAME)
