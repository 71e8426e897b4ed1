"""What the network must beat, on the same candidates and features.

The formula is what the stream answers with when it has no model. Popularity, personal frequency and
co-visitation rank by one thing that the stream counts. The other two are fitted to the candidates
of the training baskets: a logistic regression, and boosted trees (Ke et al., "LightGBM", NeurIPS
2017, in scikit-learn's form).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.data import Requests
from stream_app.stages.score import FORMULA_WEIGHTS
from stream_app.steps import FEATURE_NAMES

Scores = npt.NDArray[np.float64]

_TIE = 1e-6  # of what decides only among equals


def formula(_: Requests, judged: Requests) -> Scores:
    """Return the scores of the fallback; (n, N)."""
    weights = np.array([FORMULA_WEIGHTS[name] for name in FEATURE_NAMES])
    scores: Scores = judged.features.astype(np.float64) @ weights
    return scores


def popularity(_: Requests, judged: Requests) -> Scores:
    """Return each candidate's decayed share of the partition's purchases; (n, N)."""
    return _feature(judged, "popular_percent")


def personal_frequency(_: Requests, judged: Requests) -> Scores:
    """Return how often the user bought it, a decayed count; else what is popular stands first."""
    return _feature(judged, "log_count") + _TIE * _feature(judged, "popular_percent")


def co_visitation(_: Requests, judged: Requests) -> Scores:
    """Return how often it came after the user's last ten items; else what is popular."""
    return _feature(judged, "log_neighbour") + _TIE * _feature(judged, "popular_percent")


def logistic_regression(training: Requests, judged: Requests) -> Scores:
    """Return the scores of a logistic regression on all features; (n, N)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return _fitted(model, training, judged)


def boosted_trees(training: Requests, judged: Requests) -> Scores:
    """Return the scores of boosted trees on all features; (n, N)."""
    return _fitted(HistGradientBoostingClassifier(max_iter=200, random_state=0), training, judged)


def _feature(judged: Requests, name: str) -> Scores:
    return judged.features[..., FEATURE_NAMES.index(name)].astype(np.float64)


def _fitted(model: object, training: Requests, judged: Requests) -> Scores:
    real = training.candidates != 0
    model.fit(training.features[real], training.bought[real])  # type: ignore[attr-defined]
    rows = judged.features.reshape(-1, judged.features.shape[-1])
    found: Scores = model.predict_proba(rows)[:, 1].reshape(judged.bought.shape)  # type: ignore[attr-defined]
    return found


BASELINES: dict[str, Callable[[Requests, Requests], Scores]] = {
    "formula": formula,
    "popularity": popularity,
    "personal frequency": personal_frequency,
    "co-visitation": co_visitation,
    "logistic regression": logistic_regression,
    "boosted trees": boosted_trees,
}
