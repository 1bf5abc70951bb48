"""Datasets as matrices: the quick way says what the rules that serve a request say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from churnsaver.domain.schema import DatasetSchema
from churnsaver.settings import load_schema, load_world
from tests.support.decision import SCHEMAS
from trainers.data import Dataset, load_dataset
from trainers.models.scorecard import fit_scorecard, scorecard_risk

SCHEMA = DatasetSchema.parse(
    {
        "name": "small",
        "columns": {
            "plan": {"role": "categorical", "categories": ["b", "a"], "optional": True},
            "empty": {"role": "categorical", "categories": ["x"], "optional": True},
            "days": {"role": "tenure", "unit_months": 0.03285, "optional": True},
            "usd": {"role": "revenue", "optional": True},
        },
    }
)
Cells = tuple[str | None, None, float | None, float | None]
TYPES = dict(zip(SCHEMA.columns, (pl.String, pl.String, pl.Float64, pl.Float64), strict=True))
CELLS = st.tuples(
    st.sampled_from([None, "a", "b", "new"]),
    st.none(),
    st.none() | st.floats(-1e9, 1e9),
    st.none() | st.floats(-1e6, 1e6),
)


def dataset(rows: list[Cells]) -> Dataset:
    """Rows of SCHEMA, typed as `validate` types them."""
    return Dataset(Path("f.csv"), "", SCHEMA, pl.DataFrame(rows, schema=TYPES, orient="row"), np.full(len(rows), "x"))


@settings(max_examples=60)
@given(rows=st.lists(CELLS, min_size=1, max_size=8))
def test_columns_encode_as_rows_do(rows: list[Cells]) -> None:
    """`Dataset.matrix`, money and months equal the schema's own rules, with blanks and unlisted categories."""
    data = dataset(rows)
    np.testing.assert_array_equal(data.matrix(), SCHEMA.encode(data.rows()))
    assert data.matrix().dtype == np.float32
    np.testing.assert_array_equal(data.monthly_usd(), [SCHEMA.monthly_usd(row) for row in data.rows()])
    np.testing.assert_array_equal(data.tenure_months(), [SCHEMA.tenure_months(row) for row in data.rows()])


def test_another_schema_gives_its_own_codes() -> None:
    """A model that learned its categories in another order is given the codes that it knows."""
    model = SCHEMA.with_categories({"plan": ["new", "a", "b"]})
    data = dataset([("a", None, 1.0, 3.0), ("new", None, 2.0, None)])
    assert data.matrix(model)[:, 0].tolist() == [1.0, 0.0]


def test_scorecard_by_columns_is_the_gateways(decision_checkpoints: Path) -> None:
    """The evaluation's scorecard and the gateway's give the same risks, blanks included."""
    data = load_dataset(decision_checkpoints / "customers.csv", load_schema(SCHEMAS / "default.yaml"))
    assert data.frame["satisfaction"].null_count() > 0
    card = fit_scorecard(data, load_world())
    np.testing.assert_allclose(scorecard_risk(card, data), [card.risk(row) for row in data.rows()], rtol=1e-12)
