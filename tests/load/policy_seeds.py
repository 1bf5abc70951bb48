"""Trains the quick policy under several seeds and judges each in the arena and under stress.

One training says little of the next: intervals here are over seeds and customers at once. Writes policy_seeds.json
and policy_seeds.png; a seed whose result is there and was made by the same code and data is not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from churnsaver.checkpoints import open_checkpoint
from churnsaver.errors import ChurnSaverError
from churnsaver.models.policy import POLICY_KIND, OnnxPolicy
from churnsaver.settings import load_world
from cli.common import progress
from cli.policy import models
from cli.policy_eval import populations
from trainers.agents.baselines import fit_baselines
from trainers.data.load import load_dataset_as
from trainers.env.params import CONSTRAINTS, load_dynamics, load_soft_limits
from trainers.eval.figures import COLOURS, new_axes
from trainers.eval.metrics import Interval
from trainers.eval.play import Setting
from trainers.eval.policy import AS_TRAINED, MIN_DECISIONS, PPO, Judging, enough_campaigns, evaluate_policy
from trainers.eval.policy_targets import EQUAL_SPEND
from trainers.eval.resample import percentile_interval
from trainers.eval.stress import SCENARIOS

ROOT = Path(__file__).parents[2]
CUSTOMERS = ROOT / ".churn-saver/data/simulated/customers.csv"
SCHEMA = ROOT / "configs/schemas/default.yaml"
WORK = ROOT / ".churn-saver/policy-seeds"
REPORTS = ROOT / "reports"
RESAMPLES = 4_000
RESULT, GAINS, TRAINED = "result.json", "gains.npz", "policy"
Floats = NDArray[np.float64]


# -- one seed, in a process of its own ---------------------------------------------------------------------


def judge(arguments: argparse.Namespace, seed: int) -> None:
    """Trains and judges one seed; leaves its result and its gains (customers,) in the work folder."""
    folder = arguments.work / str(seed)
    began = time.perf_counter()
    train(arguments, folder / TRAINED, seed)
    trained = time.perf_counter()
    world, params = load_world(), load_dynamics()
    opened = open_checkpoint(folder / TRAINED, POLICY_KIND)
    dataset = load_dataset_as(arguments.data, arguments.schema)
    seen, held_out = populations(dataset, models(arguments.risk, arguments.accept), seed)
    found = evaluate_policy(
        Setting(world, params, held_out),
        seen,
        load_soft_limits(),
        OnnxPolicy.from_checkpoint(opened),
        fit_baselines(world, params, seen, seed),
        Judging(arguments.campaigns or enough_campaigns(world, len(held_out))),
        seed=seed,
    )
    gains = {f"{scenario}/{name}": gain for scenario, by in found.gains_usd.items() for name, gain in by.items()}
    np.savez(folder / GAINS, **gains)  # type: ignore[arg-type]
    result = {
        "key": key(arguments),
        "seed": seed,
        "version": opened.version,
        "gate": opened.manifest.gate.model_dump() if opened.manifest.gate else None,
        "training_s": trained - began,
        "judging_s": time.perf_counter() - trained,
        **found.result,
    }
    (folder / RESULT).write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


def train(arguments: argparse.Namespace, out: Path, seed: int) -> None:
    """`train ppo` as a person runs it; SystemExit with what it said where it fails."""
    command = [sys.executable, "-m", "cli.main", "train", "ppo", "--data", str(arguments.data), "--seed", str(seed)]
    command += ["--schema", str(arguments.schema), "--out", str(out), "--quick"]
    for name in ("risk", "accept"):
        command += [f"--{name}", str(path)] if (path := getattr(arguments, name)) else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: it missed the quick gate, which is counted
        sys.exit(f"seed {seed}: {done.stderr}")


def key(arguments: argparse.Namespace) -> str:
    """Hash of everything that a result depends on: code, settings, customers, models and sizes."""
    sources = [path for folder in ("churnsaver", "trainers") for path in sorted((ROOT / folder).rglob("*.py"))]
    sources += [*sorted((ROOT / "configs").rglob("*.yaml")), Path(__file__), arguments.data, arguments.schema]
    sources += [path / "manifest.json" for path in (arguments.risk, arguments.accept) if path]
    digest = hashlib.sha256(str(arguments.campaigns).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


# -- all seeds -----------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Judges every seed that is not judged yet, two at a time, and writes the report."""
    wanted = key(arguments)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    missing = [seed for seed in seeds if not is_done(arguments.work / str(seed), wanted)]
    with progress() as bar, ThreadPoolExecutor(arguments.jobs) as pool:
        task = bar.add_task("training and judging", total=len(seeds), completed=len(seeds) - len(missing))
        for done in as_completed([pool.submit(spawn, arguments, seed) for seed in missing]):
            done.result()
            bar.advance(task)
    folders = [arguments.work / str(seed) for seed in seeds]
    results = [orjson.loads((folder / RESULT).read_bytes()) for folder in folders]
    gains = [dict(np.load(folder / GAINS)) for folder in folders]
    document = summary(results, gains)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "policy_seeds.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    draw(arguments.out / "policy_seeds.png", document)
    return document


