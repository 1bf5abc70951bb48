"""What surrounds the learner: what it refuses, the alarm, the curves, and the checkpoint's gate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from churnsaver.checkpoints import Gate
from churnsaver.errors import BadInput, SettingsError
from churnsaver.settings import load_section
from tests.support.baselines import small_baselines
from tests.support.campaign import campaign, population, settings, short_settings, tiny_policy
from trainers.agents.feasibility import alarm, idle_limits, require_feasible, unmet_constraints
from trainers.agents.networks import ActorCritic
from trainers.agents.ppo_policy import train_ppo
from trainers.agents.settings import PpoSettings, Preset
from trainers.agents.settle import HOLD_BACK, held_back, settle
from trainers.agents.train import Provenance, policy_gate, train_policy, training_folder
from trainers.agents.training_log import TENSORBOARD, TensorBoardLog, scalars
from trainers.env.dynamics import Campaign
from trainers.env.params import CONSTRAINTS, SoftLimits, load_soft_limits
from trainers.env.step import StepOutcome

LIMITS = load_soft_limits()


def small(**game: Any) -> PpoSettings:
    section = load_section("ppo", PpoSettings)
    lagrangian = section.lagrangian.model_copy(update={"alarm_iterations": 2} | game)
    return section.model_copy(update={"lagrangian": lagrangian, "validation_customers": 128, "save_every": 1})


@pytest.fixture(autouse=True)
def ready_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting baselines takes longer than these trainings, and no test here is about them."""
    monkeypatch.setattr("trainers.agents.train.equal_spend_baselines", lambda *_: small_baselines(settings()[0]))


def train(out: Path, limits: SoftLimits = LIMITS, resume: bool = False, **game: Any) -> Any:
    return train_policy(
        population(200),
        population(100, seed=9),
        *short_settings(),
        limits,
        small(**game),
        Preset(customers=48, iterations=3),
        out,
        seed=1,
        provenance=Provenance("made up", "0" * 64, b"{}", {}),
        resume=resume,
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"opt_out": 0.6, "contact": 0.5}, "opt_out: 0.6 contradicts constraints.contact: 0.5.*lower opt_out"),
        ({"contact": 1e-4, "opt_out": 1e-5}, "contact: 0.0001 .* less than one contact.*raise it to at least 0.0"),
        ({"spend_usd": 1e-6}, "spend_usd: 1e-06 .* less than one cent.*raise it"),
        ({"opt_out": 1e-6}, "opt_out: 1e-06 .* less than the 0.01 opt-outs that one contact brings.*raise it"),
    ],
)
def test_limits_that_contradict_are_refused(changed: dict[str, float], said: str) -> None:
    """By name, with what to change."""
    with pytest.raises(SettingsError, match=said):
        require_feasible(*settings(), LIMITS.model_copy(update=changed), 512)


def test_no_budget_is_refused() -> None:
    """Neither none at all nor one that a small campaign has no cent of."""
    world, params = settings()
    for cents in (0, 5):
        poor = world.campaigns["default"].model_copy(update={"budget_cents": cents})
        with pytest.raises(SettingsError, match=r"campaigns\.default\.budget_cents"):
            require_feasible(world.model_copy(update={"campaigns": {"default": poor}}), params, LIMITS, 512)


def test_a_limit_that_cannot_bind_is_named() -> None:
    """A spend limit beyond the budget, a contact limit beyond the weekly cap or the opt-outs; ours can bind."""
    world, params = settings()

    def idle(**changed: float) -> list[str]:
        return [s.split(":")[1].strip() for s in idle_limits(world, params, LIMITS.model_copy(update=changed))]

    assert idle() == []
    assert idle(spend_usd=1e3, contact=20.0, opt_out=1.0) == ["constraints.spend_usd", "constraints.contact"]
    assert idle(contact=1.0, opt_out=0.009) == ["constraints.contact"]
    assert idle(contact=0.8, opt_out=0.009) == []


@pytest.mark.parametrize("field", ["reward_usd", "expected_costs"])
def test_rewards_and_costs_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """With the customer, before anything is learned from them."""
    step = Campaign.step

    def broken(self: Campaign, actions: Any) -> StepOutcome:
        outcome = step(self, actions)
        values = getattr(outcome, field).copy()
        values[5] = np.nan
        return dataclasses.replace(outcome, **{field: values})

    monkeypatch.setattr(Campaign, "step", broken)
    with pytest.raises(BadInput, match=f"{field} of customer 5"):
        tiny_policy()


def test_unmet_constraints_are_those_over_their_limit_for_a_while() -> None:
    """One campaign over the limit is chance; the mean of the last ones is not."""
    fine = {name: 0.5 * getattr(LIMITS, name) for name in CONSTRAINTS}
    spike = fine | {"fatigue": 1.2 * LIMITS.fatigue}
    assert unmet_constraints([spike], LIMITS, 2) == ()
    assert unmet_constraints([spike, fine], LIMITS, 2) == ()
    assert unmet_constraints([fine, spike, spike], LIMITS, 2) == ("fatigue",)


