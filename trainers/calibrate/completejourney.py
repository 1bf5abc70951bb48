"""Repeated contact and the season, from the households of a grocer (dunnhumby, The Complete Journey).

Coupon campaigns were not randomised: the grocer chose whom to mail, so only changes within a household, against
others of the same campaign, say something about repeated contact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from churnsaver.errors import SchemaError
from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.statistics import Z_95, dummies, least_squares, logistic
from trainers.calibrate.table import Floats, Table
from trainers.env.hazard import DAYS_PER_YEAR
from trainers.env.response import Ints

CAMPAIGNS, WEEKLY = "completejourney_campaigns.csv", "completejourney_weekly.csv.gz"
FILES = (CAMPAIGNS, WEEKLY)
PARAMETERS = ("season.hazard_amplitude", "fatigue_half_life_days", "acceptance_per_fatigue")
HALF_LIVES_DAYS = (1.75, 3.5, 7.0, 14.0, 28.0, 56.0, 112.0, 224.0, 448.0)
CHI_SQUARE_95 = {1: 3.841, 2: 5.991}
LAPSE_WEEKS = 4  # without a basket count as leaving
LEAST_WEEKS = 26
DRAWS = 4_000


def estimates(folder: Path, context: Context) -> list[Estimate]:
    """Season of lapsing, and fatigue and its half-life in redemptions; SchemaError where a file is broken."""
    return [season(Table.read(folder / WEEKLY), context.seed), *fatigue(Table.read(folder / CAMPAIGNS), context)]


def season(table: Table, seed: int) -> Estimate:
    """Yearly wave of the log-odds with which a household that bought this week buys nothing for the next weeks."""
    _, household = np.unique(table.texts("household_id"), return_inverse=True)
    week = table.numbers("week", least=1.0).astype(np.int64)
    if week.max() < LEAST_WEEKS:
        raise SchemaError(f"{table.raw.path}: ends in week {week.max()}; a season needs at least {LEAST_WEEKS} weeks")
    active = np.zeros((int(household.max()) + 1, int(week.max()) + 1), dtype=bool)
    active[household, week] = True
    weeks = np.arange(2, active.shape[1] - LAPSE_WEEKS)  # the first is cut short
    who, column = np.nonzero(active[:, weeks])
    lapsed = np.stack([~active[:, w + 1 : w + 1 + LAPSE_WEEKS].any(axis=1) for w in weeks], axis=1)[who, column]
    angle = 2.0 * np.pi * 7.0 * (weeks[column] - 0.5) / DAYS_PER_YEAR
    fit = logistic(lapsed.astype(np.float64), np.column_stack([np.cos(angle), np.sin(angle)]), who)
    wave, covariance = fit.coefficients[:2], fit.covariance[:2, :2]
    low, high = np.quantile(
        np.hypot(*np.random.default_rng(seed).multivariate_normal(wave, covariance, DRAWS).T), [0.025, 0.975]
    )
    if wave @ np.linalg.solve(covariance, wave) < CHI_SQUARE_95[2]:
        low = 0.0  # no wave at all is within the interval
    return Estimate.of(
        PARAMETERS[0],
        (float(np.hypot(*wave)), float(low), float(high)),
        WEEKLY,
        f"amplitude of a yearly wave in the log-odds of buying nothing for {LAPSE_WEEKS} weeks, clustered by household",
        "a grocer's lapses over 40 weeks of one year stand for a subscription's churn over all of it",
    )


def fatigue(table: Table, context: Context) -> list[Estimate]:
    """Slope of redeeming in fatigue at each half-life, within households and campaigns; the best half-life."""
    _, household = np.unique(table.texts("household_id"), return_inverse=True)
    redeemed = (table.numbers("redemptions", least=0.0) > 0).astype(np.float64)
    start = table.days("start_date")
    design = _within(household, dummies(table.texts("campaign_id")))
    outcome = _within(household, redeemed[:, None])[:, 0]
    fits = {}
    for days in {*HALF_LIVES_DAYS, context.params.fatigue_half_life_days}:
        x = np.column_stack([_within(household, _fatigue_met(household, start, days)[:, None])[:, 0], design])
        fits[days] = least_squares(x, outcome, household)
    n, best = len(outcome), min(fits, key=lambda days: fits[days].residual)
    likely = [d for d, fit in fits.items() if n * np.log(fit.residual / fits[best].residual) < CHI_SQUARE_95[1]]
    to_log_odds = 1.0 / (redeemed.mean() * (1.0 - redeemed.mean()))
    at = fits[context.params.fatigue_half_life_days]
    slope, half = to_log_odds * at.coefficients[0], to_log_odds * Z_95 * float(np.sqrt(at.covariance[0, 0]))
    within = "linear regression of any redemption on decayed earlier campaigns with household and campaign effects"
    profile = (
        Estimate.of(
            PARAMETERS[1], (best, min(likely), max(likely)), CAMPAIGNS, f"{within}; profile of its half-life", ""
        ),
        Estimate.of(PARAMETERS[2], (slope, slope - half, slope + half), CAMPAIGNS, f"{within}, as log-odds", ""),
    )
    notes = (
        "the data cannot tell a short memory from a long one: any half-life within the interval fits",
        "too wide to be used; it does not contradict bank_marketing, whose figure stands",
    )
    return [_only_shown(estimate, note) for estimate, note in zip(profile, notes, strict=True)]


def _only_shown(estimate: Estimate, note: str) -> Estimate:
    return Estimate(**(estimate.as_dict() | {"note": note, "used": False}))


def _fatigue_met(household: Ints, start: Floats, half_life_days: float) -> Floats:
    """What is left of a household's earlier campaigns when each starts, (n,)."""
    met = np.zeros(len(start))
    for rows in np.split(np.argsort(household, kind="stable"), np.cumsum(np.bincount(household))[:-1]):
        since = start[rows][:, None] - start[rows][None, :]
        met[rows] = np.where(since > 0, 0.5 ** (np.maximum(since, 0.0) / half_life_days), 0.0).sum(axis=1)
    return met


def _within(group: Ints, columns: Floats) -> Floats:
    """Columns less their mean in each group, (n, k)."""
    sums = np.zeros((int(group.max()) + 1, columns.shape[1]))
    np.add.at(sums, group, columns)
    return np.asarray(columns - (sums / np.bincount(group)[:, None])[group], dtype=np.float64)
