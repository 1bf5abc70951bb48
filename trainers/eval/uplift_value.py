"""What contacting the best k % earns, who is harmed, and whether predicted uplift is what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from churnsaver.models.uplift import PERCENTS
from trainers.eval.metrics import CONFIDENCE, Bools, Floats, Interval, percentile_interval
from trainers.eval.uplift_metrics import Judge
from trainers.uplift.trial import Trial

SHARES: Floats = np.arange(1, PERCENTS + 1) / PERCENTS
DECILES = 10
# Bottom shares, in percent, that are looked at for harm; what is said holds for all of them at once.
HARM_PERCENTS = (5, 10, 15, 20, 25, 30, 40, 50)


@dataclass(frozen=True, slots=True)
class Prices:
    """What one contact costs and one outcome earns, in dollars."""

    cost_usd: float
    value_usd: float

    def profits(self, gains: Floats) -> Floats:
        """Dollars a customer when the best 0 %, 1 %, …, 100 % are contacted, (PERCENTS + 1,), from `incremental`."""
        costs: Floats = self.cost_usd * SHARES
        return np.concatenate([[0.0], self.value_usd * gains - costs])


def incremental(trial: Trial, score: Floats, weights: Floats | None = None) -> Floats:
    """More outcomes a customer when the best 1 %, …, 100 % by `score` are contacted than when nobody is, (PERCENTS,).

    Each row counts as many customers as its propensity says, normalised within each arm (Hájek): the uplift curve
    where propensities are constant, and unbiased by who was contacted where they are not.
    """
    order = np.argsort(score, kind="stable")[::-1]
    drawn = np.ones(len(trial)) if weights is None else weights[order]
    treated, yes, propensity = trial.treatment[order], trial.outcome[order], trial.propensity[order]
    in_arm, in_control = drawn * treated / propensity, drawn * ~treated / (1.0 - propensity)
    cuts = np.searchsorted(np.cumsum(drawn), drawn.sum() * SHARES - 0.5)
    cuts = np.minimum(cuts, len(trial) - 1)
    rates = [np.cumsum(w * yes)[cuts] / np.maximum(np.cumsum(w)[cuts], 1e-9) for w in (in_arm, in_control)]
    gains: Floats = (rates[0] - rates[1]) * SHARES
    return gains


def net_incremental_revenue(trial: Trial, contacted: Bools, prices: Prices) -> float:
    """NIR = value · buyers(T) − cost · n(T) − value · buyers(C), of the rows that would be contacted, in dollars.

    The Starbucks test's own figure; it supposes that both arms are the same size. Rows count `Trial.mass` times.
    """
    mass = np.ones(len(trial)) if trial.mass is None else trial.mass
    treated, control = mass * (contacted & trial.treatment), mass * (contacted & ~trial.treatment)
    buyers = float(treated @ trial.outcome - control @ trial.outcome)
    return prices.value_usd * buyers - prices.cost_usd * float(treated.sum())


def policy_value(trial: Trial, score: Floats, other: Floats, percent: int, prices: Prices, seed: int) -> dict[str, Any]:
    """Dollars a customer when the best `percent` by `score` are contacted, with intervals over rows drawn again.

    `percent` was chosen on other rows. Beside it stand contacting everybody, and the best `percent` by `other`.
    """
    judge = Judge(trial.outcome, trial.treatment)
    draws = list(judge.draws(seed))
    curve = prices.profits(incremental(trial, score))
    replicates = np.array([prices.profits(incremental(trial, score, weights)) for weights in draws])
    others = np.array([prices.profits(incremental(trial, other, weights))[percent] for weights in draws])
    theirs = float(prices.profits(incremental(trial, other))[percent])
    everybody = replicates[:, -1]
    contacted = top(score, percent)
    return {
        "cost_usd": prices.cost_usd,
        "value_usd": prices.value_usd,
        "contacted_percent": percent,
        "profit_usd_per_customer": percentile_interval(curve[percent], replicates[:, percent].tolist()).as_dict(),
        "profit_usd_per_customer_of_everybody": percentile_interval(curve[-1], everybody.tolist()).as_dict(),
        "profit_usd_per_customer_of_propensity": percentile_interval(theirs, others.tolist()).as_dict(),
        "gain_usd_per_customer_over_everybody": percentile_interval(
            curve[percent] - curve[-1], (replicates[:, percent] - everybody).tolist()
        ).as_dict(),
        "gain_usd_per_customer_over_propensity": percentile_interval(
            curve[percent] - theirs, (replicates[:, percent] - others).tolist()
        ).as_dict(),
        "nir_usd": net_incremental_revenue(trial, contacted, prices),
        "nir_usd_of_everybody": net_incremental_revenue(trial, np.ones(len(trial), dtype=np.bool_), prices),
        "curve": _band(curve, replicates),
    }


def best_percent(gains: Floats, prices: Prices) -> int:
    """How many percent to contact, 0 to 100, by gains that were measured on rows held out."""
    return int(np.argmax(prices.profits(gains)))


def top(score: Floats, percent: int) -> Bools:
    """Whether each row is among the best `percent`, (n,)."""
    chosen = np.zeros(len(score), dtype=np.bool_)
    chosen[np.argsort(score, kind="stable")[::-1][: round(len(score) * percent / 100)]] = True
    return chosen


def sleeping_dogs(trial: Trial, score: Floats) -> dict[str, Any]:
    """Customers whom a contact drives away: how many are predicted, and how much of that the experiment bears out.

    `provably_harmed_percent` is the largest bottom share by `score` whose effect lies below zero in an interval that
    holds for all of HARM_PERCENTS at once (Bonferroni). It speaks of the group's mean: nobody can say of one
    customer what the contact did, and 0 means not proven, not that nobody is harmed.
    """
    predicted = score < 0.0
    shares = {percent: ~top(score, 100 - percent) for percent in HARM_PERCENTS}
    joint = 1.0 - (1.0 - CONFIDENCE) / len(HARM_PERCENTS)
    harmed = [percent for percent, rows in shares.items() if effect(trial, rows, joint).high < 0.0]
    return {
        "predicted_percent": 100.0 * float(predicted.mean()),
        "effect_on_predicted": effect(trial, predicted).as_dict() if predicted.any() else None,
        "effect_on_lowest": {f"{p}_percent": effect(trial, shares[p]).as_dict() for p in (10, 20, 30)},
        "provably_harmed_percent": max(harmed, default=0),
    }


def deciles(trial: Trial, score: Floats) -> list[dict[str, float]]:
    """Predicted and measured uplift of each tenth of the rows, the highest scores first."""
    tenths = np.array_split(np.argsort(score, kind="stable")[::-1], DECILES)
    points = []
    for rows in tenths:
        member = np.zeros(len(score), dtype=np.bool_)
        member[rows] = True
        measured = effect(trial, member)
        points.append({"predicted": float(score[rows].mean()), **measured.as_dict(), "rows": len(rows)})
    return points


def effect(trial: Trial, rows: Bools, confidence: float = CONFIDENCE) -> Interval:
    """Rate of the treated − rate of the others among `rows` (n,), with Agresti and Caffo's (2000) interval.

    They add a yes and a no to each arm, which keeps the interval honest where outcomes are rare. Where propensities
    vary, rows count `Trial.mass` times (Hájek), and an arm is as many rows as would be as sure if all counted alike.
    """
    from scipy.stats import norm  # noqa: PLC0415 – half a second that only this needs

    rates, variances, plain = [], [], []
    mass = trial.mass
    for arm in (trial.treatment, ~trial.treatment):
        chosen = rows & arm
        share, n = _rate(trial.outcome[chosen], None if mass is None else mass[chosen])
        rate = (share * n + 1.0) / (n + 2.0)
        rates.append(rate)
        variances.append(rate * (1.0 - rate) / (n + 2.0))
        plain.append(share)
    half = float(norm.ppf((1.0 + confidence) / 2.0)) * float(np.sqrt(sum(variances)))
    middle = rates[0] - rates[1]
    return Interval(plain[0] - plain[1], middle - half, middle + half)


def _rate(outcome: Bools, mass: Floats | None) -> tuple[float, float]:
    """Share of yes, and how many rows that count alike would tell it as surely; both 0 without rows.

    The lesser of Kish's effective sample size and what the weighted residuals say, which is less where a yes is
    commoner among rows that count much.
    """
    if not len(outcome):
        return 0.0, 0.0
    if mass is None:
        return float(outcome.mean()), float(len(outcome))
    total = float(mass.sum())
    share = float(mass @ outcome) / total
    kish = total**2 / float(mass @ mass)
    variance = float(np.sum((mass * (outcome - share)) ** 2)) / total**2
    return share, min(kish, share * (1.0 - share) / variance) if variance > 0.0 else kish


def _band(curve: Floats, replicates: Floats) -> list[dict[str, float]]:
    """The curve of profit over percent contacted, with its pointwise interval."""
    low, high = np.quantile(replicates, [(1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0], axis=0)
    return [
        {"percent": float(k), "value": float(curve[k]), "low": float(low[k]), "high": float(high[k])}
        for k in range(len(curve))
    ]
