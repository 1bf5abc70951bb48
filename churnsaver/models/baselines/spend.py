"""What offers are expected to cost, read from the observation, and which of them are worth it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Frozen, World


class Worth(Frozen):
    """When an offer is worth making: value - price × expected spend > hurdle.

    The price is the multiplier of a budget: among offers that cost differently it finds those that bring most
    for what may be spent (Lagrangian relaxation of the knapsack). The hurdle is that of a cap on contacts.

    Attributes:
        spend_price: dollars of net value that a dollar of spend must bring; negative where values come out too
            low, -1 to forget the spend.
        hurdle_usd: dollars that a contact must bring beyond that.
    """

    spend_price: Annotated[float, Field(ge=-1, allow_inf_nan=False)]
    hurdle_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExpectedSpend:
    """Of each offer to each customer in one world."""

    def __init__(self, world: World) -> None:
        names = observation_names(world)
        self._world = world
        self._monthly = names.index("log_monthly_usd")
        self._acceptance = [names.index(f"acceptance_{offer.id}") for offer in world.offers]
        # The observation does not name the customer's channel, so the dearest counts.
        self._contact_usd = max(channel.contact_cost_cents for channel in world.channels.values()) / 100.0

    def monthly_usd(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """The monthly charge, (n,), as `observe` scaled it."""
        return np.expm1(6.0 * observation[:, self._monthly].astype(np.float64))

    def usd(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """Acceptance × the offer's cost + the contact's, (n, offers)."""
        costs = offer_costs_cents(self._world, self.monthly_usd(observation)) / 100.0
        return np.asarray(observation[:, self._acceptance] * costs + self._contact_usd, dtype=np.float64)
