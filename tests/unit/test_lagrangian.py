"""Multipliers follow violations, slowly and within bounds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainers.agents.lagrangian import Lagrangian, LagrangianSettings, PidSettings, SgdSettings
from trainers.env.params import CONSTRAINTS, SoftLimits

LIMITS = SoftLimits(spend_usd=2.0, contact=1.0, fatigue=0.5, opt_out=0.01)


def lagrangian(
    learning_rate: float = 0.5,
    multiplier_max: float = 3.0,
    target_fraction: float = 1.0,
    kind: Literal["sgd", "pid"] = "sgd",
    **pid: float,
) -> Lagrangian:
    gains = {"proportional": 1.0, "integral": 0.5, "derivative": 0.0, "smoothing": 0.0} | pid
    settings = LagrangianSettings(
        kind=kind,
        multiplier_max=multiplier_max,
        target_fraction=target_fraction,
        alarm_iterations=5,
        sgd=SgdSettings(learning_rate=learning_rate),
        pid=PidSettings(**gains),
    )
    return Lagrangian(LIMITS, settings)


def spending(times_the_limit: float) -> np.ndarray:
    return np.array([times_the_limit * LIMITS.spend_usd, 0.0, 0.0, 0.0])


def test_a_violated_constraint_gets_dearer_in_proportion() -> None:
    """Twice the limit raises the multiplier by one learning rate; plain SGD, no momentum."""
    game = lagrangian()
    game.update(np.array([4.0, 3.0, 0.5, 0.0]))
    assert game.multipliers.tolist() == [0.5, 1.0, 0.0, 0.0]
    game.update(np.array([2.0, 1.0, 0.5, 0.01]))
    assert game.multipliers.tolist() == [0.5, 1.0, 0.0, 0.0]


def test_multipliers_are_clamped() -> None:
    """They never fall below 0 nor rise above the maximum."""
    game = lagrangian()
    for _ in range(20):
        game.update(np.array([10.0, 0.0, 10.0, 0.0]))
    assert game.multipliers.tolist() == [3.0, 0.0, 3.0, 0.0]


def test_the_aim_lies_below_the_limit() -> None:
    """With a target of 80 %, a policy right at its limit is priced."""
    game = lagrangian(target_fraction=0.8)
    game.update(np.array([LIMITS.spend_usd, LIMITS.contact, LIMITS.fatigue, LIMITS.opt_out]))
    assert game.multipliers == pytest.approx([0.125] * 4)


def test_combined_advantage_is_the_formula() -> None:
    """A_r - Σ λ A_c."""
    game = lagrangian()
    game.multipliers = np.array([1.0, 0.0, 2.0, 0.0])
    combined = game.combine(np.array([4.0, 0.0]), np.array([[1.0, 9.0, 0.5, 9.0], [0.0, 0.0, 1.0, 0.0]]))
    assert combined.tolist() == [4.0 - 1.0 - 1.0, -2.0]
    assert list(game.named()) == list(CONSTRAINTS)


def test_primal_dual_play_settles_on_the_limit() -> None:
    """A toy policy that spends what its price allows ends at the limit, not beyond it."""
    game = lagrangian(learning_rate=0.2, multiplier_max=100.0)
    spend = 8.0
    for _ in range(400):
        spend = 8.0 / (1.0 + game.multipliers[0])
        game.update(np.array([spend, 0.0, 0.0, 0.0]))
    assert spend == pytest.approx(2.0, rel=0.01)
    assert game.multipliers[0] == pytest.approx(3.0, rel=0.01)


def test_pid_is_the_sum_of_its_terms() -> None:
    """K_P times the smoothed violation, K_I times its sum, K_D times its rise."""
    game = lagrangian(multiplier_max=100.0, kind="pid", proportional=2.0, integral=0.5, derivative=4.0, smoothing=0.5)
    game.update(spending(2.0))  # v = 1, v̄ = 1, no rise yet
    assert game.multipliers[0] == pytest.approx(2.0 + 0.5)
    game.update(spending(4.0))  # v = 3, v̄ = 2, rise 1
    assert game.multipliers[0] == pytest.approx(2.0 * 2.0 + (0.5 + 1.5) + 4.0 * 1.0)
    game.update(spending(1.0))  # v = 0, v̄ = 1: a fall does not lower the price through K_D
    assert game.multipliers[0] == pytest.approx(2.0 * 1.0 + 2.0)
    assert (game.multipliers[1:] == 0).all()


def test_a_long_violation_does_not_wind_up() -> None:
    """However long the price stood at its maximum, it falls as soon as the violation ends."""
    game = lagrangian(kind="pid", multiplier_max=3.0)
    for _ in range(500):
        game.update(spending(10.0))
    assert game.multipliers[0] == 3.0
    game.update(spending(0.0))
    assert game.multipliers[0] < 3.0
    for _ in range(10):
        game.update(spending(0.0))
    assert game.multipliers[0] == 0.0


def swings(game: Lagrangian, rounds: int = 400) -> float:
    """How far a policy that follows its price with a lag still swings about the limit in the end, in limits."""
    spend, seen = 4.0, []
    for _ in range(rounds):
        wanted = 4.0 - game.multipliers[0]  # in limits
        spend += 0.1 * (wanted - spend)
        game.update(spending(spend))
        seen.append(spend)
    return float(np.ptp(seen[-100:]))


def test_pid_damps_what_gradient_ascent_lets_swing() -> None:
    """A policy that lags behind its price circles the limit under SGD; with K_P it settles (Stooke et al., fig. 2)."""
    sgd, pid = lagrangian(0.3, 100.0), lagrangian(kind="pid", multiplier_max=100.0, integral=0.3, proportional=3.0)
    after_sgd, after_pid = swings(sgd, 150), swings(pid, 150)
    assert after_pid < 0.1 * after_sgd
    assert pid.multipliers[0] == pytest.approx(3.0, rel=0.02)


@given(
    st.sampled_from(["sgd", "pid"]),
    st.lists(st.lists(st.floats(0.0, 1e3), min_size=4, max_size=4), min_size=1, max_size=30),
)
def test_multipliers_stay_in_their_bounds(kind: Any, costs: list[list[float]]) -> None:
    """Whatever is measured, 0 ≤ λ ≤ max."""
    game = lagrangian(kind=kind, derivative=3.0, smoothing=0.7)
    for cost in costs:
        game.update(np.array(cost))
        assert ((game.multipliers >= 0.0) & (game.multipliers <= 3.0)).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [("kind", "adam"), ("multiplier_max", 0.0), ("multiplier_max", float("inf")), ("alarm_iterations", 0)],
)
def test_settings_are_checked(key: str, value: object) -> None:
    """A rule that does not exist and bounds that bound nothing are refused by name."""
    good = {
        "kind": "pid",
        "multiplier_max": 3.0,
        "target_fraction": 0.9,
        "alarm_iterations": 5,
        "sgd": {"learning_rate": 1.0},
        "pid": {"proportional": 1.0, "integral": 0.1, "derivative": 0.0, "smoothing": 0.5},
    }
    LagrangianSettings.model_validate(good)
    with pytest.raises(ValidationError, match=key):
        LagrangianSettings.model_validate(good | {key: value})


def test_a_pid_rule_without_an_integral_is_refused() -> None:
    """Without it a constraint that binds would never be met exactly."""
    with pytest.raises(ValidationError, match="integral"):
        PidSettings(proportional=1.0, integral=0.0, derivative=0.0, smoothing=0.0)
