"""The baselines of a policy checkpoint: one JSON file, validated and tried before anything is served from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Frozen, World
from churnsaver.errors import CheckpointError
from churnsaver.models.baselines.propensity import PropensityPolicy, PropensitySpec
from churnsaver.models.baselines.thompson import ThompsonPolicy, ThompsonSpec
from churnsaver.models.baselines.uplift_trees import UpliftTreesPolicy, UpliftTreesSpec

BASELINES = "baselines.json"
GOLDEN_TOLERANCE = 1e-6
BaselinePolicy = PropensityPolicy | UpliftTreesPolicy | ThompsonPolicy


class GoldenBaselines(Frozen):
    """Observations and masks with what each baseline answered to them in training, all (cases, …)."""

    observation: Annotated[tuple[tuple[float, ...], ...], Field(min_length=1)]
    allowed: tuple[tuple[bool, ...], ...]
    probabilities: dict[str, tuple[tuple[float, ...], ...]]


class BaselineSpecs(Frozen):
    """`baselines.json`."""

    propensity: PropensitySpec
    uplift_trees: UpliftTreesSpec
    thompson_sampling: ThompsonSpec
    golden: GoldenBaselines

    def policies(self, world: World) -> dict[str, BaselinePolicy]:
        """The policies by name; ValueError where one was made for another world."""
        said, pacing = self.propensity, self.propensity.pacing
        return {
            "propensity": PropensityPolicy(
                world, said.threshold, said.offer, pacing.rest_hours, pacing.send_hour, pacing.within_hours
            ),
            "uplift_trees": UpliftTreesPolicy(world, self.uplift_trees),
            "thompson_sampling": ThompsonPolicy(world, self.thompson_sampling),
        }


def write_baselines(
    policies: Mapping[str, BaselinePolicy], observation: NDArray[np.float32], allowed: NDArray[np.bool_]
) -> bytes:
    """`baselines.json` of these policies, with their answers to `observation` and `allowed` as golden cases."""
    golden = {
        "observation": observation.tolist(),
        "allowed": allowed.tolist(),
        "probabilities": {name: each.probabilities(observation, allowed).tolist() for name, each in policies.items()},
    }
    specs = {name: each.spec.model_dump(mode="json") for name, each in policies.items()}
    return json.dumps({**specs, "golden": golden}).encode()


def load_baselines(checkpoint: Checkpoint, world: World) -> dict[str, BaselinePolicy]:
    """The baselines of a policy checkpoint by name, after their golden cases; none where it holds none.

    Raises:
        CheckpointError: the file is no specification of baselines, was made for another world, or a golden case
            comes out otherwise.
    """
    if BASELINES not in checkpoint.contents:
        return {}
    where = checkpoint.path / BASELINES
    try:
        specs = BaselineSpecs.model_validate(checkpoint.read_json(BASELINES))
        policies = specs.policies(world)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise CheckpointError(f"{where}: {place}: {first['msg']}; train the policy again") from None
    except ValueError as error:
        raise CheckpointError(
            f"{where}: was made for another world than configs/env.yaml has ({error}); train the policy again"
        ) from None
    _check_golden(specs.golden, policies, world, str(where))
    return policies


def _check_golden(golden: GoldenBaselines, policies: Mapping[str, BaselinePolicy], world: World, where: str) -> None:
    """CheckpointError where a policy answers a golden case otherwise than training did."""
    cases, n_actions = len(golden.observation), len(ActionSpace(world))
    try:
        observation = np.array(golden.observation, dtype=np.float32).reshape(cases, len(observation_names(world)))
        allowed = np.array(golden.allowed).reshape(cases, n_actions)
        expected = {name: np.array(golden.probabilities[name]).reshape(cases, n_actions) for name in policies}
    except (ValueError, KeyError):
        raise CheckpointError(
            f"{where}: golden: expected {cases} cases of {n_actions} actions for each baseline; train the policy again"
        ) from None
    for name, policy in policies.items():
        distance = np.abs(policy.probabilities(observation, allowed) - expected[name]).max(axis=1)
        if (wrong := np.flatnonzero(~(distance <= GOLDEN_TOLERANCE))).size:
            raise CheckpointError(
                f"{where}: golden case {wrong[0]} of {name} differs by {distance[wrong[0]]:.2g} from what training "
                "computed; restore the checkpoint or train it again"
            )
