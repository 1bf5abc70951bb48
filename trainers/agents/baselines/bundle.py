"""The baselines that a policy checkpoint takes along, so that they can serve in the policy's place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from churnsaver.domain.world import World
from churnsaver.models.baselines import Policy, write_baselines
from trainers.agents.baselines.calibration import CUSTOMERS, Calibration, calibrate
from trainers.agents.baselines.families import fit_baselines
from trainers.env.dynamics import Campaign
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population
from trainers.env.simulate import campaign_budget_cents

# Away from the seeds that judge: `eval policy` counts up from its own.
SEED_OFFSET = 20_000
GOLDEN_CUSTOMERS = 32
Bundle = Callable[[Policy, World, DynamicsParams, SoftLimits, Population, int], bytes]


def bundle_baselines(
    policy: Policy, world: World, params: DynamicsParams, limits: SoftLimits, population: Population, seed: int
) -> bytes:
    """`baselines.json`: fitted on `population` and calibrated to what `policy` spends on it, with golden cases.

    Raises:
        BadInput: nobody in `population` can be reached.
    """
    families = fit_baselines(world, params, population, seed + SEED_OFFSET)
    calibration = Calibration(world, params, population, seed + SEED_OFFSET).of_size(CUSTOMERS)
    spend_usd = calibration.play(policy).spend_usd
    policies = {
        name: calibrate(family, world, params, limits, population, spend_usd, calibration.seed)
        for name, family in families.items()
    }
    some = population.take(np.flatnonzero(population.consent)[:GOLDEN_CUSTOMERS])
    seen = Campaign(world, params, some, campaign_budget_cents(world, len(some)), seed).situation
    return write_baselines(policies, seen.observation, seen.allowed)
