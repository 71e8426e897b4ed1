"""Stage 8: scores each candidate of a request; the last link of the fallback chain is a formula.

The formula is linear in the candidates' features, with weights set by hand. It needs no model, no
history and no file, so it answers when nothing else can; its name stands in the output as the
fallback level. Beware of reading its scores as probabilities: they only order the candidates of one
request.
"""

from collections.abc import Sequence
from operator import mul

from stream_app.steps import FEATURE_NAMES, Request, Scored

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
}
_WEIGHTS = tuple(FORMULA_WEIGHTS[name] for name in FEATURE_NAMES)


def score(requests: Sequence[Request]) -> list[Scored]:
    """Return the scores of each request's candidates; the higher the better."""
    return [
        Scored(
            tuple([sum(map(mul, _WEIGHTS, row)) for row in request.features]),
            FORMULA_NAME,
            FORMULA_VERSION,
            FORMULA_NAME,
        )
        for request in requests
    ]
