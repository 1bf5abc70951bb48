"""How fast the environment steps and how much memory it takes: `python -m tests.load.env_speed`.

A step is one customer moved on by one epoch. Each size runs in a process of its own, so that its peak memory
is its own, and takes the best of several rounds, because the machine does other things too. Actions are drawn
uniformly from what the mask allows, before the clock starts for the step that takes them.
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
BASE_MB = 1.0 / 1024.0 if sys.platform != "darwin" else 1.0 / 1024.0**2


def measure(customers: int) -> dict[str, float]:
    """Steps a second with this many customers, and this process's peak memory."""
    world, params = load_world(), load_dynamics()
    population = synthetic_population(world, params, SYNTHETIC_CUSTOMERS, SEED)
    if customers == 1:
        rates = [_round_of_one(RetentionEnv(world, params, population), seed) for seed in range(ROUNDS)]
    else:
        env = RetentionVectorEnv(world, params, population, customers)
        rates = [_round_of_many(env, seed) for seed in range(ROUNDS)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BASE_MB
    return {"customers": customers, "steps_per_s": max(rates), "peak_memory_mb": peak_mb}


def _round_of_one(env: RetentionEnv, seed: int) -> float:
    """Single-customer episodes, resets included in the clock."""
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    steps, clock_s = 0, 0.0
    while clock_s < ROUND_S:
        action = env.action_space.sample(mask=info["action_mask"])
        began = time.perf_counter()
        *_, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            _, info = env.reset()
        clock_s += time.perf_counter() - began
        steps += 1
    return steps / clock_s


def _round_of_many(env: RetentionVectorEnv, seed: int) -> float:
    """Whole campaigns, their start included in the clock; customers who left count until the campaign ends."""
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    steps, clock_s = 0, 0.0
    while clock_s < ROUND_S:
        actions = np.where(info["action_mask"], rng.random(info["action_mask"].shape, np.float32), -1.0).argmax(axis=1)
        began = time.perf_counter()
        *_, truncated, info = env.step(actions)
        if truncated.any():
            _, info = env.reset()
        clock_s += time.perf_counter() - began
        steps += env.num_envs
    return steps / clock_s


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
