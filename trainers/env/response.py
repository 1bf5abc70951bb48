"""How a customer responds to one contact: pure functions of what is seen, the segment and the contact.

A segment is an index into `params.SEGMENTS`; it is latent: no observation shows it, but risk, tenure and
monthly charge make each segment more or less likely.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.world import HOURS_PER_DAY, World
from trainers.env.params import DynamicsParams

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def sigmoid(log_odds: Floats) -> Floats:
    """1 / (1 + exp(-x)), through tanh, which does not overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * log_odds))


def segment_probabilities(params: DynamicsParams, risk: Floats, monthly_usd: Floats, tenure_months: Floats) -> Floats:
    """Probability of each segment given what is seen, (n, segments)."""
    seen = np.column_stack([np.ones_like(risk), risk, np.log1p(tenure_months) / 6.0, np.log1p(monthly_usd) / 6.0])
    memberships = [segment.membership for segment in params.segments.ordered]
    weights = np.array([[m.intercept, m.risk, m.tenure, m.monthly] for m in memberships])  # (segments, 4)
    logits = seen @ weights.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def segment_acceptance_shifts(params: DynamicsParams) -> Floats:
    """How each segment's acceptance differs, in log-odds, (segments,)."""
    shifts = np.array([segment.acceptance_shift for segment in params.segments.ordered])
    return np.asarray(params.acceptance_spread * shifts, dtype=np.float64)


def channel_acceptance_shifts(world: World, params: DynamicsParams) -> Floats:
    """How acceptance differs on each of the world's channels, in log-odds, (channels,)."""
    return np.array([params.channels[name].acceptance_shift for name in world.channels])


def draw_segments(probabilities: Floats, uniforms: Floats) -> Ints:
    """One segment for each customer, (n,), by inverting the cumulative probabilities at `uniforms` (n,)."""
    passed = uniforms[:, None] > np.cumsum(probabilities, axis=1)[:, :-1]
    return np.asarray(passed.sum(axis=1), dtype=np.int64)


def generosity_months(world: World, monthly_usd: Floats) -> Floats:
    """What each offer gives, in months of the customer's bill, (n, offers). A free customer counts as paying $1."""
    return offer_costs_cents(world, monthly_usd) / 100.0 / np.maximum(monthly_usd, 1.0)[:, None]


def timing_log_odds(params: DynamicsParams, local_hour_at_send: Floats, delay_hours: Floats) -> Floats:
    """How the hour and the wait move acceptance, in log-odds: a daily wave, and a decline with every hour waited."""
    angle = 2.0 * np.pi * (local_hour_at_send - params.best_hour) / HOURS_PER_DAY
    return params.best_hour_bonus * np.cos(angle) + params.acceptance_per_delay_hour * delay_hours


def acceptance_log_odds(params: DynamicsParams, generosity: Floats, shift: Floats | float) -> Floats:
    """Acceptance of a rested customer before timing; `shift` is the segment's. Shape of `generosity`."""
    pull = params.acceptance_per_sqrt_generosity * np.sqrt(generosity)
    return np.asarray(params.acceptance_intercept + pull + shift, dtype=np.float64)


def expected_acceptance(
    world: World, params: DynamicsParams, risk: Floats, monthly_usd: Floats, tenure_months: Floats
) -> Floats:
    """Acceptance of each offer by a rested customer at an average hour, (n, offers), over segments and channels.

    What a perfect acceptance model would say, which knows neither; the synthetic population carries it.
    """
    shares = segment_probabilities(params, risk, monthly_usd, tenure_months)
    generosity = generosity_months(world, monthly_usd)
    channels = channel_acceptance_shifts(world, params)
    per_segment = (
        share[:, None] * sigmoid(acceptance_log_odds(params, generosity, shift + channel))
        for share, shift in zip(shares.T, segment_acceptance_shifts(params), strict=True)
        for channel in channels
    )
    return np.asarray(sum(per_segment) / len(channels), dtype=np.float64)
