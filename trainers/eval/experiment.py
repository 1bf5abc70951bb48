"""What the arms of a live experiment earned: incremental churn and net value against the holdout.

Intention to treat. A customer counts for the arm that was drawn for them, whatever then became of it: a refusal
by the ledger, the kill switch, an outage. The unit is a customer in a campaign, followed for a fixed time from
their first decision; whoever is not followed that long yet is left out of every arm alike, which censors without
regard to the arm because arms are drawn without regard to time. Whoever is not reported as churned by then has
stayed: callers report churn. Customers enter in the order of their first decision, and intervals hold at every
look (`experiment_sequences`).

Net value of a customer: the horizon's margin if they stayed, less accepted offers, contacts and the penalty for an
opt-out, all within the time followed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from churnsaver.domain.eligibility import Reason
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from trainers.env.params import DynamicsParams
from trainers.eval.experiment_cohort import HOLDOUT, Cohort, Scored, enrol
from trainers.eval.experiment_offers import offer_effects
from trainers.eval.experiment_sequences import MIN_CUSTOMERS, MIN_TERMS, TUNED_FOR, difference, sample_ratio_p_values
from trainers.ope.records import Decision, Log

SAMPLE_RATIO_ALPHA = 0.001
SHARES_TOLERANCE = 1e-6
MAX_ORPHANS = 0.05  # of all outcomes
# What stands in the result where customers did not come to the arms as they should.
WITHHELD: dict[str, Any] = {
    "against_holdout": {},
    "sleeping_dogs": {"comparisons": 0, "segments": {}, "woken": []},
    "withheld": "effects are withheld until the alarm about the arms' shares is explained",
}


def evaluate_experiment(
    log: Log, world: World, params: DynamicsParams, scored: Scored, follow_days: int, alpha: float
) -> dict[str, Any]:
    """Arms against the holdout, with alarms.

    Args:
        scored: risk and monthly charge by one model, the same for every arm.
        follow_days: from each customer's first decision.
        alpha: the confidence sequences hold with probability 1 - alpha.

    Raises:
        BadInput: there is no holdout, or no other arm.
    """
    cohort, unassigned = enrol(log, world, params, scored, follow_days)
    arms = [arm for arm in sorted(set(cohort.arm.tolist())) if arm != HOLDOUT]
    if HOLDOUT not in cohort.arm or not arms:
        raise BadInput(
            f"the records hold the arms {', '.join(sorted(set(cohort.arm.tolist()))) or 'of nobody'}; an experiment "
            "needs a holdout and another arm: set gateway.experiment in serve.yaml"
        )
    ratio = sample_ratio(cohort, log)
    compared = _compared(cohort, log, world, arms, alpha) if ratio["alarm"] is None else WITHHELD
    result: dict[str, Any] = {
        "customers": len(cohort),
        "followed_customers": int(cohort.followed.sum()),
        "unassigned_customers": unassigned,
        "follow_days": follow_days,
        "alpha": alpha,
        "tuned_for_customers": TUNED_FOR,
        "arms": {arm: _describe(cohort, arm) | {"reported": _reported(cohort, log, arm)} for arm in (*arms, HOLDOUT)},
        "sample_ratio": ratio,
        "shared_budget": shared_budget(log, arms),
        "orphans": orphans(log),
        **compared,
    }
    return {**result, "missed": missed_targets(result)}


def _compared(cohort: Cohort, log: Log, world: World, arms: Sequence[str], alpha: float) -> dict[str, Any]:
    """What is said of the arms where their customers can be compared."""
    return {
        "against_holdout": {arm: against_holdout(cohort, arm, alpha) for arm in arms},
        "sleeping_dogs": sleeping_dogs(cohort, log, world, arms, alpha),
    }


# -- what the arms did -----------------------------------------------------------------------------


def _describe(cohort: Cohort, arm: str) -> dict[str, Any]:
    members = (cohort.arm == arm) & cohort.followed
    n = int(members.sum())
    return {
        "customers": int((cohort.arm == arm).sum()),
        "followed": n,
        "churned": float(cohort.churned[members].mean()) if n else None,
        "net_value_usd": float(cohort.value_usd[members].mean()) if n else None,
        "spend_usd": float(cohort.spend_usd[members].mean()) if n else None,
        "contacts": int(cohort.contacts[members].sum()),
        "opt_outs": int(cohort.opted_out[members].sum()),
    }


def _reported(cohort: Cohort, log: Log, arm: str) -> float:
    """Share of an arm's customers with any outcome reported: no report counts as staying."""
    entries = [log.decisions[first] for first in cohort.first[cohort.arm == arm]]
    whose = {(entry.campaign, entry.customer_ref) for entry in entries}
    return log.reported_share([each for each in log.decisions if (each.campaign, each.customer_ref) in whose])


