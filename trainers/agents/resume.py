"""A training's state in one file, from which one that was cut off goes on bitwise as if it had not been.

safetensors, with the rest as JSON in its header: data, never code (law 6), and one file is replaced at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from trainers.agents.ppo_policy import Iteration, Learner
from trainers.agents.settings import PpoSettings, Preset
from trainers.env.params import DynamicsParams, SoftLimits
from trainers.env.population import Population

STATE = "state.safetensors"
SEED = "--seed"


def fingerprints(
    world: World,
    params: DynamicsParams,
    limits: SoftLimits,
    population: Population,
    settings: PpoSettings,
    preset: Preset,
    seed: int,
) -> dict[str, str]:
    """Hashes of all that a training follows from, by what a person would look for."""
    models: dict[str, BaseModel] = {
        "the world (env.yaml)": world,
        "the dynamics (env.yaml)": params,
        "the constraints (env.yaml)": limits,
        "the settings (ppo.yaml)": settings,
        "the preset (ppo.yaml)": preset,
    }
    named = {name: _digest(model.model_dump_json().encode()) for name, model in models.items()}
    columns = (*astuple(population.features), population.contact_cost_cents, population.consent)
    customers = _digest(*(np.ascontiguousarray(column).tobytes() for column in columns))
    return {**named, "the customers or their models": customers, SEED: str(seed)}


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def save_learner(path: Path, learner: Learner, follows_from: Mapping[str, str]) -> None:
    """Writes the state, whole or not at all; BadInput where `path` cannot be written."""
    header = {
        "follows_from": follows_from,
        "rng": learner.rng.bit_generator.state,
        "history": [asdict(iteration) for iteration in learner.history],
    }
    staged = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(save(_tensors(learner), {name: json.dumps(value) for name, value in header.items()}))
        staged.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); choose another --out") from None


def restore_learner(path: Path, learner: Learner, follows_from: Mapping[str, str]) -> None:
    """Gives a new `learner` the saved state back.

    Raises:
        BadInput: there is no state, it is damaged, or it is of a training of something else.
    """
    if not path.exists():
        raise BadInput(f"{path}: there is no training to resume; leave out --resume to start one")
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(value) for name, value in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError):
        raise BadInput(f"{path}: is truncated or altered; leave out --resume to train anew") from None
    began: dict[str, str] = header["follows_from"]
    if changed := [name for name, value in follows_from.items() if began.get(name) != value]:
        if changed == [SEED]:
            raise BadInput(
                f"{path}: belongs to a training with --seed {began.get(SEED)}; give that one, or leave out --resume "
                f"to train anew with {follows_from[SEED]}"
            )
        raise BadInput(
            f"{path}: belongs to a training that differs in {', '.join(changed)}; restore what it was trained with, "
            "or leave out --resume to train anew"
        )
    _put_back(learner, tensors)
    learner.rng.bit_generator.state = header["rng"]
    learner.history[:] = [Iteration(**{**one, "unmet": tuple(one["unmet"])}) for one in header["history"]]


def _tensors(learner: Learner) -> dict[str, torch.Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"averaged.{name}": tensor for name, tensor in learner.averaged.state_dict().items()}
    for number, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"rule.{name}": torch.tensor(array) for name, array in learner.lagrangian.rule.state.items()}
    return tensors | {"multipliers": torch.tensor(learner.lagrangian.multipliers)}  # copies: none may share memory


def _put_back(learner: Learner, tensors: Mapping[str, torch.Tensor]) -> None:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    learner.network.load_state_dict(under("network."))
    learner.averaged.load_state_dict(under("averaged."))
    groups = learner.optimizer.state_dict()["param_groups"]
    states = {number: under(f"optimizer.{number}.") for group in groups for number in group["params"]}
    learner.optimizer.load_state_dict({"state": states, "param_groups": groups})
    learner.lagrangian.rule.state = {name: tensor.numpy() for name, tensor in under("rule.").items()}
    learner.lagrangian.multipliers = tensors["multipliers"].numpy()
