"""`train ppo`: customers as the models see them, a trained policy, and its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from churnsaver.checkpoints import Checkpoint, Gate, Manifest
from churnsaver.checkpoints.checkpoint import MODEL_CARD
from churnsaver.domain.observation import CustomerFeatures
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.models.baselines import BASELINES
from churnsaver.models.trees import ACCEPTANCE, RISK, AcceptanceModel, RiskModel
from trainers.agents.baselines import bundle_baselines, equal_spend_baselines
from trainers.agents.export import served_policy, write_policy
from trainers.agents.feasibility import IDLE_SHARE, alarm, given_up
from trainers.agents.ppo_policy import Iteration, Learner, TrainedPolicy, new_learner, train_ppo
from trainers.agents.resume import STATE, fingerprints, restore_learner, save_learner
from trainers.agents.settings import PpoSettings, Preset
from trainers.agents.training_log import TensorBoardLog, write_training_report
from trainers.data import Dataset
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population, with_channels
from trainers.eval.judged_under import TRAINED_UNDER, trained_under
from trainers.eval.policy import quick_gate
from trainers.models.seen import TRAINED_ON

CARD = """# Contact policy

Decides whether, when and with what offer to contact a customer: one categorical over the joint actions that
the hard rules allow. Trained by PPO with one Lagrange multiplier for each soft constraint, in the simulator of
`trainers/env`, on customers of `{source}` ({customers:,} of them) as the risk and acceptance models see them.

What it is worth is measured in that simulator too (`churn-saver eval policy`): no public data set combines
randomised retention offers, repeated contact and churn. Treat its offers and timing as a hypothesis until an
experiment with a holdout has run.

| in a new campaign with training customers, per customer and month | measured | limit | multiplier ($) |
| --- | --- | --- | --- |
{constraints}

Net value against contacting nobody: ${value:.2f} a customer of that campaign.

