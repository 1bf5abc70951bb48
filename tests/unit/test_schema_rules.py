"""Dataset schemas: what they accept, what they say of what they do not, and how they encode."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from churnsaver.domain.schema import DatasetSchema, Role, Scalar
from churnsaver.errors import BadInput, SchemaError
from churnsaver.settings import load_schema

SHIPPED = ["default", "telco", "contacts", "mlc_churn", "hillstrom", "starbucks", "bank_marketing"]
SCHEMA = DatasetSchema.parse(
    {
        "name": "small",
        "columns": {
            "id": {"role": "id"},
            "plan": {"role": "categorical", "categories": ["a", "b"]},
            "senior": {"role": "categorical", "categories": [0, 1]},
            "days": {"role": "tenure", "unit_months": 0.03285, "minimum": 0},
            "usd": {"role": "revenue", "minimum": 0, "maximum": 1000},
            "calls": {"role": "numeric", "optional": True},
            "p": {"role": "propensity"},
        },
    }
)
ROW: dict[str, Scalar] = {"plan": "b", "senior": 0, "days": 365.0, "usd": 50.0, "calls": None}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_schemas_load(name: str) -> None:
    """Every schema that is shipped is one, under its file's name."""
    assert load_schema(Path(f"configs/schemas/{name}.yaml")).name == name


def test_yaml_yes_and_no_are_texts(tmp_path: Path) -> None:
    """`yes: Yes` and `categories: [No, Yes]` mean words, not YAML's truth values."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\ncolumns:\n  a: {role: categorical, categories: [No, Yes]}\n  y: {role: label, yes: Yes}\n"
    )
    schema = load_schema(path)
    assert schema.columns["a"].categories == ("No", "Yes")
    assert schema.columns["y"].yes == "Yes"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: s\ncolumns:\n  y: {role: label}\n  x: {role: numeric}\n", "columns.y: a label column needs `yes`"),
        ("name: s\ncolumns:\n  x: {role: numbr}\n", "columns.x.role"),
        ("name: s\ncolumns:\n  x: {role: id}\n", "at least one must be numeric"),
        ("name: s\ncolumns:\n  x: {role: revenue}\n  y: {role: revenue}\n", "only one may have the role revenue"),
        ("name: s\ncolumns:\n  x: {role: numeric, max: 3}\n", "columns.x.max"),
        ("name: s\ncolumns:\n  x: {role: numeric, control: a}\n", "belong to a treatment, not to a numeric column"),
        (
            "name: s\ncolumns:\n  t: {role: treatment, categories: [a, b], control: c}\n  x: {role: numeric}\n",
            "`control` is 'c'; expected one of 'a', 'b'",
        ),
        (
            "name: s\ncolumns:\n  t: {role: treatment, proportions: {a: 1, b: 0}}\n  x: {role: numeric}\n",
            "columns.t.proportions.b",
        ),
        ("- 1\n", "expected a mapping"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_wrong_schema_names_the_key(tmp_path: Path, text: str, expected: str) -> None:
    """A schema that is none is refused with the file and the key."""
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"wrong\.yaml") as caught:
        load_schema(path)
    assert expected in str(caught.value)


def test_two_labels_are_refused(tmp_path: Path) -> None:
    """A role that means one thing belongs to one column."""
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ncolumns:\n  x: {role: id}\n  y: {role: id}\n  z: {role: numeric}\n")
    with pytest.raises(SchemaError, match=r"only one may have the role id, got \['x', 'y'\]"):
        load_schema(path)


def test_good_row_passes() -> None:
    """A row that follows the schema has no faults, with an optional value missing."""
    assert SCHEMA.check_row(ROW) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("plan", "c", "is 'c'; expected one of 'a', 'b'"),
        ("plan", None, "is missing; give it a value"),
        ("plan", " ", "is missing; give it a value"),
        ("senior", 2, "is 2; expected one of '0', '1'"),
        ("days", "12", "is '12'; expected a number"),
        ("days", True, "is True; expected a number"),
        ("days", -1.0, "is -1.0; expected 0 or more"),
        ("usd", 1001, "is 1001; expected 1000 or less"),
        ("usd", math.nan, "is nan; expected a finite number"),
        ("usd", math.inf, "is inf; expected a finite number"),
        ("calls", math.nan, "is nan; expected a finite number"),
        ("calls", -math.inf, "is -inf; expected a finite number"),
        ("calls", 1e30, "is 1e+30; expected 1000000000 or less"),
        ("calls", -2e9, "is -2000000000.0; expected -1000000000 or more"),
        ("calls", 10**400, "is an integer of more than 64 bits; expected one that a 64-bit signed integer holds"),
        ("plan", 10**400, "is an integer of more than 64 bits; expected one that a 64-bit signed integer holds"),
    ],
)
def test_faults_say_what_was_expected(column: str, value: Scalar, message: str) -> None:
    """Each faulty value is named with what was expected; NaN is no way to say missing."""
    errors = SCHEMA.check_row({**ROW, column: value})
    assert [(error.field, error.message) for error in errors] == [(column, message)]


def test_a_charge_is_bounded_unless_the_schema_says_otherwise() -> None:
    """A million dollars a month without a `maximum`; with one, that."""
    columns = {"usd": {"role": "revenue"}}
    schema = DatasetSchema.parse({"name": "s", "columns": columns})
    assert schema.check_value("usd", 1e6) is None
    assert schema.check_value("usd", 1e300) == "is 1e+300; expected 1000000 or less"
    wide = DatasetSchema.parse({"name": "s", "columns": {"usd": {"role": "revenue", "maximum": 2e6}}})
    assert wide.check_value("usd", 1.5e6) is None


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, math.nan, "x", True])
def test_propensity_is_a_probability(value: Scalar) -> None:
    """A logged propensity lies in (0, 1]; with 0 the action could not have been logged."""
    message = SCHEMA.check_value("p", value)
    assert message is not None
    assert "expected a probability in (0, 1]" in message


def test_encoding_is_codes_numbers_and_nan() -> None:
    """Categories become their codes; missing and unknown values NaN; 0, 0.0 and "0" are one category."""
    rows: list[dict[str, Scalar]] = [ROW, {**ROW, "plan": "zzz", "senior": "1", "calls": 3}, {**ROW, "senior": 0.0}]
    expected = [[1, 0, 365, 50, np.nan], [np.nan, 1, 365, 50, 3], [1, 0, 365, 50, np.nan]]
    np.testing.assert_array_equal(SCHEMA.encode(rows), np.array(expected, dtype=np.float32))
    assert SCHEMA.feature_types() == ["c", "c", "q", "q", "q"]


def test_roles_give_money_and_months() -> None:
    """Revenue and tenure come out in dollars and months, whatever the column's unit."""
    assert SCHEMA.monthly_usd(ROW) == 50.0
    assert SCHEMA.tenure_months(ROW) == pytest.approx(11.99, abs=0.01)
    assert SCHEMA.monthly_usd({}) == 0.0


