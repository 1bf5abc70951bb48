"""The hazard of leaving: what contact does to it, how it moves with the season, and what staying is worth.

A customer's hazard is its base hazard × the effects that run (`HazardState`) × the season (`Season`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.env.params import SeasonParams
from trainers.env.response import Floats, Ints

DAYS_PER_YEAR = 365.25
TINY_HAZARD = 1e-12  # an offer that takes the whole hazard away would divide by zero
_WAVE = 2.0 * np.pi / DAYS_PER_YEAR  # radians a day


@dataclass(frozen=True, slots=True)
class HazardState:
    """What multiplies n customers' hazard: an accepted offer's cut, the reaction to a contact; days each lasts."""

    cut: Floats
    cut_days: Floats
    reaction: Floats
    reaction_days: Floats

    @property
    def factor(self) -> Floats:
        """What the hazard is multiplied with now, (n,)."""
        kept = np.where(self.cut_days > 0, 1.0 - self.cut, 1.0)
        return np.where(self.reaction_days > 0, kept * self.reaction, kept)

    def take(self, rows: Ints) -> HazardState:
        return HazardState(self.cut[rows], self.cut_days[rows], self.reaction[rows], self.reaction_days[rows])

    def after(self, days: float) -> HazardState:
        """What is left of it after `days`."""
        cut_days, reaction_days = np.maximum(self.cut_days - days, 0.0), np.maximum(self.reaction_days - days, 0.0)
        return HazardState(self.cut, cut_days, self.reaction, reaction_days)


@dataclass(frozen=True, slots=True)
class Season:
    """A yearly wave of the hazard: 1 + amplitude · cos(2π · (day of the year - peak_day) / 365.25).

    Attributes:
        start_day: day of the year on which the campaign starts. Days below count from there.
    """

    amplitude: float
    peak_day: float
    start_day: float

    @classmethod
    def starting(cls, params: SeasonParams, start_day: float) -> Season:
        return cls(params.hazard_amplitude, params.peak_day, start_day)

    def mean(self, day: float, days: float) -> float:
        """The hazard's mean multiplier over `days` > 0 from `day` on."""
        start, end = self._angle(day), self._angle(day + days)
        return float(1.0 + self.amplitude * (np.sin(end) - np.sin(start)) / (_WAVE * days))

    def survive(self, hazard: Floats, day: Floats | float, days: Floats | float) -> tuple[Floats, Floats]:
        """Expected days stayed of the next `days`, and the probability of staying them all.

        The survival is exp(-hazard · (u + amplitude · [sin]/wave)) after u days, and exact. Its integral has no
        closed form; this one is of the first order in the amplitude (its exponential of the wave as 1 + x).

        Args:
            hazard: a day, before the season, of any shape.
            day: from which on; it and `days` are scalars or of that shape.
        """
        start, end = self._angle(day), self._angle(day + days)
        sin_start, sin_end = np.sin(start), np.sin(end)
        decay = np.exp(-hazard * days)
        tilt = hazard * (self.amplitude / _WAVE)
        waves = hazard * (sin_start - decay * sin_end) + _WAVE * (np.cos(start) - decay * np.cos(end))
        stayed = (1.0 - decay) * (1.0 + tilt * sin_start) / hazard - tilt * waves / (hazard * hazard + _WAVE * _WAVE)
        return stayed, decay * np.exp(tilt * (sin_start - sin_end))

    def _angle(self, day: Floats | float) -> Floats | float:
        return _WAVE * (day + (self.start_day - self.peak_day))


def stay_value_usd(
    margin_per_day: Floats, hazard_per_day: Floats, effects: HazardState, season: Season, day: float, days_left: float
) -> Floats:
    """Margin expected over `days_left` from `day` on of customers who are never contacted again, (n,).

    The integral of margin × survival in at most three phases: while an accepted offer cuts the hazard and a
    reaction multiplies it, while only the longer of both does, and after. In each as `Season.survive` says.
    """
    rows = np.flatnonzero((effects.cut_days > 0) | (effects.reaction_days > 0))
    if rows.size == len(hazard_per_day):
        return margin_per_day * _days_stayed(hazard_per_day, effects, season, day, days_left)
    stayed, _ = season.survive(hazard_per_day, day, days_left)
    if rows.size:
        stayed[rows] = _days_stayed(hazard_per_day[rows], effects.take(rows), season, day, days_left)
    return margin_per_day * stayed


def _days_stayed(hazard_per_day: Floats, effects: HazardState, season: Season, day: float, days_left: float) -> Floats:
    """Days that customers with running effects are expected to stay, (n,)."""
    kept, cut_days = 1.0 - effects.cut, np.minimum(effects.cut_days, days_left)
    reaction, reaction_days = effects.reaction, np.minimum(effects.reaction_days, days_left)
    both, either = np.minimum(cut_days, reaction_days), np.maximum(cut_days, reaction_days)
    longer = np.where(cut_days > reaction_days, kept, reaction)
    n = len(hazard_per_day)
    factor, start, days = np.empty((3, n)), np.empty((3, n)), np.empty((3, n))  # (phases, n)
    factor[0], factor[1], factor[2] = kept * reaction, longer, 1.0
    start[0], start[1], start[2] = 0.0, both, either
    days[0], days[1], days[2] = both, either - both, days_left - either
    stayed, survived = season.survive(np.maximum(hazard_per_day * factor, TINY_HAZARD), day + start, days)
    return np.asarray(stayed[0] + survived[0] * (stayed[1] + survived[1] * stayed[2]), dtype=np.float64)
