"""A trained policy as a checkpoint: ONNX for the decision service, which has no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from churnsaver.checkpoints import Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN
from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import World
from churnsaver.models.policy import POLICY_KIND, POLICY_ONNX, POLICY_SPEC, OnnxPolicy, PolicySpec
from trainers.agents.networks import ActorCritic
from trainers.agents.ppo_policy import TrainedPolicy
from trainers.env.params import SoftLimits

GOLDEN_CASES = 16
OPSET = 17


def policy_onnx(network: ActorCritic) -> bytes:
    """The actor as an ONNX graph: `observation` (n, features) to `logits` (n, actions), both float32."""
    linear = [layer for layer in network.actor if isinstance(layer, torch.nn.Linear)]
    nodes, weights, name = [], [], "observation"
    for i, layer in enumerate(linear):
        last = i == len(linear) - 1
        for part, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            weights.append(numpy_helper.from_array(tensor.detach().numpy(), f"{part}{i}"))
        out = "logits" if last else f"linear{i}"
        nodes.append(helper.make_node("Gemm", [name, f"weight{i}", f"bias{i}"], [out], transB=1))
        if not last:
            nodes.append(helper.make_node("Tanh", [out], [f"tanh{i}"]))
            name = f"tanh{i}"
    inputs = helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["n", linear[0].in_features])
    outputs = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", linear[-1].out_features])
    graph = helper.make_graph(nodes, "policy", [inputs], [outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def policy_spec(world: World, trained: TrainedPolicy, limits: SoftLimits) -> PolicySpec:
    """What the policy's numbers mean."""
    return PolicySpec(
        action_labels=tuple(ActionSpace(world).labels),
        observation_names=tuple(observation_names(world)),
        multipliers=trained.multipliers,
        limits=limits.model_dump(),
    )


def served_policy(world: World, trained: TrainedPolicy, limits: SoftLimits) -> OnnxPolicy:
    """The policy as the decision service will run it."""
    return OnnxPolicy(policy_onnx(trained.network), policy_spec(world, trained, limits))


def write_policy(
    out: Path,
    world: World,
    trained: TrainedPolicy,
    limits: SoftLimits,
    more: Mapping[str, bytes],
    *,
    seed: int,
    metrics: dict[str, float],
    parents: dict[str, str],
    data_sha256: str,
    gate: Gate,
) -> Manifest:
    """Writes the checkpoint with golden cases that the ONNX graph itself answered.

    Args:
        more: what else the checkpoint holds, by name of the file: baselines, card, fingerprints of the customers.
    """
    graph, spec = policy_onnx(trained.network), policy_spec(world, trained, limits)
    rng = np.random.default_rng([seed, 3])
    observation = rng.uniform(-1.0, 1.0, (GOLDEN_CASES, len(spec.observation_names))).astype(np.float32)
    allowed = rng.random((GOLDEN_CASES, len(spec.action_labels))) < 0.5
    allowed[:, NO_CONTACT] = True
    probabilities = OnnxPolicy(graph, spec).probabilities(observation, allowed)
    cases = [
        {"observation": o.tolist(), "allowed": a.tolist(), "probabilities": p.tolist()}
        for o, a, p in zip(observation, allowed, probabilities, strict=True)
    ]
    files = {
        POLICY_ONNX: graph,
        POLICY_SPEC: spec.model_dump_json(indent=2).encode(),
        GOLDEN: json.dumps({"cases": cases}).encode(),
        **more,
    }
    return write_checkpoint(
        out, POLICY_KIND, files, seed=seed, metrics=metrics, parents=parents, data_sha256=data_sha256, gate=gate
    )