def is_done(folder: Path, wanted: str) -> bool:
    """Whether a result of the same code and data is there, whole."""
    try:
        return bool(orjson.loads((folder / RESULT).read_bytes())["key"] == wanted and (folder / GAINS).exists())
    except (OSError, ValueError, KeyError):
        return False


def spawn(arguments: argparse.Namespace, seed: int) -> None:
    """`judge` on one thread of one core; ChurnSaverError with what it said where it fails."""
    (arguments.work / str(seed)).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.load.policy_seeds", *sys.argv[1:], "--only", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if done.returncode:
        raise ChurnSaverError(f"seed {seed} failed: {done.stderr.strip()[-2000:]}")


def summary(results: Sequence[Mapping[str, Any]], gains: Sequence[Mapping[str, Floats]]) -> dict[str, Any]:
    """What all seeds show together, and what TARGETS.md asks and they do not show."""
    scenarios: dict[str, dict[str, Any]] = {}
    for label in gains[0]:
        scenario, name = label.split("/")
        each = np.stack([gain[label] for gain in gains])  # (seeds, customers)
        interval = over_seeds_and_customers(each, seed=0)
        by_seed = each.mean(axis=1).tolist()
        scenarios.setdefault(scenario, {})[name] = {**interval.as_dict(), "by_seed": by_seed}
    violations = [
        result["hard_rule_violations"] + sum(found["hard_rule_violations"] for found in result["stress"].values())
        for result in results
    ]
    document = {
        "seeds": [result["seed"] for result in results],
        "customers": results[0]["customers"],
        "decisions": [result["decisions"] for result in results],
        "decisions_under_stress": [sum(f["decisions"] for f in result["stress"].values()) for result in results],
        "violations": violations,
        "constraints": {name: constraint(name, results) for name in CONSTRAINTS},
        "gain_over_never_usd": [result["gain_over"]["never"]["equal_spend"]["value"] for result in results],
        "roi": [_value(result["policies"][PPO]["business"]["roi"]) for result in results],
        "gain_at_equal_spend_usd": scenarios,
        "spend_ratio": {
            name: [result["gain_over"][name]["spend_ratio"] for result in results] for name in scenarios[AS_TRAINED]
        },
        "cost_over_limit_under_stress": {
            scenario: {
                name: [result["stress"][scenario]["cost_over_limit"][name]["value"] for result in results]
                for name in CONSTRAINTS
            }
            for scenario in SCENARIOS
        },
        "gain_over_never_under_stress_usd": {
            scenario: [result["stress"][scenario]["gain_usd"]["value"] for result in results] for scenario in SCENARIOS
        },
        "passed_quick_gate": [bool(result["gate"]["passed"]) for result in results],
        "missed_alone": {str(result["seed"]): result["missed"] for result in results},
        "training_s": [round(result["training_s"], 1) for result in results],
        "judging_s": [round(result["judging_s"], 1) for result in results],
    }
    return {**document, "missed": missed_targets(document)}


