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
from trainers.env.params import CONSTRAINTS, DynamicsParams, SoftLimits
from trainers.env.response import sigmoid
from trainers.env.simulate import campaign_budget_cents, campaign_months

IDLE_SHARE = 0.01  # of the contact limit: a policy that contacts less has given contacting up


def require_feasible(world: World, params: DynamicsParams, limits: SoftLimits, customers: int) -> None:
    """SettingsError where budget or limits leave campaigns of so many `customers` nothing to learn.

    Of fatigue nothing can be said: the first contact of a customer meets none.
    """
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
    opt_outs = least_opt_out_probability(params)
    for name, least, what in (
        ("contact", 1.0, "one contact"),
        ("spend_usd", 0.01, "one cent"),
        ("opt_out", opt_outs, f"the {opt_outs:.2g} opt-outs that one contact brings at least"),
    ):
        limit = getattr(limits, name)
        if limit * customers * months < least:
            raise SettingsError(
                f"env.yaml: constraints.{name}: {limit:g} a customer-month is less than {what} in a whole training "
                f"campaign of {customers} customers and {months:.1f} months; raise it to at least "
                f"{least / (customers * months):.2g}, or train on more customers (presets in ppo.yaml)"
            )


def least_opt_out_probability(params: DynamicsParams) -> float:
    """Of a contact with a rested customer of the segment, on the channel, that resents it least."""
    segment = min(segment.opt_out_shift for segment in params.segments.ordered)
    channel = min(channel.opt_out_shift for channel in params.channels.values())
    return float(sigmoid(np.array(params.opt_out_intercept + segment + channel)))


def idle_limits(world: World, params: DynamicsParams, limits: SoftLimits) -> Iterator[str]:
    """A sentence for each limit that a hard rule never lets a policy reach: its multiplier will stay 0."""
    campaign, months = world.campaigns[DEFAULT_CAMPAIGN], campaign_months(world)
    budget_usd = campaign.budget_cents / 100.0 / campaign.customers / months
    if limits.spend_usd > budget_usd:
        yield (
            f"env.yaml: constraints.spend_usd: {limits.spend_usd:g} never binds: the budget of {budget_usd:.2f} USD a "
            "customer-month runs out first"
        )
    weekly_cap = world.contact_rules.weekly_cap
    most = weekly_cap * HOURS_PER_MONTH / HOURS_PER_WEEK
    if limits.contact > most:
        yield f"env.yaml: constraints.contact: {limits.contact:g} never binds: the weekly cap allows {most:.1f} a month"
    if limits.contact * (each := least_opt_out_probability(params)) > limits.opt_out:
        yield (
            f"env.yaml: constraints.contact: {limits.contact:g} never binds: a contact brings {each:.2g} opt-outs at "
            f"least, so constraints.opt_out: {limits.opt_out:g} allows {limits.opt_out / each:.2g} contacts"
        )


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


def given_up(initial_contact_rate: float) -> str:
    """What to say of a policy that contacts next to nobody."""
    return (
        "the policy contacts next to nobody: if an untrained one costs many times what the limits allow, prices rise "
        f"before it has learned whom to contact; lower initial_contact_rate: {initial_contact_rate:g} of ppo.yaml, or "
        "raise the limits"
    )