def against_holdout(cohort: Cohort, arm: str, alpha: float, members: np.ndarray | None = None) -> dict[str, Any]:
    """Incremental churn and net value a customer, at the last look and over time, among `members` (n,)."""
    chosen = cohort.followed & np.isin(cohort.arm, (arm, HOLDOUT))
    chosen = chosen if members is None else chosen & members
    treated = cohort.arm[chosen] == arm
    found = {
        "incremental_churn": _sequence(cohort.churned[chosen].astype(np.float64), treated, alpha),
        "incremental_net_value_usd": _sequence(cohort.value_usd[chosen], treated, alpha),
    }
    return {"customers": [int(treated.sum()), int((~treated).sum())], **found}


def _sequence(values: np.ndarray, treated: np.ndarray, alpha: float) -> dict[str, Any]:
    """The last interval, and up to 60 looks for the plot; None where an arm is too small."""
    nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "looks": []}
    if min(treated.sum(), (~treated).sum()) < MIN_CUSTOMERS:
        return nothing | {"why": f"fewer than {MIN_CUSTOMERS} followed customers in an arm"}
    value, half = difference(values, treated, alpha)
    known = np.flatnonzero(~np.isnan(half))
    if not np.isfinite(half[-1]):
        return nothing | {"why": f"too few events yet; each arm needs about {MIN_TERMS:.0f} of churn"}
    looks = known[np.unique(np.linspace(0, len(known) - 1, 60).astype(int))]
    shown = [[int(i + 1), float(value[i]), float(value[i] - half[i]), float(value[i] + half[i])] for i in looks]
    return {
        "value": float(value[-1]),
        "low": float(value[-1] - half[-1]),
        "high": float(value[-1] + half[-1]),
        "looks": shown,
    }


def sample_ratio(cohort: Cohort, log: Log) -> dict[str, Any]:
    """Whether customers came to the arms in the shares that the records state (Lindon & Malek 2022)."""
    entries: dict[tuple[str, str], Decision] = {}  # a customer's first record that states a share: that of their draw
    for decision in log.decisions:
        if decision.arm == HOLDOUT or decision.baseline_reason in (None, "experiment"):
            entries.setdefault((decision.campaign, decision.customer_ref), decision)
    stated: dict[str, set[float]] = defaultdict(set)
    for decision in entries.values():
        stated[decision.arm].add(round(decision.propensity.arm, 9))
    counts = Counter(cohort.arm.tolist())
    if changed := sorted(arm for arm, shares in stated.items() if len(shares) > 1):
        said = (
            f"the shares of {', '.join(changed)} changed; analyse who came in before and after apart, by --until and "
            "--since"
        )
        return {"p_value": None, "alarm": said, "counts": dict(counts)}
    names = sorted(stated)
    shares = np.array([next(iter(stated[name])) for name in names])
    if strange := next((d for d in log.decisions if d.drawn_arm in set(counts) - set(names)), None):
        said = (
            f"decision {strange.decision_id} was drawn for the arm {strange.drawn_arm!r}, which no record states a "
            f"share of; known are {', '.join(names)}: mend the record or leave it out"
        )
        return {"p_value": None, "alarm": said, "counts": dict(counts)}
    if abs(shares.sum() - 1.0) > SHARES_TOLERANCE or set(counts) - set(names):
        said = f"the stated shares are of {', '.join(names)} and sum to {shares.sum():.3f}: an arm is missing"
        return {"p_value": None, "alarm": said, "counts": dict(counts)}
    p_value = float(sample_ratio_p_values(np.searchsorted(names, cohort.arm), shares / shares.sum())[-1])
    alarm = (
        f"customers did not come to the arms in their shares (p = {p_value:.2g}): the arms cannot be compared until "
        "it is known why"
        if p_value < SAMPLE_RATIO_ALPHA
        else None
    )
    expected = {name: float(share * len(cohort)) for name, share in zip(names, shares, strict=True)}
    return {"p_value": p_value, "alarm": alarm, "counts": dict(counts), "expected": expected}


