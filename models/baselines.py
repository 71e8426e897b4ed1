"""What the network must beat, on the same candidates and features.

The formula is what the stream answers with when it has no model. The other two are fitted to the
candidates of the training baskets: a logistic regression, and boosted trees (Ke et al., "LightGBM",
NeurIPS 2017, in scikit-learn's form).
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


def formula(_: Requests, judged: Requests) -> Scores:
    """Return the scores of the fallback; (n, N)."""
    weights = np.array([FORMULA_WEIGHTS[name] for name in FEATURE_NAMES])
    scores: Scores = judged.features.astype(np.float64) @ weights
    return scores


def logistic_regression(training: Requests, judged: Requests) -> Scores:
    """Return the scores of a logistic regression on all features; (n, N)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return _fitted(model, training, judged)


def boosted_trees(training: Requests, judged: Requests) -> Scores:
    """Return the scores of boosted trees on all features; (n, N)."""
    return _fitted(HistGradientBoostingClassifier(max_iter=200, random_state=0), training, judged)


def _fitted(model: object, training: Requests, judged: Requests) -> Scores:
    real = training.candidates != 0
    model.fit(training.features[real], training.bought[real])  # type: ignore[attr-defined]
    rows = judged.features.reshape(-1, judged.features.shape[-1])
    found: Scores = model.predict_proba(rows)[:, 1].reshape(judged.bought.shape)  # type: ignore[attr-defined]
    return found


BASELINES: dict[str, Callable[[Requests, Requests], Scores]] = {
    "formula": formula,
    "logistic regression": logistic_regression,
    "boosted trees": boosted_trees,
}
