"""The dynamics of a campaign: money, rules, budget, luck and the response to contact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.eligibility import Reason, mask_reasons
from churnsaver.domain.observation import observe
from churnsaver.errors import BadInput, SettingsError
from tests.support.campaign import campaign, population, settings
from trainers.agents.baselines import NeverContact, PropensityPolicy
from trainers.env.checks import require_trainable
from trainers.env.dynamics import Campaign, admit_in_order
from trainers.env.hazard import HazardState, Season, stay_value_usd
from trainers.env.params import SEGMENTS, load_dynamics, with_value
from trainers.env.simulate import draw_actions, run_campaign

AMPLITUDE = "season.hazard_amplitude"


class Anything:
    """Draws any allowed action alike: hard on the rules."""

    def probabilities(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        return allowed / allowed.sum(axis=1, keepdims=True)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(0, 300))
def test_admission_equals_a_ledger_that_books_one_by_one(reserved: list[int], left: int) -> None:
    """Whoever comes first is served first, and a refusal leaves the rest of the budget to the next."""
    expected, remaining = [], left
    for cents in reserved:
        expected.append(cents <= remaining)
        remaining -= cents if cents <= remaining else 0
    found = admit_in_order(np.array(reserved, dtype=np.int64), left)
    assert found.tolist() == expected


def test_stay_value_equals_a_numerical_integral() -> None:
    """The closed form is the integral of margin × survival under three phases of the hazard and the season."""
    days = (np.arange(24 * 300) + 0.5) / 24.0
    season = Season(amplitude=0.1, peak_day=10.0, start_day=200.0)
    wave = 1.0 + 0.1 * np.cos(2.0 * np.pi * (days + 20.0 + 190.0) / 365.25)
    for cut_days, reaction_days in ((91.0, 28.0), (10.0, 28.0), (0.0, 0.0), (400.0, 5.0)):
        hazard = 0.01 * wave * np.where(days < cut_days, 0.4, 1.0) * np.where(days < reaction_days, 2.0, 1.0)
        survival = np.exp(-np.cumsum(hazard) / 24.0)
        one = np.ones(1)
        effects = HazardState(0.6 * one, cut_days * one, 2.0 * one, reaction_days * one)
        found = stay_value_usd(2.0 * one, 0.01 * one, effects, season, 20.0, 300.0)
        assert found[0] == pytest.approx(2.0 * survival.sum() / 24.0, rel=1e-3)


def test_contacting_nobody_gains_nothing_without_seasons() -> None:
    """The shaped reward is measured against contacting nobody, so that policy's is 0 at every step."""
    world, params = settings()
    result = run_campaign(world, with_value(params, AMPLITUDE, 0.0), population(500), NeverContact(), 1)
    assert np.abs(result.gain_usd).max() < 0.05
    assert result.costs.sum() == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_contacting_nobody_gains_next_to_nothing_in_any_season(seed: int) -> None:
    """The potential knows the season to the first order: what is left is cents a customer, on any start day."""
    gains = run_campaign(*settings(), population(500), NeverContact(), seed).gain_usd
    assert abs(gains.mean()) < 0.05
    assert np.abs(gains).max() < 0.5


def test_the_season_moves_who_leaves() -> None:
    """More leave around the crest than half a year from it, by about the amplitude."""
    world, params = settings()
    strong = with_value(params, AMPLITUDE, 0.5)
    left = {}
    for seed in range(10):
        played = Campaign(world, strong, population(1000), 10**9, seed)
        middle = played.season.mean(0.0, 56.0)
        while not played.finished:
            played.step(np.zeros(1000, dtype=np.int64))
        left[middle] = 1.0 - played.active.mean()
    means = sorted(left)
    assert means[0] < 0.7
    assert means[-1] > 1.3
    assert left[means[-1]] > 1.4 * left[means[0]]


