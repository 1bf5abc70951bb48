"""How unequally customers respond to a message, from a randomised e-mail test (Hillstrom 2008)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.spread import SPREAD, SPREADS, solve_spread
from trainers.calibrate.statistics import Heterogeneity, dummies, heterogeneity
from trainers.calibrate.table import Table

FILE = "hillstrom_email.csv.gz"
FILES = (FILE,)
PARAMETERS = (SPREAD,)
ARMS = ("Mens E-Mail", "Womens E-Mail", "No E-Mail")
NUMBERS = ("recency", "history", "mens", "womens", "newbie")


def measure(folder: Path, seed: int) -> Heterogeneity:
    """Of the effect of any e-mail on a visit; SchemaError where the file is broken."""
    table = Table.read(folder / FILE)
    numbers = np.column_stack([table.numbers(column) for column in NUMBERS])
    x = np.concatenate([numbers, dummies(table.texts("zip_code"), table.texts("channel"))], axis=1)
    treated = np.not_equal(table.texts("segment", ARMS), "No E-Mail").astype(np.float64)
    return heterogeneity(x, treated, table.whether("visit", "1", "0"), seed, folder / FILE)


def solve(variation: float, context: Context) -> float:
    """The spread of acceptance that makes what is seen of customers say as much about acceptance."""
    return solve_spread(context.world, context.params, context.population, variation)


def translate(found: Heterogeneity, context: Context) -> Estimate:
    """The spread of acceptance at which the environment's customers differ as much, as far as they are seen."""
    solved = [solve(variation, context) for variation in found.variation]
    return Estimate.of(
        SPREAD,
        (solved[0], solved[1], solved[2]),
        FILE,
        f"best linear prediction of a cross-fitted T-learner for visits: deviation {found.variation[0]:.2f} of the "
        "mean effect; the spread at which acceptance of the first offer varies as much in what is seen",
        f"a mail's effect on visits: {found.mean:+.3f} on average and {found.lowest_fifth[0]:+.3f} "
        f"({found.lowest_fifth[1]:+.3f} to {found.lowest_fifth[2]:+.3f}) in the fifth predicted lowest; an upper "
        f"end of {SPREADS[1]:g} is only the largest spread that is tried",
    )
