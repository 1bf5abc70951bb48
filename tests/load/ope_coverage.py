"""Does the truth lie inside the intervals of `eval ope`? `python -m tests.load.ope_coverage` measures it.

The first decision of a campaign in the simulator. The truth is exact: the environment states each action's expected
reward for each customer (`trainers.env.dynamics`), so a policy's value is a sum. `reward` is the shaped one-step
reward, expected over acceptance and leaving; `reward_as_drawn` the money as it was drawn, which hangs on the few
who leave within a day; `contact` and `opt_out` are costs, as drawn. Customers of a run are a fresh sample of a larger
population. Target: the truth inside the stated 95 % interval of every estimator but DM in 93 % of the runs or more.

Also measured: that it refuses where it should, and what two arms on one budget do to each other's gain.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.world import World
from churnsaver.settings import DEFAULT_SEED, load_world
from trainers.agents.baselines import Policy, PropensityPolicy
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, DynamicsParams, load_dynamics
from trainers.env.population import Population, synthetic_population
from trainers.env.simulate import campaign_budget_cents, draw_actions
from trainers.eval.figures import COLOURS, new_axes
from trainers.eval.ope import HEADLINE, evaluate_logged
from trainers.ope.estimators import ESTIMATORS
from trainers.ope.from_records import describe_actions
from trainers.ope.logged import Floats, LoggedBandit
from trainers.ope.outcome_model import cross_fit, folds_of

REPORT = Path(__file__).parents[2] / "reports" / "ope_coverage.json"
POOL = 15_000
OUTCOMES = ("reward", "reward_as_drawn", "contact", "opt_out")
KINDS = ("stated", "bootstrap", "empirical_bernstein", "student_t")
TARGET = 0.93
REFUSAL_RUNS = 60
BUDGET_SEEDS = 8
BUDGET_CUSTOMERS = 1_000
PLENTY_CENTS = 10**12


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of policies: how often the log explores, how sharp the target is, how many decisions are logged."""

    name: str
    decisions: int
    explored: float
    sharpness: float
    refuses: bool = False


CASES = (
    Case("near", 2_000, explored=0.8, sharpness=1.0),
    Case("far", 2_000, explored=0.4, sharpness=2.0),
    Case("heavy", 3_000, explored=0.25, sharpness=4.0),
    Case("thin", 250, explored=0.4, sharpness=20.0, refuses=True),
    Case("unsupported", 2_000, explored=0.0, sharpness=1.0, refuses=True),
)


class Pool:
    """Many customers at their first decision, with each action's exact expected outcomes."""

    def __init__(self, seed: int) -> None:
        self.world, self.params = load_world(), load_dynamics()
        self.population = synthetic_population(self.world, self.params, POOL, seed)
        self.seed = seed
        self.campaign = self._campaign(self.params)
        self.situation = self.campaign.situation
        n_actions = len(ActionSpace(self.world))
        # The opt-out's probability is what the penalty's first dollar takes from the expected reward.
        free, dear = ({"opt_out_penalty_usd": usd} for usd in (0.0, 1.0))
        reward = self._expected(self.params, n_actions)
        opt_out = self._expected(self.params.model_copy(update=free), n_actions) - self._expected(
            self.params.model_copy(update=dear), n_actions
        )
        contact = np.broadcast_to((np.arange(n_actions) != NO_CONTACT).astype(float), reward.shape)
        self.expected: dict[str, Floats] = {
            "reward": reward,
            "reward_as_drawn": reward,
            "contact": contact,
            "opt_out": opt_out,
        }

    def _campaign(self, params: DynamicsParams) -> Campaign:
        return Campaign(self.world, params, self.population, PLENTY_CENTS, self.seed)

    def _expected(self, params: DynamicsParams, n_actions: int) -> Floats:
        """Expected reward of each action, (pool, actions)."""
        columns = [self._campaign(params).step(np.full(POOL, action)).reward_usd for action in range(n_actions)]
        return np.column_stack(columns)

    def policies(self, case: Case) -> tuple[Floats, Floats]:
        """Probabilities (pool, actions) of the policy that logs and of the target."""
        allowed = self.situation.allowed
        uniform = allowed / allowed.sum(axis=1, keepdims=True)
        logging = case.explored * uniform + (1.0 - case.explored) * PropensityPolicy(
            self.world, 0.3, self.world.offers[1].id, 0.0
        ).probabilities(self.situation.observation, allowed)
        seen = self.situation.observation[:, 0].astype(np.float64)  # risk: the target offers more where it is higher
        generosity = np.append(0.0, np.repeat(np.linspace(-1.0, 1.0, len(self.world.offers)), 4))
        odds = np.where(allowed, np.exp(case.sharpness * 4.0 * (seen[:, None] - 0.3) * generosity), 0.0)
        return logging, odds / odds.sum(axis=1, keepdims=True)

    def draw(self, rows: NDArray[np.int64], actions: NDArray[np.int64], luck: int) -> dict[str, Floats]:
        """What came of `actions` (rows,), as drawn; everyone else of the pool is left alone."""
        campaign = copy.deepcopy(self.campaign)
        campaign._rng = np.random.default_rng([self.seed, luck])
        before = campaign.stay_values_usd()
        taken = np.full(POOL, NO_CONTACT)
        taken[rows] = actions
        outcome = campaign.step(taken)
        drawn = outcome.cash_usd + campaign.stay_values_usd() - before
        costs = dict(zip(CONSTRAINTS, outcome.costs[rows].T, strict=True))
        rewards = {"reward": outcome.reward_usd[rows], "reward_as_drawn": drawn[rows]}
        return {**rewards, "contact": costs["contact"], "opt_out": costs["opt_out"]}


