"""When a baseline contacts: how long customers rest, and at which hour messages arrive."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_WEEK, Frozen, World

ANY_HOUR = HOURS_PER_DAY / 2  # no hour of the day is farther from another


class Pacing(Frozen):
    """A baseline's rule of time, beside the hard rules.

    Attributes:
        rest_hours: how long a customer is left alone after a contact; the observation forgets what lies more
            than four weeks back.
        send_hour: the local hour that sends shall come near; None takes the first allowed delay.
        within_hours: how far from `send_hour` a send may lie; a customer without such a delay waits.
    """

    rest_hours: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    send_hour: Annotated[float, Field(ge=0, lt=HOURS_PER_DAY)] | None = None
    within_hours: Annotated[float, Field(gt=0, le=ANY_HOUR)] = ANY_HOUR


class Schedule:
    """A pacing in one world, vectorised over customers."""

    def __init__(self, world: World, pacing: Pacing) -> None:
        names = observation_names(world)
        self._pacing = pacing
        self._recency, self._sin, self._cos = (names.index(name) for name in ("recency", "hour_sin", "hour_cos"))
        self._rested = math.exp(-pacing.rest_hours / HOURS_PER_WEEK)  # recency is exp(-hours/week)
        self._delays = np.asarray(world.delays_hours, dtype=np.float64)
        self._n_offers = len(world.offers)

    def actions(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The joint action that would make each offer now, (n, offers); NO_CONTACT where none would."""
        n, n_delays = len(allowed), len(self._delays)
        away = self._away(observation)  # (n, delays)
        rested = (observation[:, self._recency] < self._rested)[:, None]
        fits = (rested & (away <= self._pacing.within_hours))[:, None, :]
        offered = allowed[:, NO_CONTACT + 1 :].reshape(n, self._n_offers, n_delays) & fits
        # argmin takes the earlier of two delays that are as near.
        nearest = np.where(offered, away[:, None, :], np.inf).argmin(axis=2)
        actions = NO_CONTACT + 1 + np.arange(self._n_offers) * n_delays + nearest
        return np.where(offered.any(axis=2), actions, NO_CONTACT)

    def _away(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        """Hours between each send and `send_hour`, (n, delays); 0 where any hour will do."""
        if self._pacing.send_hour is None:
            return np.zeros((len(observation), len(self._delays)))
        sin, cos = observation[:, [self._sin, self._cos]].astype(np.float64).T
        hour = np.arctan2(sin, cos) * HOURS_PER_DAY / (2.0 * np.pi)
        ahead = (hour[:, None] + self._delays - self._pacing.send_hour) % HOURS_PER_DAY
        return np.asarray(np.minimum(ahead, HOURS_PER_DAY - ahead), dtype=np.float64)
