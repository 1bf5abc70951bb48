"""Stress tests: worlds that no policy was trained in, each a change of one setting.

Three change how customers respond, and a policy that only learned one response by heart would fall behind its
baselines there; the others change money, what is seen and the clocks. The hard rules have to hold in all.
Sizes are assumptions. The flood and inflation cost a policy that contacts once a month a fifth or more of what it
brings; the fatigue shock only hurts one that contacts often. Time zones are there for the quiet hours: they move
what a policy brings by no more than chance does. The halved budget is there for the ledger, which runs dry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from churnsaver.domain.observation import CustomerFeatures
from trainers.env.params import DynamicsParams
from trainers.env.response import Floats, sigmoid
from trainers.eval.play import Setting

# Log-odds: sleeping dogs against all others get a weight of e^1.5, which doubles or triples their number.
FLOOD = 1.5
FATIGUE_FACTOR = 2.5
PULL_FACTOR = 0.6
RISK_SHIFT, RISK_NOISE, ACCEPTANCE_NOISE, CHARGE_NOISE = 0.5, 0.7, 0.5, 0.1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A stress test.

    Attributes:
        description: for the report.
        change: the setting under stress; pure. Of a setting, a seed, and what the policy that is judged books from
            the budget as trained, $ a customer and campaign.
        new_response: customers respond otherwise than in training, so that the policy has to keep its lead.
    """

    description: str
    change: Callable[[Setting, int, float], Setting]
    new_response: bool


def sleeping_dog_flood(setting: Setting, _: int, __: float) -> Setting:
    """Many more customers whom contact drives away, whatever is seen of them."""
    segments = setting.params.segments
    dogs = segments.sleeping_dog
    flooded = dogs.membership.model_copy(update={"intercept": dogs.membership.intercept + FLOOD})
    return _with(
        setting,
        segments=segments.model_copy(update={"sleeping_dog": dogs.model_copy(update={"membership": flooded})}),
    )


def fatigue_shock(setting: Setting, _: int, __: float) -> Setting:
    """Contacts are forgotten more slowly, and tire more."""
    params = setting.params
    return _with(
        setting,
        fatigue_half_life_days=params.fatigue_half_life_days * FATIGUE_FACTOR,
        acceptance_per_fatigue=params.acceptance_per_fatigue * FATIGUE_FACTOR,
        opt_out_per_fatigue=params.opt_out_per_fatigue * FATIGUE_FACTOR,
    )


def offer_inflation(setting: Setting, _: int, __: float) -> Setting:
    """Customers want more: the same money persuades fewer, and holds those who accept less."""
    params = setting.params
    return _with(
        setting,
        acceptance_per_sqrt_generosity=params.acceptance_per_sqrt_generosity * PULL_FACTOR,
        generosity_scale_months=params.generosity_scale_months / PULL_FACTOR,
    )


def budget_halved(setting: Setting, _: int, reserved_usd: float) -> Setting:
    """Every campaign has half of the money that the policy books when it has enough, or half of its budget if less."""
    campaigns = {
        name: campaign.model_copy(
            update={"budget_cents": min(campaign.budget_cents, int(100.0 * reserved_usd * campaign.customers)) // 2}
        )
        for name, campaign in setting.world.campaigns.items()
    }
    return replace(setting, world=setting.world.model_copy(update={"campaigns": campaigns}))


def drifted_features(setting: Setting, seed: int, _: float) -> Setting:
    """The models have gone stale: risk is overstated and blurred, acceptance blurred, charges are outdated."""
    rng, true = np.random.default_rng([seed, 11]), setting.population.features
    n = len(true.risk)
    seen = CustomerFeatures(
        risk=_moved(true.risk, RISK_SHIFT + rng.normal(0.0, RISK_NOISE, n)),
        monthly_usd=true.monthly_usd * np.exp(rng.normal(0.0, CHARGE_NOISE, n)),
        tenure_months=true.tenure_months,
        acceptance=_moved(true.acceptance, rng.normal(0.0, ACCEPTANCE_NOISE, true.acceptance.shape)),
    )
    return replace(setting, seen=seen)


def adversarial_zones(setting: Setting, _: int, __: float) -> Setting:
    """A customer's time zone is another one every day, in weeks in which clocks change."""
    return replace(setting, zones_change=True)


SCENARIOS = {
    change.__name__: Scenario((change.__doc__ or "").strip(), change, new_response)
    for change, new_response in (
        (sleeping_dog_flood, True),
        (fatigue_shock, True),
        (offer_inflation, True),
        (budget_halved, False),
        (drifted_features, False),
        (adversarial_zones, False),
    )
}


def _with(setting: Setting, **update: Any) -> Setting:
    # Validated again: model_copy alone would take any number.
    params = DynamicsParams.model_validate(setting.params.model_copy(update=update).model_dump())
    return replace(setting, params=params)


def _moved(probability: Floats, log_odds: Floats) -> Floats:
    """Probabilities moved by `log_odds`, same shape."""
    edge = np.clip(probability, 1e-6, 1.0 - 1e-6)
    return sigmoid(np.log(edge) - np.log1p(-edge) + log_odds)
