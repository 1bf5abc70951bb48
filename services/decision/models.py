"""The models that take part in a decision and the baselines behind them, verified before they serve (law 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.world import World
from churnsaver.models.baselines import Policy, load_baselines
from churnsaver.models.policy import POLICY_KIND, OnnxPolicy
from churnsaver.models.trees import ACCEPTANCE, RISK, AcceptanceModel, RiskModel

KINDS = (RISK, ACCEPTANCE, POLICY_KIND)


@dataclass(frozen=True, slots=True)
class Models:
    """What decides, and the checkpoints that it came from, by kind.

    Attributes:
        baselines: by name, calibrated to the policy's spend; none where its checkpoint was written without them.
    """

    risk: RiskModel
    acceptance: AcceptanceModel
    policy: OnnxPolicy
    baselines: Mapping[str, Policy]
    checkpoints: Mapping[str, Checkpoint]


def load_models(checkpoints: Mapping[str, Checkpoint], world: World) -> Models:
    """The models of a checkpoint of each of KINDS, after their golden cases.

    Raises:
        CheckpointError: one was made for another world, or answers a golden case wrongly.
    """
    policy = OnnxPolicy.from_checkpoint(checkpoints[POLICY_KIND])
    policy.require_world(world)
    policy.check_golden(checkpoints[POLICY_KIND])
    return Models(
        risk=RiskModel.from_checkpoint(checkpoints[RISK]),
        acceptance=AcceptanceModel.from_checkpoint(checkpoints[ACCEPTANCE], world),
        policy=policy,
        baselines=load_baselines(checkpoints[POLICY_KIND], world),
        checkpoints=checkpoints,
    )
