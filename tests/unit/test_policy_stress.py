"""Stress tests: each changes what it says and nothing else, and time zones at their worst break no rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from churnsaver.domain.eligibility import local_hours_at_send
from tests.support.campaign import population, settings
from trainers.agents.baselines import PropensityPolicy
from trainers.env.dynamics import Campaign
from trainers.env.params import SEGMENTS
from trainers.env.response import segment_probabilities
from trainers.env.simulate import campaign_budget_cents, draw_actions
from trainers.eval.play import Setting, play
from trainers.eval.stress import SCENARIOS
from trainers.eval.zones import START, ZONES, ZoneSchedule

N = 300


def setting() -> Setting:
    return Setting(*settings(), population(N))


class Anything:
    """Any allowed action, uniformly."""

    def probabilities(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        return allowed / allowed.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_stress_breaks_a_hard_rule(name: str) -> None:
    """Hundreds of random contacts, and not one violation; the setting that was stressed is left as it was."""
    base, before = setting(), setting()
    stressed = SCENARIOS[name].change(base, 5, 10.0)
    assert base.params == before.params
    assert base.world == before.world
    found = play(stressed, Anything(), [1, 2])
    assert found.contacts > 400
    assert not any(found.violations.values())
    assert SCENARIOS[name].description


def test_stress_is_felt() -> None:
    """Each response that was not trained on earns a calibrated policy a fifth less or more."""
    policy = PropensityPolicy(setting().world, 0.25, "discount_10", 672.0)
    calm = play(setting(), policy, range(3), check=False).gain_usd.mean()
    for name, scenario in SCENARIOS.items():
        if scenario.new_response and name != "fatigue_shock":  # who contacts once a month tires nobody
            stressed = play(scenario.change(setting(), 5, 10.0), policy, range(3), check=False).gain_usd.mean()
            assert stressed < 0.8 * calm, name
    often = PropensityPolicy(setting().world, 0.25, "check_in", 0.0)
    tired = SCENARIOS["fatigue_shock"].change(setting(), 5, 10.0)
    calm, shocked = (play(each, often, range(3), check=False) for each in (setting(), tired))
    assert shocked.gain_usd.mean() < 0.8 * calm.gain_usd.mean()


def test_the_flood_is_one_of_sleeping_dogs() -> None:
    """Their share at least doubles."""
    seen, dog = population(N).features, SEGMENTS.index("sleeping_dog")
    shares = [
        segment_probabilities(each.params, seen.risk, seen.monthly_usd, seen.tenure_months)[:, dog].mean()
        for each in (setting(), SCENARIOS["sleeping_dog_flood"].change(setting(), 1, 10.0))
    ]
    assert shares[1] > 2.0 * shares[0]


def test_half_the_budget_runs_out() -> None:
    """It is half of what the policy books, not of what it was allowed: the ledger refuses, and nothing is overdrawn."""
    policy = PropensityPolicy(setting().world, 0.25, "discount_10", 672.0)
    calm = play(setting(), policy, [1, 2])
    assert calm.refused == 0
    halved = SCENARIOS["budget_halved"].change(setting(), 5, calm.reserved_usd)
    found = play(halved, policy, [1, 2])
    assert found.refused > 0, "who comes last is refused"
    assert 0.45 * calm.reserved_usd < found.reserved_usd <= 0.5 * calm.reserved_usd
    assert found.spend_usd < 0.6 * calm.spend_usd
    assert not any(found.violations.values())
    scarce = SCENARIOS["budget_halved"].change(setting(), 5, 10_000.0)
    budgets = [campaign_budget_cents(each.world, N) for each in (scarce, setting())]
    assert budgets[0] == budgets[1] // 2, "who books more than there is gets half of what there is"


def test_what_is_booked_is_what_the_ledger_books() -> None:
    """Offers in full whether they are accepted or not, and contacts: counted by the campaign's own ledger."""
    policy = PropensityPolicy(setting().world, 0.25, "bonus_pack", 168.0)
    world, params = settings()
    course = Campaign(world, params, population(N), campaign_budget_cents(world, N), 1)
    draws = np.random.default_rng([1, 1])
    while not course.finished:
        seen = course.situation
        chosen = draw_actions(policy.probabilities(seen.observation, seen.allowed), draws.random(N))
        course.step(chosen)
    booked = (course.budget_cents - course.budget_left_cents) / 100.0 / N
    assert booked > 1.0
    assert play(setting(), policy, [1]).reserved_usd == pytest.approx(booked)


def test_drift_changes_what_is_seen_and_not_what_is() -> None:
    """A policy that looks at nothing brings the same; one that reads the risk picks others."""
    drifted = SCENARIOS["drifted_features"].change(setting(), 3, 10.0)
    assert drifted.seen is not None
    assert np.abs(drifted.seen.risk - drifted.population.features.risk).max() > 0.1
    blind, reading = Anything(), PropensityPolicy(drifted.world, 0.3, "check_in", 168.0)
    np.testing.assert_array_equal(play(drifted, blind, [1]).gain_usd, play(setting(), blind, [1]).gain_usd)
    assert play(drifted, reading, [1]).contacts != play(setting(), reading, [1]).contacts


def test_seeing_the_truth_changes_nothing() -> None:
    """Features shown in place of themselves are what the environment itself shows."""
    truth = replace(setting(), seen=population(N).features)
    policy = PropensityPolicy(truth.world, 0.3, "discount_10", 168.0)
    np.testing.assert_array_equal(play(truth, policy, [1]).gain_usd, play(setting(), policy, [1]).gain_usd)


@settings_of_hypothesis(max_examples=40, deadline=None)  # the first one makes the table of offsets
@given(epoch=st.integers(0, 55), hour=st.floats(0.0, 23.999), seed=st.integers(0, 50))
def test_zones_keep_the_clock_that_the_gateway_keeps(epoch: int, hour: float, seed: int) -> None:
    """The hours that the mask reads are those of `local_hours_at_send`, clock changes included."""
    world = setting().world
    schedule = ZoneSchedule(world, 4, seed)
    sends = np.full((4, 1), hour) + np.asarray(world.delays_hours, dtype=np.float64)
    found = schedule(epoch, sends)
    for customer in range(4):
        zone = ZoneInfo(ZONES[schedule.zone[epoch, customer]])
        now = START + timedelta(hours=epoch * world.epoch_hours + hour)
        expected = np.array(local_hours_at_send(now, zone, world.delays_hours))
        apart = np.abs(found[customer] - expected)
        assert (np.minimum(apart, 24.0 - apart) < 2.0 / 3600.0).all()
        _, local = schedule.sent(epoch, customer, world.delays_hours[1])
        assert min(abs(local - expected[1]), 24.0 - abs(local - expected[1])) < 2.0 / 3600.0


def test_a_mask_that_forgets_zones_is_caught() -> None:
    """The check has hours of its own: contacts by another clock than the recipient's are violations."""
    zones_change = SCENARIOS["adversarial_zones"].change(setting(), 1, 10.0)

    class Unaware(ZoneSchedule):
        def __call__(self, epoch: int, sends: np.ndarray) -> np.ndarray:
            super().__call__(epoch, sends)
            return sends % 24.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.eval.play.ZoneSchedule", Unaware)
        assert play(zones_change, Anything(), [1]).violations["quiet_hours"] > 50
