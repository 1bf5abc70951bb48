"""The decision policy as ONNX: observation and mask in, one probability for each joint action out."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
from pydantic import Field, ValidationError

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Frozen, World
from churnsaver.errors import CheckpointError

POLICY_KIND = "policy"
POLICY_ONNX = "policy.onnx"
POLICY_SPEC = "spec.json"
# Kernels differ in the last bits between processors; a wrong model differs in the first.
GOLDEN_TOLERANCE = 1e-4
UNREADABLE_ONNX = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf)


class PolicySpec(Frozen):
    """What a policy's numbers mean.

    Attributes:
        action_labels: the joint actions, in the order of the logits.
        observation_names: the inputs, in order.
        multipliers: each soft constraint's multiplier at the end of training.
        limits: each soft constraint's limit, per customer-month, that it was trained for.
    """

    action_labels: tuple[str, ...]
    observation_names: tuple[str, ...]
    multipliers: dict[str, float]
    limits: dict[str, float]


class GoldenCase(Frozen):
    """One observation and mask with the probabilities that training computed for them."""

    observation: tuple[float, ...]
    allowed: tuple[bool, ...]
    probabilities: tuple[float, ...]


class GoldenCases(Frozen):
    cases: Annotated[tuple[GoldenCase, ...], Field(min_length=1)]


def masked_softmax(logits: NDArray[np.floating], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Softmax over the allowed actions of each row, zero elsewhere, in float64. Every row needs one allowed."""
    masked = np.where(allowed, logits.astype(np.float64), -np.inf)
    odds = np.exp(masked - masked.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


class OnnxPolicy:
    """A policy that runs on one thread of onnxruntime. Thread-safe."""

    def __init__(self, onnx: bytes, spec: PolicySpec) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._spec = spec

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> OnnxPolicy:
        """The policy of a verified checkpoint; CheckpointError where it cannot be read as one."""
        try:
            spec = PolicySpec.model_validate(checkpoint.read_json(POLICY_SPEC))
            policy = cls(checkpoint.read(POLICY_ONNX), spec)
        except ValidationError:
            raise CheckpointError(
                f"{checkpoint.path / POLICY_SPEC}: is no policy spec; train the policy again"
            ) from None
        except UNREADABLE_ONNX as error:
            raise CheckpointError(
                f"{checkpoint.path / POLICY_ONNX}: is no ONNX model ({error}); train the policy again"
            ) from None
        policy._check_shapes(checkpoint)
        return policy

    @property
    def action_labels(self) -> tuple[str, ...]:
        return self._spec.action_labels

    @property
    def observation_names(self) -> tuple[str, ...]:
        return self._spec.observation_names

    @property
    def multipliers(self) -> dict[str, float]:
        return dict(self._spec.multipliers)

    @property
    def limits(self) -> dict[str, float]:
        return dict(self._spec.limits)

    def logits(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, features) to (n, actions)."""
        (logits,) = self._session.run(["logits"], {"observation": np.ascontiguousarray(observation, np.float32)})
        return np.asarray(logits, dtype=np.float32)

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The masked policy, (n, actions); rows sum to 1 and are zero where `allowed` (n, actions) is False."""
        return masked_softmax(self.logits(observation), allowed)

    def require_world(self, world: World) -> None:
        """CheckpointError where the policy was trained for other actions or observations than `world` has."""
        for what, has, needs in (
            ("actions", self.action_labels, tuple(ActionSpace(world).labels)),
            ("observations", self.observation_names, tuple(observation_names(world))),
        ):
            if has != needs:
                raise CheckpointError(
                    f"the policy was trained for other {what} than configs/env.yaml has "
                    f"(only one of them has {sorted(set(has) ^ set(needs)) or 'this order'}); train the policy again"
                )

    def check_golden(self, checkpoint: Checkpoint) -> None:
        """Runs the checkpoint's golden cases; CheckpointError where one gives another answer."""
        try:
            golden = GoldenCases.model_validate(checkpoint.read_json(GOLDEN)).cases
        except ValidationError:
            raise CheckpointError(f"{checkpoint.path / GOLDEN}: is no list of cases; train the policy again") from None
        for number, case in enumerate(golden):
            widths = (len(case.observation), len(case.allowed), len(case.probabilities))
            if widths != (len(self.observation_names), len(self.action_labels), len(self.action_labels)):
                raise CheckpointError(
                    f"{checkpoint.path / GOLDEN}: case {number} has {widths} observations, actions and probabilities, "
                    "which is not what the policy has; train the policy again"
                )
        observation = np.array([case.observation for case in golden], dtype=np.float32)
        found = self.probabilities(observation, np.array([case.allowed for case in golden]))
        distance = np.abs(found - np.array([case.probabilities for case in golden])).max(axis=1)
        if (wrong := np.flatnonzero(~(distance <= GOLDEN_TOLERANCE))).size:
            raise CheckpointError(
                f"{checkpoint.path}: golden case {wrong[0]} differs by {distance[wrong[0]]:.2g} from what training "
                "computed; restore the checkpoint or train it again"
            )

    def _check_shapes(self, checkpoint: Checkpoint) -> None:
        n_features, n_actions = len(self.observation_names), len(self.action_labels)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [(node.name, node.shape[-1]) for node in (*inputs, *outputs)]
        if shapes != [("observation", n_features), ("logits", n_actions)]:
            raise CheckpointError(
                f"{checkpoint.path / POLICY_ONNX}: expected observation (n, {n_features}) to logits (n, {n_actions}), "
                f"got {shapes}; train the policy again"
            )
