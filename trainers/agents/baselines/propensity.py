"""The propensity baseline: contact whoever is likely to leave, with one offer, at the first allowed time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import HOURS_PER_WEEK, World


class PropensityPolicy:
    """Contacts where risk ≥ threshold and the last contact lies `rest_hours` back; deterministic.

    Args:
        threshold: the risk from which a customer is contacted.
        offer: id of the one offer that is made.
        rest_hours: how long a customer is left alone after a contact, beyond what the hard rules ask.
    """

    def __init__(self, world: World, threshold: float, offer: str, rest_hours: float) -> None:
        names, space = observation_names(world), ActionSpace(world)
        self.threshold, self.offer, self.rest_hours = threshold, offer, rest_hours
        self._risk, self._recency = names.index("risk"), names.index("recency")
        self._rested = math.exp(-rest_hours / HOURS_PER_WEEK)  # recency is exp(-hours/week)
        self._actions = np.array([space.index_of(offer, delay) for delay in world.delays_hours])

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        """One action of each customer has probability 1, (n, actions)."""
        offered = allowed[:, self._actions]  # (n, delays)
        wanted = (observation[:, self._risk] >= self.threshold) & (observation[:, self._recency] < self._rested)
        first = self._actions[offered.argmax(axis=1)]
        action = np.where(wanted & offered.any(axis=1), first, NO_CONTACT)
        probabilities = np.zeros(allowed.shape)
        probabilities[np.arange(len(action)), action] = 1.0
        return probabilities
