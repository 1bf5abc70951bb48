"""A training that was cut off goes on as if it had not been, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from churnsaver.errors import BadInput
from churnsaver.settings import load_section
from tests.support.campaign import TINY, population, short_settings
from trainers.agents.ppo_policy import Learner, TrainedPolicy, new_learner, train_ppo
from trainers.agents.resume import STATE, fingerprints, restore_learner, save_learner
from trainers.agents.settings import PpoSettings, Preset
from trainers.env.params import load_soft_limits

PRESET = Preset(customers=48, iterations=4)


class CutOff(Exception):
    """The machine went away."""


def arguments(kind: str = "pid", preset: Preset = PRESET) -> tuple[Any, ...]:
    section = load_section("ppo", PpoSettings)
    game = section.lagrangian.model_copy(update={"kind": kind})
    section = section.model_copy(update={"lagrangian": game, "validation_customers": 64})
    return (*short_settings(), load_soft_limits(), population(300), section, preset, 7)


def weights(trained: TrainedPolicy) -> bytes:
    return b"".join(weight.numpy().tobytes() for weight in trained.network.state_dict().values())


@pytest.mark.parametrize("kind", ["sgd", "pid"])
def test_a_resumed_training_is_bitwise_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    """Weights, prices, luck and history: all come back."""
    given = arguments(kind)
    path, follows_from = tmp_path / STATE, fingerprints(*given)

    def stop_after_two(learner: Learner) -> None:
        save_learner(path, learner, follows_from)
        if len(learner.history) == 2:
            raise CutOff

    with pytest.raises(CutOff):
        train_ppo(*given, stop_after_two)
    learner = new_learner(*given)
    restore_learner(path, learner, follows_from)
    assert len(learner.history) == 2
    resumed, whole = train_ppo(*given, learner=learner), train_ppo(*given)
    assert weights(resumed) == weights(whole)
    assert resumed.history == whole.history
    assert resumed.multipliers == whole.multipliers
    assert resumed.validation == whole.validation


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    """What differs is named."""
    given = arguments()
    learner = new_learner(*given)
    save_learner(tmp_path / STATE, learner, fingerprints(*given))
    others = {
        r"the preset \(ppo.yaml\)": arguments(preset=TINY),
        r"the settings \(ppo.yaml\)": arguments(kind="sgd"),
        "the customers": (*given[:3], population(301), *given[4:]),
    }
    for name, other in others.items():
        with pytest.raises(BadInput, match=f"differs in {name}.*leave out --resume"):
            restore_learner(tmp_path / STATE, learner, fingerprints(*other))
    with pytest.raises(BadInput, match=f"a training with --seed {given[-1]}; give that one.*train anew with 8"):
        restore_learner(tmp_path / STATE, learner, fingerprints(*given[:-1], 8))


def test_nothing_or_a_torn_file_is_not_resumed(tmp_path: Path) -> None:
    """Both say to train anew."""
    given = arguments()
    learner, path = new_learner(*given), tmp_path / STATE
    with pytest.raises(BadInput, match="no training to resume"):
        restore_learner(path, learner, fingerprints(*given))
    save_learner(path, learner, fingerprints(*given))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="truncated or altered"):
        restore_learner(path, learner, fingerprints(*given))
    path.write_bytes(b"\x80\x04no safetensors")
    with pytest.raises(BadInput, match="truncated or altered"):
        restore_learner(path, learner, fingerprints(*given))


def test_the_state_is_data(tmp_path: Path) -> None:
    """safetensors with JSON in its header, nothing that would be run (law 6)."""
    given = arguments()
    save_learner(tmp_path / STATE, new_learner(*given), fingerprints(*given))
    raw = (tmp_path / STATE).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["rng"])["bit_generator"] == "PCG64"
    assert not list(tmp_path.glob("*.partial"))


def test_torch_draws_nothing_after_the_start() -> None:
    """The state need not hold torch's generator: training leaves it where initialisation did."""
    given = arguments(preset=Preset(customers=32, iterations=1))
    learner = new_learner(*given)
    before = torch.get_rng_state()
    train_ppo(*given, learner=learner)
    assert torch.equal(torch.get_rng_state(), before)
