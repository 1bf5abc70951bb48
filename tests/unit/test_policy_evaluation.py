"""Judging a policy: the peer, the independent check of the rules, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from churnsaver.checkpoints import Checkpoint, Gate, Manifest
from churnsaver.domain import eligibility
from churnsaver.domain.actions import ActionSpace
from churnsaver.errors import BadInput
from churnsaver.settings import load_world
from tests.support.campaign import campaign, population, settings
from trainers.agents.baselines import BaselineFamily, NeverContact, Policy, PropensityPolicy, calibrate
from trainers.agents.baselines.families import Variant
from trainers.env.params import CONSTRAINTS, load_soft_limits
from trainers.env.simulate import campaign_budget_cents, run_campaign
from trainers.env.step import Situation, StepOutcome
from trainers.eval.hard_rules import RULES, RuleChecker
from trainers.eval.judged_under import judged_under, other_limits, other_models
from trainers.eval.play import Play, Setting, play
from trainers.eval.policy import Judging, evaluate_policy, missed_targets, quick_gate
from trainers.eval.policy_report import policy_sections
from trainers.eval.policy_targets import remarks
from trainers.eval.report import require_writable, write_report
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
    for sentence in (
        "over never at equal spend is not above 0",
        "raise --campaigns",
        "fatigue_shock: the gain over",
        "propensity cannot be compared at equal spend: the policy spends nothing",
    ):
        assert any(sentence in missed for missed in report["missed"]), sentence
    assert "budget_halved: whether the policy earns more than contacting nobody stays open" in " ".join(
        report["remarks"]
    )
    report |= {
        "checkpoint": {"version": "policy-1", "sha256": "a" * 64},
        "data": {"name": "made up"},
        "judged_under": judged_under(*settings(), load_soft_limits(), []),
        "warnings": ["the moon was full"],
    }
    page = write_report(tmp_path, "Policy", report, [], policy_sections(report)).read_text()
    assert page.count("<svg") == 5
    assert "sleeping dog flood: propensity" in page
    assert "Warning: the moon was full." in page
    assert report["judged_under"]["settings_sha256"]["world"][:16] in page
    assert json.loads((tmp_path / "report.json").read_text())["decisions"] == report["decisions"]


def test_costs_under_stress_are_shares_of_their_limits() -> None:
    """Of whoever contacts far too often, in every scenario, with intervals; the remarks name what is over."""
    limits = load_soft_limits()
    often = PropensityPolicy(load_world(), 0.0, "check_in", 72.0)
    rivals, judging = {"propensity": family("discount_10")}, Judging(campaigns=1, stress_campaigns=2)
    report = evaluate_policy(setting(60), population(80, seed=9), limits, often, rivals, judging, seed=42).result
    for name, found in report["stress"].items():
        assert list(found["cost_over_limit"]) == list(CONSTRAINTS)
        contact = found["cost_over_limit"]["contact"]
        assert 1.0 < contact["low"] < contact["value"] < contact["high"], name
        assert any(sentence.startswith(f"{name}: contact is") for sentence in report["remarks"])
    played = play(SCENARIOS["fatigue_shock"].change(setting(60), 42, 1.0), often, range(4_220_000, 4_220_002))
    shocked = report["stress"]["fatigue_shock"]["cost_over_limit"]
    for name, cost in played.costs_per_month.items():
        assert shocked[name]["value"] == pytest.approx(cost / getattr(limits, name))


def judged(**changed: Any) -> dict[str, Any]:
    """A report without a fault but for what is changed."""
    good = {"equal_spend": {"value": 1.0, "low": 0.5, "high": 1.5}, "spend_ratio": 1.05}
    stress = {
        "hard_rule_violations": 0,
        "new_response": True,
        "gain_usd": {"value": 1.0, "low": 0.5, "high": 1.5},
        "gain_over": {"propensity": good},
        "cost_over_limit": {"contact": {"value": 0.8, "low": 0.7, "high": 0.9}},
    }
    report = {
        "hard_rule_violations": 0,
        "decisions": 1_000_000,
        "baselines": {"propensity": {}},
        "gain_over": {"propensity": good, "never": {**good, "spend_ratio": 0.0}},
        "constraints": {"contact": {"value": 0.4, "low": 0.3, "high": 0.5, "limit": 0.5}},
        "stress": {"fatigue_shock": stress, "budget_halved": {**stress, "new_response": False}},
    }
    return {**report, **changed}


def stressed(**changed: Any) -> dict[str, Any]:
    """The same, changed under every stress."""
    return judged(stress={name: {**found, **changed} for name, found in judged()["stress"].items()})


def test_each_target_has_a_sentence_when_it_is_missed() -> None:
    """A report without a fault misses nothing; each planted fault is named, and only where it is asked."""
    bad = {"equal_spend": {"value": 0.4, "low": -0.1, "high": 0.9}, "spend_ratio": 1.0}
    assert missed_targets(judged()) == []
    assert remarks(judged()) == []
    assert len(missed_targets(judged(hard_rule_violations=1))) == 1
    assert "999,999 decisions" in missed_targets(judged(decisions=999_999))[0]
    assert "gain over propensity" in missed_targets(judged(gain_over={"propensity": bad}))[0]
    said = missed_targets(stressed(hard_rule_violations=2, gain_over={"propensity": bad}))
    assert [sentence.split(":")[0] for sentence in said] == ["fatigue_shock", "fatigue_shock", "budget_halved"]


def test_a_cost_that_may_be_over_its_limit_is_a_miss() -> None:
    """The whole interval has to be within it, not the estimate alone."""
    unsure = {"contact": {"value": 0.49, "low": 0.47, "high": 0.51, "limit": 0.5}}
    (sentence,) = missed_targets(judged(constraints=unsure))
    assert sentence.startswith("contact is 0.4900 (0.4700 to 0.5100) a customer and month, not surely within its limit")


@pytest.mark.parametrize(("ratio", "miss"), [(0.41, True), (0.89, True), (0.9, False), (1.1, False), (1.2, True)])
def test_equal_spend_is_equal(ratio: float, *, miss: bool) -> None:
    """As trained it is a miss where a baseline spends otherwise; under stress it is said."""
    unequal = {"propensity": {"equal_spend": {"value": 1.0, "low": 0.5, "high": 1.5}, "spend_ratio": ratio}}
    sentence = f"spend of propensity is {ratio:.2f} of the policy's: not compared at equal spend"
    assert missed_targets(judged(gain_over=unequal)) == ([sentence] if miss else [])
    under_stress = stressed(gain_over=unequal)
    assert missed_targets(under_stress) == []
    assert remarks(under_stress) == ([f"{name}: {sentence}" for name in under_stress["stress"]] if miss else [])


def test_under_new_responses_a_policy_may_not_be_worse_than_nothing() -> None:
    """Surely worse is a miss; not surely better is said."""
    assert missed_targets(stressed(gain_usd={"value": -0.5, "low": -0.9, "high": -0.1})) == [
        "fatigue_shock: it earns less than contacting nobody: $-0.50 (-0.90 to -0.10)"
    ]
    unsure = stressed(gain_usd={"value": -0.1, "low": -0.5, "high": 0.3})
    assert missed_targets(unsure) == []
    assert remarks(unsure)[0] == (
        "fatigue_shock: whether the policy earns more than contacting nobody stays open: $-0.10 (-0.50 to 0.30)"
    )


def checkpoint(kind: str, version: str, **parents: str) -> Checkpoint:
    manifest = Manifest(kind=kind, version=version, seed=1, files={}, parents=parents)
    return Checkpoint(Path(kind), manifest, "a" * 64, {})


def test_the_report_says_what_the_policy_was_judged_under() -> None:
    """Hashes follow the settings; other models and limits than training's are named, the same ones are not."""
    world, params = settings()
    limits, scorers = load_soft_limits(), [checkpoint("risk", "risk-1"), checkpoint("acceptance", "acceptance-1")]
    under = judged_under(world, params, limits, scorers)
    assert under["models"]["risk"] == {"version": "risk-1", "sha256": "a" * 64}
    tighter = limits.model_copy(update={"contact": 0.4})
    changed = judged_under(world, params, tighter, scorers)["settings_sha256"]
    assert [name for name, sha256 in changed.items() if sha256 != under["settings_sha256"][name]] == ["constraints"]
    policy = checkpoint("policy", "policy-1", risk="risk-1", acceptance="acceptance-0")
    (sentence,) = other_models(policy, scorers)
    assert "acceptance-1" in sentence
    assert "acceptance-0" in sentence
    assert other_limits(limits.model_dump(), limits) == []
    (sentence,) = other_limits(limits.model_dump(), tighter)
    assert "the limit of contact in env.yaml is 0.4, the policy was trained for 0.5" in sentence


