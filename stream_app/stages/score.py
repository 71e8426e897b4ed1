"""Stage 8: scores each candidate of a request: by a model, and where it does not answer, a formula.

The model is handed in; the stage knows no file and no runtime of models. Its answer to a request
counts when every score is finite and within bounds; otherwise the formula answers that request, and
the output says so. A user without consent has an empty history, and features of the item alone, so
the model may answer there too. Each request is scored by itself, so what comes of it does not
depend on those beside it.

The formula is linear in the candidates' features, with weights set by hand. It needs no model, no
history and no file, so it answers when nothing else can; its name stands in the output as the
fallback level. Beware of reading its scores as probabilities: they only order the candidates of one
request.
"""

from collections.abc import Sequence

from stream_app.steps import FEATURE_NAMES, SCORE_ABS_MAX, Request, Scored, Scorer

FORMULA_NAME = "linear-formula"
FORMULA_VERSION = "1"

# Set by hand, after a logistic regression on the baskets of completejourney before 2017-11-05.
FORMULA_WEIGHTS = {
    "log_count": 1.0,
    "popular_percent": 0.7,
    "trending_percent": 0.3,
    "log_trending": 0.1,
    "log_neighbour": 0.1,
    "has_gap": 0.1,
    "due": 0.1,
    "overdue": -0.1,
    "in_repeat": -0.1,
    "recency_days": 0.0,
    "gap_days": 0.0,
    "content": 1e-6,  # decides between items that nobody has wanted yet
    "is_new": 0.0,
    "log_here": 0.1,
}
_WEIGHTS = tuple(FORMULA_WEIGHTS[name] for name in FEATURE_NAMES)


def score(requests: Sequence[Request], ranker: Scorer | None = None) -> list[Scored]:
    """Return the scores of each request's candidates; the higher the better.

    ``fallback_level`` is None where the model answered, else the formula's name.
    """
    return [_score(request, ranker) for request in requests]


def _score(request: Request, ranker: Scorer | None) -> Scored:
    if ranker is not None:
        scores = ranker.scores(request.view.items, request.items, request.features)
        if all(-SCORE_ABS_MAX <= each <= SCORE_ABS_MAX for each in scores):  # NaN is not
            return Scored(scores, ranker.name, ranker.version, None)
    return Scored(_formula(request.features), FORMULA_NAME, FORMULA_VERSION, FORMULA_NAME)


def _formula(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the weighted sum of each row, added from left to right."""
    # Written out: a loop over the products takes twice as long.
    w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13 = _WEIGHTS
    return tuple(
        [
            w0 * f0
            + w1 * f1
            + w2 * f2
            + w3 * f3
            + w4 * f4
            + w5 * f5
            + w6 * f6
            + w7 * f7
            + w8 * f8
            + w9 * f9
            + w10 * f10
            + w11 * f11
            + w12 * f12
            + w13 * f13
            for f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13 in rows
        ]
    )
