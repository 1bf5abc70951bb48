"""The pieces of PPO, each against a slow or closed form, and the whole of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from churnsaver.models.policy import masked_softmax
from churnsaver.settings import load_section
from tests.support.campaign import campaign, population, settings, tiny_policy
from trainers.agents.networks import ActorCritic, Critic, initial_actor, masked_log_probs
from trainers.agents.ppo_policy import thin_idle, train_ppo
from trainers.agents.rollout import generalized_advantages, reachable
from trainers.agents.settings import PpoSettings, Preset
from trainers.env.params import load_soft_limits
from trainers.env.simulate import draw_actions, run_campaign


def test_gae_equals_the_sum_of_discounted_errors() -> None:
    """The recursion is Σ (γλ)^k δ, cut where nothing can be done any more."""
    rng = np.random.default_rng(1)
    rewards, values = rng.normal(size=(6, 3, 2)), rng.normal(size=(7, 3, 2))
    continues = rng.random((6, 3)) < 0.7
    found = generalized_advantages(rewards, values, continues, 0.9, 0.8)
    for t in range(6):
        for customer in range(3):
            total, weight = np.zeros(2), 1.0
            for k in range(t, 6):
                goes_on = continues[k, customer]
                delta = rewards[k, customer] + 0.9 * goes_on * values[k + 1, customer] - values[k, customer]
                total += weight * delta
                weight *= 0.9 * 0.8 * goes_on
            np.testing.assert_allclose(found[t, customer], total)


def test_the_learners_mask_is_the_servings_mask() -> None:
    """Torch's masked log-probabilities and the service's masked softmax are the same distribution."""
    rng = np.random.default_rng(2)
    logits, allowed = rng.normal(size=(50, 21)).astype(np.float32), rng.random((50, 21)) < 0.4
    allowed[:, 0] = True
    learner = masked_log_probs(torch.from_numpy(logits), torch.from_numpy(allowed)).exp().numpy()
    np.testing.assert_allclose(learner, masked_softmax(logits, allowed), atol=1e-6)
    assert (learner[~allowed] == 0).all()


def test_the_untrained_policy_contacts_at_the_given_rate() -> None:
    """Whatever it sees, evenly over offers and delays."""
    torch.manual_seed(0)
    actor = initial_actor(14, (64, 64), 21, 0.1)
    with torch.no_grad():
        probabilities = torch.softmax(actor(torch.rand(200, 14)), dim=1)
    assert (1.0 - probabilities[:, 0]).mean().item() == pytest.approx(0.1, abs=0.01)
    assert probabilities[:, 1:].max().item() == pytest.approx(0.005, rel=0.3)


def test_popart_keeps_every_prediction_when_its_scale_moves() -> None:
    """Following new returns changes the normalised scale, not the values."""
    torch.manual_seed(0)
    critic, seen = Critic(5, (8,), 2), torch.rand(30, 5)
    before = critic.values(seen).detach()
    critic.follow(torch.randn(100, 2) * 50.0 + 300.0)
    torch.testing.assert_close(critic.values(seen).detach(), before, atol=1e-3, rtol=1e-4)
    assert critic.mean.min().item() > 10.0


def test_critics_and_actor_share_nothing() -> None:
    """A cost's error cannot bend what the actor sees."""
    network = ActorCritic(14, 21, 4, (8, 8), 0.1)
    network.cost_critic(torch.rand(3, 14)).sum().backward()
    touched = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert touched == {"cost_critic"}


def test_thinning_keeps_contacts_and_the_mean() -> None:
    """All contacts stay; the weighted mean over kept rows estimates the mean over all."""
    rng = np.random.default_rng(3)
    actions = np.where(rng.random(20_000) < 0.05, 3, 0)
    values = rng.normal(size=20_000) + (actions > 0) * 5.0
    kept, weights = thin_idle(actions, 0.1, rng)
    assert set(np.flatnonzero(actions > 0)) <= set(kept.tolist())
    assert len(kept) < 4_000
    weight = weights.numpy()[kept]
    assert weight.mean() == pytest.approx(1.0, abs=1e-5)
    assert np.mean(weight * values[kept]) == pytest.approx(values.mean(), abs=0.06)