def run_case(pool: Pool, case: Case, runs: int) -> dict[str, Any]:
    """Coverage, error and width of every estimator over `runs` logs."""
    logging, target = pool.policies(case)
    truth = {name: float((target * expected).sum(axis=1).mean()) for name, expected in pool.expected.items()}
    runs = min(runs, REFUSAL_RUNS) if case.refuses else runs
    results = [_one(pool, case, logging, target, run) for run in range(runs)]
    given = [result for result in results if not result["refused"]]
    support = [result["support"] for result in results]
    report: dict[str, Any] = {
        "decisions": case.decisions,
        "runs": runs,
        "refused_runs": runs - len(given),
        "should_refuse": case.refuses,
        "effective_decisions_mean": float(np.mean([each["effective_decisions"] for each in support])),
        "max_weight_mean": float(np.mean([each["max_weight"] for each in support])),
        "truth": truth,
    }
    if given:
        report["estimators"] = {
            outcome: {
                name: _score([_told(result, outcome)[name] for result in given], truth[outcome]) for name in ESTIMATORS
            }
            for outcome in OUTCOMES
        }
    return report


def _one(pool: Pool, case: Case, logging: Floats, target: Floats, run: int) -> dict[str, Any]:
    rng = np.random.default_rng([pool.seed, run, 7])
    rows = rng.choice(POOL, size=case.decisions, replace=False)
    actions = draw_actions(logging[rows], rng.random(len(rows)))
    outcomes = pool.draw(rows, actions, run)
    costs = {name: outcomes[name] for name in OUTCOMES[1:]}
    chosen = np.arange(len(rows)), actions
    clusters = np.arange(len(rows))
    logged = LoggedBandit(outcomes["reward"], logging[rows][chosen], target[rows][chosen], costs, clusters)
    models = cross_fit(
        pool.situation.observation[rows],
        actions,
        describe_actions(pool.world),
        outcomes,
        target[rows],
        folds_of(clusters, run),
    )
    return evaluate_logged(logged, models, run)


def _told(result: dict[str, Any], outcome: str) -> dict[str, Any]:
    told: dict[str, Any] = result["value"] if outcome == "reward" else result["costs"][outcome]
    return told


def _score(told: list[dict[str, Any]], truth: float) -> dict[str, float]:
    """Root mean squared error, bias, and for each kind of interval how often it holds the truth and its width."""
    values = np.array([each["value"] for each in told])
    score = {
        "bootstrap_stated": float(np.mean([each["interval"] == "bootstrap" for each in told])),
        "terms_mean": float(np.mean([np.inf if each["terms"] is None else each["terms"] for each in told])),
        "rmse": float(np.sqrt(np.mean((values - truth) ** 2))),
        "bias": float(values.mean() - truth),
    }
    for kind in KINDS:
        ends = np.array([_ends(each, kind) for each in told])
        score[f"{kind}_coverage"] = float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))
        score[f"{kind}_width"] = float(np.mean(ends[:, 1] - ends[:, 0]))
    return score


def _ends(told: dict[str, Any], kind: str) -> tuple[float, float]:
    interval = told if kind == "stated" else told[kind]
    return interval["low"], interval["high"]


class _Always:
    """Contacts whoever may be, with the dearest offer."""

    def __init__(self, world: World) -> None:
        self._policy = PropensityPolicy(world, 0.0, world.offers[3].id, 0.0)

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self._policy.probabilities(observation, allowed)


