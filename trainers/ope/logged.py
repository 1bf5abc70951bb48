"""Logged decisions with the probabilities that matter: the logging policy's and the target's of the same action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Logged propensities count as at least this much: one very unlikely action must not speak for thousands. What it
# costs is a bias towards 0 of what such actions bring, and the report says how many there were.
PROPENSITY_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class LoggedBandit:
    """n logged decisions.

    Attributes:
        rewards: (n,) what each brought.
        propensities: (n,) total probability with which the logged action was taken, in (0, 1].
        target: (n,) total probability with which the target policy takes the same action.
        costs: (n,) of each constraint, by its name.
        clusters: (n,) whose decision it is, from 0; decisions of one customer are resampled together.
    """

    rewards: Floats
    propensities: Floats
    target: Floats
    costs: Mapping[str, Floats]
    clusters: Ints

    def __post_init__(self) -> None:
        columns = {"reward": self.rewards, "propensity": self.propensities, "target": self.target, **self.costs}
        for name, values in columns.items():
            if len(values) != len(self.rewards):
                raise BadInput(f"{name}: has {len(values)} values for {len(self.rewards)} decisions; give one for each")
            if not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values)))
                raise BadInput(f"decision {row}: {name} is {values[row]}; expected a finite number")
        for name, values, least in (("propensity", self.propensities, 0.0), ("target", self.target, -1.0)):
            if (wrong := np.flatnonzero((values <= least) | (values > 1.0 + 1e-9) | (values < 0.0))).size:
                bounds = "(0, 1]" if name == "propensity" else "[0, 1]"
                raise BadInput(f"decision {wrong[0]}: {name} is {values[wrong[0]]}; expected a probability in {bounds}")

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def weights(self) -> Floats:
        """Importance weights (n,), with propensities floored at PROPENSITY_FLOOR."""
        return np.asarray(self.target / np.maximum(self.propensities, PROPENSITY_FLOOR), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a log can speak for a policy.

    Attributes:
        effective_decisions: Kish's effective sample size, (Σw)²/Σw² (Kish 1965).
        mean_weight: 1 in expectation where every action of the target could have been logged.
        mean_weight_low, mean_weight_high: its 95 % interval.
        floored: decisions whose propensity was below PROPENSITY_FLOOR.
    """

    decisions: int
    customers: int
    effective_decisions: float
    mean_weight: float
    mean_weight_low: float
    mean_weight_high: float
    max_weight: float
    largest_share: float
    floored: int

    @classmethod
    def of(cls, logged: LoggedBandit) -> Support:
        """The diagnostics of a log for its target."""
        weights, n = logged.weights, len(logged)
        total = float(weights.sum())
        customers = int(logged.clusters.max()) + 1
        per_customer = np.bincount(logged.clusters, weights=weights - weights.mean(), minlength=customers)
        error = float(np.sqrt((per_customer**2).sum())) / n
        return cls(
            decisions=n,
            customers=customers,
            effective_decisions=total**2 / float((weights**2).sum()) if total > 0 else 0.0,
            mean_weight=float(weights.mean()),
            mean_weight_low=float(weights.mean()) - 1.96 * error,
            mean_weight_high=float(weights.mean()) + 1.96 * error,
            max_weight=float(weights.max()),
            largest_share=float(weights.max()) / total if total > 0 else 1.0,
            floored=int((logged.propensities < PROPENSITY_FLOOR).sum()),
        )

    def refusals(self, min_effective: float, min_mean_weight: float) -> list[str]:
        """Why this log cannot speak for the target, one sentence each; none where it can."""
        refused = []
        if self.effective_decisions < min_effective:
            refused.append(
                f"the {self.decisions} decisions are worth {self.effective_decisions:.0f} of the target's, fewer than "
                f"the {min_effective:g} asked; log more, or evaluate a policy that is closer to the one that logged"
            )
        if self.mean_weight_high < min_mean_weight:
            refused.append(
                f"the weights average {self.mean_weight:.2f} where 1 is expected: the target takes actions that the "
                "log never took, of which nothing can be said; log with a policy that explores them"
            )
        if self.mean_weight_low > 2.0 - min_mean_weight:
            refused.append(
                f"the weights average {self.mean_weight:.2f} where 1 is expected: the logged propensities are too "
                "small; log the probability with which the action was really drawn"
            )
        return refused
