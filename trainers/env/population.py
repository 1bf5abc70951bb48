"""The customers of a campaign as the environment needs them: seen features, channel costs and consent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.observation import CustomerFeatures
from churnsaver.domain.world import World
from trainers.env.params import DynamicsParams
from trainers.env.response import expected_acceptance, sigmoid

SYNTHETIC_CUSTOMERS = 5_000


@dataclass(frozen=True, slots=True)
class Population:
    """n customers.

    Attributes:
        features: what the models say and the data shows of them.
        contact_cost_cents: (n,) cost of one contact on the customer's channel.
        consent: (n,) bool, at least one channel is consented to.
        channel: (n,) on which each is contacted, as an index into the world's channels in their order.
    """

    features: CustomerFeatures
    contact_cost_cents: NDArray[np.int64]
    consent: NDArray[np.bool_]
    channel: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.consent)

    def take(self, rows: NDArray[np.int64]) -> Population:
        """The customers at `rows`, in that order; one may be taken more than once."""
        seen = self.features
        return Population(
            CustomerFeatures(seen.risk[rows], seen.monthly_usd[rows], seen.tenure_months[rows], seen.acceptance[rows]),
            self.contact_cost_cents[rows],
            self.consent[rows],
            self.channel[rows],
        )

    def split(self, fraction: float, seed: int) -> tuple[Population, Population]:
        """Two disjoint parts, the first with `fraction` of the customers."""
        order = np.random.default_rng(seed).permutation(len(self))
        cut = round(fraction * len(self))
        return self.take(order[:cut]), self.take(order[cut:])


def with_channels(world: World, params: DynamicsParams, features: CustomerFeatures, seed: int) -> Population:
    """Customers whose data names neither channel nor consent: each gets a uniformly random channel."""
    rng = np.random.default_rng(seed)
    n = len(features.risk)
    costs = np.array([channel.contact_cost_cents for channel in world.channels.values()], dtype=np.int64)
    channel = rng.integers(len(costs), size=n)
    return Population(features, costs[channel], rng.random(n) < params.consent_rate, channel)


def synthetic_population(world: World, params: DynamicsParams, n: int, seed: int) -> Population:
    """N made-up customers, shaped like a telco's: the newer and the dearer, the riskier.

    Tenure is a mixture of recent joiners and long-standing customers, the monthly charge of basic and full
    plans; risk falls with tenure, rises with the charge, and has noise of its own. Mean risk is about 0.27.
    """
    rng = np.random.default_rng(seed)
    recent = rng.random(n) < 0.35
    tenure_months = np.where(recent, rng.exponential(6.0, n), rng.uniform(1.0, 72.0, n)).round().clip(0.0, 72.0)
    basic = rng.random(n) < 0.3
    monthly_usd = np.where(basic, rng.normal(21.0, 2.0, n), rng.normal(80.0, 18.0, n)).clip(18.0, 120.0).round(2)
    log_odds = 0.1 - 0.9 * np.log1p(tenure_months) + 0.02 * (monthly_usd - 20.0) + rng.normal(0.0, 0.8, n)
    risk = sigmoid(log_odds)
    acceptance = expected_acceptance(world, params, risk, monthly_usd, tenure_months)
    return with_channels(world, params, CustomerFeatures(risk, monthly_usd, tenure_months, acceptance), seed + 1)
