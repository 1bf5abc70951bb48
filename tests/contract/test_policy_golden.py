"""What a policy checkpoint promises: fixed outputs, verified, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from churnsaver.checkpoints import Gate, open_checkpoint, write_checkpoint
from churnsaver.checkpoints.checkpoint import MODEL_CARD
from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.errors import CheckpointError
from churnsaver.models.baselines import BASELINES
from churnsaver.models.policy import OnnxPolicy, masked_softmax
from tests.support.baselines import small_bundle
from tests.support.campaign import campaign, population, settings, tiny_policy
from trainers.agents.baselines import PropensityPolicy
from trainers.agents.export import write_policy
from trainers.env.params import load_soft_limits
from trainers.env.simulate import run_campaign


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("policy") / "policy")


def written(out: Path) -> Path:
    world, _ = settings()
    write_policy(
        out,
        world,
        tiny_policy(),
        load_soft_limits(),
        {BASELINES: small_bundle(world), MODEL_CARD: b"# Policy\n"},
        seed=42,
        metrics={},
        parents={},
        data_sha256="0" * 64,
        gate=Gate(passed=True),
    )
    return out


def altered(source: Path, out: Path, **files: bytes) -> Path:
    """A copy whose manifest vouches for other contents."""
    contents = {**open_checkpoint(source, "policy").contents, **{k.replace("_", "."): v for k, v in files.items()}}
    write_checkpoint(out, "policy", contents, seed=42, metrics={})
    return out


def test_the_same_training_writes_the_same_version(checkpoint: Path, tmp_path: Path) -> None:
    """A version is derived from the files, so the same seed gives the same one."""
    again = open_checkpoint(written(tmp_path / "again"), "policy")
    assert again.version == open_checkpoint(checkpoint, "policy").version


def test_onnx_answers_as_torch_does(checkpoint: Path) -> None:
    """The exported graph and the trained actor give the same masked distribution."""
    opened = open_checkpoint(checkpoint, "policy")
    policy = OnnxPolicy.from_checkpoint(opened)
    policy.check_golden(opened)
    policy.require_world(settings()[0])
    seen = campaign(200).situation
    actor = tiny_policy().network.actor
    with torch.no_grad():
        logits = actor(torch.from_numpy(seen.observation)).numpy()
    found = policy.probabilities(seen.observation, seen.allowed)
    np.testing.assert_allclose(found, masked_softmax(logits, seen.allowed), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found[~seen.allowed] == 0).all()


def test_a_row_is_answered_alike_alone_and_in_a_batch(checkpoint: Path) -> None:
    """A propensity does not depend on who else is decided about."""
    policy = OnnxPolicy.from_checkpoint(open_checkpoint(checkpoint, "policy"))
    seen = campaign(64).situation
    together = policy.probabilities(seen.observation, seen.allowed)
    alone = policy.probabilities(seen.observation[5:6], seen.allowed[5:6])
    np.testing.assert_allclose(alone[0], together[5], atol=1e-6)


def test_names_and_order_are_the_worlds(checkpoint: Path) -> None:
    """Actions and observations are the domain's, and every constraint has its multiplier and limit."""
    world, _ = settings()
    policy = OnnxPolicy.from_checkpoint(open_checkpoint(checkpoint, "policy"))
    assert list(policy.action_labels) == ActionSpace(world).labels
    assert list(policy.observation_names) == observation_names(world)
    assert set(policy.multipliers) == set(policy.limits) == {"spend_usd", "contact", "fatigue", "opt_out"}


def test_another_world_is_refused_with_the_difference(checkpoint: Path) -> None:
    """A new offer in env.yaml needs a new policy, and the message names it."""
    world, _ = settings()
    policy = OnnxPolicy.from_checkpoint(open_checkpoint(checkpoint, "policy"))
    fewer = world.model_copy(update={"offers": world.offers[:-1]})
    with pytest.raises(CheckpointError, match=r"bonus_pack.*train the policy again"):
        policy.require_world(fewer)


def test_damaged_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """No ONNX, a spec of another shape, a spec that is none, golden cases that differ: one sentence each."""
    opened = open_checkpoint(checkpoint, "policy")
    spec = opened.read_json("spec.json")
    golden = opened.read_json("golden.json")
    golden["cases"][3]["probabilities"] = golden["cases"][3]["probabilities"][::-1]
    fewer = {**spec, "action_labels": spec["action_labels"][:-1]}
    for name, files, message in (
        ("onnx", {"policy_onnx": b"not a graph"}, "no ONNX model"),
        ("shape", {"spec_json": json.dumps(fewer).encode()}, "expected observation"),
        ("spec", {"spec_json": b"{}"}, "no policy spec"),
    ):
        path = altered(checkpoint, tmp_path / name, **files)
        with pytest.raises(CheckpointError, match=message):
            OnnxPolicy.from_checkpoint(open_checkpoint(path, "policy"))
    bad = open_checkpoint(altered(checkpoint, tmp_path / "golden", golden_json=json.dumps(golden).encode()), "policy")
    with pytest.raises(CheckpointError, match="golden case 3"):
        OnnxPolicy.from_checkpoint(bad).check_golden(bad)


def test_a_campaign_has_a_fixed_outcome() -> None:
    """Seed 42 gives these totals; a change of the dynamics changes them, and then this test on purpose."""
    world, params = settings()
    result = run_campaign(world, params, population(400), PropensityPolicy(world, 0.4, "discount_10", 672), 42)
    found = [result.churned.sum(), result.decisions.sum(), *result.costs.sum(axis=0).round(2), result.gain_usd.sum()]
    np.testing.assert_allclose(found, [62, 20638, 947.40, 155, 4.05, 3, 1320.128], rtol=1e-6)
