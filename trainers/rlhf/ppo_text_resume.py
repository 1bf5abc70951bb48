"""The state of a PPO training on texts in one file, from which one that was cut off goes on bitwise the same.

safetensors, with the rest as JSON in its header: data, never code (law 6), and one file is replaced at once. The base
and the reference are not in it: they do not change, and their hashes are among what the training follows from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save

from churnsaver.errors import BadInput
from trainers.rlhf.over_optimisation import Check
from trainers.rlhf.ppo_text import Iteration, Learner
from trainers.rlhf.resumable import anew, damaged, read_state

STATE = "state.safetensors"
HEADER = ("follows_from", "rng", "kl_coefficient", "history", "checks", "stopped", "seconds", "peak_memory_gb")


def save_learner(path: Path, learner: Learner, follows_from: Mapping[str, str]) -> None:
    """Writes the state, whole or not at all; BadInput where `path` cannot be written."""
    header = {
        "follows_from": dict(follows_from),
        "rng": learner.rng.bit_generator.state,
        "kl_coefficient": learner.controller.coefficient,
        "history": [asdict(iteration) for iteration in learner.history],
        "checks": [asdict(check) for check in learner.checks],
        "stopped": learner.stopped,
        "seconds": learner.seconds,
        "peak_memory_gb": learner.peak_memory_gb,
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
    tensors, header = read_state(path, *HEADER)
    begun_from = header["follows_from"]
    if not isinstance(begun_from, dict):
        raise damaged(path)
    if changed := [name for name, value in follows_from.items() if begun_from.get(name) != value]:
        raise BadInput(
            f"{path}: belongs to a training that differs in {', '.join(changed)}; restore what it was trained with, "
            f"{anew(path.parent)}"
        )
    try:
        _put_back(learner, tensors)
        learner.rng.bit_generator.state = header["rng"]
        learner.history[:] = [Iteration(**one) for one in header["history"]]
        learner.checks[:] = [Check(**one) for one in header["checks"]]
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise damaged(path) from None
    learner.controller.coefficient = header["kl_coefficient"]
    learner.stopped, learner.seconds = header["stopped"], header["seconds"]
    learner.peak_memory_gb = header["peak_memory_gb"]


def _tensors(learner: Learner) -> dict[str, torch.Tensor]:
    tensors = {f"adapter.{name}": tensor for name, tensor in learner.policy.adapter().items()}
    tensors |= {f"value_head.{name}": tensor for name, tensor in learner.policy.value_head.state_dict().items()}
    for number, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    for number, snapshot in enumerate(learner.snapshots):
        tensors |= {f"snapshots.{number:03}.{name}": tensor for name, tensor in snapshot.items()}
    tensors["generator"] = learner.generator.get_state()
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _put_back(learner: Learner, tensors: Mapping[str, torch.Tensor]) -> None:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    learner.policy.put_adapter(under("adapter."))
    learner.policy.value_head.load_state_dict(under("value_head."))
    groups = learner.optimizer.state_dict()["param_groups"]
    states = {number: under(f"optimizer.{number}.") for group in groups for number in group["params"]}
    learner.optimizer.load_state_dict({"state": states, "param_groups": groups})
    numbers = sorted({name.split(".")[1] for name in tensors if name.startswith("snapshots.")})
    learner.snapshots[:] = [under(f"snapshots.{number}.") for number in numbers]
    learner.generator.set_state(tensors["generator"])
