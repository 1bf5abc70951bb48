"""What a policy was judged under, so that reports can be held against each other, and where training had another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.world import World
from trainers.env.params import DynamicsParams, SoftLimits


def judged_under(
    world: World, params: DynamicsParams, limits: SoftLimits, models: Sequence[Checkpoint]
) -> dict[str, dict[str, Any]]:
    """sha256 of the parts of env.yaml as they were read, and the models that scored the customers, by kind."""
    settings: dict[str, BaseModel] = {"world": world, "dynamics": params, "constraints": limits}
    return {
        "settings_sha256": {
            name: hashlib.sha256(model.model_dump_json().encode()).hexdigest() for name, model in settings.items()
        },
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
