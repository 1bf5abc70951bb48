"""The Gymnasium environments keep their contracts."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.support.campaign import population, settings
from trainers.env.contact_log import simulate_contact_log
from trainers.env.retention_env import RetentionEnv
from trainers.env.vector_env import RetentionVectorEnv


def test_the_single_environment_passes_gymnasiums_checker() -> None:
    """`check_env` finds nothing to complain about; warnings are errors here."""
    check_env(RetentionEnv.from_settings(), skip_render_check=True)


def test_an_episode_ends_by_leaving_or_by_the_campaigns_end() -> None:
    """Both ends happen, never both at once, and the mask offers only actions that are not refused."""
    env = RetentionEnv(*settings(), population(200))
    ends = set()
    for seed in range(20):
        _, info = env.reset(seed=seed)
        env.action_space.seed(seed)
        terminated = truncated = False
        steps = 0
        while not (terminated or truncated):
            action = env.action_space.sample(mask=info["action_mask"])
            _, _, terminated, truncated, info = env.step(action)
            assert not info["refused"]
            steps += 1
        assert terminated != truncated
        assert steps <= 56
        ends.add("left" if terminated else "end")
    assert ends == {"left", "end"}


def test_a_masked_action_names_its_reason_and_is_refused() -> None:
    """`info["reasons"]` says why, and a step with it contacts nobody."""
    env = RetentionEnv(*settings(), population(200))
    _, info = env.reset(seed=3)
    masked = int(np.argmin(info["action_mask"]))
    assert info["action_mask"][masked] == 0
    assert info["reasons"][masked] in {"quiet_hours", "consent", "budget"}
    *_, after = env.step(np.int64(masked))
    assert after["refused"]
    assert after["costs"]["contact"] == 0


def test_the_vector_environment_plays_one_campaign_in_step() -> None:
    """Shapes, terminated customers stay so, and at the end everyone is either gone or truncated."""
    env = RetentionVectorEnv(*settings(), population(200), num_envs=64)
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    rng = np.random.default_rng(0)
    gone = np.zeros(64, dtype=bool)
    for step in range(56):
        weights = info["action_mask"] * rng.random(info["action_mask"].shape)
        observation, rewards, terminated, truncated, info = env.step(weights.argmax(axis=1))
        assert env.observation_space.contains(observation)
        assert (terminated >= gone).all()
        assert (rewards[gone] == 0).all()
        assert truncated.any() == (step == 55)
        gone = terminated
    assert (terminated ^ truncated).all()
    assert gone.any()


def test_the_vector_environment_repeats_itself_with_a_seed() -> None:
    """Same seed, same observations and rewards, bit by bit."""
    runs = []
    for _ in range(2):
        env = RetentionVectorEnv(*settings(), population(100), num_envs=16)
        observation, _ = env.reset(seed=11)
        _, rewards, *_ = env.step(np.full(16, 2))
        runs.append((observation.tobytes(), rewards.tobytes()))
    assert runs[0] == runs[1]


def test_one_customer_alone_is_the_vector_of_one() -> None:
    """With one seed and one budget both environments play the same episode, bit by bit."""
    world, params = settings()
    campaign = world.campaigns["default"].model_copy(update={"customers": 1})
    alike = world.model_copy(update={"campaigns": {"default": campaign}})
    single, vector = RetentionEnv(alike, params, population(50)), RetentionVectorEnv(alike, params, population(50), 1)
    one, info = single.reset(seed=5)
    many, _ = vector.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(56):
        np.testing.assert_array_equal(one, many[0])
        action = int((info["action_mask"] * rng.random(len(info["action_mask"]))).argmax())
        one, reward, left, ended, info = single.step(np.int64(action))
        many, rewards, terminated, truncated, _ = vector.step(np.array([action]))
        assert (reward, left, ended) == (rewards[0], terminated[0], truncated[0])
        if left or ended:
            break
    assert left or ended


def test_environments_ask_for_a_reset_first() -> None:
    """A step before the first reset, or a partial reset of customers who share a campaign, is refused clearly."""
    with pytest.raises(gymnasium.error.ResetNeeded):
        RetentionEnv(*settings(), population(10)).step(np.int64(0))
    env = RetentionVectorEnv(*settings(), population(10), num_envs=4)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(4, dtype=np.int64))
    with pytest.raises(ValueError, match="share one campaign"):
        env.reset(options={"reset_mask": np.array([True, False, True, True])})


def test_the_contact_log_is_randomised_and_repeatable() -> None:
    """Offers are drawn uniformly, dearer ones are accepted more, and the seed decides everything."""
    world, params = settings()
    seen = population(500).features
    logs = [
        simulate_contact_log(world, params, seen.risk, seen.monthly_usd, seen.tenure_months, 5000, 42) for _ in range(2)
    ]
    assert logs[0].equals(logs[1])
    assert logs[0].columns == [
        "contact_id", "risk", "monthly_usd", "tenure_months", "offer", "propensity", "accepted",
    ]  # fmt: skip
    by_offer = {key[0]: part for key, part in logs[0].group_by("offer")}
    assert all(abs(len(part) / 5000 - 0.2) < 0.03 for part in by_offer.values())
    shares = {offer: part["accepted"].to_numpy().mean() for offer, part in by_offer.items()}
    assert shares["check_in"] < shares["discount_10"] < shares["discount_30"]
