"""Multipliers follow violations, slowly and within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.agents.lagrangian import Lagrangian, LagrangianSettings
from trainers.env.params import CONSTRAINTS, SoftLimits

LIMITS = SoftLimits(spend_usd=2.0, contact=1.0, fatigue=0.5, opt_out=0.01)


def lagrangian(learning_rate: float = 0.5, multiplier_max: float = 3.0, target_fraction: float = 1.0) -> Lagrangian:
    settings = LagrangianSettings(
        learning_rate=learning_rate, multiplier_max=multiplier_max, target_fraction=target_fraction
    )
    return Lagrangian(LIMITS, settings)


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
    """(A_r - Σ λ A_c) / (1 + Σ λ)."""
    game = lagrangian()
    game.multipliers = np.array([1.0, 0.0, 2.0, 0.0])
    combined = game.combine(np.array([4.0, 0.0]), np.array([[1.0, 9.0, 0.5, 9.0], [0.0, 0.0, 1.0, 0.0]]))
    assert combined.tolist() == [(4.0 - 1.0 - 1.0) / 4.0, -2.0 / 4.0]
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