Constraints at the end of training: {alarms}
"""


def score_population(
    dataset: Dataset, world: World, params: DynamicsParams, risk: Checkpoint, accept: Checkpoint, seed: int
) -> tuple[Population, dict[str, str]]:
    """The dataset's customers as the models see them, and the versions of these models by kind.

    Raises:
        CheckpointError: a checkpoint was made for another world.
        BadInput: a customer is none of those that the risk model knows: the field is named.
    """
    risk_model = RiskModel.from_checkpoint(risk)
    acceptance_model = AcceptanceModel.from_checkpoint(accept, world)
    rows = dataset.rows()
    for number, row in enumerate(rows, start=1):
        if errors := risk_model.schema.check_row(row):
            raise BadInput(
                f"{dataset.source}: customer {number} of those read: {errors[0].field} {errors[0].message}; the risk "
                f"model {risk.version} knows no such customers; name the one of these customers' schema with --risk"
            )
    risks = risk_model.risk(rows)
    monthly_usd = np.array([dataset.schema.monthly_usd(row) for row in rows])
    tenure_months = np.array([dataset.schema.tenure_months(row) for row in rows])
    acceptance = acceptance_model.acceptance(risks, monthly_usd, tenure_months)
    features = CustomerFeatures(risks, monthly_usd, tenure_months, acceptance)
    versions = {RISK: risk.version, ACCEPTANCE: accept.version}
    return with_channels(world, params, features, seed), versions


@dataclass(frozen=True, slots=True)
class Provenance:
    """Whom a policy was trained on, as its checkpoint says it.

    Attributes:
        source: the data's name, for the card.
        data_sha256: of that data.
        trained_on: fingerprints of the customers, as `trainers.models.seen.trained_on` makes them.
        parents: versions of the models that scored the customers, by kind.
    """

    source: str
    data_sha256: str
    trained_on: bytes
    parents: dict[str, str]


def training_folder(out: Path) -> Path:
    """Where a training of the checkpoint `out` keeps its state, curves and TensorBoard events: beside it."""
    whole = out.resolve()
    return whole.with_name(f"{whole.name}-training")


def train_policy(
    population: Population,
    held_out: Population,
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    settings: PpoSettings,
    preset: Preset,
    out: Path,
    *,
    seed: int,
    provenance: Provenance,
    resume: bool = False,
    on_iteration: Callable[[Iteration], None] = lambda _: None,
) -> Manifest:
    """Trains on `population`, or goes on with a training that was cut off, and writes the checkpoint to `out`.

    Args:
        held_out: customers that nothing is learned from; whether the policy may serve is judged on them.
    """
    training = training_folder(out)
    learner = new_learner(world, params, limits, population, settings, preset, seed)
    follows_from = fingerprints(world, params, limits, population, settings, preset, seed)
    if resume:
        restore_learner(training / STATE, learner, follows_from)
    board = TensorBoardLog(training, len(learner.history))

    def keep(learner: Learner) -> None:
        board.write(learner.history[-1])
        if len(learner.history) % settings.save_every == 0:
            save_learner(training / STATE, learner, follows_from)
        on_iteration(learner.history[-1])

    trained = train_ppo(world, params, limits, population, settings, preset, seed, keep, learner)
    board.close()
    alarms = raised_alarms(trained, limits, settings)
    served = served_policy(world, trained, limits)
    baselines = equal_spend_baselines(served, world, params, limits, population, seed)
    gate = policy_gate(quick_gate(world, params, limits, held_out, served, baselines, seed=seed), alarms)
    write_training_report(training, trained.history, limits, {"missed": gate.missed})
    return write_policy(
        out,
        world,
        trained,
        limits,
        {
            BASELINES: bundle_baselines(baselines, world, params, population, seed),
            TRAINED_ON: provenance.trained_on,
            TRAINED_UNDER: trained_under(params),
            MODEL_CARD: policy_card(trained, limits, alarms, provenance.source, len(population)).encode(),
        },
        seed=seed,
        metrics=policy_metrics(trained),
        parents=provenance.parents,
        data_sha256=provenance.data_sha256,
        gate=gate,
    )


def raised_alarms(trained: TrainedPolicy, limits: SoftLimits, settings: PpoSettings) -> list[str]:
    """A sentence for each constraint that training did not meet, or for prices that left nothing of the policy."""
    last, game = trained.history[-1], settings.lagrangian
    recent = trained.history[-game.alarm_iterations :]
    if trained.validation.costs_per_month["contact"] < IDLE_SHARE * limits.contact:
        return [given_up(settings.initial_contact_rate)]
    return [
        alarm(
            name,
            float(np.mean([iteration.costs_per_month[name] for iteration in recent])),
            getattr(limits, name),
            last.multipliers[name],
            game.multiplier_max,
        )
        for name in last.unmet
    ]


def policy_gate(judged: Gate, alarms: Sequence[str]) -> Gate:
    """A policy may serve that held-out campaigns speak for, and no alarm against."""
    return Gate.of(*((False, sentence) for sentence in (*judged.missed, *alarms)))


def policy_metrics(trained: TrainedPolicy) -> dict[str, float]:
    """What the manifest says: figures of a campaign that the policy did not learn from, and unmet constraints."""
    validation = trained.validation
    return {
        "train_value_usd": validation.reward_usd,
        **{f"train_{name}_per_month": value for name, value in validation.costs_per_month.items()},
        **{f"unmet_{name}": 1.0 for name in trained.history[-1].unmet},
    }


def policy_card(trained: TrainedPolicy, limits: SoftLimits, alarms: Sequence[str], source: str, customers: int) -> str:
    """The model card, in Markdown."""
    validation = trained.validation
    constraints = "\n".join(
        f"| {name} | {value:.4f} | {getattr(limits, name):.4f} | {trained.multipliers[name]:.2f} |"
        for name, value in validation.costs_per_month.items()
    )
    return CARD.format(
        source=source,
        customers=customers,
        constraints=constraints,
        value=validation.reward_usd,
        alarms="; ".join(alarms) or "met.",
    )
