"""The baselines that a policy checkpoint takes along, so that they can serve in the policy's place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from churnsaver.domain.world import World
from churnsaver.models.baselines import BaselinePolicy, Policy, write_baselines
from trainers.agents.baselines.calibrate import CUSTOMERS, Calibration, calibrate
from trainers.agents.baselines.families import fit_baselines
from trainers.env.dynamics import Campaign
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_budget_cents

# Away from the seeds that judge, which are those of `eval policy` and count up from the seed.
SEED_OFFSET = 40_000
GOLDEN_CUSTOMERS = 32


def equal_spend_baselines(
    policy: Policy, world: World, params: DynamicsParams, limits: SoftLimits, population: Population, seed: int
) -> dict[str, BaselinePolicy]:
    """The three baselines by name, fitted on `population` and calibrated to what `policy` spends on it.

    Raises:
        BadInput: nobody in `population` can be reached.
    """
    families = fit_baselines(world, params, population, seed + SEED_OFFSET)
    calibration = Calibration(world, params, population, seed + SEED_OFFSET).first(CUSTOMERS)
    spend_usd = calibration.play(policy).spend_usd
    return {name: calibrate(family, calibration, limits, spend_usd).policy for name, family in families.items()}


def bundle_baselines(
    baselines: Mapping[str, BaselinePolicy], world: World, params: DynamicsParams, population: Population, seed: int
) -> bytes:
    """`baselines.json`, with golden cases of a few customers of `population`."""
    some = population.take(np.flatnonzero(population.consent)[:GOLDEN_CUSTOMERS])
    seen = Campaign(world, params, some, campaign_budget_cents(world, len(some)), seed).situation
    return write_baselines(baselines, seen.observation, seen.allowed)
