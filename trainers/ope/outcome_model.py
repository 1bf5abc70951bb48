"""The outcome model of DM and DR: ridge on features × action, fitted on other customers than it predicts.

Bilinear, so that all actions are predicted by matrix products: with standardised features x and a description e
of the action, q̂(x, a) = b + β·x + γ·e + xᵀΓe. Where propensities are right, DR does not depend on the model's
being right; it only gets narrower with a better one, so a model without settings is preferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from trainers.ope.estimators import Predicted
from trainers.ope.logged import Floats, Ints

FOLDS = 3
RIDGE = 3.0  # penalty, in decisions' worth of a standardised column
MAX_INTERACTIONS = 600  # above, features and actions only add


def folds_of(clusters: Ints, seed: int) -> Ints:
    """The fold of each decision, (n,); a customer's decisions share one."""
    return np.random.default_rng([seed, 3]).integers(FOLDS, size=int(clusters.max()) + 1)[clusters]


def cross_fit(
    features: NDArray[np.floating],
    actions: Ints,
    described: Floats,
    outcomes: Mapping[str, Floats],
    target: Floats,
    folds: Ints,
) -> dict[str, Predicted]:
    """Predictions of each of `outcomes` (n,), of the logged action and expected over the target's.

    Args:
        features: (n, features).
        actions: (n,) the logged ones.
        described: (actions, k) what describes each action.
        target: (n, actions) the target policy's probabilities.
        folds: (n,) from `folds_of`.
    """
    columns = np.column_stack(list(outcomes.values()))
    logged, expected = np.zeros_like(columns), np.zeros_like(columns)
    averaged = target @ described  # bilinear: the expectation over actions is the prediction at their mean
    for held, x, weights in _fitted(features, described[actions], columns, folds):
        logged[held] = _design(x, described[actions[held]]) @ weights
        expected[held] = _design(x, averaged[held]) @ weights
    return {name: Predicted(logged[:, j], expected[:, j]) for j, name in enumerate(outcomes)}


def cross_fit_actions(
    features: NDArray[np.floating], actions: Ints, described: Floats, outcome: Floats, folds: Ints
) -> Floats:
    """Predictions of `outcome` (n,) for every action, (n, actions)."""
    predicted = np.zeros((len(actions), len(described)))
    for held, x, weights in _fitted(features, described[actions], outcome[:, None], folds):
        for action, description in enumerate(described):
            predicted[held, action] = (_design(x, np.broadcast_to(description, (len(x), len(description)))) @ weights)[
                :, 0
            ]
    return predicted


def _fitted(
    features: NDArray[np.floating], logged: Floats, outcomes: Floats, folds: Ints
) -> Iterator[tuple[NDArray[np.bool_], Floats, Floats]]:
    """Each fold's rows, their standardised features, and weights fitted on all other rows."""
    x = _standardised(features)
    for fold in np.unique(folds):
        held = folds == fold
        rest = ~held if not held.all() else held
        yield held, x[held], _ridge(_design(x[rest], logged[rest]), outcomes[rest])


def _standardised(features: NDArray[np.floating]) -> Floats:
    x = np.asarray(features, dtype=np.float64)
    spread = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0), dtype=np.float64)


def _design(x: Floats, e: Floats) -> Floats:
    """Columns 1, x, e and, where they are few, their products."""
    columns = [np.ones((len(x), 1)), x, e]
    if x.shape[1] * e.shape[1] <= MAX_INTERACTIONS:
        columns.append((x[:, :, None] * e[:, None, :]).reshape(len(x), -1))
    return np.hstack(columns)


def _ridge(design: Floats, outcomes: Floats) -> Floats:
    """(columns, m); the constant is not penalised."""
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 1e-9
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += penalty
    return np.asarray(np.linalg.solve(gram, design.T @ outcomes), dtype=np.float64)
