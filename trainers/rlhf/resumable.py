"""Trainings with transformers' `Trainer` that can be cut off: their state lies on disk as data, never as pickles.

`Trainer` keeps its optimiser, its schedule, its generators and its arguments with torch.save. Here they are
safetensors with JSON in the header, beside the checkpoint and not in it, as `train ppo` keeps its own (docs/adr/0014).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import PrinterCallback

from churnsaver.errors import BadInput
from churnsaver.models.adapters import ADAPTER

FOLLOWS = "follows_from.json"
OPTIMISER, GENERATORS, TRAINER_STATE = "optimizer.safetensors", "generators.safetensors", "trainer_state.json"
OPTIMISER_HEADER, GENERATORS_HEADER = ("groups", "schedule"), ("python", "numpy")

OnStep = Callable[[int, int], None]  # steps done and steps in all


class StateAsData:
    """Mixed into a `Trainer`: saves and loads its state without pickles, and writes no card of its own."""

    def _save_optimizer_and_scheduler(self: Any, output_dir: str) -> None:
        optimiser = self.optimizer.state_dict()
        tensors = {
            f"{number}.{name}": value.contiguous()
            for number, state in optimiser["state"].items()
            for name, value in state.items()
        }
        header = {"groups": optimiser["param_groups"], "schedule": self.lr_scheduler.state_dict()}
        save_file(tensors, Path(output_dir) / OPTIMISER, {name: json.dumps(value) for name, value in header.items()})

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, header = read_state(Path(checkpoint) / OPTIMISER, *OPTIMISER_HEADER)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            number, _, field = name.partition(".")
            state.setdefault(int(number), {})[field] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": header["groups"]})
        self.lr_scheduler.load_state_dict(header["schedule"])

    def _save_rng_state(self, output_dir: str) -> None:
        kind, keys, *rest = np.random.get_state()  # the generator that Trainer draws from
        tensors = {"cpu": torch.random.get_rng_state()}
        if torch.cuda.is_available():
            tensors["cuda"] = torch.cuda.random.get_rng_state()
        header = {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}
        save_file(tensors, Path(output_dir) / GENERATORS, {name: json.dumps(value) for name, value in header.items()})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, header = read_state(Path(checkpoint) / GENERATORS, *GENERATORS_HEADER)
        version, internal, gauss = header["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(header["numpy"]))
        torch.random.set_rng_state(tensors["cpu"])
        if "cuda" in tensors and torch.cuda.is_available():
            torch.cuda.random.set_rng_state(tensors["cuda"])

    def _save(self: Any, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The checkpoint has its own."""


def read_state(path: Path, *names: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and what its header has under these names as JSON.

    Raises:
        BadInput: it is no such file, or was cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(file.metadata()[name]) for name in names}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise damaged(path) from None


def damaged(path: Path) -> BadInput:
    """The error of a state that cannot be gone on from."""
    folder = next(folder for folder in path.parents if not folder.name.startswith("checkpoint-"))
    return BadInput(f"{path}: is truncated or altered; {anew(folder)}")


def anew(folder: Path) -> str:
    """How to train anew; `make train-rlhf` resumes by itself where there is a state."""
    return f"leave out --resume to train anew, or delete {folder}"


class _Report(TrainerCallback):
    """Tells how far a training is, and notes its hours over all runs and its peak memory in the trainer's log."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step, self._begun, self._earlier_h = on_step, time.monotonic(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun = time.monotonic()
        self._earlier_h = max((entry.get("hours", 0.0) for entry in state.log_history), default=0.0)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.log_history[-1] |= {
            "hours": self._earlier_h + (time.monotonic() - self._begun) / 3600,
            "peak_memory_gb": peak_memory_gb(),
        }

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_step(state.global_step, state.max_steps)


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, in 10⁹ bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def fingerprints(settings: Mapping[str, BaseModel], **named: str) -> dict[str, str]:
    """Hashes of all that a training follows from, by what a person would look for; `named` are taken as they are."""
    hashed = {
        name: hashlib.sha256(model.model_dump_json().encode()).hexdigest() for name, model in sorted(settings.items())
    }
    return {**hashed, **named}


def begin(training: Path, follows_from: Mapping[str, str], *, resume: bool) -> None:
    """Begins a new training in the folder, where older states are removed; or makes sure that one can go on.

    Raises:
        BadInput: there is nothing to resume, or it is a training of something else.
    """
    if not resume:
        try:
            training.mkdir(parents=True, exist_ok=True)
            for old in training.rglob("checkpoint-*"):
                shutil.rmtree(old)
            (training / FOLLOWS).write_text(json.dumps(dict(follows_from), indent=1) + "\n")
        except OSError as error:
            raise BadInput(f"{training}: cannot be written ({error.strerror}); choose another --out") from None
        return
    try:
        begun_from = TypeAdapter(dict[str, str]).validate_json((training / FOLLOWS).read_bytes())
    except (OSError, ValueError):
        raise BadInput(f"{training}: there is no training to resume; {anew(training)}") from None
    if changed := [name for name, value in follows_from.items() if begun_from.get(name) != value]:
        raise BadInput(
            f"{training}: belongs to a training that differs in {', '.join(changed)}; restore what it was trained "
            f"with, {anew(training)}"
        )


def latest_state(folder: Path) -> Path | None:
    """The last state in `folder` that can be gone on from; one that was cut off lacks what is written last.

    Raises:
        BadInput: states were saved there, and all are damaged.
    """
    whole = [path for path in folder.glob("checkpoint-*") if (path / TRAINER_STATE).is_file()]
    faults = []
    for state in sorted(whole, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            _check(state)
        except BadInput as fault:
            faults.append(fault)
        else:
            return state
    if faults:
        raise faults[0]
    return None


def _check(state: Path) -> None:
    """BadInput names a file of the state that `Trainer` could not read."""
    try:
        TrainerState.load_from_json(str(state / TRAINER_STATE))
    except (OSError, ValueError, TypeError):
        raise damaged(state / TRAINER_STATE) from None
    read_state(state / ADAPTER)
    read_state(state / OPTIMISER, *OPTIMISER_HEADER)
    read_state(state / GENERATORS, *GENERATORS_HEADER)


def run(trainer: Any, state: Path | None, on_step: OnStep) -> list[dict[str, float]]:
    """Trains to the end from `state`, or from the start.

    Returns:
        What was logged on the way, earlier runs included: step, loss, hours, peak_memory_gb and the trainer's own.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(on_step))
    trainer.train(resume_from_checkpoint=str(state) if state else None)
    # What is measured and kept is the model in float32; training in bfloat16 leaves its forward pass wrapped.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    return list(trainer.state.log_history)


def multiplies_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware, half again as fast as float32 or more."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return any(torch.cpu.get_capabilities().get(units) for units in ("avx512_bf16", "amx_bf16"))


def check_one_device() -> None:
    """BadInput where several GPUs or processes would train: SFT's own loss is not gathered over them."""
    if torch.cuda.device_count() > 1 or os.environ.get("WORLD_SIZE", "1") != "1":
        raise BadInput(
            "training is on one GPU and in one process, and several are visible or started here; set "
            "CUDA_VISIBLE_DEVICES to one GPU, such as 0, and leave out torchrun or accelerate launch"
        )


def arguments(training: Path, seed: int, save_every: int) -> dict[str, Any]:
    """What every training of ours asks of `TrainingArguments`."""
    return {
        "output_dir": str(training),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_first_step": True,
        "report_to": "none",
        "disable_tqdm": True,
        "activation_checkpointing": False,  # memory is not what is short here
        "bf16": multiplies_bfloat16(),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
    }
