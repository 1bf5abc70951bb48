"""Judging a policy: the peer, the independent check of the rules, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from churnsaver.domain.actions import ActionSpace
from churnsaver.settings import load_world
from tests.support.campaign import campaign, population, settings
from trainers.agents.baselines import NeverContact, PropensityPolicy
from trainers.env.dynamics import Situation, StepOutcome
from trainers.env.params import load_soft_limits
from trainers.env.simulate import campaign_budget_cents, campaign_months, run_campaign
from trainers.eval.hard_rules import RULES, RuleChecker
from trainers.eval.policy import calibrate_propensity, evaluate_policy, paired_interval
from trainers.eval.policy_plots import policy_plots
from trainers.eval.report import write_report

N = 300


def checker(budget_cents: int = 10**9) -> RuleChecker:
    return RuleChecker(load_world(), population(N), budget_cents)


def planted(
    contacted: list[int], hour: float, action: int, **also: list[int]
) -> tuple[Situation, np.ndarray, StepOutcome]:
    """One step in which exactly these customers were contacted, whatever the mask says."""
    base = campaign(N)
    seen = base.situation
    contact = dataclasses.replace(seen.contact, local_hour_at_send=np.full((N, 4), hour))
    flags = {name: np.isin(np.arange(N), also.get(name, [])) for name in ("churned", "opted_out")}
    outcome = dataclasses.replace(
        base.step(np.zeros(N, dtype=np.int64)), contacted=np.isin(np.arange(N), contacted), **flags
    )
    return dataclasses.replace(seen, contact=contact), np.full(N, action), outcome


def consenting(k: int) -> list[int]:
    return np.flatnonzero(population(N).consent)[:k].tolist()


def test_the_checker_finds_each_planted_violation() -> None:
    """Every rule is broken once on purpose and counted; a clean contact is not."""
    now, (a, b, c) = ActionSpace(load_world()).index_of("check_in", 0), consenting(3)
    unwilling = int(np.argmin(population(N).consent))

    check = checker()
    check.watch(*planted([a], 12.0, now))
    assert not any(check.violations.values())
    check.watch(*planted([a], 12.0, now))
    assert check.violations["cooldown"] == 1

    check = checker()
    check.watch(*planted([b], 22.5, now))
    check.watch(*planted([unwilling], 12.0, now, churned=[a], opted_out=[c]))
    check.watch(*planted([a, c], 12.0, now))
    found = {rule: count for rule, count in check.violations.items() if count}
    assert found == {"quiet_hours": 1, "consent": 1, "left": 1, "do_not_contact": 1}

    check = checker()
    for epoch in range(7):
        check.watch(*planted([a] if epoch % 3 == 0 else [], 12.0, now))
    assert check.violations["weekly_cap"] == 1
    assert check.violations["cooldown"] == 0

    check = checker(budget_cents=1000)
    check.watch(*planted(consenting(3), 12.0, ActionSpace(load_world()).index_of("bonus_pack", 0)))
    assert check.violations["budget"] == 2
    assert set(check.violations) == set(RULES)


def test_a_delay_into_the_quiet_hours_is_found() -> None:
    """The check looks at the hour of sending, not of deciding."""
    late = ActionSpace(load_world()).index_of("check_in", 12)
    check = checker()
    check.watch(*planted(consenting(1), 12.0, late))
    assert check.violations["quiet_hours"] == 1


def test_uniform_play_under_the_mask_breaks_no_rule() -> None:
    """Thousands of random allowed actions, with a budget that runs out, and not one violation."""

    class Anything:
        def probabilities(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
            return allowed / allowed.sum(axis=1, keepdims=True)

    world, params = settings()
    customers = population(800)
    check = RuleChecker(world, customers, campaign_budget_cents(world, 800))
    run_campaign(world, params, customers, Anything(), 4, check.watch)
    assert check.contacts > 1000
    assert not any(check.violations.values())


def test_the_propensity_policy_contacts_the_risky_at_the_first_allowed_delay() -> None:
    """Only from the threshold on, only the one offer, and it lets them rest."""
    world, _ = settings()
    seen = campaign(N).situation
    policy = PropensityPolicy(world, 0.4, "discount_20", 672)
    actions = policy.probabilities(seen.observation, seen.allowed).argmax(axis=1)
    space = ActionSpace(world)
    risky = population(N).features.risk >= 0.4
    assert (actions[~risky] == 0).all()
    assert {space[int(i)].label.split("+")[0] for i in actions[actions > 0]} == {"discount_20"}
    for row in np.flatnonzero(actions):
        earlier = range(space.index_of("discount_20", 0), actions[row])
        assert not seen.allowed[row, list(earlier)].any()


def test_the_peer_is_calibrated_to_the_spend_and_keeps_the_limits() -> None:
    """Its threshold meets the spend on the calibration seed, or it costs less whatever the threshold."""
    world, params = settings()
    limits, months = load_soft_limits(), campaign_months(world)
    peer = calibrate_propensity(world, params, limits, population(N), 1.5, 77)
    costs = run_campaign(world, params, population(N), peer, 77).costs.mean(axis=0) / months
    assert costs[0] < 1.7
    assert costs[1] <= limits.contact


def test_paired_intervals_cover_the_mean() -> None:
    """A clear difference has a lower bound above 0, none has an interval around 0."""
    rng = np.random.default_rng(5)
    clear, none = paired_interval(rng.normal(1.0, 3.0, 2000), 1), paired_interval(rng.normal(0.0, 3.0, 2000), 1)
    assert 0 < clear.low < clear.value < clear.high
    assert none.low < 0 < none.high


def test_the_report_says_what_is_missed(tmp_path: Path) -> None:
    """Contacting nobody gains nothing over its peer, and too few decisions are no proof; the page has its plots."""
    world, params = settings()
    report = evaluate_policy(world, params, load_soft_limits(), population(100), NeverContact(), campaigns=1, seed=42)
    assert report["hard_rule_violations"] == 0
    assert report["policies"]["ppo"]["spend_usd_per_month"] == 0
    assert any("not above 0" in sentence for sentence in report["missed"])
    assert any("raise --campaigns" in sentence for sentence in report["missed"])
    page = write_report(tmp_path, "Policy", report, policy_plots(report)).read_text()
    assert page.count("<svg") == 2
    assert json.loads((tmp_path / "report.json").read_text())["decisions"] == report["decisions"]