def test_learned_categories_make_a_new_schema() -> None:
    """Learning leaves the schema that was given as it was."""
    learned = SCHEMA.with_categories({"plan": ["x"]})
    assert learned.columns["plan"].categories == ("x",)
    assert SCHEMA.columns["plan"].categories == ("a", "b")
    assert learned.name_of(Role.LABEL) is None


def test_models_that_read_other_attributes_are_named() -> None:
    """A risk model may not change what callers must send while they are being served."""
    SCHEMA.require_same_features(SCHEMA)
    columns = {name: column for name, column in SCHEMA.columns.items() if name != "calls"}
    with pytest.raises(SchemaError, match=r"other attributes.*\(only one of them has calls\).*restart"):
        SCHEMA.require_same_features(SCHEMA.model_copy(update={"columns": columns}))


def test_an_experiment_says_how_it_was_drawn() -> None:
    """Proportions become propensities, a control is named, and money after the treatment is no feature."""
    schema = load_schema(Path("configs/schemas/hillstrom.yaml"))
    segment = schema.columns["segment"]
    assert segment.control == "No E-Mail"
    assert segment.propensities == pytest.approx(dict.fromkeys(segment.categories or (), 1 / 3))
    assert schema.name_of(Role.OUTCOME_USD) == "spend"
    assert not {"visit", "spend", "conversion"} & set(schema.feature_names)
    assert schema.check_value("spend", "free") == "is 'free'; expected a number"
    assert SCHEMA.columns["plan"].propensities is None
