"""A small world of made-up customers for tests of the environment, the learner and the policy."""

from __future__ import annotations

from churnsaver.domain.world import World
from churnsaver.settings import load_section, load_world
from trainers.agents.ppo_policy import TrainedPolicy, train_ppo
from trainers.agents.settings import PpoSettings, Preset
from trainers.env.dynamics import Campaign
from trainers.env.params import DynamicsParams, load_dynamics, load_soft_limits
from trainers.env.population import Population, synthetic_population
from trainers.env.simulate import campaign_budget_cents

TINY = Preset(customers=64, iterations=3)


def settings() -> tuple[World, DynamicsParams]:
    return load_world(), load_dynamics()


def short_settings() -> tuple[World, DynamicsParams]:
    """Campaigns of a week, for tests that need a whole training but not what it learns."""
    world, params = settings()
    return world.model_copy(update={"episode_days": 7}), params


def population(n: int, seed: int = 42) -> Population:
    return synthetic_population(*settings(), n, seed)


def campaign(n: int, seed: int = 42, budget_cents: int | None = None) -> Campaign:
    world, params = settings()
    budget = campaign_budget_cents(world, n) if budget_cents is None else budget_cents
    return Campaign(world, params, population(n), budget, seed)


def tiny_policy(seed: int = 42, preset: Preset = TINY) -> TrainedPolicy:
    world, params = settings()
    section = load_section("ppo", PpoSettings).model_copy(update={"validation_customers": 256})
    return train_ppo(world, params, load_soft_limits(), population(500), section, preset, seed)
