"""What a policy was judged under, so that reports can be held against each other, and where training had another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.world import World
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.models.seen import TRAINED_ON

TRAINED_UNDER = "trained_under.json"


def trained_under(params: DynamicsParams) -> bytes:
    """The file TRAINED_UNDER of a policy's checkpoint: the hash of the dynamics that it was trained in."""
    return json.dumps({"dynamics": _sha256(params)}).encode()


def _sha256(model: BaseModel) -> str:
    return hashlib.sha256(model.model_dump_json().encode()).hexdigest()


def judged_under(
    world: World, params: DynamicsParams, limits: SoftLimits, models: Sequence[Checkpoint]
) -> dict[str, dict[str, Any]]:
    """sha256 of the parts of env.yaml as they were read, and the models that scored the customers, by kind."""
    settings: dict[str, BaseModel] = {"world": world, "dynamics": params, "constraints": limits}
    return {
        "settings_sha256": {name: _sha256(model) for name, model in settings.items()},
        "models": {model.manifest.kind: {"version": model.version, "sha256": model.sha256} for model in models},
    }


def other_models(policy: Checkpoint, models: Sequence[Checkpoint]) -> list[str]:
    """A sentence for each model that is not the one whose scores the policy learned from."""
    parents = {model.manifest.kind: policy.manifest.parents.get(model.manifest.kind, "none") for model in models}
    return [
        f"customers are scored by {model.version}, {policy.version} was trained on scores of "
        f"{parents[model.manifest.kind]}; name that one with --risk or --accept, or train the policy again"
        for model in models
        if model.version != parents[model.manifest.kind]
    ]


def other_limits(trained_for: Mapping[str, float], limits: SoftLimits) -> list[str]:
    """A sentence for each soft limit that is not the one the policy was trained for."""
    return [
        f"the limit of {name} in env.yaml is {limit:g}, the policy was trained for {trained_for.get(name, 'none')}; "
        "train it again, or restore the limit"
        for name, limit in limits.model_dump().items()
        if trained_for.get(name) != limit
    ]


def other_dynamics(policy: Checkpoint, params: DynamicsParams) -> list[str]:
    """A sentence where customers respond otherwise than where the policy was trained; beside the stress tests."""
    if TRAINED_UNDER not in policy.contents or policy.read_json(TRAINED_UNDER).get("dynamics") == _sha256(params):
        return []
    return ["the dynamics in env.yaml are not those that the policy was trained in; train it again, or restore them"]


def unchecked(policy: Checkpoint) -> list[str]:
    """A sentence where the checkpoint does not say what it was trained on or in."""
    lacking = [name for name in (TRAINED_ON, TRAINED_UNDER) if name not in policy.contents]
    if not lacking:
        return []
    return [f"the policy's checkpoint has no {' and no '.join(lacking)}, so whether it is judged fairly is not checked"]