def constraint(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A soft constraint's cost in each seed, and mean + 1 sd beside the limit."""
    costs = [result["constraints"][name]["value"] for result in results]
    sd = float(np.std(costs, ddof=1)) if len(costs) > 1 else 0.0
    limit = results[0]["constraints"][name]["limit"]
    return {
        "by_seed": costs,
        "mean": float(np.mean(costs)),
        "sd": sd,
        "mean_plus_sd": float(np.mean(costs)) + sd,
        "limit": limit,
    }


def over_seeds_and_customers(gains_usd: Floats, seed: int) -> Interval:
    """Mean of (seeds, customers) with a bootstrap interval that draws both with replacement.

    The pigeonhole bootstrap (Owen 2007), as every seed's policy meets the same customers: it errs, if at all, on
    the wide side.
    """
    rng, (seeds, customers) = np.random.default_rng(seed), gains_usd.shape
    means = []
    for _ in range(RESAMPLES):
        per_customer = gains_usd[rng.integers(seeds, size=seeds)].mean(axis=0)
        means.append(per_customer[rng.integers(customers, size=customers)].mean())
    return percentile_interval(float(gains_usd.mean()), np.array(means))


def missed_targets(document: Mapping[str, Any]) -> list[str]:
    """One sentence for each target that the seeds together miss."""
    missed = []
    for seed, violations, decisions in zip(
        document["seeds"], document["violations"], document["decisions"], strict=True
    ):
        if violations:
            missed.append(f"seed {seed}: {violations} violations of hard rules, expected none")
        if decisions < MIN_DECISIONS:
            missed.append(f"seed {seed}: {decisions:,} decisions, {MIN_DECISIONS:,} are asked")
    missed += [
        f"seed {seed}: {name} spends {ratio:.2f} of what the policy spends: not compared at equal spend"
        for name, ratios in document["spend_ratio"].items()
        for seed, ratio in zip(document["seeds"], ratios, strict=True)
        if not EQUAL_SPEND[0] <= ratio <= EQUAL_SPEND[1]
    ]
    missed += [
        f"{name}: mean + 1 sd is {found['mean_plus_sd']:.4f}, the limit {found['limit']:.4f}"
        for name, found in document["constraints"].items()
        if found["mean_plus_sd"] > found["limit"]
    ]
    missed += [
        f"{scenario}: the gain over {name} at equal spend is ${gain['value']:.2f} ({gain['low']:.2f} to "
        f"{gain['high']:.2f}), not above 0 with confidence"
        for scenario, gains in document["gain_at_equal_spend_usd"].items()
        if scenario == AS_TRAINED or SCENARIOS[scenario].new_response
        for name, gain in gains.items()
        if gain["low"] <= 0
    ]
    return missed


def _value(interval: Mapping[str, float] | None) -> float | None:
    return interval["value"] if interval else None


# -- for people ------------------------------------------------------------------------------------------------


def draw(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a PNG: left the gain over each baseline by scenario, right each constraint as a share of its limit."""
    figure, (gains, limits) = new_axes(2, 11.0, 4.5)
    scenarios = document["gain_at_equal_spend_usd"]
    names = list(next(iter(scenarios.values())))
    for i, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        for row, found in enumerate(scenarios.values()):
            gain, y = found[name], row + 0.22 * (i - 1)
            gains.plot([gain["low"], gain["high"]], [y, y], color=colour, linewidth=2.0)
            gains.scatter(gain["by_seed"], [y] * len(gain["by_seed"]), s=8, color=colour, alpha=0.5)
            gains.plot(gain["value"], y, "o", color=colour, label=name if row == 0 else None)
    gains.axvline(0.0, color=COLOURS[5], linewidth=0.8)
    gains.set_yticks(range(len(scenarios)), [name.replace("_", " ") for name in scenarios])
    gains.invert_yaxis()
    gains.set_xlabel("gain at equal spend, $ a customer: all seeds with interval, and each seed")
    gains.legend(loc="lower right")
    for row, found in enumerate(document["constraints"].values()):
        shares = np.array(found["by_seed"]) / found["limit"]
        limits.scatter(shares, np.full(len(shares), row), s=12, color=COLOURS[0], alpha=0.6)
        limits.plot(found["mean_plus_sd"] / found["limit"], row, "|", color=COLOURS[1], markersize=16)
    limits.axvline(1.0, color=COLOURS[4], linestyle="--")
    limits.set_yticks(range(len(CONSTRAINTS)), CONSTRAINTS)
    limits.set_xlabel("soft constraints, share of the limit: each seed, and mean + 1 sd")
    figure.savefig(path, dpi=110)


def print_tables(document: Mapping[str, Any]) -> None:
    """The report for a person, on standard output."""
    console = Console(width=140)
    table = Table(title="gain at equal spend, $ a customer, over seeds and customers", title_justify="left")
    names = list(next(iter(document["gain_at_equal_spend_usd"].values())))
    for column in ("", *names):
        table.add_column(column)
    for scenario, gains in document["gain_at_equal_spend_usd"].items():
        cells = [
            f"{gains[name]['value']:.2f} ({gains[name]['low']:.2f} to {gains[name]['high']:.2f})" for name in names
        ]
        table.add_row(scenario.replace("_", " "), *cells)
    console.print(table)
    costs = Table(title="soft constraints, a customer and month", title_justify="left")
    for column in ("", "mean", "sd", "mean + sd", "limit"):
        costs.add_column(column)
    for name, found in document["constraints"].items():
        costs.add_row(name, *(f"{found[part]:.4f}" for part in ("mean", "sd", "mean_plus_sd", "limit")))
    console.print(costs)
    stress = Table(title="costs under stress, shares of the limit, over the seeds", title_justify="left")
    for column in ("", *CONSTRAINTS):
        stress.add_column(column)
    for scenario, found in document["cost_over_limit_under_stress"].items():
        stress.add_row(scenario.replace("_", " "), *(_range(found[name]) for name in CONSTRAINTS))
    console.print(stress)
    console.print("spend, share of the policy's: " + _ranges(document["spend_ratio"]))
    console.print("gain over never under stress, $: " + _ranges(document["gain_over_never_under_stress_usd"]))
    played = sum(document["decisions"]), sum(document["decisions_under_stress"])
    console.print(
        f"{len(document['seeds'])} seeds, {played[0]:,} decisions and {played[1]:,} under stress: "
        f"{sum(document['violations'])} violations of hard rules; "
        f"{sum(document['passed_quick_gate'])} passed the quick gate"
    )
    console.print("missed: " + ("; ".join(document["missed"]) or "nothing"))


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _ranges(found: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_range(values)}" for name, values in found.items())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.policy_seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first-seed", type=int, default=42)
    parser.add_argument("--only", type=int, help="judge this seed alone and write no report")
    parser.add_argument("--campaigns", type=int, help="of each policy; default: as many as 1,000,000 decisions need")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one core each")
    parser.add_argument("--data", type=Path, default=CUSTOMERS)
    parser.add_argument("--schema", type=Path, default=SCHEMA)
    parser.add_argument("--risk", type=Path, help="risk checkpoint; default: the champion")
    parser.add_argument("--accept", type=Path, help="acceptance checkpoint; default: the champion")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the results of each seed")
    parser.add_argument("--out", type=Path, default=REPORTS, help="folder of the reports")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    try:
        if arguments.only is not None:
            judge(arguments, arguments.only)
            return
        document = run(arguments)
    except ChurnSaverError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(orjson.dumps(document).decode())
    else:
        print_tables(document)
    sys.exit(1 if document["missed"] else 0)


if __name__ == "__main__":
    main()
