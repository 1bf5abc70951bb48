"""Several soft constraints at work at once: policies under the shipped limits, and under ones that clash with them.

Under the shipped limits `contact` alone binds, so one price does all the work. Here limits are tighter than what such a
policy costs; `at_work` in the report says which have a price. Both kinds of policy are trained with the same seeds and
then play one campaign whose customers and luck no training has seen. Writes tight_limits.json and
tight_limits.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from churnsaver.settings import load_section, load_world
from trainers.agents.ppo_policy import train_ppo
from trainers.agents.settings import PpoSettings, Preset
from trainers.agents.settle import validate
from trainers.env.params import CONSTRAINTS, SoftLimits, load_dynamics, load_soft_limits
from trainers.env.population import synthetic_population
from trainers.eval.figures import COLOURS, new_axes

REPORT = Path(__file__).parents[2] / "reports/tight_limits.json"
TIGHT = {"spend_usd": 0.8, "contact": 0.3, "fatigue": 0.02, "opt_out": 0.003}
PRESET = Preset(customers=128, iterations=60)
# From the configured 0.1 the first campaigns exceed tight limits tenfold and more; prices jump, and all contact ends.
CHANGED = {"validation_customers": 1_024, "initial_contact_rate": 0.02}
LAST = 20  # iterations over which a multiplier is averaged
AT_WORK_USD = 0.05  # a smaller mean multiplier is a price that came and went by chance
CUSTOMERS = 4_096  # of training, and others of the held-out campaign


def measure(limits: SoftLimits, seed: int) -> dict[str, Any]:
    """One policy: its multipliers at the end of training, and costs and value in a campaign of held-out luck."""
    world, params = load_world(), load_dynamics()
    settings = load_section("ppo", PpoSettings).model_copy(update=CHANGED)
    population = synthetic_population(world, params, CUSTOMERS, seed=1)
    trained = train_ppo(world, params, limits, population, settings, PRESET, seed)
    held_out = synthetic_population(world, params, CUSTOMERS, seed=2)
    found = validate(world, params, held_out, trained.network.actor, seed=3)
    last = trained.history[-LAST:]
    return {
        "value_usd": found.reward_usd,
        "multiplier_usd": {name: float(np.mean([i.multipliers[name] for i in last])) for name in CONSTRAINTS},
        "costs_per_month": found.costs_per_month,
    }


def summary(results: Mapping[str, Sequence[Mapping[str, Any]]], limits: SoftLimits) -> dict[str, Any]:
    """Of each kind of policy by seed: value, and by constraint multiplier and cost as a share of the tight limit."""
    return {
        kind: {
            "value_usd": [one["value_usd"] for one in by_seed],
            "constraints": {
                name: {
                    "multiplier_usd": [one["multiplier_usd"][name] for one in by_seed],
                    "share_of_tight_limit": [one["costs_per_month"][name] / getattr(limits, name) for one in by_seed],
                }
                for name in CONSTRAINTS
            },
        }
        for kind, by_seed in results.items()
    }


def at_work(constraints: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Constraints that have a price in every seed."""
    return [name for name, found in constraints.items() if min(found["multiplier_usd"]) > AT_WORK_USD]


def draw(path: Path, kinds: Mapping[str, Any]) -> None:
    """Writes a PNG: left multipliers, right costs as shares of the tight limits, a point for each seed."""
    figure, axes = new_axes(2, 10.0, 3.5)
    for pane, what, label in zip(
        axes,
        ("multiplier_usd", "share_of_tight_limit"),
        ("multiplier, $", "cost, share of the tight limit"),
        strict=True,
    ):
        for i, (kind, found) in enumerate(kinds.items()):
            for row, name in enumerate(CONSTRAINTS):
                values = found["constraints"][name][what]
                shown = f"{kind} limits" if row == 0 else None
                pane.plot(values, [row + 0.2 * i] * len(values), "o", color=COLOURS[i], alpha=0.7, label=shown)
        pane.set_yticks(range(len(CONSTRAINTS)), CONSTRAINTS)
        pane.invert_yaxis()
        pane.set_xlabel(label)
    axes[1].axvline(1.0, color=COLOURS[4], linestyle="--")
    axes[1].set_xscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.tight_limits", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="policies of each kind")
    parser.add_argument("--out", type=Path, default=REPORT)
    options, began = parser.parse_args(), time.perf_counter()
    limits = {"tight": SoftLimits(**TIGHT), "shipped": load_soft_limits()}
    seeds = range(42, 42 + options.seeds)
    with ProcessPoolExecutor(len(limits) * len(seeds), get_context("spawn")) as pool:
        running = {kind: [pool.submit(measure, limit, seed) for seed in seeds] for kind, limit in limits.items()}
        found = {kind: [one.result() for one in futures] for kind, futures in running.items()}
    kinds = summary(found, limits["tight"])
    report = {
        "tight_limits": TIGHT,
        "preset": PRESET.model_dump(),
        "at_work": {kind: at_work(one["constraints"]) for kind, one in kinds.items()},
        **kinds,
        "seconds": round(time.perf_counter() - began, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    draw(options.out.with_suffix(".png"), kinds)
    print(options.out.read_text())


if __name__ == "__main__":
    main()