def test_the_alarm_says_what_to_change() -> None:
    """A price at its clamp asks for a higher clamp, another for a longer training or a higher limit."""
    assert "multiplier_max: 50" in alarm("contact", 0.6, 0.5, 50.0, 50.0)
    assert "train for longer" in alarm("contact", 0.6, 0.5, 3.0, 50.0)


def test_constraints_that_cannot_be_met_raise_the_alarm_and_fail_the_gate(tmp_path: Path) -> None:
    """Prices clamped far too low: the manifest, the card and the gate say which constraint."""
    tight = LIMITS.model_copy(update={"fatigue": 1e-3})
    manifest = train(tmp_path / "policy", tight, multiplier_max=1e-3)
    assert not manifest.gate.passed
    assert any("not met together: fatigue" in sentence for sentence in manifest.gate.missed)
    assert manifest.metrics["unmet_fatigue"] == 1.0
    assert "not met together: fatigue" in (tmp_path / "policy" / "MODEL_CARD.md").read_text()


def test_a_policy_that_gave_contacting_up_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its costs are all within limits, so no other alarm would say why it earns nothing."""
    monkeypatch.setattr("trainers.agents.train.IDLE_SHARE", 1e9)
    manifest = train(tmp_path / "policy")
    assert any("lower initial_contact_rate: 0.1 of ppo.yaml" in sentence for sentence in manifest.gate.missed)


def test_training_leaves_curves_events_and_a_state_beside_the_checkpoint(tmp_path: Path) -> None:
    """The folder of the checkpoint holds its own files alone, so it can be replaced; a finished training resumes."""
    out = tmp_path / "policy"
    first = train(out)
    training = training_folder(out)
    report = json.loads((training / "report.json").read_text())
    assert [iteration["number"] for iteration in report["history"]] == [1, 2, 3]
    assert (training / "report.html").read_text().count("<svg") == 3
    events = EventAccumulator(str(training / TENSORBOARD)).Reload()
    assert len(events.Scalars("cost_per_month/fatigue")) == 3
    assert set(events.Tags()["scalars"]) >= {"training/reward_usd", "multiplier_usd/spend_usd"}
    assert train(out, resume=True).version == first.version
    TensorBoardLog(training, done=0).close()  # one that begins anew forgets the curves of the one before
    assert not EventAccumulator(str(training / TENSORBOARD)).Reload().Tags()["scalars"]


def test_an_alarm_fails_the_gate() -> None:
    """Whatever the held-out campaigns say; and what they say is kept."""
    assert policy_gate(Gate.of(), []).passed
    assert policy_gate(Gate.of((False, "it earns nothing")), ["alarm"]).missed == ("it earns nothing", "alarm")


def test_a_board_shows_every_multiplier() -> None:
    """By the constraint's name."""
    assert set(scalars(tiny_policy().history[-1])) >= {f"multiplier_usd/{name}" for name in CONSTRAINTS}


def test_actors_that_contact_too_much_are_held_back() -> None:
    """By the least step that keeps the targets; one that keeps them is left as it is."""
    network = ActorCritic(14, 21, 4, (8,), 0.1)
    arguments = (*short_settings(), LIMITS, population(300), [network.actor])
    actor, validation = settle(*arguments, customers=400, target_fraction=0.9, seed=3)
    steps = (actor[-1].bias[0] - network.actor[-1].bias[0]).item()
    assert steps in HOLD_BACK[1:]
    assert validation.share_of_limits(LIMITS) < 1.1
    quiet = held_back(network.actor, 20.0)
    kept, nothing = settle(*arguments[:-1], [quiet], customers=400, target_fraction=0.9, seed=3)
    assert kept[-1].bias[0] == quiet[-1].bias[0]
    assert nothing.costs_per_month["contact"] == 0.0


def test_the_served_actor_takes_observations_as_they_are() -> None:
    """Standardisation is folded into the first layers: actor and critics answer the same."""
    network = ActorCritic(14, 21, 4, (8, 8), 0.1)
    network.observation_mean.uniform_(-1.0, 1.0)
    network.observation_std.uniform_(0.5, 2.0)
    seen = campaign(30).situation.observation
    served = network.with_actor(network.actor)
    np.testing.assert_allclose(
        served.actor(served.standardise(seen)).detach(), network.actor(network.standardise(seen)).detach(), atol=1e-5
    )
    np.testing.assert_allclose(
        served.values(served.standardise(seen)).detach(), network.values(network.standardise(seen)).detach(), atol=1e-5
    )
    assert (served.standardise(seen).numpy() == seen).all()


def test_a_training_with_bad_limits_never_starts(tmp_path: Path) -> None:
    """Refused before a campaign is played."""
    swapped = LIMITS.model_copy(update={"opt_out": 0.5, "contact": 0.01})
    with pytest.raises(SettingsError, match="contradicts"):
        train_ppo(*settings(), swapped, population(100), small(), Preset(customers=64, iterations=1), 1)
