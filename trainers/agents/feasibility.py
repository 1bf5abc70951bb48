"""Whether the soft constraints can be met together: what can be told before training, and what shows in it.

Not contacting anybody keeps every limit, so limits never exclude all policies; they can contradict each other
or the campaign, and leave a training nothing to learn or a price nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from churnsaver.domain.world import HOURS_PER_MONTH, HOURS_PER_WEEK, World
from churnsaver.errors import SettingsError
from trainers.env.checks import DEFAULT_CAMPAIGN, require_trainable
from trainers.env.params import CONSTRAINTS, SoftLimits
from trainers.env.simulate import campaign_budget_cents, campaign_months


def require_feasible(world: World, limits: SoftLimits, customers: int) -> None:
    """SettingsError where budget or limits leave campaigns of so many `customers` nothing to learn."""
    require_trainable(world)
    if campaign_budget_cents(world, customers) == 0:
        raise SettingsError(
            f"env.yaml: campaigns.{DEFAULT_CAMPAIGN}.budget_cents is less than a cent for a training campaign of "
            f"{customers} customers, so nobody could be made an offer; raise it"
        )
    if limits.opt_out > limits.contact:
        raise SettingsError(
            f"env.yaml: constraints.opt_out: {limits.opt_out:g} contradicts constraints.contact: {limits.contact:g}, "
            "for there cannot be more opt-outs than contacts; lower opt_out or raise contact"
        )
    months = campaign_months(world)
    for name, least, what in (("contact", 1.0, "one contact"), ("spend_usd", 0.01, "one cent")):
        limit = getattr(limits, name)
        if limit * customers * months < least:
            raise SettingsError(
                f"env.yaml: constraints.{name}: {limit:g} a customer-month is less than {what} in a whole training "
                f"campaign of {customers} customers and {months:.1f} months; raise it to at least "
                f"{least / (customers * months):.2g}, or train on more customers (presets in ppo.yaml)"
            )


def idle_limits(world: World, limits: SoftLimits) -> Iterator[str]:
    """A sentence for each limit that a hard rule never lets a policy reach: its multiplier will stay 0."""
    campaign, months = world.campaigns[DEFAULT_CAMPAIGN], campaign_months(world)
    budget_usd = campaign.budget_cents / 100.0 / campaign.customers / months
    if limits.spend_usd > budget_usd:
        yield (
            f"constraints.spend_usd: {limits.spend_usd:g} never binds: the budget of {budget_usd:.2f} USD a "
            "customer-month runs out first"
        )
    weekly_cap = world.contact_rules.weekly_cap
    most = weekly_cap * HOURS_PER_MONTH / HOURS_PER_WEEK
    if limits.contact > most:
        yield f"constraints.contact: {limits.contact:g} never binds: the weekly cap allows {most:.1f} a month"


def unmet_constraints(costs_per_month: Sequence[Mapping[str, float]], limits: SoftLimits, last: int) -> tuple[str, ...]:
    """Constraints whose cost was over the limit on average of the `last` iterations; none before so many."""
    if len(costs_per_month) < last:
        return ()
    recent = costs_per_month[-last:]
    return tuple(name for name in CONSTRAINTS if np.mean([costs[name] for costs in recent]) > getattr(limits, name))


def alarm(name: str, cost: float, limit: float, multiplier: float, multiplier_max: float) -> str:
    """What to say of a constraint that training did not meet."""
    mend = (
        f"its price stands at lagrangian.multiplier_max: {multiplier_max:g} of ppo.yaml, so raise that, "
        if multiplier >= multiplier_max
        else "train for longer, or, if that does not help, "
    )
    return (
        f"the constraints are not met together: {name} was {cost:.4f} a customer-month over the last iterations, its "
        f"limit is {limit:.4f}; {mend}raise constraints.{name} or lower what else drives it"
    )