def test_channels_differ_in_acceptance_and_opt_outs() -> None:
    """Same customers, same luck: a channel with higher shifts is accepted more and leaves more opt-outs."""
    world, params = settings()
    index = ActionSpace(world).index_of("check_in", 6)
    outcomes = {}
    for channel in ("email", "sms"):
        everybody = np.full(6000, list(world.channels).index(channel))
        played = Campaign(world, params, replace(population(6000), channel=everybody), 10**9, 1)
        outcomes[channel] = played.step(np.where(played.situation.allowed[:, index], index, NO_CONTACT))
    assert outcomes["sms"].accepted.sum() > 1.1 * outcomes["email"].accepted.sum()
    assert outcomes["sms"].opted_out.sum() > outcomes["email"].opted_out.sum()


def test_an_accepted_offer_works_later_and_ends() -> None:
    """Effects start at the send, last beyond the step, and are over when their days are."""
    played = campaign(2000)
    index = ActionSpace(settings()[0]).index_of("discount_20", 0)
    outcome = played.step(np.where(played.situation.allowed[:, index], index, NO_CONTACT))
    persuaded = outcome.accepted & played.active & (played.segment == SEGMENTS.index("persuadable"))
    kept = played.hazard_factors()[persuaded]
    assert (kept < 0.6).all()
    for _ in range(29):
        played.step(np.zeros(2000, dtype=np.int64))
    later = played.hazard_factors()[persuaded]
    assert (later > kept).all()  # the contact's own reaction is over, the discount still runs
    assert (later < 1.0).all()


def test_the_shaped_gain_has_the_mean_of_the_drawn_money() -> None:
    """Expectation over leaving and accepting changes the noise of a policy's gain, not its mean."""
    world, params = settings()
    customers = population(3000)
    policy = PropensityPolicy(world, 0.3, "discount_10", 672)
    drawn, shaped = [], []
    for seed in range(3):
        played = run_campaign(world, params, customers, policy, seed)
        drawn.append(played.value_usd - run_campaign(world, params, customers, NeverContact(), seed).value_usd)
        shaped.append(played.gain_usd)
    difference = np.concatenate(drawn) - np.concatenate(shaped)
    assert abs(difference.mean()) < 4.0 * difference.std() / len(difference) ** 0.5
    assert np.std(shaped) < np.std(drawn)


def test_same_seed_and_actions_give_the_same_course_bit_by_bit() -> None:
    """Two runs with one seed agree in every number; another seed does not."""
    first, second, other = (run_campaign(*settings(), population(300), Anything(), seed) for seed in (5, 5, 6))
    assert first.value_usd.tobytes() == second.value_usd.tobytes()
    assert first.costs.tobytes() == second.costs.tobytes()
    assert first.value_usd.tobytes() != other.value_usd.tobytes()


def test_policies_meet_the_same_luck() -> None:
    """Segments and hours of decision do not depend on what was done (common random numbers)."""
    quiet, busy = campaign(200), campaign(200)
    for _ in range(10):
        quiet.step(np.zeros(200, dtype=np.int64))
        busy.step(draw_actions(Anything().probabilities(np.empty(0), busy.situation.allowed), np.full(200, 0.99)))
    hours = [c.situation.contact.local_hour_at_send for c in (quiet, busy)]
    np.testing.assert_array_equal(*hours)
    np.testing.assert_array_equal(quiet.segment, busy.segment)


def test_mask_and_observation_are_the_domains() -> None:
    """What the environment shows is what the one mask and the one observation say of its contact state (law 1)."""
    world, _ = settings()
    played = campaign(100)
    for _ in range(5):
        allowed = played.situation.allowed
        played.step(draw_actions(Anything().probabilities(np.empty(0), allowed), np.linspace(0, 0.99, 100)))
    seen = played.situation
    left = np.full(100, played.budget_left_cents / played.budget_cents)
    np.testing.assert_array_equal(seen.reasons, mask_reasons(world, seen.contact))
    np.testing.assert_array_equal(seen.observation, observe(world, population(100).features, seen.contact, left))


def test_a_masked_action_is_refused_and_contacts_nobody() -> None:
    """The environment refuses what the ledger would: no contact, no cost, no reservation."""
    played = campaign(300)
    before = played.budget_left_cents
    masked = ~played.situation.allowed
    actions = masked.argmax(axis=1)  # the first masked action, or no contact where none is
    outcome = played.step(actions)
    np.testing.assert_array_equal(outcome.refused, actions != NO_CONTACT)
    assert outcome.refused.any()
    assert not outcome.contacted.any()
    assert played.budget_left_cents == before


