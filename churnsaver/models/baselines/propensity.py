"""The propensity baseline: contact whoever is likely to leave, with one offer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import World
from churnsaver.models.baselines.pacing import Pacing, Schedule
from churnsaver.models.baselines.policy import certain


class PropensityPolicy:
    """Contacts rested customers where risk ≥ threshold; deterministic.

    Args:
        threshold: the risk from which a customer is contacted.
        offer: id of the one offer that is made.
        rest_hours: how long a customer is left alone after a contact, beyond what the hard rules ask.
    """

    def __init__(self, world: World, threshold: float, offer: str, rest_hours: float) -> None:
        self.threshold, self.offer, self.rest_hours = threshold, offer, rest_hours
        self._risk = observation_names(world).index("risk")
        self._offer = [each.id for each in world.offers].index(offer)
        self._schedule = Schedule(world, Pacing(rest_hours=rest_hours))

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One action of each customer has probability 1, (n, actions)."""
        risky = observation[:, self._risk] >= self.threshold
        actions = self._schedule.actions(observation, allowed)[:, self._offer]
        return certain(np.where(risky, actions, NO_CONTACT), allowed.shape[1])
