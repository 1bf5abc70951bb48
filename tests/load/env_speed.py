"""How fast the environment steps and how much memory it takes: `python -m tests.load.env_speed`.

A step is one customer moved on by one epoch. Each size runs in a process of its own, so that its peak memory
is its own, and takes the best of several rounds. Actions are drawn uniformly from what the mask allows, before the
clock starts for the step that takes them. The clock is the processor's (one core, one thread), because the machine
does other things too; `steps_per_wall_s` is the same by the clock on the wall, and `load_average` says how busy it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from churnsaver.settings import load_world
from tests.load.plot import draw_env_speed
from trainers.env.params import load_dynamics
from trainers.env.population import SYNTHETIC_CUSTOMERS, synthetic_population
from trainers.env.retention_env import RetentionEnv
from trainers.env.vector_env import RetentionVectorEnv

SIZES = (1, 1_000, 100_000)
TARGET_STEPS_PER_S = 228_000
SEED = 42
ROUNDS = 5
ROUND_S = 2.0
MB = 1.0 / 1024.0 if sys.platform != "darwin" else 1.0 / 1024.0**2


def measure(customers: int) -> dict[str, float]:
    """Steps a second with this many customers, and this process's peak memory."""
    world, params = load_world(), load_dynamics()
    population = synthetic_population(world, params, SYNTHETIC_CUSTOMERS, SEED)
    if customers == 1:
        one = RetentionEnv(world, params, population)
        rounds = [_round_of_one(one, seed) for seed in range(ROUNDS)]
    else:
        many = RetentionVectorEnv(world, params, population, customers)
        rounds = [_round_of_many(many, seed) for seed in range(ROUNDS)]
    return {
        "customers": customers,
        "steps_per_s": max(steps / clock.cpu_s for steps, clock in rounds),
        "steps_per_wall_s": max(steps / clock.wall_s for steps, clock in rounds),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MB,
    }


class Clock:
    """Adds up the time inside `with` blocks, by the processor and by the wall."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.process_time() - self._cpu
        self.wall_s += time.perf_counter() - self._wall


def _round_of_one(env: RetentionEnv, seed: int) -> tuple[int, Clock]:
    """Single-customer episodes, resets included in the clock."""
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    steps, clock = 0, Clock()
    while clock.cpu_s < ROUND_S:
        action = env.action_space.sample(mask=info["action_mask"])
        with clock:
            *_, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                _, info = env.reset()
        steps += 1
    return steps, clock


def _round_of_many(env: RetentionVectorEnv, seed: int) -> tuple[int, Clock]:
    """Whole campaigns, their start included in the clock; customers who left count until the campaign ends."""
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    steps, clock = 0, Clock()
    while clock.cpu_s < ROUND_S:
        actions = np.where(info["action_mask"], rng.random(info["action_mask"].shape, np.float32), -1.0).argmax(axis=1)
        with clock:
            *_, truncated, info = env.step(actions)
            if truncated.any():
                _, info = env.reset()
        steps += env.num_envs
    return steps, clock


def report() -> dict[str, Any]:
    """All sizes, each in a fresh process."""
    command = [sys.executable, "-m", "tests.load.env_speed", "--customers"]
    sizes = []
    for customers in SIZES:
        done = subprocess.run([*command, str(customers)], capture_output=True, text=True, check=True)
        sizes.append(json.loads(done.stdout))
    vectorised = max(size["steps_per_s"] for size in sizes)
    return {
        "target_steps_per_s": TARGET_STEPS_PER_S,
        "met": vectorised >= TARGET_STEPS_PER_S,
        "sizes": sizes,
        "machine": {"cpus": os.cpu_count(), "platform": platform.machine(), "python": platform.python_version()},
        "numpy": np.__version__,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, help="measure this size alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for env_speed.json and .png")
    arguments = parser.parse_args()
    if arguments.customers is not None:
        sys.stdout.write(json.dumps(measure(arguments.customers)) + "\n")
        return
    found = report()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "env_speed.json").write_text(json.dumps(found, indent=2) + "\n")
    draw_env_speed(arguments.out / "env_speed.png", found["sizes"], TARGET_STEPS_PER_S)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
