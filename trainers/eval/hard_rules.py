"""An independent check of the hard rules: written apart from the mask, over the log of contacts, one by one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.money import offer_cost_cents
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_WEEK, World
from trainers.env.population import Population
from trainers.env.step import Situation, StepOutcome
from trainers.eval.zones import ZoneSchedule

ROUNDING_HOURS = 1e-6
RULES = ("quiet_hours", "cooldown", "weekly_cap", "consent", "do_not_contact", "left", "budget")


@dataclass(slots=True)
class RuleChecker:
    """Counts violations in the contacts of one campaign; give `watch` to `run_campaign`.

    The weekly cap is checked as the rule says it, over every 168 hours that end or begin with a contact.

    Attributes:
        zones: where customers' zones change: says when each contact went out; None where each customer has one
            zone and its clock runs on.
    """

    world: World
    population: Population
    budget_cents: int
    zones: ZoneSchedule | None = None
    decisions: int = 0
    contacts: int = 0
    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RULES, 0))
    _epoch: int = 0
    _reserved_cents: int = 0
    _sends: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    _opted_out: set[int] = field(default_factory=set)
    _left: set[int] = field(default_factory=set)

    def watch(self, situation: Situation, actions: NDArray[np.int64], outcome: StepOutcome) -> None:
        """Looks at everyone who was contacted in one step, at their own local time."""
        space = ActionSpace(self.world)
        self.decisions += int(outcome.decided.sum())
        for customer in np.flatnonzero(outcome.contacted).tolist():
            action = space[int(actions[customer])]
            assert action.offer is not None
            sent, local = self._sent(situation, customer, action.delay_hours)
            self._reserved_cents += int(offer_cost_cents(action.offer, self.population.features.monthly_usd[customer]))
            self._reserved_cents += int(self.population.contact_cost_cents[customer])
            self._check(customer, sent, local)
            self._sends[customer].append(sent)
            self.contacts += 1
        self._opted_out.update(np.flatnonzero(outcome.opted_out).tolist())
        self._left.update(np.flatnonzero(outcome.churned).tolist())
        self._epoch += 1

    def _sent(self, situation: Situation, customer: int, delay_hours: int) -> tuple[float, float]:
        """When a contact goes out, in hours since the campaign began, and the recipient's local hour of day."""
        if self.zones is not None:
            return self.zones.sent(self._epoch, customer, delay_hours)
        # The clock of the customer's own zone: days passed, and the hour at which they are decided about.
        hour = float(situation.contact.local_hour_at_send[customer, 0])
        sent = self._epoch * self.world.epoch_hours + hour + delay_hours
        return sent, sent % HOURS_PER_DAY

    def _check(self, customer: int, sent: float, local: float) -> None:
        rules, earlier = self.world.contact_rules, self._sends[customer]
        start, end = rules.quiet_hours.start_hour, rules.quiet_hours.end_hour
        broken = (
            start <= local < end if start <= end else local >= start or local < end,
            any(abs(sent - other) < rules.cooldown_hours - ROUNDING_HOURS for other in earlier),
            _busiest_week([*earlier, sent]) > rules.weekly_cap,
            not self.population.consent[customer],
            customer in self._opted_out,
            customer in self._left,
            self._reserved_cents > self.budget_cents,
        )
        for rule, is_broken in zip(RULES, broken, strict=True):
            self.violations[rule] += is_broken


def _busiest_week(sends: list[float]) -> int:
    """The most sends within any 168 hours, the end not counted."""
    return max(sum(0 <= other - first < HOURS_PER_WEEK - ROUNDING_HOURS for other in sends) for first in sends)