def test_a_report_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    """A file in the folder's place, above it or as its report, and a checkpoint's folder; nothing is left behind."""
    (tmp_path / "file").write_text("")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "manifest.json").write_text("{}")
    (tmp_path / "odd" / "report.json").mkdir(parents=True)
    for name in ("file", "file/inside", "odd", "checkpoint"):
        with pytest.raises(BadInput, match=rf"{tmp_path / name}: .*choose another --out"):
            require_writable(tmp_path / name)
    require_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


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


def test_two_judgements_share_no_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of neighbouring seeds would count the same luck twice."""
    seen: list[int] = []

    def recorded(setting: Setting, policy: Policy, seeds: range, **options: Any) -> Play:
        seen.extend(seeds if isinstance(policy, NeverContact) else ())
        return play(setting, policy, seeds, **options)

    monkeypatch.setattr("trainers.eval.policy.play", recorded)
    policy = PropensityPolicy(load_world(), 0.1, "check_in", 168.0)
    for seed in (3, 4):
        quick_gate(*settings(), load_soft_limits(), population(20), policy, {}, seed=seed)
    assert len(seen) == len(set(seen)) == 8


def test_a_broken_mask_does_not_pass_the_quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts in the quiet hours are found even where the environment lets them through."""
    monkeypatch.setattr(eligibility, "in_quiet_hours", lambda _, hours: np.zeros_like(hours, dtype=bool))
    world, params = settings()
    policy = PropensityPolicy(world, 0.1, "check_in", 168.0)
    gate = quick_gate(world, params, load_soft_limits(), population(100), policy, {}, seed=3)
    assert "quiet_hours" in gate.missed[0]
