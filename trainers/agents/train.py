"""`train ppo`: customers as the models see them, a trained policy, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from churnsaver.checkpoints import Checkpoint, Gate, Manifest
from churnsaver.domain.observation import CustomerFeatures
from churnsaver.domain.world import World
from churnsaver.models.trees import ACCEPTANCE, RISK, AcceptanceModel, RiskModel
from trainers.agents.baselines import Bundle, bundle_baselines
from trainers.agents.export import served_policy, write_policy
from trainers.agents.ppo_policy import Iteration, PpoSettings, Preset, train_ppo
from trainers.data import Dataset
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population, with_channels

COST_TOLERANCE = 1.25

CARD = """# Contact policy

Decides whether, when and with what offer to contact a customer: one categorical over the joint actions that
the hard rules allow. Trained by PPO with one Lagrange multiplier for each soft constraint, in the simulator of
`trainers/env`, on customers of `{source}` ({customers:,} of them) as the risk and acceptance models see them.

What it is worth is measured in that simulator too (`churn-saver eval policy`): no public data set combines
randomised retention offers, repeated contact and churn. Treat its offers and timing as a hypothesis until an
experiment with a holdout has run.

| at the end of training, per customer and month | measured | limit | multiplier ($) |
| --- | --- | --- | --- |
{constraints}

Net value against contacting nobody: ${value:.2f} a customer, in the last training campaign.
"""


def score_population(
    dataset: Dataset, world: World, params: DynamicsParams, risk: Checkpoint, accept: Checkpoint, seed: int
) -> tuple[Population, dict[str, str]]:
    """The dataset's customers as the models see them, and the versions of these models by kind.

    Raises:
        CheckpointError: a checkpoint was made for another schema or world.
    """
    risk_model = RiskModel.from_checkpoint(risk)
    acceptance_model = AcceptanceModel.from_checkpoint(accept, world)
    rows = dataset.rows()
    risks = risk_model.risk(rows)
    monthly_usd = np.array([dataset.schema.monthly_usd(row) for row in rows])
    tenure_months = np.array([dataset.schema.tenure_months(row) for row in rows])
    acceptance = acceptance_model.acceptance(risks, monthly_usd, tenure_months)
    features = CustomerFeatures(risks, monthly_usd, tenure_months, acceptance)
    versions = {RISK: risk.version, ACCEPTANCE: accept.version}
    return with_channels(world, params, features, seed), versions


def train_policy(
    population: Population,
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    settings: PpoSettings,
    preset: Preset,
    out: Path,
    *,
    seed: int,
    source: str,
    parents: dict[str, str],
    on_iteration: Callable[[Iteration], None] = lambda _: None,
    bundle: Bundle = bundle_baselines,
) -> Manifest:
    """Trains on `population` and writes the checkpoint to `out`.

    Args:
        bundle: fits the baselines that the checkpoint takes along; it takes longer than a small training.
    """
    trained = train_ppo(world, params, limits, population, settings, preset, seed, on_iteration)
    last = trained.history[-1]
    constraints = "\n".join(
        f"| {name} | {value:.4f} | {getattr(limits, name):.4f} | {trained.multipliers[name]:.2f} |"
        for name, value in last.costs_per_month.items()
    )
    card = CARD.format(source=source, customers=len(population), constraints=constraints, value=last.reward_usd)
    metrics = {"train_value_usd": last.reward_usd}
    metrics |= {f"train_{name}_per_month": value for name, value in last.costs_per_month.items()}
    gate = policy_gate(last, limits)
    served = served_policy(world, trained, limits)
    baselines = bundle(served, world, params, limits, population, seed)
    return write_policy(
        out, world, trained, limits, baselines, seed=seed, metrics=metrics, parents=parents, card=card, gate=gate
    )


def policy_gate(last: Iteration, limits: SoftLimits) -> Gate:
    """A policy may serve that earns more than contacting nobody, without straying far over a soft limit.

    The last campaign of training is noisy, so a cost may be a quarter over its limit here; `eval policy --gate`
    holds the mean of many campaigns to the limit itself.
    """
    within = (
        (
            value <= COST_TOLERANCE * getattr(limits, name),
            f"{name} is {value:.4f} a customer-month, over {COST_TOLERANCE:g} × its limit {getattr(limits, name):.4f}",
        )
        for name, value in last.costs_per_month.items()
    )
    earns = (last.reward_usd > 0.0, f"it earns {last.reward_usd:.2f} USD a customer, contacting nobody earns 0")
    return Gate.of(earns, *within)
