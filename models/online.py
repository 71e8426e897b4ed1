"""Would an online re-scorer pay? A logistic regression that learns from each basket, measured.

Behind the ranker, River's logistic regression sees the ranker's score and the features of each
candidate, and learns after each basket which of them were bought. It is judged before it learns.
The answer stands in docs/results/ranker.md; the stream does not serve one.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from river import linear_model, optim

from models.data import Requests

SCORE = "score"


def rescore(
    requests: Requests,
    scores: npt.NDArray[np.floating],
    mean: npt.NDArray[np.floating],
    scale: npt.NDArray[np.floating],
) -> npt.NDArray[np.float64]:
    """Return scores that were corrected on the way, requests in time order; (n, N) -> (n, N).

    It begins as the ranker: weight 1 on its score, 0 on the features, which are centred by ``mean``
    and multiplied by ``scale``.
    """
    columns = [SCORE, *map(str, range(requests.features.shape[-1]))]
    model = linear_model.LogisticRegression(
        optimizer=optim.AdaGrad(0.01), initializer=optim.initializers.Zeros()
    )
    model._weights[SCORE] = 1.0  # noqa: SLF001 - River takes no weights to begin with
    found = np.full(scores.shape, -np.inf)
    normed = (requests.features - mean) * scale
    for place in range(len(requests)):
        real = requests.candidates[place] != 0
        if not real.any():
            continue
        rows = np.column_stack((scores[place][real], normed[place][real]))
        frame = pd.DataFrame(rows, columns=columns)
        right = pd.Series(requests.bought[place][real])
        found[place, real] = rows @ [model._weights.get(name, 0.0) for name in columns]  # noqa: SLF001
        model.learn_many(frame, right)
    return found
