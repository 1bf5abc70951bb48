"""Who takes part in an experiment, and what became of each within the time followed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from churnsaver.domain.actions import ActionSpace
from churnsaver.domain.money import offer_cost_cents, retained_value_usd
from churnsaver.domain.schema import Scalar
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from trainers.env.params import DynamicsParams
from trainers.ope.records import Decision, Log

HOLDOUT = "holdout"
# Reads (risk, monthly charge in dollars), each (n,), of customers' attributes.
Scored = Callable[[Sequence[Mapping[str, Scalar]]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Customers of an experiment in the order in which they entered, each (n,).

    Attributes:
        arm: drawn for them.
        followed: long enough to count.
        risk: by one model for all arms, of their attributes at the first decision.
        churned, value_usd, spend_usd, contacts, opted_out: within the time followed.
        first: index of each one's first decision in the log.
    """

    arm: np.ndarray
    followed: np.ndarray
    risk: np.ndarray
    churned: np.ndarray
    value_usd: np.ndarray
    spend_usd: np.ndarray
    contacts: np.ndarray
    opted_out: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.arm)


def enrol(log: Log, world: World, params: DynamicsParams, scored: Scored, follow_days: int) -> tuple[Cohort, int]:
    """The customers with an arm, and how many have none because every record of them is older than `drawn_arm`.

    Raises:
        BadInput: nobody has an arm, or no outcome was reported of anybody who was followed.
    """
    by_customer: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, decision in enumerate(log.decisions):
        by_customer[decision.campaign, decision.customer_ref].append(index)
    known = [(arm, rows) for rows in by_customer.values() if (arm := _drawn(log, rows)) is not None]
    if not known:
        raise BadInput("no record holds a drawn arm: set gateway.experiment in serve.yaml, or choose other records")
    first = [log.decisions[rows[0]] for _, rows in known]
    risk, monthly_usd = scored([decision.features for decision in first])
    window = timedelta(days=follow_days)
    fates = [
        _fate([log.decisions[i] for i in rows], log, world, float(usd), window)
        for (_, rows), usd in zip(known, monthly_usd, strict=True)
    ]
    churned, spend, contacts, opted_out = (np.array(column) for column in zip(*fates, strict=True))
    value = ~churned * retained_value_usd(world, monthly_usd) - spend - params.opt_out_penalty_usd * opted_out
    followed = np.array([decision.decided_at + window <= log.until for decision in first])
    log.require_outcomes(
        [log.decisions[i] for (_, rows), kept in zip(known, followed, strict=True) if kept for i in rows]
    )
    cohort = Cohort(
        arm=np.array([arm for arm, _ in known]),
        followed=followed,
        risk=risk,
        churned=churned,
        value_usd=value,
        spend_usd=spend,
        contacts=contacts,
        opted_out=opted_out,
        first=np.array([rows[0] for _, rows in known]),
    )
    return cohort, len(by_customer) - len(known)


def _drawn(log: Log, rows: Sequence[int]) -> str | None:
    """The arm drawn for a customer; records without it tell where the experiment ran, or who is a holdout."""
    for decision in (log.decisions[row] for row in rows):
        if decision.drawn_arm is not None:
            return decision.drawn_arm
        if decision.arm == HOLDOUT or decision.baseline_reason in (None, "experiment"):
            return decision.arm
    return None


def _fate(
    decisions: Sequence[Decision], log: Log, world: World, monthly_usd: float, window: timedelta
) -> tuple[bool, float, int, bool]:
    """Churned, dollars spent, contacts, opted out: within the window from the first decision."""
    start = decisions[0].decided_at
    left_at = log.churned_at.get(decisions[0].customer_ref)
    churned = left_at is not None and start <= left_at <= start + window
    spend, contacts, opted_out = 0.0, 0, False
    actions = ActionSpace(world)
    for decision in decisions:
        told = log.outcomes.get(decision.decision_id, {})
        in_time = {kind for kind, at in told.items() if at <= start + window}
        opted_out |= "opted_out" in in_time
        offer = actions[decision.action.index].offer
        if decision.contacted and offer is not None and decision.decided_at <= start + window:
            contacts += 1
            cents = decision.contact_state.contact_cost_cents
            cents += int(offer_cost_cents(offer, monthly_usd)) if "accepted" in in_time else 0
            spend += cents / 100.0
    return churned, spend, contacts, opted_out
