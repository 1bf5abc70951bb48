"""A log of randomised contacts: what the acceptance model learns from where there is no real log."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churnsaver.domain.eligibility import in_quiet_hours
from churnsaver.domain.world import HOURS_PER_DAY, World
from trainers.env.params import DynamicsParams
from trainers.env.response import (
    acceptance_log_odds,
    channel_acceptance_shifts,
    draw_segments,
    generosity_months,
    segment_acceptance_shifts,
    segment_probabilities,
    sigmoid,
    timing_log_odds,
)


def simulate_contact_log(
    world: World,
    params: DynamicsParams,
    risk: NDArray[np.float64],
    monthly_usd: NDArray[np.float64],
    tenure_months: NDArray[np.float64],
    contacts: int,
    seed: int,
) -> pl.DataFrame:
    """Contacts customers drawn with replacement, each rested, with a uniformly random offer.

    Args:
        risk, monthly_usd, tenure_months: (n,) of the population.
        contacts: how many contacts to log, any number.

    Returns:
        One row a contact: contact_id, risk, monthly_usd, tenure_months, offer (its id), propensity (with
        which the offer was drawn), accepted (0 or 1).
    """
    rng = np.random.default_rng(seed)
    # A customer keeps their segment and channel over all of their contacts.
    segments = draw_segments(segment_probabilities(params, risk, monthly_usd, tenure_months), rng.random(len(risk)))
    who = rng.integers(len(risk), size=contacts)
    offer = rng.integers(len(world.offers), size=contacts)
    channels = rng.integers(len(world.channels), size=len(risk))
    shifts = (segment_acceptance_shifts(params)[segments] + channel_acceptance_shifts(world, params)[channels])[who]
    generosity = generosity_months(world, monthly_usd[who])[np.arange(contacts), offer]
    hour = _allowed_hours(world, rng, contacts)
    log_odds = acceptance_log_odds(params, generosity, shifts) + timing_log_odds(params, hour, np.zeros(contacts))
    return pl.DataFrame(
        {
            "contact_id": np.arange(contacts),
            "risk": risk[who],
            "monthly_usd": monthly_usd[who],
            "tenure_months": tenure_months[who],
            "offer": [world.offers[i].id for i in offer],
            "propensity": np.full(contacts, 1.0 / len(world.offers)),
            "accepted": (rng.random(contacts) < sigmoid(log_odds)).astype(np.int64),
        }
    )


def _allowed_hours(world: World, rng: np.random.Generator, contacts: int) -> NDArray[np.float64]:
    """Local hours of sending, uniform outside the quiet hours, (contacts,)."""
    minutes = np.arange(0.0, HOURS_PER_DAY, 1.0 / 60.0)
    return rng.choice(minutes[~in_quiet_hours(world.contact_rules.quiet_hours, minutes)], size=contacts)
