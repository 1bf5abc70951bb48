"""Pull of an offer's size and of the hour, from coupons offered to drivers (Wang et al. 2017).

No coupon's worth in dollars is given. What varies like an offer's size is how long the coupon is good for: a day
or two hours. Its log-odds per log of that time is taken as the elasticity of acceptance in generosity.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from churnsaver.domain.world import HOURS_PER_DAY, World
from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.statistics import Fit, dummies, logistic
from trainers.calibrate.table import Table
from trainers.env.response import Floats

FILE = "coupon_acceptance.csv"
FILES = (FILE,)
PARAMETERS = ("acceptance_per_sqrt_generosity", "best_hour_bonus", "best_hour")
VALID_HOURS = {"2h": 2.0, "1d": 24.0}
HOURS = {"7AM": 7.0, "10AM": 10.0, "2PM": 14.0, "6PM": 18.0, "10PM": 22.0}
CONTROLS = (
    "couponType", "destination", "passanger", "weather", "temperature", "age", "gender", "income", "maritalStatus",
)  # fmt: skip
DRAWS = 4_000


def estimates(folder: Path, context: Context) -> list[Estimate]:
    """Elasticity and daily wave of acceptance, SchemaError where the file is broken."""
    table = Table.read(folder / FILE)
    valid = np.array([VALID_HOURS[cell] for cell in table.texts("expiration", VALID_HOURS)])
    hour = np.array([HOURS[cell] for cell in table.texts("time", HOURS)])
    accepted = table.whether("Y", "1", "0")
    angle = 2.0 * np.pi * hour / HOURS_PER_DAY
    controls = dummies(*(table.texts(column) for column in CONTROLS))
    fit = logistic(accepted, np.column_stack([np.log(valid), np.cos(angle), np.sin(angle), controls]))
    # d(k · √g)/d(log g) = k · √g / 2, met at the median discount.
    per_elasticity = 2.0 / np.sqrt(_median_generosity(context.world))
    pull, low, high = (per_elasticity * number for number in fit.interval(0))
    bonus, best = _daily_wave(fit, context.seed)
    controlled = "controlling for the kind of coupon, the trip and the person"
    wave = f"logistic regression of Y on a daily wave, {controlled}; amplitude and crest"
    hours = "five hours of asking, in imagined car trips: a coupon's hour, not a message's"
    return [
        Estimate.of(
            PARAMETERS[0],
            (pull, low, high),
            FILE,
            f"log-odds of Y per log of the time that a coupon is good for, {controlled}; met at the median discount",
            "how long a coupon may be used stands for how much it gives: no amounts are published",
        ),
        Estimate.of(PARAMETERS[1], bonus, FILE, wave, hours),
        Estimate.of(PARAMETERS[2], best, FILE, wave, hours),
    ]


def _median_generosity(world: World) -> float:
    """Of the discounts, in months of the bill."""
    given = [offer.discount_fraction * offer.months for offer in world.offers if offer.discount_fraction > 0]
    return float(np.median(given)) if given else 1.0


def _daily_wave(fit: Fit, seed: int) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Amplitude and crest in hours with their intervals, from draws of the two coefficients."""
    cosine, sine = fit.coefficients[1:3]
    draws = np.random.default_rng(seed).multivariate_normal(fit.coefficients[1:3], fit.covariance[1:3, 1:3], DRAWS)
    crest = float(_hour(cosine, sine))
    around = crest + (_hour(draws[:, 0], draws[:, 1]) - crest + 12.0) % HOURS_PER_DAY - 12.0
    low, high = np.quantile(np.hypot(draws[:, 0], draws[:, 1]), [0.025, 0.975])
    early, late = np.quantile(around, [0.025, 0.975])
    return (float(np.hypot(cosine, sine)), float(low), float(high)), (crest, float(early), float(late))


def _hour(cosine: Floats | float, sine: Floats | float) -> Floats:
    return np.asarray(np.arctan2(sine, cosine) * HOURS_PER_DAY / (2.0 * np.pi) % HOURS_PER_DAY, dtype=np.float64)
