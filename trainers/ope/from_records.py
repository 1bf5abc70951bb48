"""A logged bandit from decision records: what each decision brought in dollars, and what the target would do.

Reward of a decision, followed for a fixed time: the horizon's margin if the customer was not reported as churned
in that time, less the accepted offer, the contact and the penalty for an opt-out. No report counts as staying,
because callers report churn; a decision that is not old enough is left out. Costs are those of the environment
(`trainers.env.params.CONSTRAINTS`), a decision.

The action is the intended one. What shield and ledger made of it afterwards is part of what the action brings,
for the target as for the policy that logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.eligibility import Reason
from churnsaver.domain.money import offer_costs_cents, retained_value_usd
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import HOURS_PER_DAY, HOURS_PER_MONTH, World
from churnsaver.errors import BadInput
from trainers.agents.baselines import Policy
from trainers.env.params import CONSTRAINTS, DynamicsParams
from trainers.ope.logged import Floats, Ints, LoggedBandit
from trainers.ope.records import Decision, Log

OF_CONTACTS = ("spend_usd", "contact", "fatigue")  # an opt-out may come without a contact


@dataclass(frozen=True, slots=True)
class Decided:
    """Decisions that can be evaluated, with what a model of their outcome may look at.

    Attributes:
        logged: rewards, costs and both propensities.
        features: (n, features) the observation.
        actions: (n,) the intended actions.
        described: (actions, k) what describes each action to the outcome model.
        target: (n, actions) the target policy's probabilities.
        per_customer_month: decisions a customer and month of person-time, by which costs are put beside monthly
            limits; None where nobody was there for a month, which does not tell how many a month would bring.
        never: costs that the target cannot incur, since it never contacts.
        left_out: how many records could not be used, by reason.
    """

    logged: LoggedBandit
    features: NDArray[np.float32]
    actions: Ints
    described: Floats
    target: Floats
    per_customer_month: float | None
    never: frozenset[str]
    left_out: dict[str, int]


def decided(
    log: Log, policy: Policy, world: World, params: DynamicsParams, follow_days: int, campaign: str | None = None
) -> Decided:
    """The decisions of policies that saw an observation, followed for `follow_days`.

    Decisions of a deterministic policy are left out (a holdout's, the gateway's scorecard): no other action was
    possible, so they say nothing of a target that acts otherwise. An arm is drawn without regard to the customer,
    so the rest is no other population.

    Raises:
        BadInput: no decision is left, or no outcome was reported of any that is.
    """
    chosen, left_out = _usable(log, follow_days, campaign)
    if not chosen:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise BadInput(f"of {len(log.decisions)} decisions none can be evaluated ({why}); log more or follow shorter")
    log.require_outcomes(chosen)
    observation = np.array([decision.observation for decision in chosen], dtype=np.float32)
    allowed = np.array([decision.mask_reasons for decision in chosen]) == Reason.ALLOWED
    target = policy.probabilities(observation, allowed)
    actions = np.array([decision.action.index for decision in chosen])
    rewards, costs = _outcomes(chosen, log, world, params, follow_days, observation)
    # The arms' shares and the choice of message stay as they are, so both totals have them in common.
    kept = np.array([decision.propensity.arm * decision.propensity.message for decision in chosen])
    refs = [decision.customer_ref for decision in chosen]
    logged = LoggedBandit(
        rewards=rewards,
        propensities=np.array([decision.propensity.total for decision in chosen]) / kept,
        target=target[np.arange(len(actions)), actions],
        costs=costs,
        clusters=np.unique(refs, return_inverse=True)[1].astype(np.int64),
    )
    exposure = _exposure_months(chosen, world)
    per_month = len(chosen) / exposure.sum() if exposure.max() >= 1.0 else None
    contacts = np.delete(target, NO_CONTACT, axis=1).any()
    never = frozenset[str]() if contacts else frozenset(OF_CONTACTS)
    return Decided(logged, observation, actions, describe_actions(world), target, per_month, never, left_out)


def describe_actions(world: World) -> Floats:
    """Whether it is a contact, its offer one-hot, its delay in days, (actions, offers + 2); zeros for no contact."""
    space = ActionSpace(world)
    described = np.zeros((len(space), len(world.offers) + 2))
    for action in space.actions:
        if action.offer is not None:
            described[action.index, [0, 1 + world.offers.index(action.offer)]] = 1.0
            described[action.index, -1] = action.delay_hours / HOURS_PER_DAY
    return described


def _usable(log: Log, follow_days: int, campaign: str | None) -> tuple[list[Decision], dict[str, int]]:
    ripe = log.until - timedelta(days=follow_days)
    chosen, left_out = [], dict.fromkeys(("of another campaign", "of a deterministic policy", "not followed yet"), 0)
    drawn = {_policy(decision) for decision in log.decisions if decision.propensity.policy < 1.0}
    for decision in log.decisions:
        if campaign is not None and decision.campaign != campaign:
            left_out["of another campaign"] += 1
        elif not decision.observation or _policy(decision) not in drawn:
            left_out["of a deterministic policy"] += 1
        elif decision.decided_at > ripe:
            left_out["not followed yet"] += 1
        else:
            chosen.append(decision)
    return chosen, left_out


def _policy(decision: Decision) -> tuple[str, str]:
    """Who decided: the arm, and the version of its policy."""
    return decision.arm, decision.versions.get("policy", "")


def _outcomes(
    chosen: list[Decision],
    log: Log,
    world: World,
    params: DynamicsParams,
    follow_days: int,
    observation: NDArray[np.float32],
) -> tuple[Floats, dict[str, Floats]]:
    """Dollars (n,), and each constraint's cost (n,)."""
    window = timedelta(days=follow_days)
    told = [_told_within(decision, log, window) for decision in chosen]
    contacted = np.array([decision.contacted for decision in chosen])
    accepted = contacted & np.array(["accepted" in kinds for kinds in told])
    opted_out = np.array(["opted_out" in kinds for kinds in told])
    left = np.array([_left_within(decision, log, window) for decision in chosen])
    monthly_usd = np.expm1(6.0 * observation[:, observation_names(world).index("log_monthly_usd")].astype(np.float64))
    offers = ActionSpace(world)
    paid = np.append(np.zeros((len(chosen), 1)), offer_costs_cents(world, monthly_usd) / 100.0, axis=1)
    which = np.array([_offer_number(offers, decision.action.index, world) for decision in chosen])
    contact_usd = np.array([decision.contact_state.contact_cost_cents / 100.0 for decision in chosen])
    spend = contacted * contact_usd + accepted * paid[np.arange(len(chosen)), which]
    rewards = ~left * retained_value_usd(world, monthly_usd) - spend - params.opt_out_penalty_usd * opted_out
    fatigue = contacted * np.array([_fatigue(decision, params) for decision in chosen])
    costs = (spend, contacted.astype(np.float64), fatigue, opted_out.astype(np.float64))
    return rewards, dict(zip(CONSTRAINTS, costs, strict=True))


