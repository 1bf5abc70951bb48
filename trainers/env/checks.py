"""What makes a campaign impossible to play or to learn from, said before or when it happens."""

from __future__ import annotations

import numpy as np

from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from churnsaver.errors import BadInput, SettingsError
from trainers.env.params import DynamicsParams
from trainers.env.population import Population
from trainers.env.response import Floats

DEFAULT_CAMPAIGN = "default"


def require_playable(world: World, params: DynamicsParams, population: Population) -> None:
    """Raises SettingsError or BadInput where the world contradicts the dynamics, or a customer is no number."""
    if world.delays_hours[-1] > world.epoch_hours:
        raise SettingsError(
            f"env.yaml: delays_hours: the environment books within one epoch; {world.delays_hours[-1]} h is "
            f"longer than epoch_hours: {world.epoch_hours}"
        )
    if world.episode_days * HOURS_PER_DAY > world.money.horizon_months * HOURS_PER_MONTH:
        raise SettingsError(
            f"env.yaml: episode_days: {world.episode_days} is longer than money.horizon_months: "
            f"{world.money.horizon_months}, over which a customer counts; lengthen the horizon"
        )
    if missing := [name for name in world.channels if name not in params.channels]:
        raise SettingsError(f"env.yaml: dynamics.channels: has no {missing[0]!r}, which channels names; add it")
    _require_customers(population)


def _require_customers(population: Population) -> None:
    seen = population.features
    risk_or_share = (seen.risk, seen.acceptance.min(axis=1, initial=1.0), seen.acceptance.max(axis=1, initial=0.0))
    for name, values, most in (
        ("risk", risk_or_share[0], 1.0),
        ("acceptance", risk_or_share[1], 1.0),
        ("acceptance", risk_or_share[2], 1.0),
        ("monthly_usd", seen.monthly_usd, np.inf),
        ("tenure_months", seen.tenure_months, np.inf),
    ):
        good = np.isfinite(values) & (values >= 0.0) & (values <= most)
        if not good.all():
            at = int(np.argmin(good))
            expected = "from 0 to 1" if most == 1.0 else "0 or more"
            raise BadInput(f"population: {name} of customer {at} is {values[at]}; expected a number {expected}")


def require_trainable(world: World) -> None:
    """Raises SettingsError where no contact could ever be made or pay, so that nothing could be learned."""
    campaign = world.campaigns.get(DEFAULT_CAMPAIGN)
    if campaign is None:
        raise SettingsError(f"env.yaml: campaigns: has no {DEFAULT_CAMPAIGN!r}, which policies are trained for; add it")
    if campaign.budget_cents == 0:
        raise SettingsError(
            f"env.yaml: campaigns.{DEFAULT_CAMPAIGN}.budget_cents is 0, so nobody could ever be contacted; set what "
            f"the campaign may spend on {campaign.customers} customers, in cents"
        )
    if world.money.gross_margin == 0.0:
        raise SettingsError("env.yaml: money.gross_margin is 0, so nobody is worth keeping; set the margin's share")


def require_finite(epoch: int, **values: Floats) -> None:
    """Raises BadInput with the first of `values`, (n,) each, that is not finite, its customer and the epoch."""
    for name, array in values.items():
        if not np.isfinite(array.sum()) and not (finite := np.isfinite(array)).all():
            at = int(np.argmin(finite))
            raise BadInput(
                f"campaign: {name} of customer {at} in epoch {epoch} is {array[at]}; look for extreme values in "
                "env.yaml's dynamics and money, and in the customer's monthly charge"
            )
