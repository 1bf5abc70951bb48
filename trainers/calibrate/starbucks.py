"""How unequally an offer changes what customers do, from a randomised promotion (Starbucks, Udacity)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.spread import PERSUADABLES, solve_persuadables
from trainers.calibrate.statistics import Heterogeneity, heterogeneity
from trainers.calibrate.table import Table

FILE = "starbucks_promo_train.csv.gz"
FILES = (FILE,)
PARAMETERS = (PERSUADABLES,)
SEEN = tuple(f"V{i}" for i in range(1, 8))


def measure(folder: Path, seed: int) -> Heterogeneity:
    """Of the effect of the promotion on a purchase; SchemaError where the file is broken."""
    table = Table.read(folder / FILE)
    x = np.column_stack([table.numbers(column) for column in SEEN])
    treated = table.whether("Promotion", "Yes", "No")
    return heterogeneity(x, treated, table.whether("purchase", "1", "0"), seed, folder / FILE)


def solve(variation: float, context: Context) -> float:
    """The intercept that makes the offers' effects as unequal."""
    return solve_persuadables(context.world, context.params, context.population, variation)


def translate(found: Heterogeneity, context: Context) -> Estimate:
    """How rare persuadables are where offers' effects differ as much between the environment's customers."""
    # The more unequal the effects, the fewer persuadables: the interval's ends change places.
    solved = [solve(variation, context) for variation in found.variation]
    return Estimate.of(
        PERSUADABLES,
        (solved[0], solved[2], solved[1]),
        FILE,
        f"best linear prediction of a cross-fitted T-learner for purchases: deviation {found.variation[0]:.2f} of the "
        "mean effect; the intercept at which the hazard that an offer takes away varies as much",
        f"the promotion's effect on purchases: {found.mean:+.4f} on average and {found.lowest_fifth[0]:+.4f} "
        f"({found.lowest_fifth[1]:+.4f} to {found.lowest_fifth[2]:+.4f}) in the fifth predicted lowest, so some "
        "sleeping dogs are possible, but how many is not identified",
    )