def shared_budget(world: World, params: DynamicsParams, seed: int) -> dict[str, Any]:
    """A careful arm's gain a customer alone, beside a spendthrift on one budget, and on a budget of its own.

    The budget is a tenth of env.yaml's for as many customers, so that it runs short.
    """
    careful, spendthrift = PropensityPolicy(world, 0.4, world.offers[1].id, 336.0), _Always(world)
    gains: dict[str, list[float]] = defaultdict(list)
    for run in range(seed, seed + BUDGET_SEEDS):
        everyone = synthetic_population(world, params, BUDGET_CUSTOMERS, run)
        half = np.arange(BUDGET_CUSTOMERS) < BUDGET_CUSTOMERS // 2
        budget = campaign_budget_cents(world, BUDGET_CUSTOMERS) // 10
        own = everyone.take(np.flatnonzero(half))
        gains["alone"].append(_mean_gain(world, params, everyone, [(careful, half | True)], budget, run)[0])
        arms: list[tuple[Policy, NDArray[np.bool_]]] = [(careful, half), (spendthrift, ~half)]
        gains["shared_budget"].append(_mean_gain(world, params, everyone, arms, budget, run)[0])
        gains["split_budget"].append(
            _mean_gain(world, params, own, [(careful, np.ones(len(own), dtype=bool))], budget // 2, run)[0]
        )
    return {name: {"gain_usd": float(np.mean(g)), "standard_error": _error(g)} for name, g in gains.items()}


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _mean_gain(
    world: World,
    params: DynamicsParams,
    population: Population,
    arms: list[tuple[Policy, NDArray[np.bool_]]],
    budget_cents: int,
    seed: int,
) -> list[float]:
    """Each arm's gain a customer, in one campaign with one budget."""
    campaign, rng = Campaign(world, params, population, budget_cents, seed), np.random.default_rng([seed, 1])
    gain = np.zeros(len(population))
    while not campaign.finished:
        situation, probabilities = campaign.situation, np.zeros(campaign.situation.allowed.shape)
        for policy, members in arms:
            probabilities[members] = policy.probabilities(situation.observation, situation.allowed)[members]
        gain += campaign.step(draw_actions(probabilities, rng.random(len(population)))).reward_usd
    return [float(gain[members].mean()) for _, members in arms]


def main() -> None:
    """Measures and writes REPORT with a plot beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args()
    began = time.perf_counter()
    pool = Pool(options.seed)
    cases = {case.name: run_case(pool, case, options.runs) for case in CASES}
    missed = missed_targets(cases)
    report = {
        "headline": HEADLINE,
        "target_coverage": TARGET,
        "seed": options.seed,
        "cases": cases,
        "budgets": shared_budget(pool.world, pool.params, options.seed),
        "missed": missed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    plot(cases, options.out.with_suffix(".png"))
    print(json.dumps(report, indent=2))


def missed_targets(cases: dict[str, Any]) -> list[str]:
    """What is asked and not shown."""
    missed = []
    for name, case in cases.items():
        if case["should_refuse"] and case["refused_runs"] < case["runs"]:
            missed.append(f"{name}: {case['runs'] - case['refused_runs']} of {case['runs']} runs were not refused")
        for outcome, found in case.get("estimators", {}).items() if not case["should_refuse"] else ():
            missed += [
                f"{name}: {estimator} of {outcome} covers {score['stated_coverage']:.1%}, {TARGET:.0%} asked"
                for estimator, score in found.items()
                if estimator != "dm" and score["stated_coverage"] < TARGET  # DM's knows nothing of the model's error
            ]
    return missed


def plot(cases: dict[str, Any], path: Path) -> None:
    """Coverage of each estimator's stated interval, a row for each case and outcome."""
    shown = [(name, outcome) for name, case in cases.items() if not case["should_refuse"] for outcome in OUTCOMES]
    figure, (axes,) = new_axes(width_in=7.0, height_in=0.35 * len(shown) + 1.2)
    for estimator, marker in zip(ESTIMATORS, "ovs^DPX", strict=True):
        shares = [cases[name]["estimators"][outcome][estimator]["stated_coverage"] for name, outcome in shown]
        axes.plot(shares, range(len(shown)), marker, label=estimator, alpha=0.7)
    axes.axvline(TARGET, color=COLOURS[-1], linestyle="--")
    axes.set_yticks(range(len(shown)), [f"{name}: {outcome}" for name, outcome in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of runs with the truth inside the stated 95 % interval")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
