"""What must hold of a dataset before anything is fitted on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.checkpoints import Gate
from churnsaver.domain.schema import Role
from churnsaver.errors import SchemaError
from trainers.data import Dataset, Part
from trainers.eval.metrics import log_loss

MIN_FIT_ROWS = 20
MIN_TEST_ROWS = 2


def require_both_classes(dataset: Dataset, role: Role) -> None:
    """SchemaError where there are too few rows of a class to fit on, or to measure on."""
    require_rows(dataset.take(Part.TRAIN, Part.VALID), role, MIN_FIT_ROWS)
    require_rows(dataset.take(Part.TEST), role, MIN_TEST_ROWS)


def require_rows(rows: Dataset, role: Role, least: int) -> None:
    """SchemaError where `rows` has fewer than `least` rows that say yes in `role`, or that say no."""
    yes = int(rows.yes(role).sum())
    if min(yes, len(rows) - yes) < least:
        parts = " and ".join(part for part in Part if (rows.parts == str(part)).any()) or "chosen"
        raise SchemaError(
            f"{rows.source}, column {rows.column(role).name}: the {parts} rows have {yes} yes and "
            f"{len(rows) - yes} no; at least {least} of each are needed, so give more rows"
        )


def beats_base_rate(fit: NDArray[np.bool_], test: NDArray[np.bool_], model_log_loss: float) -> Gate:
    """A model may serve that says more about the test rows than how common yes was among the rows it learned from."""
    base = log_loss(test, np.full(len(test), fit.mean()))
    said = f"log-loss {model_log_loss:.4f} on the test rows is not below that of the base rate, {base:.4f}"
    return Gate.of((model_log_loss < base, said))
