"""Choosing and fitting a calibration on margins of rows that their model has not seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from churnsaver.models.calibration import Calibration, IsotonicCalibration, NoCalibration, PlattCalibration
from trainers.eval.metrics import log_loss
from trainers.models.folds import stratified_folds

FOLDS = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Fitter = Callable[[Floats, Bools], Calibration]


def choose_calibration(margins: Floats, target: Bools, seed: int) -> tuple[Calibration, dict[str, float]]:
    """The calibration with the lowest cross-validated log-loss, fitted on all rows, and every one's loss.

    Isotonic calibration can raise log-loss where rows are few, which is why it has to win this.
    """
    fitters: dict[str, Fitter] = {"none": fit_none, "platt": fit_platt, "isotonic": fit_isotonic}
    folds = stratified_folds(target, FOLDS, [seed, 1])
    losses = {}
    for kind, fit in fitters.items():
        held_out = np.empty(len(target))
        for fold in folds:
            calibration = fit(margins[fold.fit], target[fold.fit])
            held_out[fold.held_out] = calibration.probability(margins[fold.held_out])
        losses[kind] = log_loss(target, held_out)
    best = min(losses, key=losses.__getitem__)
    return fitters[best](margins, target), losses


def fit_none(margins: Floats, target: Bools) -> NoCalibration:
    """Takes the model at its word."""
    return NoCalibration()


def fit_platt(margins: Floats, target: Bools) -> PlattCalibration:
    """Logistic regression of `target` on the margin, unpenalised."""
    model = LogisticRegression(C=np.inf).fit(margins[:, None], target)
    return PlattCalibration(slope=float(model.coef_[0, 0]), intercept=float(model.intercept_[0]))


def fit_isotonic(margins: Floats, target: Bools) -> IsotonicCalibration:
    """The best rising function of the margin, each of its steps drawn to the mean margin of its rows.

    Lines between these points keep customers apart whom a step would give the same probability; Oron and
    Flournoy (2017), "Centered isotonic regression". Never quite 0 or 1, since n rows cannot prove either.
    """
    edge = 1.0 / (len(target) + 2.0)
    fitted = IsotonicRegression(y_min=edge, y_max=1.0 - edge).fit_transform(margins, target)
    probabilities, step = np.unique(fitted, return_inverse=True)
    centres = np.bincount(step, weights=margins) / np.bincount(step)
    return IsotonicCalibration(margins=tuple(centres.tolist()), probabilities=tuple(probabilities.tolist()))
