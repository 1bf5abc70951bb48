"""Thompson sampling: make the offer that is best in one draw from what is believed of the offers' values.

Each offer's net value against doing nothing is a Bayesian linear regression on the customer's features, fitted in
`trainers.agents.baselines`; the posterior is served as it was fitted and learns nothing while it serves. The
probability of an action has no closed form, so it is counted over a fixed number of seeded draws (Monte Carlo), and
the action is drawn from these very probabilities: what is logged is the propensity, not an estimate of it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Frozen, World
from churnsaver.models.baselines.pacing import Pacing, Schedule
from churnsaver.models.baselines.spend import ExpectedSpend, Worth

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
CHUNK = 512  # customers whose draws are held in memory at once


class Scaling(Frozen):
    """A column of the observation and how it is standardised: (value - mean) / std."""

    name: str
    mean: Finite
    std: Positive


class Posterior(Frozen):
    """Gaussian belief about one offer's coefficients.

    Attributes:
        mean: (d,) in dollars.
        cholesky: (d, d) lower triangle L of the covariance L Lᵀ, row by row.
    """

    mean: Annotated[tuple[Finite, ...], Field(min_length=1)]
    cholesky: tuple[tuple[Finite, ...], ...]

    @model_validator(mode="after")
    def _is_lower_triangle(self) -> Self:
        d = len(self.mean)
        if [len(row) for row in self.cholesky] != [d] * d:
            raise ValueError(f"cholesky must have {d} rows of {d} numbers")
        lower = np.array(self.cholesky)
        if np.triu(lower, 1).any() or (np.diag(lower) <= 0).any():
            raise ValueError("cholesky must be a lower triangle with a positive diagonal")
        return self


class ThompsonSpec(Frozen):
    """Everything that the policy is.

    Attributes:
        features: the customer's; the regression reads `quadratic` of them.
        posteriors: one an offer, in the world's order.
        draws, seed: of the Monte Carlo; the draws are the same for every customer and request.
        epsilon: the least probability of every allowed action, so that a log can be re-weighted.
    """

    kind: Literal["thompson_sampling"] = "thompson_sampling"
    features: Annotated[tuple[Scaling, ...], Field(min_length=1)]
    posteriors: Annotated[tuple[Posterior, ...], Field(min_length=1)]
    draws: Annotated[int, Field(ge=1, le=4096)]
    seed: Annotated[int, Field(ge=0)]
    epsilon: Annotated[float, Field(gt=0, lt=1)]
    worth: Worth
    pacing: Pacing

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        d = quadratic(np.zeros((1, len(self.features)))).shape[1]
        if any(len(posterior.mean) != d for posterior in self.posteriors):
            raise ValueError(f"every posterior must be about the {d} terms of {len(self.features)} features")
        return self


def quadratic(standardised: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, each feature, and each product of two: (n, k) to (n, 1 + k + k(k + 1)/2)."""
    first, second = np.triu_indices(standardised.shape[1])
    products = standardised[:, first] * standardised[:, second]
    return np.column_stack([np.ones(len(standardised)), standardised, products])


class ThompsonPolicy:
    """Draws an offer in proportion to how often it is believed to be the best; deterministic given its seed."""

    def __init__(self, world: World, spec: ThompsonSpec) -> None:
        names = observation_names(world)
        if len(spec.posteriors) != len(world.offers):
            raise ValueError(f"there are {len(spec.posteriors)} posteriors for the {len(world.offers)} offers")
        if spec.epsilon * len(ActionSpace(world)) >= 1.0:
            raise ValueError(f"epsilon {spec.epsilon:g} is too much for {len(ActionSpace(world))} actions")
        self.spec = spec
        self._columns = [names.index(feature.name) for feature in spec.features]
        self._mean = np.array([feature.mean for feature in spec.features])
        self._std = np.array([feature.std for feature in spec.features])
        self._spend = ExpectedSpend(world)
        self._schedule = Schedule(world, spec.pacing)
        means = np.array([posterior.mean for posterior in spec.posteriors])  # (offers, d)
        lower = np.array([posterior.cholesky for posterior in spec.posteriors])  # (offers, d, d)
        normals = np.random.Generator(np.random.PCG64(spec.seed)).standard_normal((spec.draws, *means.shape))
        coefficients = means + np.einsum("oij,moj->moi", lower, normals)
        self._coefficients = coefficients.transpose(1, 2, 0)  # (offers, d, draws)

    def sampled_values_usd(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """Net value of each offer against doing nothing in each draw of the posterior, (offers, n, draws)."""
        standardised = (observation[:, self._columns].astype(np.float64) - self._mean) / self._std
        return np.asarray(quadratic(standardised) @ self._coefficients, dtype=np.float64)

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How often each action is the best of a draw, at least ε where `allowed`, (n, actions)."""
        actions = self._schedule.actions(observation, allowed)  # (n, offers)
        shares = self._shares(observation, actions != NO_CONTACT)  # (n, offers)
        probabilities = np.zeros(allowed.shape)
        np.put_along_axis(probabilities, actions, shares, axis=1)
        floor = self.spec.epsilon * allowed
        probabilities = floor + (1.0 - floor.sum(axis=1, keepdims=True)) * probabilities
        # What is left of 1, so that it is exactly 1 where nothing else is allowed.
        probabilities[:, NO_CONTACT] = 1.0 - probabilities[:, NO_CONTACT + 1 :].sum(axis=1)
        return np.asarray(probabilities, dtype=np.float64)

    def _shares(self, observation: NDArray[np.float32], possible: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Share of the draws in which each offer is the best possible one and worth it, (n, offers)."""
        shares = np.zeros(possible.shape)
        some = np.flatnonzero(possible.any(axis=1))  # most customers rest or sleep, which costs no draw
        for first in range(0, len(some), CHUNK):
            rows = some[first : first + CHUNK]
            price = self.spec.worth.spend_price * self._spend.usd(observation[rows])
            price = np.where(possible[rows], price, np.inf).T[:, :, None]  # (offers, k, 1)
            priced = self.sampled_values_usd(observation[rows]) - price
            best, worth = priced.argmax(axis=0), priced.max(axis=0) > self.spec.worth.hurdle_usd  # (k, draws)
            for offer in range(possible.shape[1]):
                shares[rows, offer] = ((best == offer) & worth).mean(axis=1)
        return shares
