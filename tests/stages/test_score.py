"""Stage 8: the model, and the formula that answers when nothing else can."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from stream_app.hashing import id_hash
from stream_app.pipeline import process
from stream_app.ranker import Ranker
from stream_app.stages.candidates import POOL_SIZE
from stream_app.stages.score import FORMULA_NAME, FORMULA_VERSION, FORMULA_WEIGHTS, score
from stream_app.steps import FEATURE_NAMES, SCORE_ABS_MAX, Batch, Request, UserView
from tests.conftest import TOPIC, batch, context, fresh, record, request, run
from tests.onnx_model import NAME, VERSION, write_model


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


# --- with a model ---------------------------------------------------------------------------------


@pytest.fixture
def ranker(tmp_path: Path) -> Ranker:
    """Return a small model that knows most of the items of the requests here."""
    write_model(tmp_path, item_ids=[f"c-{n}" for n in range(60)])
    return Ranker.load(tmp_path, clock=lambda: 0.0, milliseconds_max=1.0, pool_min=POOL_SIZE)


class Saying:
    """A model that always says the same of the first candidates, and 0 of the others."""

    name, version = "saying", "1"

    def __init__(self, *said: float) -> None:
        self._said = said

    def propose(self, history: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002
        """Return no proposals."""
        return ()

    def scores(
        self,
        history: Sequence[int],  # noqa: ARG002 - a model is given them
        items: Sequence[int],
        features: Sequence[Sequence[float]],  # noqa: ARG002
    ) -> tuple[float, ...]:
        """Return what it always says."""
        return tuple([*self._said, *[0.0] * len(items)][: len(items)])


def drawn(count: int, seed: int) -> list[Request]:
    """Return requests of users with various histories, pools and features."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        asked = request(rng.choice((1, 3, 50, POOL_SIZE)))
        past = tuple(id_hash(f"c-{rng.randrange(90)}") for _ in range(rng.choice((0, 1, 9, 50))))
        rows = tuple(tuple(rng.uniform(-2, 9) for _ in FEATURE_NAMES) for _ in asked.items)
        view = UserView(items=past)
        made.append(msgspec.structs.replace(asked, view=view, features=rows))
    return made


def test_model_answers_under_its_name(ranker: Ranker) -> None:
    """Where the model answers, the answer names it and its version, and no fallback."""
    (scored,) = score(drawn(1, 0), ranker)
    assert (scored.model, scored.model_version) == (NAME, VERSION)
    assert scored.fallback_level is None
    assert scored.scores != score(drawn(1, 0))[0].scores


def test_rows_are_bit_equal_alone_and_in_a_batch(ranker: Ranker) -> None:
    """A request has the same scores, to the bit, whatever stands beside it and in which order."""
    requests = drawn(40, 1)
    alone = [score([each], ranker)[0] for each in requests]
    assert score(requests, ranker) == alone
    assert score(requests[::-1], ranker) == alone[::-1]
    assert len({each.scores for each in alone}) == len(alone)


def test_history_moves_the_scores(ranker: Ranker) -> None:
    """The model sees what the user has done, not the candidates alone."""
    (asked,) = drawn(1, 2)
    other = msgspec.structs.replace(asked, view=UserView(items=(id_hash("c-1"),) * 9))
    assert score([asked], ranker)[0].scores != score([other], ranker)[0].scores


@pytest.mark.parametrize(
    "said", [math.nan, math.inf, -math.inf, 1.01 * SCORE_ABS_MAX, -1.01 * SCORE_ABS_MAX]
)
def test_answer_out_of_range_falls_back(said: float) -> None:
    """One score that is no number or out of bounds, and the formula answers the whole request."""
    asked = drawn(1, 3)[0]
    for place in (0, len(asked.items) - 1):
        (scored,) = score([asked], Saying(*[1.0] * place, said))
        assert scored == score([asked])[0]
        assert scored.fallback_level == FORMULA_NAME


def test_answer_at_the_bounds_counts() -> None:
    """The bounds themselves are allowed."""
    (scored,) = score([request(2)], Saying(SCORE_ABS_MAX, -SCORE_ABS_MAX))
    assert scored.scores == (SCORE_ABS_MAX, -SCORE_ABS_MAX)
    assert scored.model == "saying"


def test_one_bad_answer_leaves_the_others(ranker: Ranker) -> None:
    """When the model fails at one request, those beside it have its answer all the same."""
    good, bad = drawn(2, 4)
    rows = ((math.nan,) * len(FEATURE_NAMES), *bad.features[1:])
    bad = msgspec.structs.replace(bad, features=rows)
    first, failed, last = score([good, bad, good], ranker)
    assert (failed.model, failed.fallback_level) == (FORMULA_NAME, FORMULA_NAME)
    assert first == last == score([good], ranker)[0]
    assert first.model == NAME


def test_request_without_candidates_needs_no_model(ranker: Ranker) -> None:
    """An empty request has an empty answer, which is the model's."""
    (scored,) = score([request(0)], ranker)
    assert scored.scores == ()
    assert scored.model == NAME


def test_user_without_consent_has_no_history_to_score_by(ranker: Ranker) -> None:
    """What the model is given of a user without consent does not depend on what the user did."""
    state, log = fresh(), batch(60, 5)
    run(state, log)
    last_ms = max(entry.timestamp for entry in log)
    records = [
        record(100, last_ms, type="consent", consent=False, user_id="u-1", item_id=None),
        record(101, last_ms, type="recommend", user_id="u-1", item_id=None),
    ]
    outputs = process(state, Batch(TOPIC, 0, records), context(ranker=ranker))
    (answer,) = outputs.answers.ranked
    assert not answer.request.profiled
    assert answer.request.view.items == ()
    assert answer.request.items
    assert answer.scored.model == NAME


def test_pipeline_ranks_by_the_model_it_is_given(ranker: Ranker) -> None:
    """The best by the model stands first, and each answer is the model's."""
    given = context(ranker=ranker)
    outputs = process(fresh(), Batch(TOPIC, 0, batch(100, 6)), given)
    assert outputs.answers.ranked
    for answer in outputs.answers.ranked:
        ranked = [answer.scored.scores[place] for place in answer.places]
        assert ranked == sorted(ranked, reverse=True)
        assert answer.scored.model == NAME
