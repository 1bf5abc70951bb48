"""Calibrations: from a model's margin (log-odds) to a probability that means what it says."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, model_validator

from churnsaver.domain.world import Frozen


class NoCalibration(Frozen):
    """The model's own probability: the logistic function of its margin."""

    kind: Literal["none"] = "none"

    def probability(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(margin)


class PlattCalibration(Frozen):
    """sigmoid(slope × margin + intercept); Platt (1999), "Probabilistic outputs for support vector machines"."""

    kind: Literal["platt"] = "platt"
    slope: float
    intercept: float

    def probability(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(self.slope * margin + self.intercept)


class IsotonicCalibration(Frozen):
    """Piecewise linear through rising points; outside them, the nearest point's probability."""

    kind: Literal["isotonic"] = "isotonic"
    margins: Annotated[tuple[float, ...], Field(min_length=1)]
    probabilities: tuple[Annotated[float, Field(ge=0, le=1)], ...]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.margins) != len(self.probabilities):
            raise ValueError("margins and probabilities must be equally many")
        if np.any(np.diff(self.margins) <= 0) or np.any(np.diff(self.probabilities) < 0):
            raise ValueError("margins and probabilities must rise")
        return self

    def probability(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(margin, self.margins, self.probabilities)


Calibration = NoCalibration | PlattCalibration | IsotonicCalibration
CALIBRATION: TypeAdapter[Calibration] = TypeAdapter(Annotated[Calibration, Field(discriminator="kind")])


def sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function, without overflow. Shape of `log_odds`."""
    # tanh saturates quietly where exp would overflow: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(log_odds, dtype=np.float64)))