def test_the_shared_budget_is_never_overspent() -> None:
    """With money for few, the first are served, the others refused, and nothing is reserved twice."""
    played = campaign(400, budget_cents=20_000)
    world, _ = settings()
    index = ActionSpace(world).index_of("discount_20", 0)
    wanted = np.where(played.situation.allowed[:, index], index, NO_CONTACT)
    outcome = played.step(wanted)
    assert outcome.refused.any()
    assert outcome.contacted.any()
    assert 0 <= played.budget_left_cents < 20_000
    assert (outcome.contacted | outcome.refused).sum() == (wanted != NO_CONTACT).sum()
    budget = np.equal(played.situation.reasons, Reason.BUDGET)
    assert budget.any()


def test_a_contact_booked_ahead_lies_ahead_of_an_early_next_decision() -> None:
    """Hours since contact are negative while a booked send is still to come."""
    played = campaign(400)
    world, _ = settings()
    index = ActionSpace(world).index_of("check_in", 24)
    outcome = played.step(np.where(played.situation.allowed[:, index], index, NO_CONTACT))
    nearest = played.situation.contact.hours_since_contact.min(axis=1)
    assert (nearest[outcome.contacted] < 0).any()
    assert (nearest[outcome.contacted] > 0).any()
    assert np.isinf(nearest[~outcome.contacted]).all()


def test_contact_drives_sleeping_dogs_away() -> None:
    """One contact lowers what sleeping dogs are worth and raises what persuadables are."""
    world, _ = settings()
    index = ActionSpace(world).index_of("check_in", 6)
    played = campaign(4000)
    outcome = played.step(np.where(played.situation.allowed[:, index], index, NO_CONTACT))
    by_segment = {
        name: outcome.reward_usd[outcome.contacted & (played.segment == i)].mean() for i, name in enumerate(SEGMENTS)
    }
    assert by_segment["sleeping_dog"] < 0 < by_segment["persuadable"]


def test_fatigue_lowers_acceptance_and_raises_opt_outs() -> None:
    """The same contact to the same customers works worse when they are tired."""
    world, _ = settings()
    index = ActionSpace(world).index_of("discount_10", 6)
    rested, tired = campaign(6000, seed=1), campaign(6000, seed=1)
    tired.fatigue += 3.0
    wanted = np.where(rested.situation.allowed[:, index], index, NO_CONTACT)
    fresh, worn = rested.step(wanted), tired.step(wanted)
    assert worn.accepted.sum() < fresh.accepted.sum()
    assert worn.opted_out.sum() > fresh.opted_out.sum()


def test_delays_longer_than_an_epoch_are_refused_with_the_mend() -> None:
    """The environment books within one epoch and says so."""
    world, params = settings()
    slow = world.model_copy(update={"delays_hours": (0, 48)})
    with pytest.raises(SettingsError, match=r"delays_hours.*48 h"):
        Campaign(slow, params, population(5), 1000, 1)


def test_segments_follow_what_can_be_seen() -> None:
    """Risky newcomers are lost causes more often than safe customers are."""
    customers = population(5000)
    played = campaign(5000)
    lost = played.segment == SEGMENTS.index("lost_cause")
    risk = customers.features.risk
    assert lost[risk > 0.5].mean() > 3 * lost[risk < 0.1].mean()