def test_only_who_can_be_reached_is_learned_from() -> None:
    """Without consent there is nothing to decide."""
    played = campaign(300)
    np.testing.assert_array_equal(reachable(played.situation), population(300).consent)


def test_training_repeats_itself_bit_by_bit() -> None:
    """The same seed gives the same weights and multipliers; another one others."""
    first, second, other = tiny_policy(1), tiny_policy(1), tiny_policy(2)
    weights = [
        b"".join(w.detach().numpy().tobytes() for w in run.network.parameters()) for run in (first, second, other)
    ]
    assert weights[0] == weights[1] != weights[2]
    assert first.multipliers == second.multipliers
    assert [i.reward_usd for i in first.history] == [i.reward_usd for i in second.history]


def test_training_moves_towards_money_under_the_limits() -> None:
    """A short training loses far less than the untrained policy and prices the violated spend on its way."""
    trained = tiny_policy(42, Preset(customers=256, iterations=10))
    first, last = trained.history[0], trained.history[-1]
    assert first.costs_per_month["spend_usd"] > 2.5
    assert max(i.multipliers["spend_usd"] for i in trained.history) > 0
    assert last.costs_per_month["spend_usd"] < first.costs_per_month["spend_usd"]
    assert last.reward_usd > first.reward_usd
    assert all(math.isfinite(i.approx_kl) and i.entropy >= 0 for i in trained.history)


def test_a_tight_second_constraint_is_priced_and_its_cost_comes_down() -> None:
    """Beside the spend, which is over its limit either way: fatigue has a price only where its limit is tight."""
    world, params = settings()
    section = load_section("ppo", PpoSettings).model_copy(update={"validation_customers": 64})
    price_usd: dict[float, float] = {}
    cost: dict[float, float] = {}
    for fatigue in (10.0, 0.01):
        limits = load_soft_limits().model_copy(update={"fatigue": fatigue})
        trained = train_ppo(world, params, limits, population(500), section, Preset(customers=128, iterations=12), 42)
        assert max(iteration.multipliers["spend_usd"] for iteration in trained.history) > 0
        price_usd[fatigue] = trained.history[-1].multipliers["fatigue"]
        cost[fatigue] = sum(iteration.costs_per_month["fatigue"] for iteration in trained.history[6:])
    assert price_usd[10.0] == 0.0 < price_usd[0.01]
    assert cost[0.01] < 0.5 * cost[10.0]


def test_draws_follow_the_probabilities_and_never_the_masked() -> None:
    """Inverse sampling: shares come out right, and an action with probability 0 is never drawn."""
    probabilities = np.tile([0.5, 0.0, 0.3, 0.2, 0.0], (20_000, 1))
    uniforms = np.random.default_rng(4).random(20_000)
    uniforms[:2] = 0.0, np.nextafter(1.0, 0.0)
    drawn = draw_actions(probabilities, uniforms)
    shares = np.bincount(drawn, minlength=5) / 20_000
    np.testing.assert_allclose(shares, probabilities[0], atol=0.015)
    assert shares[1] == shares[4] == 0


def test_a_trained_policy_breaks_no_hard_rule() -> None:
    """Its own draws in a campaign are all admitted but where the shared budget runs out within a step."""
    network = tiny_policy().network

    class Net:
        def probabilities(self, observation: np.ndarray, allowed: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return masked_softmax(network.actor(torch.from_numpy(observation)).numpy(), allowed)

    result = run_campaign(*settings(), population(400), Net(), 3)
    assert result.costs[:, 1].sum() > 0
    assert (result.costs[~population(400).consent] == 0).all()
