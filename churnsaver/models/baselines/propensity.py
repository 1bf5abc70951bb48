"""The propensity baseline: contact whoever is likely to leave, with one offer."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import Fraction, Frozen, World
from churnsaver.models.baselines.pacing import ANY_HOUR, Pacing, Schedule
from churnsaver.models.baselines.policy import certain


class PropensitySpec(Frozen):
    """Everything that the policy is.

    Attributes:
        threshold: the risk from which a customer is contacted.
        offer: id of the one offer that is made.
    """

    kind: Literal["propensity"] = "propensity"
    threshold: Fraction
    offer: str
    pacing: Pacing


class PropensityPolicy:
    """Contacts where risk ≥ threshold and the last contact lies `rest_hours` back; deterministic.

    Args:
        threshold: the risk from which a customer is contacted.
        offer: id of the one offer that is made; ValueError where the world has no such offer.
        rest_hours, send_hour, within_hours: as `Pacing` has them.
    """

    def __init__(
        self,
        world: World,
        threshold: float,
        offer: str,
        rest_hours: float,
        send_hour: float | None = None,
        within_hours: float = ANY_HOUR,
    ) -> None:
        pacing = Pacing(rest_hours=rest_hours, send_hour=send_hour, within_hours=within_hours)
        self.spec = PropensitySpec(threshold=threshold, offer=offer, pacing=pacing)
        self.threshold, self.offer, self.rest_hours = threshold, offer, rest_hours
        self._risk = observation_names(world).index("risk")
        self._offer = [each.id for each in world.offers].index(offer)
        self._schedule = Schedule(world, pacing)

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One action of each customer has probability 1, (n, actions)."""
        risky = observation[:, self._risk] >= self.threshold
        actions = self._schedule.actions(observation, allowed)[:, self._offer]
        return certain(np.where(risky, actions, NO_CONTACT), allowed.shape[1])