def test_unknown_dynamics_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key in env.yaml is named with its file."""
    text = Path("configs/env.yaml").read_text().replace("reaction_days:", "reaktion_days:")
    (tmp_path / "env.yaml").write_text(text)
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(tmp_path))
    with pytest.raises(SettingsError, match=r"env\.yaml.*reaction_days"):
        load_dynamics()


def test_outcomes_add_up() -> None:
    """Nobody is contacted after leaving, and totals are the sums of the steps."""
    world, params = settings()
    customers, outcomes = population(300), []
    result = run_campaign(world, params, customers, Anything(), 9, lambda _s, _a, outcome: outcomes.append(outcome))
    assert not any((outcome.contacted & ~outcome.decided).any() for outcome in outcomes)
    np.testing.assert_array_equal(sum(outcome.churned.astype(int) for outcome in outcomes), result.churned)
    np.testing.assert_allclose(result.costs, sum(outcome.costs for outcome in outcomes))
    assert result.decisions.sum() == sum(outcome.decided.sum() for outcome in outcomes)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("risk", np.nan, r"risk of customer 3 is nan; expected a number from 0 to 1"),
        ("risk", 1.5, r"risk of customer 3 is 1\.5"),
        ("monthly_usd", np.inf, r"monthly_usd of customer 3 is inf; expected a number 0 or more"),
        ("tenure_months", -1.0, r"tenure_months of customer 3 is -1"),
        ("acceptance", np.nan, r"acceptance of customer 3 is nan"),
    ],
)
def test_customers_that_are_no_numbers_are_named(column: str, value: float, message: str) -> None:
    """A campaign says which customer's which column is wrong before it starts."""
    customers = population(5)
    values = getattr(customers.features, column).copy()
    values[3] = value
    broken = replace(customers, features=replace(customers.features, **{column: values}))
    with pytest.raises(BadInput, match=message):
        Campaign(*settings(), broken, 1000, 1)


def test_a_reward_that_is_not_finite_is_an_error() -> None:
    """Numbers too large to add up are named with customer and epoch, and never reach a learner."""
    world, params = settings()
    played = Campaign(world, with_value(params, "opt_out_penalty_usd", 1e308), population(50), 10**9, 1)
    played._margin_per_day = np.full(50, np.inf)
    with np.errstate(all="ignore"), pytest.raises(BadInput, match=r"reward_usd of customer \d+ in epoch 1 is"):
        played.step(np.zeros(50, dtype=np.int64))


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("reaction_days", np.nan, r"reaction_days.*finite number"),
        ("acceptance_per_fatigue", 0.5, r"acceptance_per_fatigue.*less than or equal to 0"),
        ("season.hazard_amplitude", 1.0, r"season\.hazard_amplitude.*less than 1"),
        ("segments.sleeping_dog.contact_hazard_multiplier", 0.9, r"does not drive anybody away; set more than 1"),
        ("segments.persuadable.contact_hazard_multiplier", 1.1, r"drives away whom contact should keep"),
        ("segments.persuadable.hazard_cut_fraction", 0.0, r"persuades nobody"),
    ],
)
def test_dynamics_that_contradict_themselves_are_refused(parameter: str, value: float, message: str) -> None:
    """Each with what it says and what to set."""
    with pytest.raises(SettingsError, match=message):
        with_value(load_dynamics(), parameter, value)


def test_worlds_that_do_not_fit_are_refused() -> None:
    """A channel without a response, a campaign longer than the horizon, no budget, no margin: each says the mend."""
    world, params = settings()
    channels = {name: response for name, response in params.channels.items() if name != "sms"}
    with pytest.raises(SettingsError, match=r"dynamics\.channels: has no 'sms'"):
        Campaign(world, params.model_copy(update={"channels": channels}), population(5), 1000, 1)
    with pytest.raises(SettingsError, match=r"longer than money\.horizon_months: 12"):
        Campaign(world.model_copy(update={"episode_days": 400}), params, population(5), 1000, 1)
    broke = {"default": world.campaigns["default"].model_copy(update={"budget_cents": 0})}
    with pytest.raises(SettingsError, match=r"budget_cents is 0, so nobody could ever be contacted; set"):
        require_trainable(world.model_copy(update={"campaigns": broke}))
    with pytest.raises(SettingsError, match=r"gross_margin is 0"):
        require_trainable(world.model_copy(update={"money": world.money.model_copy(update={"gross_margin": 0.0})}))
    require_trainable(world)


def test_a_campaign_without_budget_contacts_nobody() -> None:
    """It can be played, as a stress test does: all but free contacts are refused."""
    played = campaign(200, budget_cents=0)
    outcome = played.step(np.full(200, ActionSpace(settings()[0]).index_of("discount_20", 6)))
    assert not outcome.contacted.any()
    assert outcome.refused.any()
