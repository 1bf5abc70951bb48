"""The default population: made-up subscribers of a mobile and internet provider, and their churn.

It follows `configs/schemas/default.yaml`. The churn process has thresholds and interactions on purpose
(calls to support hurt fast customers more, a slump in usage matters below a point, a contract protects),
so that trees can find more than a scorecard does. No real customer went into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from churnsaver.models.calibration import sigmoid

CHURN_RATE = 0.25
# What was known of a customer's risk when past contacts were made: the truth, seen through this much noise.
RISK_NOISE_LOG_ODDS = 0.3

CONTRACTS = ("month_to_month", "one_year", "two_year")
PLANS = ("basic", "plus", "premium")
PAYMENTS = ("card", "bank_transfer", "invoice")
PLAN_USD = np.array([28.0, 52.0, 84.0])
PLAN_GB = np.array([8.0, 25.0, 70.0])

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Population:
    """Simulated customers.

    Attributes:
        customers: one row each, the columns of schema `default`.
        risk: (n,) the true probability of churn that each label was drawn with.
    """

    customers: pl.DataFrame
    risk: Floats

    def remembered_risk(self, seed: int) -> Floats:
        """The true risk with noise on its log-odds, (n,): what a risk model of the past would have said."""
        rng = np.random.default_rng([seed, 1])
        log_odds = np.log(self.risk / (1.0 - self.risk))
        return sigmoid(log_odds + rng.normal(0.0, RISK_NOISE_LOG_ODDS, len(self.risk)))


def simulate_population(customers: int, seed: int) -> Population:
    """`customers` made-up subscribers, of whom about CHURN_RATE leave. Same arguments, same rows."""
    rng = np.random.default_rng([seed, 0])
    n = customers
    tenure = np.floor(np.minimum(rng.exponential(26.0, n), 96.0))
    # Who stays longer signs longer.
    patience = sigmoid((tenure - 20.0) / 12.0)
    contract = (rng.random(n) < 0.20 + 0.45 * patience).astype(int) + (rng.random(n) < 0.08 + 0.30 * patience)
    plan = rng.choice(3, size=n, p=[0.38, 0.40, 0.22])
    payment = rng.choice(3, size=n, p=[0.46, 0.30, 0.24])
    monthly = np.round(PLAN_USD[plan] * rng.lognormal(0.0, 0.16, n) * np.where(contract > 0, 0.93, 1.0), 2)
    usage = np.round(PLAN_GB[plan] * rng.lognormal(-0.1, 0.55, n), 1)
    trend = np.round(np.clip(rng.normal(-0.02, 0.28, n), -1.0, 1.5), 2)
    calls = rng.poisson(np.where(plan == 2, 0.9, 0.6) * rng.gamma(1.5, 1.0 / 1.5, n))
    late = rng.poisson(np.where(payment == 2, 0.9, 0.25))
    app_days = rng.binomial(30, rng.beta(1.4, 2.2, n))
    mood = rng.normal(3.9, 0.7, n) - 0.35 * calls
    satisfaction = np.clip(np.rint(mood), 1, 5)
    frame = pl.DataFrame(
        {
            "customer_id": [f"C{i:06d}" for i in range(n)],
            "contract": np.array(CONTRACTS)[contract],
            "plan": np.array(PLANS)[plan],
            "payment": np.array(PAYMENTS)[payment],
            "tenure_months": tenure.astype(int),
            "monthly_usd": monthly,
            "usage_gb": usage,
            "usage_trend": trend,
            "support_calls_90d": calls,
            "late_payments_12m": late,
            "app_days_30d": app_days,
            "satisfaction": pl.Series(satisfaction.astype(int)).set(pl.Series(rng.random(n) < 0.4), None),
        }
    )
    log_odds = _churn_log_odds(frame, mood)
    risk = sigmoid(log_odds + _intercept(log_odds, CHURN_RATE))
    return Population(frame.with_columns(churned=np.where(rng.random(n) < risk, "yes", "no")), risk)


def _churn_log_odds(customers: pl.DataFrame, mood: Floats) -> Floats:
    """Log-odds of leaving, up to a constant, (n,). `mood` (n,) is what a survey would ask for."""
    of = {name: customers[name].to_numpy() for name in customers.columns}
    free = of["contract"] == "month_to_month"
    calls, late, trend = of["support_calls_90d"], of["late_payments_12m"], of["usage_trend"]
    usd_per_gb = of["monthly_usd"] / np.maximum(of["usage_gb"], 1.0)
    log_odds = (
        np.select([free, of["contract"] == "one_year"], [0.0, -1.0], -1.9)
        - 1.1 * np.log1p(of["tenure_months"]) / np.log(25.0)
        + np.where(free & (of["tenure_months"] < 6), 0.9, 0.0)
        + np.where(free, 1.0, 0.4) * np.where(calls >= 3, 1.6, 0.25 * calls)
        + np.where(trend < -0.3, 1.5, 0.0)
        + np.where((of["plan"] == "premium") & (trend < 0.0), 0.7, 0.0)
        + np.where(usd_per_gb > 4.0, 0.9, 0.0)
        + np.where((of["payment"] == "invoice") & (late >= 2), 1.0, 0.15 * late)
        - 0.05 * np.minimum(of["app_days_30d"], 15)
        - 0.5 * (mood - 3.5)
    )
    return np.asarray(log_odds, dtype=np.float64)


def _intercept(log_odds: Floats, mean_risk: float) -> float:
    """What to add to the log-odds so that the mean risk is `mean_risk`, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if float(sigmoid(log_odds + middle).mean()) < mean_risk:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
