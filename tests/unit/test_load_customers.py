"""Synthetic request bodies follow the schema and the public contract."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from churnsaver.domain.schema import Role
from churnsaver.domain.scorecard import NumericTerm, Scorecard
from churnsaver.errors import BadInput, SchemaError
from churnsaver.settings import load_schema
from services.gateway.contract import RetainRequest
from tests.load.customers import bodies, read_rows, returning


@pytest.fixture(scope="module")
def scorecard() -> Scorecard:
    """A scorecard over the default schema with every number at 10 ± 5."""
    schema = load_schema(Path("configs/schemas/default.yaml"))
    categorical = schema.names(Role.CATEGORICAL)
    numeric = [name for name in schema.feature_names if name not in categorical]
    return Scorecard(
        version="test",
        dataset=schema,
        intercept=0.0,
        numeric={name: NumericTerm(mean=10.0, std=5.0, weight=0.1) for name in numeric},
        categorical={name: dict.fromkeys(schema.columns[name].categories or (), 0.0) for name in categorical},
        threshold=0.5,
        offer="check_in",
    )


def test_bodies_follow_schema_and_contract(scorecard: Scorecard) -> None:
    """What the harness sends is what the gateway accepts, each customer another."""
    made = list(islice(bodies(scorecard, seed=42, run="t"), 200))
    for body in made:
        request = RetainRequest.model_validate(body)
        assert scorecard.dataset.check_row(request.customer.attributes) == []
    assert len({body["customer"]["id"] for body in made}) == len({body["request_id"] for body in made}) == 200


def test_the_same_seed_makes_the_same_customers(scorecard: Scorecard) -> None:
    """Seeded, but under the ids of the run."""
    first, again, other = (list(islice(bodies(scorecard, seed=seed, run="t"), 20)) for seed in (42, 42, 43))
    assert first == again != other


def test_rows_of_a_csv_come_again_under_new_ids(scorecard: Scorecard, tmp_path: Path) -> None:
    """Numbers are typed, blanks are missing values."""
    path = tmp_path / "customers.csv"
    names = scorecard.dataset.feature_names
    values = {"contract": "one_year", "plan": "plus", "payment": "card", "satisfaction": ""}
    path.write_text(",".join(names) + "\n" + ",".join(values.get(name, "3") for name in names) + "\n")
    made = list(islice(bodies(scorecard, seed=42, run="t", csv_path=path), 3))
    attributes = [body["customer"]["attributes"] for body in made]
    assert attributes[0] == attributes[2]
    assert (attributes[0]["plan"], attributes[0]["tenure_months"], attributes[0]["satisfaction"]) == ("plus", 3.0, None)


def test_a_csv_that_does_not_follow_the_schema_is_named(scorecard: Scorecard, tmp_path: Path) -> None:
    """File, row and column stand in the message."""
    path = tmp_path / "customers.csv"
    path.write_text("contract,tenure_months\none_year,soon\n")
    with pytest.raises(SchemaError, match=r"customers\.csv: row 2, column"):
        read_rows(path, scorecard.dataset)
    path.write_text("contract\n")
    with pytest.raises(BadInput, match="no rows"):
        read_rows(path, scorecard.dataset)


def test_customers_return_as_retries_and_under_new_requests(scorecard: Scorecard) -> None:
    """Each returns once, with the same body or only another request id."""
    mixed = list(islice(returning(bodies(scorecard, seed=42, run="t"), after=5, seed=42), 205))
    ids = [body["customer"]["id"] for body in mixed]
    assert len(set(ids[:6])) == 6
    assert ids[6] == ids[0]
    again = [body["request_id"].endswith("-again") for body in mixed[6::2]]
    assert 0.3 < sum(again) / len(again) < 0.7
    assert mixed[6] | {"request_id": ""} == mixed[0] | {"request_id": ""}