def _told_within(decision: Decision, log: Log, window: timedelta) -> set[str]:
    told = log.outcomes.get(decision.decision_id, {})
    return {kind for kind, at in told.items() if at <= decision.decided_at + window}


def _left_within(decision: Decision, log: Log, window: timedelta) -> bool:
    at = log.churned_at.get(decision.customer_ref)
    return at is not None and decision.decided_at <= at <= decision.decided_at + window


def _offer_number(space: ActionSpace, action: int, world: World) -> int:
    """0 for no contact, else 1 + the offer's place in the catalogue."""
    offer = space[action].offer
    return NO_CONTACT if offer is None else 1 + world.offers.index(offer)


def _fatigue(decision: Decision, params: DynamicsParams) -> float:
    """What a contact would meet: one unit for each past contact, halved every half-life, as in the dynamics."""
    past = [hours for hours in decision.contact_state.hours_since_contact if hours >= 0]
    return float(sum(0.5 ** (hours / HOURS_PER_DAY / params.fatigue_half_life_days) for hours in past))


def _exposure_months(chosen: list[Decision], world: World) -> Floats:
    """Person-time: from each customer's first decision to the last of all, and one epoch, (customers,).

    Who came late counts for the shorter time; who left goes on counting, as in the limits, which are per customer of
    the campaign.
    """
    first: dict[str, datetime] = {}
    for decision in chosen:
        known = first.setdefault(decision.customer_ref, decision.decided_at)
        first[decision.customer_ref] = min(known, decision.decided_at)
    last = max(decision.decided_at for decision in chosen)
    hours = [(last - began).total_seconds() / 3600.0 + world.epoch_hours for began in first.values()]
    return np.array(hours) / HOURS_PER_MONTH
