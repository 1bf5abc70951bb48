"""XGBoost as someone else would tune it: what our own choices have to hold against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import loguniform, randint, uniform
from sklearn.model_selection import RandomizedSearchCV, StratifiedKFold
from xgboost import XGBClassifier

FOLDS = 3
# Wide enough to hold the usual recommendations; SciPy's uniform is (start, width).
SPACE = {
    "max_depth": [2, 3, 4, 6],
    "learning_rate": loguniform(0.02, 0.3),
    "n_estimators": randint(50, 500),
    "subsample": uniform(0.5, 0.5),
    "colsample_bytree": uniform(0.4, 0.6),
    "min_child_weight": [1, 3, 10],
    "reg_lambda": loguniform(0.1, 10.0),
}


def tuned_xgboost(
    matrix: NDArray[np.float32], target: NDArray[np.bool_], feature_types: list[str], trials: int, seed: int
) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """The best of `trials` random settings by cross-validated log-loss, fitted on all rows.

    Args:
        matrix: (n, features), categories as codes, NaN missing.
        target: (n,).
        feature_types: XGBoost's, one a feature.

    Returns:
        A function from rows, (m, features), to probabilities of yes, (m,).
    """
    model = XGBClassifier(
        tree_method="hist", n_jobs=1, random_state=seed, enable_categorical=True, feature_types=feature_types
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    search = RandomizedSearchCV(
        model, SPACE, n_iter=trials, scoring="neg_log_loss", cv=folds, random_state=seed, n_jobs=1
    ).fit(matrix, target)
    return lambda rows: np.asarray(search.predict_proba(rows)[:, 1], dtype=np.float64)
