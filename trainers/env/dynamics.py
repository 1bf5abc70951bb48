"""One campaign over n customers, step by step: vectorised NumPy, no loop over customers.

A step is one epoch (24 h). Each customer is decided about at a random local hour of that day, so the time
between two decisions varies and a contact that was booked ahead may still lie ahead of the next decision.

Money. A customer who stays the epoch earns its margin, whoever leaves in it half of that; whoever is there at
the end is worth `stay_value_usd`: the margin expected over the rest of the horizon. The same closed form is
the potential Φ of potential-based shaping (Ng, Harada & Russell 1999), so the reward of a step is

    E[margin + Φ(next)] - Φ(now) - spend - penalties,

which sums to the campaign's value less Φ at its start, a constant that no action changes: the value of contacting
nobody, the season of the year included (to the first order in its amplitude, which leaves cents a customer: see
`hazard.Season`). Whatever Φ leaves out is the same for every policy, so differences between policies are exact.
The expectation is over whether the customer accepts, opts out and leaves in this step, given everything else
(Rao-Blackwell): it has the mean of the drawn outcome and far less noise. `StepOutcome.cash_usd` keeps the drawn
money for evaluation.

Simplifications: a response is drawn when the decision is made, also for a contact booked for later in the
epoch; who leaves between booking and sending still costs the contact; effects start at the send, which may lie a
day after the decision, last for weeks (a contact's reaction) or months (an accepted discount), end at whole epochs
and leave no rebound behind. The campaign starts on a random day of the year, which no policy sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.eligibility import ContactState, Reason, contact_reservations_cents, mask_reasons
from churnsaver.domain.observation import HISTORY, HISTORY_HOURS, observe
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from trainers.env.checks import require_finite, require_playable
from trainers.env.customers import Customers, Response
from trainers.env.hazard import DAYS_PER_YEAR, HazardState, Season, stay_value_usd
from trainers.env.params import CONSTRAINTS, DynamicsParams
from trainers.env.population import Population
from trainers.env.response import Bools, Floats, Ints, draw_segments, segment_probabilities
from trainers.env.step import Situation, StepOutcome

# Local hours of day (n, delays) of an epoch's sends, which are given in hours since the epoch began, (n, delays).
Clock = Callable[[int, Floats], Floats]
MIN_RISK = 1e-4  # a customer without any hazard would divide by zero
LEAVERS_LOSE_OF_EPOCH = 0.5  # who leaves does so half way through the epoch, on average


def admit_in_order(reserved_cents: Ints, budget_left_cents: int) -> Bools:
    """Which reservations a ledger admits that books one by one and refuses what no longer fits. Shape (n,)."""
    running = np.cumsum(reserved_cents)
    admitted: Bools = running <= budget_left_cents
    if admitted.all():
        return admitted
    # Past the first refusal smaller reservations may still fit; only this tail is walked.
    first = int(np.argmin(admitted))
    left = budget_left_cents - (int(running[first - 1]) if first else 0)
    for i, cents in enumerate(reserved_cents[first:].tolist(), start=first):
        admitted[i] = cents <= left
        left -= cents if admitted[i] else 0
    return admitted


class Campaign:
    """A campaign under way. Same population, seed and actions give bitwise the same course.

    Random numbers are drawn in the same number whatever the actions, so two policies under one seed meet
    the same luck (common random numbers).
    """

    def __init__(
        self,
        world: World,
        params: DynamicsParams,
        population: Population,
        budget_cents: int,
        seed: int,
        clock: Clock | None = None,
    ) -> None:
        require_playable(world, params, population)
        n = len(population)
        seen = population.features
        self._world, self._params, self._population = world, params, population
        self._rng = np.random.default_rng(seed)
        self._clock = clock
        self.budget_cents = self.budget_left_cents = budget_cents
        self.epoch = 0
        self.season = Season.starting(params.season, self._rng.random() * DAYS_PER_YEAR)
        shares = segment_probabilities(params, seen.risk, seen.monthly_usd, seen.tenure_months)
        self.segment = draw_segments(shares, self._rng.random(n))
        self._customers = Customers(world, params, population, self.segment)
        self.active = np.ones(n, dtype=bool)
        self.opted_out = np.zeros(n, dtype=bool)
        self.fatigue = np.zeros(n)
        self._hours_since_contact = np.full((n, HISTORY), np.inf)
        self._hour = self._rng.random(n) * HOURS_PER_DAY
        self._cut, self._cut_days = np.zeros(n), np.zeros(n)
        self._reaction, self._reaction_days = np.ones(n), np.zeros(n)
        self._epoch_days = world.epoch_hours / HOURS_PER_DAY
        self._margin_per_day = seen.monthly_usd * world.money.gross_margin * HOURS_PER_DAY / HOURS_PER_MONTH
        risk = np.clip(seen.risk, MIN_RISK, 1.0 - MIN_RISK)
        self._hazard_per_day = -np.log1p(-risk) / params.risk_horizon_days
        self._potential = self._stay_values(slice(None), self._hazard_state())
        # What each joint action reserves, (n, actions): it does not change in the course of a campaign.
        self._reservations_cents = contact_reservations_cents(world, self._contact_state())
        self.situation = self._look()

    @cached_property
    def _delay_hours(self) -> Floats:
        return np.asarray(self._world.delays_hours, dtype=np.float64)

    @property
    def epochs(self) -> int:
        """Length of a campaign in epochs."""
        return self._world.episode_days * HOURS_PER_DAY // self._world.epoch_hours

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs

    def hazard_factors(self) -> Floats:
        """What contacts have made of each customer's hazard, for now, (n,); 1 where nothing runs."""
        return self._hazard_state().factor

    def stay_values_usd(self) -> Floats:
        """What each customer is worth from here on if never contacted again, (n,); 0 who has left."""
        return np.where(self.active, self._potential, 0.0)

    def step(self, actions: NDArray[np.integer]) -> StepOutcome:
        """Takes one joint action for each customer, (n,), and moves all of them on by one epoch."""
        uniforms = self._rng.random((4, len(self.active)))
        decided = self.active.copy()
        reserved = self._admit(actions, wanted := decided & (actions != NO_CONTACT))
        contacted = wanted & (reserved >= 0)
        who = np.flatnonzero(contacted)
        costs, expected_costs = np.zeros((2, len(decided), len(CONSTRAINTS)))
        accepted, opted_out = np.zeros_like(decided), np.zeros_like(decided)
        before = self._hazard_state()
        send_share = np.zeros(len(decided))
        response = None
        if who.size:
            delay = self._customers.delay_hours(actions[who])
            send_share[who] = delay / self._world.epoch_hours
            response = self._customers.respond(
                who, actions[who], self._hour[who], self.fatigue[who], before.take(who), uniforms[:2, who]
            )
            self._take_in(who, delay, response)
            accepted[who], opted_out[who] = response.accepted, response.opted_out
            costs[who], expected_costs[who] = response.costs, response.expected_costs
        reward, leave, later = self._value_of_step(before, self._hazard_state(), send_share)
        if response is not None:
            reward[who] = self._expected_reward(who, response, before, send_share)
        churned = decided & (uniforms[2] < leave)
        penalties = costs[:, 0] + self._params.opt_out_penalty_usd * costs[:, 3]
        self._move_on(churned, uniforms[3], later)
        reward = np.where(decided, reward, 0.0)
        stayed = decided - LEAVERS_LOSE_OF_EPOCH * churned
        cash = stayed * self._margin_per_day * self._epoch_days - penalties
        require_finite(self.epoch, reward_usd=reward, cash_usd=cash)
        refused = wanted & ~contacted
        return StepOutcome(
            reward, cash, costs, expected_costs, decided, contacted, refused, accepted, opted_out, churned
        )

    def _admit(self, actions: NDArray[np.integer], wanted: Bools) -> Ints:
        """Books what fits; cents reserved for each customer, (n,), -1 where the ledger refuses."""
        rows = np.arange(len(actions))
        eligible = wanted & (self.situation.reasons[rows, actions] == Reason.ALLOWED)
        cents = np.where(eligible, self._reservations_cents[rows, actions], 0)
        admitted = eligible & admit_in_order(cents, self.budget_left_cents)
        self.budget_left_cents -= int(cents[admitted].sum())
        return np.where(admitted, cents, -1)

    def _take_in(self, who: Ints, delay: Floats, response: Response) -> None:
        """What the contacted customers `who` (k,) are after their response."""
        cut, cut_days = response.protection
        self._cut[who] = np.where(response.accepted, cut, self._cut[who])
        self._cut_days[who] = np.where(response.accepted, cut_days, self._cut_days[who])
        self._reaction[who], self._reaction_days[who] = response.reaction, self._params.reaction_days
        self.opted_out[who] |= response.opted_out
        self.fatigue[who] += 1.0
        self._hours_since_contact[who, self._hours_since_contact[who].argmax(axis=1)] = -delay

    def _hazard_state(self) -> HazardState:
        return HazardState(self._cut.copy(), self._cut_days.copy(), self._reaction.copy(), self._reaction_days.copy())

    def _value_of_step(
        self, before: HazardState, after: HazardState, send_share: Floats, who: Ints | slice = slice(None)
    ) -> tuple[Floats, Floats, Floats]:
        """Expected margin and change of potential in this epoch, before spend; probability of leaving; next potential.

        Args:
            before, after: of the customers `who`, until and from the moment of sending.
            send_share: (n,) share of the epoch that passes before the send.
        """
        share, hazard, margin = send_share[who], self._hazard_per_day[who], self._margin_per_day[who]
        factor = share * before.factor + (1.0 - share) * after.factor
        season = self.season.mean(self._day, self._epoch_days)
        leave = -np.expm1(-hazard * factor * season * self._epoch_days)
        later = self._stay_values(who, after.after(self._epoch_days), epochs_on=1)
        stayed = 1.0 - LEAVERS_LOSE_OF_EPOCH * leave
        return stayed * margin * self._epoch_days + (1.0 - leave) * later - self._potential[who], leave, later

    def _expected_reward(self, who: Ints, response: Response, before: HazardState, send_share: Floats) -> Floats:
        """The step's reward of the contacted `who`, (k,), expected over acceptance and opt-out."""
        both = np.concatenate([who, who])  # as if they declined, then as if they accepted
        was = before.take(both)
        cut, cut_days = (
            np.concatenate([old[who], new])
            for old, new in zip((before.cut, before.cut_days), response.protection, strict=True)
        )
        after = HazardState(cut, cut_days, self._reaction[both], self._reaction_days[both])
        declined, accepted = self._value_of_step(was, after, send_share, both)[0].reshape(2, -1)
        value = declined + response.acceptance * (accepted - declined)
        penalties = response.expected_costs[:, 0] + self._params.opt_out_penalty_usd * response.expected_costs[:, 3]
        return np.asarray(value - penalties, dtype=np.float64)

    @property
    def _day(self) -> float:
        """Days since the campaign's start."""
        return self.epoch * self._epoch_days

    def _stay_values(self, who: Ints | slice, effects: HazardState, epochs_on: int = 0) -> Floats:
        """The potential of the customers `who` under `effects`, this many epochs from now."""
        day = self._day + epochs_on * self._epoch_days
        horizon_days = self._world.money.horizon_months * HOURS_PER_MONTH / HOURS_PER_DAY
        margin, hazard = self._margin_per_day[who], self._hazard_per_day[who]
        return stay_value_usd(margin, hazard, effects, self.season, day, max(0.0, horizon_days - day))

    def _move_on(self, churned: Bools, hour_uniforms: Floats, potential: Floats) -> None:
        """One epoch passes: clocks, fatigue, and the next local hour of decision."""
        hour = hour_uniforms * HOURS_PER_DAY
        hours = self._hours_since_contact
        hours += (self._world.epoch_hours + hour - self._hour)[:, None]
        hours[hours >= HISTORY_HOURS] = np.inf  # the ledger forgets it too
        self._hour = hour
        self.active &= ~churned
        self.fatigue *= 0.5 ** (self._epoch_days / self._params.fatigue_half_life_days)
        self._cut_days = np.maximum(self._cut_days - self._epoch_days, 0.0)
        self._reaction_days = np.maximum(self._reaction_days - self._epoch_days, 0.0)
        self.epoch += 1
        self._potential = potential
        self.situation = self._look()

    def _look(self) -> Situation:
        """The situation before the next decision: the one mask and the one observation (law 1)."""
        contact, features = self._contact_state(), self._population.features
        left = np.full(len(self.active), self.budget_left_cents / max(self.budget_cents, 1))
        reasons = mask_reasons(self._world, contact, self._reservations_cents)
        return Situation(contact, reasons, observe(self._world, features, contact, left))

    def _contact_state(self) -> ContactState:
        sends = self._hour[:, None] + self._delay_hours
        return ContactState(
            consent=self._population.consent,
            do_not_contact=self.opted_out | ~self.active,  # who has left is contacted no more
            hours_since_contact=self._hours_since_contact.copy(),
            local_hour_at_send=self._clock(self.epoch, sends) if self._clock else sends % HOURS_PER_DAY,
            monthly_usd=self._population.features.monthly_usd,
            contact_cost_cents=self._population.contact_cost_cents,
            budget_left_cents=np.full(len(self.active), self.budget_left_cents, dtype=np.int64),
        )
