"""The customers of one campaign as contacts find them: what is latent about them, and how they respond."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from trainers.env.hazard import HazardState
from trainers.env.params import DynamicsParams
from trainers.env.population import Population
from trainers.env.response import (
    Bools,
    Floats,
    Ints,
    acceptance_log_odds,
    channel_acceptance_shifts,
    generosity_months,
    segment_acceptance_shifts,
    sigmoid,
    timing_log_odds,
)


@dataclass(frozen=True, slots=True)
class Response:
    """How k contacted customers respond.

    Attributes:
        costs: (k, constraints), as drawn.
        acceptance: (k,) probability of accepting.
        expected_costs: (k, constraints), over acceptance and opt-out.
        protection: cut of the hazard and its days if they accept, each (k,).
        reaction: (k,) what the contact itself multiplies the hazard with for a while.
    """

    accepted: Bools
    opted_out: Bools
    costs: Floats
    acceptance: Floats
    expected_costs: Floats
    protection: tuple[Floats, Floats]
    reaction: Floats


class Customers:
    """n customers whose segments (n,) are drawn. Nothing here changes in the course of a campaign."""

    def __init__(self, world: World, params: DynamicsParams, population: Population, segment: Ints) -> None:
        self._world, self._params, self._population, self._segment = world, params, population, segment

    def delay_hours(self, actions: NDArray[np.integer]) -> Floats:
        """Hours between the decision and the send of joint actions that contact."""
        hours: Floats = np.asarray(self._world.delays_hours, dtype=np.float64)[self._action_delay[actions]]
        return hours

    def respond(
        self,
        who: Ints,
        actions: NDArray[np.integer],
        hour: Floats,
        fatigue: Floats,
        effects: HazardState,
        uniforms: Floats,
    ) -> Response:
        """How the contacted customers `who` (k,) respond.

        Args:
            actions: (k,) joint actions, all of which contact.
            hour, fatigue, effects: local hour of the decision, fatigue and running effects of `who`.
            uniforms: (2, k), for acceptance and opt-out.
        """
        params, offer, delay = self._params, self._action_offer[actions], self.delay_hours(actions)
        generosity = self._generosity[who, offer]
        log_odds = acceptance_log_odds(params, generosity, self._acceptance_shift[who])
        sent_at = (hour + delay) % HOURS_PER_DAY
        log_odds += timing_log_odds(params, sent_at, delay) + params.acceptance_per_fatigue * fatigue
        acceptance = sigmoid(log_odds)
        accepted: Bools = uniforms[0] < acceptance
        leave_list = params.opt_out_intercept + params.opt_out_per_fatigue * fatigue + self._opt_out_shift[who]
        opting_out = sigmoid(leave_list)
        opted_out: Bools = uniforms[1] < opting_out

        contact_usd, offer_usd = self._population.contact_cost_cents[who] / 100.0, self._offer_cost_usd[who, offer]
        once = np.ones(len(who))
        return Response(
            accepted,
            opted_out,
            np.column_stack([contact_usd + accepted * offer_usd, once, fatigue, opted_out]),
            acceptance,
            np.column_stack([contact_usd + acceptance * offer_usd, once, fatigue, opting_out]),
            self._protection(who, offer, generosity, effects),
            self._contact_multiplier[who],
        )

    def _protection(self, who: Ints, offer: Ints, generosity: Floats, effects: HazardState) -> tuple[Floats, Floats]:
        """Cut of the hazard and its days after accepting; a weaker offer never takes away from a stronger one."""
        params = self._params
        attention = params.hazard_cut_floor
        generous = attention + (1.0 - attention) * -np.expm1(-generosity / params.generosity_scale_months)
        months = np.array([o.months for o in self._world.offers])[offer]
        days = np.where(months > 0, months * HOURS_PER_MONTH / HOURS_PER_DAY, params.attention_days)
        running = np.where(effects.cut_days > 0, effects.cut, 0.0)
        return np.maximum(running, self._full_cut[who] * generous), np.maximum(effects.cut_days, days)

    @cached_property
    def _action_offer(self) -> Ints:
        """Offer of each joint action, (actions,); 0 for no contact, where it is not read."""
        n_offers, n_delays = len(self._world.offers), len(self._world.delays_hours)
        return np.concatenate([[0], np.repeat(np.arange(n_offers), n_delays)])

    @cached_property
    def _action_delay(self) -> Ints:
        """Index of the delay of each joint action, (actions,)."""
        n_offers, n_delays = len(self._world.offers), len(self._world.delays_hours)
        return np.concatenate([[0], np.tile(np.arange(n_delays), n_offers)])

    @cached_property
    def _generosity(self) -> Floats:
        return generosity_months(self._world, self._population.features.monthly_usd)

    @cached_property
    def _offer_cost_usd(self) -> Floats:
        return offer_costs_cents(self._world, self._population.features.monthly_usd) / 100.0

    @cached_property
    def _acceptance_shift(self) -> Floats:
        channel = channel_acceptance_shifts(self._world, self._params)[self._population.channel]
        return segment_acceptance_shifts(self._params)[self._segment] + channel

    @cached_property
    def _opt_out_shift(self) -> Floats:
        channels = np.array([self._params.channels[name].opt_out_shift for name in self._world.channels])
        return np.asarray(self._per_segment("opt_out_shift") + channels[self._population.channel], dtype=np.float64)

    @cached_property
    def _full_cut(self) -> Floats:
        return self._per_segment("hazard_cut_fraction")

    @cached_property
    def _contact_multiplier(self) -> Floats:
        return self._per_segment("contact_hazard_multiplier")

    def _per_segment(self, name: str) -> Floats:
        """A number of each customer's segment, (n,)."""
        return np.array([getattr(segment, name) for segment in self._params.segments.ordered])[self._segment]
