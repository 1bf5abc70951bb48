"""Other people's uplift learners behind our protocol, to be measured on the same folds.

Each gets the XGBoost that suits noisy effects: shallow, slow and few trees. Their defaults would be a straw man.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
from xgboost import XGBClassifier, XGBRegressor

from trainers.uplift import Scorer, UpliftLearner
from trainers.uplift.boosting import Bools, Floats, Matrix

TREES = {
    "max_depth": 3,
    "n_estimators": 100,
    "learning_rate": 0.05,
    "subsample": 0.8,
    "min_child_weight": 5,
    "n_jobs": 1,
}


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Any function of the features."""

    score: Callable[[Matrix], Any]

    def uplift(self, matrix: Matrix) -> Floats:
        return np.asarray(self.score(matrix), dtype=np.float64).ravel()


@dataclass(frozen=True, slots=True)
class CausalML:
    """A meta-learner of CausalML (Uber), which wants dummy columns for categories.

    Attributes:
        make: builds the meta-learner.
        feature_types: XGBoost's, one a feature.
    """

    make: Callable[[], Any]
    feature_types: Sequence[str]

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> Scorer:
        model, encode = self.make(), Dummies.of(matrix, self.feature_types)
        asked = {"p": propensity} if "p" in signature(model.fit).parameters else {}
        model.fit(X=encode(matrix), treatment=treatment.astype(int), y=outcome.astype(int), **asked)
        mean = float(propensity.mean())
        return _Scorer(lambda rows: model.predict(X=encode(rows), p=np.full(len(rows), mean)))


@dataclass(frozen=True, slots=True)
class ClassTransformation:
    """Jaskowski and Jaroszewicz (2012): P(z) of z = y t + (1 − y)(1 − t), for arms of the same size."""

    feature_types: Sequence[str]
    seed: int

    def fit(self, matrix: Matrix, treatment: Bools, outcome: Bools, propensity: Floats) -> Scorer:
        encode = Dummies.of(matrix, self.feature_types)
        model = XGBClassifier(**TREES, random_state=self.seed).fit(encode(matrix), treatment == outcome)
        return _Scorer(lambda rows: 2.0 * model.predict_proba(encode(rows))[:, 1] - 1.0)


@dataclass(frozen=True, slots=True)
class Dummies:
    """Codes of categories as columns of 0 and 1, by the codes that were seen in fitting."""

    codes: tuple[Floats | None, ...]

    @classmethod
    def of(cls, matrix: Matrix, feature_types: Sequence[str]) -> Dummies:
        seen = (np.unique(column[~np.isnan(column)]) for column in matrix.T)
        return cls(tuple(codes if kind == "c" else None for codes, kind in zip(seen, feature_types, strict=True)))

    def __call__(self, matrix: Matrix) -> Matrix:
        columns = [
            column[:, None] if codes is None else (column[:, None] == codes).astype(np.float32)
            for column, codes in zip(matrix.T, self.codes, strict=True)
        ]
        return np.hstack(columns)


def peers(feature_types: Sequence[str], seed: int) -> dict[str, UpliftLearner]:
    """CausalML's S-, T-, X- and DR-learner and the class transformation, by name."""
    meta = _causalml_meta_learners()
    classifier: Callable[[], Any] = partial(XGBClassifier, **TREES, random_state=seed)
    regressor: Callable[[], Any] = partial(XGBRegressor, **TREES, random_state=seed)
    makers: dict[str, Callable[[], Any]] = {
        "causalml_s": lambda: meta.BaseSClassifier(learner=classifier()),
        "causalml_t": lambda: meta.BaseTClassifier(learner=classifier()),
        "causalml_x": lambda: meta.BaseXClassifier(outcome_learner=classifier(), effect_learner=regressor()),
        "causalml_dr": lambda: meta.BaseDRRegressor(learner=regressor(), treatment_effect_learner=regressor()),
    }
    learners: dict[str, UpliftLearner] = {name: CausalML(make, feature_types) for name, make in makers.items()}
    return learners | {"class_transformation": ClassTransformation(feature_types, seed)}


def _causalml_meta_learners() -> Any:
    """Imported here, since it takes seconds and no other command needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its plots' colours are deprecated in matplotlib
        return importlib.import_module("causalml.inference.meta")
