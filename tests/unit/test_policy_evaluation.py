"""Judging a policy: the peer, the independent check of the rules, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import orjson
import pytest

from churnsaver.checkpoints import Gate
from churnsaver.domain import eligibility
from churnsaver.domain.actions import ActionSpace
from churnsaver.settings import load_world
from tests.support.campaign import campaign, population, settings
from trainers.agents.baselines import BaselineFamily, NeverContact, Policy, PropensityPolicy, calibrate
from trainers.agents.baselines.families import Variant
from trainers.env.dynamics import Situation, StepOutcome
from trainers.env.params import load_soft_limits
from trainers.env.simulate import campaign_budget_cents, run_campaign
from trainers.eval.hard_rules import RULES, RuleChecker
from trainers.eval.play import Setting, play
from trainers.eval.policy import Judging, evaluate_policy, missed_targets, quick_gate
from trainers.eval.policy_report import policy_sections
from trainers.eval.report import write_report
from trainers.eval.rivals import rehearsal
from trainers.eval.stress import SCENARIOS

N = 300


def family(*offers: str) -> BaselineFamily:
    world, _ = settings()
    return BaselineFamily(
        tuple(Variant(lambda dial, offer=offer: PropensityPolicy(world, dial, offer, 672.0)) for offer in offers)
    )


def setting(n: int) -> Setting:
    return Setting(*settings(), population(n))


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
    """Its dial meets the spend on the calibration seed, or it costs less whatever the dial."""
    limits = load_soft_limits()
    here = rehearsal(setting(N), range(77, 78))
    rival = calibrate(family("discount_10", "discount_20"), here, limits, 1.5)
    costs = play(setting(N), rival.policy, [77]).costs_per_month
    assert costs["spend_usd"] < 1.7
    assert costs["contact"] <= limits.contact
    cheaper = here.turn(rival.variant, 0.5)
    assert cheaper.variant is rival.variant
    assert cheaper.policy.spec.threshold > rival.policy.spec.threshold
    assert abs(play(setting(N), cheaper.policy, [77]).spend_usd - 0.5) < 0.25


def test_the_report_says_what_is_missed(tmp_path: Path) -> None:
    """Contacting nobody gains nothing over its peer, and too few decisions are no proof; the page has its plots."""
    steps: list[int] = []
    judging = Judging(campaigns=1, stress_campaigns=1)
    found = evaluate_policy(
        setting(100),
        population(150, seed=9),
        load_soft_limits(),
        NeverContact(),
        {"propensity": family("discount_10")},
        judging,
        seed=42,
        advance=lambda: steps.append(1),
    )
    report = found.result
    assert set(found.gains_usd) == {"as_trained", *SCENARIOS}
    orjson.dumps(report)  # plain numbers only, which json would not notice
    assert len(steps) == judging.steps(baselines=1)
    assert report["hard_rule_violations"] == 0
    assert report["policies"]["ppo"]["business"]["spend_usd"]["value"] == 0
    assert report["policies"]["ppo"]["business"]["roi"] is None, "nothing was spent"
    assert set(report["stress"]) == set(SCENARIOS)
    for sentence in ("over never at equal spend is not above 0", "raise --campaigns", "fatigue_shock: the gain over"):
        assert any(sentence in missed for missed in report["missed"]), sentence
    report |= {"checkpoint": {"version": "policy-1", "sha256": "a" * 64}, "data": {"name": "made up"}}
    page = write_report(tmp_path, "Policy", report, [], policy_sections(report)).read_text()
    assert page.count("<svg") == 4
    assert "sleeping dog flood: propensity" in page
    assert json.loads((tmp_path / "report.json").read_text())["decisions"] == report["decisions"]


def test_each_target_has_a_sentence_when_it_is_missed() -> None:
    """A report without a fault misses nothing; each planted fault is named, and only where it is asked."""
    good = {"equal_spend": {"value": 1.0, "low": 0.5, "high": 1.5}}
    bad = {"equal_spend": {"value": 0.4, "low": -0.1, "high": 0.9}}
    stress = {"hard_rule_violations": 0, "new_response": True, "gain_over": {"propensity": good}}
    report = {
        "hard_rule_violations": 0,
        "decisions": 1_000_000,
        "gain_over": {"propensity": good},
        "constraints": {"contact": {"value": 0.4, "limit": 0.5}},
        "stress": {"fatigue_shock": stress, "budget_halved": {**stress, "new_response": False}},
    }
    assert missed_targets(report) == []
    assert len(missed_targets({**report, "hard_rule_violations": 1})) == 1
    assert "999,999 decisions" in missed_targets({**report, "decisions": 999_999})[0]
    assert "gain over propensity" in missed_targets({**report, "gain_over": {"propensity": bad}})[0]
    assert "contact is 0.6" in missed_targets({**report, "constraints": {"contact": {"value": 0.6, "limit": 0.5}}})[0]
    worse = {"hard_rule_violations": 2, "gain_over": {"propensity": bad}}
    stressed = {name: {**found, **worse} for name, found in report["stress"].items()}
    said = missed_targets({**report, "stress": stressed})
    assert [sentence.split(":")[0] for sentence in said] == ["fatigue_shock", "fatigue_shock", "budget_halved"]


def test_the_quick_gate_refuses_what_must_not_serve() -> None:
    """Contacting nobody earns nothing; contacting everyone strays over limits; a fair policy passes beside itself."""
    world, params = settings()
    limits, customers = load_soft_limits(), population(250)
    fair = PropensityPolicy(world, 0.35, "discount_10", 672.0)

    def gate(policy: Policy) -> Gate:
        return quick_gate(world, params, limits, customers, policy, {"propensity": fair}, seed=3)

    assert gate(fair).passed
    idle = gate(NeverContact())
    assert "over contacting nobody" in " ".join(idle.missed)
    assert "less than the baseline propensity" in " ".join(idle.missed)
    everyone = gate(PropensityPolicy(world, 0.0, "discount_30", 0.0))
    assert any(sentence.startswith("spend_usd is") for sentence in everyone.missed)


def test_a_broken_mask_does_not_pass_the_quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts in the quiet hours are found even where the environment lets them through."""
    monkeypatch.setattr(eligibility, "in_quiet_hours", lambda _, hours: np.zeros_like(hours, dtype=bool))
    world, params = settings()
    policy = PropensityPolicy(world, 0.1, "check_in", 168.0)
    gate = quick_gate(world, params, load_soft_limits(), population(100), policy, {}, seed=3)
    assert "quiet_hours" in gate.missed[0]
