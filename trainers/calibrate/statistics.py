"""The estimators that the data sets share: logistic regression, and the heterogeneity of a randomised effect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import KFold

from churnsaver.errors import BadInput
from trainers.calibrate.table import Floats, Strings
from trainers.env.response import Ints, sigmoid

Z_95 = 1.959964  # two-sided, normal
NEWTON_STEPS = 50
FOLDS = 5
LEAST_OF_EACH = 50  # so that every fold of an arm has some of each outcome
RIDGE = 1e-6  # of a separated dummy's coefficient, which would run off to infinity


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients (k,), their covariance (k, k), and what is left: the sum of squared residuals."""

    coefficients: Floats
    covariance: Floats
    residual: float

    def interval(self, at: int) -> tuple[float, float, float]:
        """Coefficient `at` with its 95 % interval."""
        value, half = float(self.coefficients[at]), Z_95 * float(np.sqrt(self.covariance[at, at]))
        return value, value - half, value + half


def dummies(*columns: Strings) -> Floats:
    """Indicators of every value of each column but its first, (n, k)."""
    parts = []
    for column in columns:
        values, codes = np.unique(column, return_inverse=True)
        parts.append(np.eye(len(values))[codes][:, 1:])
    return np.concatenate(parts, axis=1)


def standardised(*columns: Floats) -> Floats:
    """Columns with mean 0 and standard deviation 1, (n, k); one that does not vary is 0."""
    x = np.column_stack(columns)
    return np.asarray((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12), dtype=np.float64)


def logistic(y: Floats, x: Floats, groups: Ints | None = None) -> Fit:
    """Logistic regression by Newton's method, with the sandwich covariance (Huber 1967; White 1980).

    Args:
        y: (n,) 0 or 1.
        x: (n, k), without an intercept; it is added behind, so that coefficient j is column j's.
        groups: (n,) of rows that are not independent of each other, for clustered standard errors.
    """
    design = np.column_stack([x, np.ones(len(y))])
    beta = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        p = sigmoid(design @ beta)
        hessian = design.T @ (design * (p * (1.0 - p))[:, None]) + RIDGE * np.eye(len(beta))
        step = np.linalg.solve(hessian, design.T @ (y - p) - RIDGE * beta)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    bread = np.asarray(np.linalg.inv(hessian), dtype=np.float64)
    return _sandwich(beta, bread, design, y - sigmoid(design @ beta), groups)


def least_squares(x: Floats, y: Floats, groups: Ints | None = None) -> Fit:
    """Linear regression, as `logistic` in its arguments but without an intercept of its own."""
    bread = np.asarray(np.linalg.pinv(x.T @ x), dtype=np.float64)
    beta = bread @ (x.T @ y)
    return _sandwich(beta, bread, x, y - x @ beta, groups)


def _sandwich(beta: Floats, bread: Floats, x: Floats, residuals: Floats, groups: Ints | None) -> Fit:
    scores = x * residuals[:, None]
    if groups is not None:
        sums = np.zeros((int(groups.max()) + 1, x.shape[1]))
        np.add.at(sums, groups, scores)
        scores = sums
    return Fit(beta, bread @ (scores.T @ scores) @ bread, float(residuals @ residuals))


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """How a randomised effect differs between customers, as far as what is seen of them says.

    Attributes:
        mean: the average effect on the outcome's probability.
        variation: standard deviation of individual effects over their mean, with its 95 % interval.
        lowest_fifth: effect in the fifth with the lowest predicted effect, with its 95 % interval.
    """

    mean: float
    variation: tuple[float, float, float]
    lowest_fifth: tuple[float, float, float]


def heterogeneity(x: Floats, treated: Floats, y: Floats, seed: int, source: Path) -> Heterogeneity:
    """Heterogeneity by a cross-fitted T-learner and its best linear prediction (Chernozhukov et al. 2018).

    The T-learner's scores alone overstate how much effects differ (they carry its noise); the regression of the
    outcome on treatment × score says how much of the score is effect. Treatment must be randomised with one
    probability. What the columns do not explain is not seen, so the variation is a lower bound.

    Args:
        x: (n, k), treated: (n,) 0 or 1, y: (n,) 0 or 1.
        source: where they are from, for what is wrong with them.

    Raises:
        BadInput: an arm has too few customers with one of the outcomes.
    """
    for arm in (0.0, 1.0):
        counts = np.bincount(y[treated == arm].astype(np.int64), minlength=2)
        if counts.min() < LEAST_OF_EACH:
            raise BadInput(
                f"{source}: an arm has {counts[0]} customers without and {counts[1]} with the outcome; expected at "
                f"least {LEAST_OF_EACH} of each in both arms"
            )
    score, baseline = np.zeros(len(y)), np.zeros(len(y))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        for_treated, for_others = (_learner(x[rows], y[rows], seed) for rows in _by_arm(train, treated))
        baseline[test] = for_others.predict_proba(x[test])[:, 1]
        score[test] = for_treated.predict_proba(x[test])[:, 1] - baseline[test]
    push = treated - treated.mean()
    centred = score - score.mean()
    design = np.column_stack([push, push * centred, np.ones(len(y)), baseline, centred])
    fit = least_squares(design, y)
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(fit.coefficients[:2], fit.covariance[:2, :2], size=4_000)
    variations = np.maximum(draws[:, 1], 0.0) * score.std() / draws[:, 0]
    value = max(float(fit.coefficients[1]), 0.0) * float(score.std()) / float(fit.coefficients[0])
    low, high = np.quantile(variations, [0.025, 0.975])
    lowest = score <= np.quantile(score, 0.2)
    fifth = least_squares(design[lowest][:, [0, 2, 3]], y[lowest]).interval(0)
    return Heterogeneity(float(fit.coefficients[0]), (value, float(low), float(high)), fifth)


def _by_arm(rows: Ints, treated: Floats) -> tuple[Ints, Ints]:
    return rows[treated[rows] == 1.0], rows[treated[rows] == 0.0]


def _learner(x: Floats, y: Floats, seed: int) -> HistGradientBoostingClassifier:
    """Shallow, slow and heavily smoothed, for outcomes are rare."""
    model = HistGradientBoostingClassifier(
        max_iter=60, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=200, early_stopping=False, random_state=seed
    )
    return model.fit(x, y)
