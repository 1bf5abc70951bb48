"""What must hold of a dataset before anything is fitted on it."""

from __future__ import annotations

from churnsaver.domain.schema import Role
from churnsaver.errors import SchemaError
from trainers.data import Dataset, Part

MIN_FIT_ROWS = 20
MIN_TEST_ROWS = 2


def require_both_classes(dataset: Dataset, role: Role) -> None:
    """SchemaError where a part has too few rows of a class to fit or to measure on."""
    for name, part, least in (
        ("train and valid", dataset.take(Part.TRAIN, Part.VALID), MIN_FIT_ROWS),
        ("test", dataset.take(Part.TEST), MIN_TEST_ROWS),
    ):
        yes = int(part.yes(role).sum())
        if min(yes, len(part) - yes) < least:
            raise SchemaError(
                f"{dataset.source}, column {part.column(role).name}: the {name} rows have {yes} yes and "
                f"{len(part) - yes} no; at least {least} of each are needed, so give more rows"
            )
