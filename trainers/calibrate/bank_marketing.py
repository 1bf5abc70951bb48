"""Fatigue of acceptance, from the phone campaign of a Portuguese bank (Moro, Cortez & Rita 2014).

Of the 95 % interval's many threats the largest is composition: whoever accepts is called no more, so later calls
meet less willing people, which looks like fatigue. Months and markets also differ in how often people were
called. The controls take away what the columns show of both; what they do not show, stays in the figure.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.statistics import dummies, logistic, standardised
from trainers.calibrate.table import Table

FILE = "bank_marketing.csv.gz"
FILES = (FILE,)
PARAMETERS = ("acceptance_per_fatigue",)
PEOPLE = ("job", "marital", "education", "poutcome")
CIRCUMSTANCES = ("month", "day_of_week", "contact")
MARKET = ("emp.var.rate", "cons.price.idx", "cons.conf.idx", "euribor3m", "nr.employed", "age", "previous")


def estimates(folder: Path, _context: Context) -> list[Estimate]:
    """Log-odds of accepting for each earlier contact of the campaign, SchemaError where the file is broken."""
    table = Table.read(folder / FILE)
    accepted = table.whether("y", "yes", "no")
    earlier = table.numbers("campaign", least=1.0) - 1.0
    controls = dummies(*(table.texts(column) for column in (*PEOPLE, *CIRCUMSTANCES)))
    market = standardised(*(table.numbers(column) for column in MARKET))
    fit = logistic(accepted, np.column_stack([earlier, controls, market]))
    return [
        Estimate.of(
            PARAMETERS[0],
            fit.interval(0),
            FILE,
            "logistic regression of y on the earlier contacts, controlling for month, weekday, line, market and person",
            "a unit of fatigue is at least one earlier contact; without controls the slope is steeper, and whoever "
            "accepts is called no more, so some of it is composition",
        )
    ]