def orphans(log: Log) -> dict[str, Any]:
    """Outcomes of decisions that the folder lacks: the sign of a topic that was read in part."""
    total = log.orphans + sum(map(len, log.outcomes.values()))
    share = log.orphans / total if total else 0.0
    alarm = (
        f"{log.orphans} of {total} outcomes belong to no decision in the folder ({share:.0%}; at most "
        f"{MAX_ORPHANS:.0%}): records are missing; fetch them all"
        if share > MAX_ORPHANS
        else None
    )
    return {"outcomes_without_decision": log.orphans, "share": share, "alarm": alarm}


def shared_budget(log: Log, arms: Sequence[str]) -> dict[str, Any]:
    """Whether a budget that all arms drew on ran short, so that one arm's spending changed what another could do.

    Where each arm spends from its own part, a short one starves nobody but that arm.
    """
    short: Counter[str] = Counter()
    for decision in log.decisions:
        if decision.arm not in arms or not decision.contact_state.budget_shared:
            continue
        if Reason.BUDGET in decision.mask_reasons or decision.booking == Reason.BUDGET.slug:
            short[decision.arm] += 1
    alarm = None
    if short and len(arms) > 1:
        alarm = (
            f"the budget ran short in {sum(short.values())} decisions while {', '.join(arms)} drew on it: one arm's "
            "spending changed what another could do; leave out who came in then, by --since: it was not split yet, or "
            "shares were set when much of it was spent"
        )
    return {"short": dict(short), "alarm": alarm}


# -- sleeping dogs ---------------------------------------------------------------------------------


def sleeping_dogs(cohort: Cohort, log: Log, world: World, arms: Sequence[str], alpha: float) -> dict[str, Any]:
    """Segments in which an arm raised churn, all intervals together at level alpha (Bonferroni).

    Segments are thirds of risk, and offers. Thirds compare arm and holdout. Offers are not drawn by lot alone, so
    each is compared with no contact among first decisions of policies that drew, weighted by 1/propensity.
    """
    followed = cohort.risk[cohort.followed]
    edges = np.quantile(followed, [1 / 3, 2 / 3]) if followed.size else np.zeros(2)
    third = np.searchsorted(edges, cohort.risk, side="right")
    comparisons = len(arms) * 3 + len(world.offers)
    segments: dict[str, Any] = {}
    for arm in arms:
        for number, name in enumerate(("low", "middle", "high")):
            found = against_holdout(cohort, arm, alpha / comparisons, third == number)
            churn = {key: value for key, value in found["incremental_churn"].items() if key != "looks"}
            segments[f"{arm}: {name} risk"] = {"customers": found["customers"], **churn}
    segments |= offer_effects(cohort, log, world, alpha / comparisons)
    woken = [name for name, found in segments.items() if found["low"] is not None and found["low"] > 0]
    return {"comparisons": comparisons, "segments": segments, "woken": woken}


def missed_targets(result: Mapping[str, Any]) -> list[str]:
    """Alarms, segments in which contact raised churn, and arms that are not shown to earn, one sentence each."""
    missed = [alarm for check in ("sample_ratio", "shared_budget", "orphans") if (alarm := result[check]["alarm"])]
    missed += [f"{name}: contact raised churn" for name in result["sleeping_dogs"]["woken"]]
    for arm, found in result["against_holdout"].items():
        value = found["incremental_net_value_usd"]
        low = value["low"]
        if low is None:
            missed.append(f"{arm}: {value['why']}")
        elif not low > 0:
            missed.append(f"{arm}: net value over the holdout is not above 0 with confidence (lower bound {low:.2f})")
    return missed
