"""How unequal the environment's customers are, in the same measure as data: deviation over mean of an effect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from churnsaver.domain.world import World
from trainers.env.params import DynamicsParams, with_value
from trainers.env.population import Population
from trainers.env.response import (
    acceptance_log_odds,
    expected_acceptance,
    generosity_months,
    segment_acceptance_shifts,
    segment_probabilities,
    sigmoid,
)

SPREAD = "acceptance_spread"
PERSUADABLES = "segments.persuadable.membership.intercept"
SPREADS = (0.0, 5.0)
INTERCEPTS = (-8.0, -3.0)  # from an eighth to nine tenths of the customers
BISECTIONS = 24


def acceptance_variation(world: World, params: DynamicsParams, population: Population) -> float:
    """Of rested customers' acceptance of the first offer, as far as what is seen of them says."""
    seen = population.features
    acceptance = expected_acceptance(world, params, seen.risk, seen.monthly_usd, seen.tenure_months)[:, 0]
    return float(acceptance.std() / acceptance.mean())


def effect_variation(world: World, params: DynamicsParams, population: Population) -> float:
    """Of the share of the hazard that offering the third offer takes away, seen and unseen (the segments')."""
    seen = population.features
    shares = segment_probabilities(params, seen.risk, seen.monthly_usd, seen.tenure_months)  # (n, segments)
    generosity = generosity_months(world, seen.monthly_usd)[:, [2]]
    acceptance = sigmoid(acceptance_log_odds(params, generosity, segment_acceptance_shifts(params)))
    effect = acceptance * np.array([segment.hazard_cut_fraction for segment in params.segments.ordered])
    mean = (shares * effect).sum(axis=1).mean()
    return float(np.sqrt((shares * effect**2).sum(axis=1).mean() - mean**2) / mean)


def solve_spread(world: World, params: DynamicsParams, population: Population, variation: float) -> float:
    """The `acceptance_spread` with this variation of acceptance."""
    return _bisect(
        lambda value: acceptance_variation(world, with_value(params, SPREAD, value), population) - variation, SPREADS
    )


def solve_persuadables(world: World, params: DynamicsParams, population: Population, variation: float) -> float:
    """The intercept of the persuadables' membership with this variation of effects: the rarer, the more unequal."""
    return _bisect(
        lambda value: variation - effect_variation(world, with_value(params, PERSUADABLES, value), population),
        INTERCEPTS,
    )


def _bisect(rising: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """Where `rising` crosses 0, or the nearer bound."""
    low, high = bounds
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if rising(middle) > 0.0 else (middle, high)
    return 0.5 * (low + high)
