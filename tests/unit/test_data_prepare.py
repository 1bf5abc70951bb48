"""Splitting, `data prepare` and `data simulate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from churnsaver.domain.schema import Role
from churnsaver.errors import SchemaError
from churnsaver.settings import load_schema
from cli.main import app
from trainers.data import Dataset, Part, load_dataset
from trainers.data.prepare import write_prepared
from trainers.data.simulate import CHURN_RATE, simulate_population
from trainers.eval.metrics import auc

DEFAULT_SCHEMA = Path("configs/schemas/default.yaml")


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """2,000 simulated customers, read back from their CSV."""
    path = tmp_path_factory.mktemp("data") / "customers.csv"
    simulate_population(2000, 42).customers.write_csv(path)
    return load_dataset(path, load_schema(DEFAULT_SCHEMA))


def test_parts_are_a_partition_of_the_right_size(customers: Dataset) -> None:
    """Every row is in one part; parts are near 60/20/20 and have about the same churn."""
    sizes = [len(customers.take(part)) for part in Part]
    assert sum(sizes) == len(customers)
    np.testing.assert_allclose(np.array(sizes) / len(customers), [0.6, 0.2, 0.2], atol=0.04)
    rates = [customers.take(part).yes(Role.LABEL).mean() for part in Part]
    np.testing.assert_allclose(rates, customers.yes(Role.LABEL).mean(), atol=0.05)


def test_a_customer_stays_in_their_part(customers: Dataset, tmp_path: Path) -> None:
    """Neither the order of a file nor its other rows move a customer from one part to another."""
    half = customers.source.read_text().splitlines(keepends=True)
    (tmp_path / "half.csv").write_text(half[0] + "".join(reversed(half[1:1000])))
    other = load_dataset(tmp_path / "half.csv", load_schema(DEFAULT_SCHEMA))
    part_of = dict(zip(customers.frame["customer_id"], customers.parts, strict=True))
    assert [part_of[customer] for customer in other.frame["customer_id"]] == list(other.parts)


def test_prepared_folder_equals_its_csv(customers: Dataset, tmp_path: Path) -> None:
    """Training on the folder and on the CSV sees the same rows in the same order."""
    write_prepared(customers, tmp_path / "out")
    prepared = load_dataset(tmp_path / "out", None)
    assert prepared.sha256 == customers.sha256
    assert prepared.schema == customers.schema
    for part in Part:
        assert prepared.take(part).frame.equals(customers.take(part).frame)
    card = (tmp_path / "out" / "DATA_CARD.md").read_text()
    assert customers.sha256 in card
    assert "| contract | categorical | 0 |" in card


def test_altered_folder_is_refused(customers: Dataset, tmp_path: Path) -> None:
    """A truncated Parquet file, a folder that is none and another schema are named."""
    out = tmp_path / "out"
    write_prepared(customers, out)
    with pytest.raises(SchemaError, match="prepared with another schema"):
        load_dataset(out, load_schema(Path("configs/schemas/telco.yaml")))
    assert len(load_dataset(out, load_schema(DEFAULT_SCHEMA))) == len(customers)
    (out / "valid.parquet").write_bytes((out / "valid.parquet").read_bytes()[:-100])
    with pytest.raises(SchemaError, match=r"valid\.parquet: is truncated or altered"):
        load_dataset(out, None)
    with pytest.raises(SchemaError, match="was not written by `data prepare`"):
        load_dataset(tmp_path, None)


def test_population_is_seeded_and_realistic() -> None:
    """Same seed, same rows; another seed, others; a quarter leaves, and the true risk ranks them well."""
    one, again, other = (simulate_population(4000, seed) for seed in (42, 42, 7))
    assert one.customers.equals(again.customers)
    assert not one.customers.equals(other.customers)
    left = (one.customers["churned"] == "yes").to_numpy()
    assert left.mean() == pytest.approx(CHURN_RATE, abs=0.03)
    assert 0.78 < auc(left, one.risk) < 0.90
    assert 0.75 < auc(left, one.remembered_risk(42)) < auc(left, one.risk)


def test_simulated_files_follow_their_schemas(tmp_path: Path) -> None:
    """What `data simulate` writes is what the shipped schemas describe, byte for byte the same again."""
    for folder in ("a", "b"):
        command = [
            "data",
            "simulate",
            "--customers",
            "300",
            "--contacts",
            "600",
            "--json",
            "--out",
            str(tmp_path / folder),
        ]
        answer = CliRunner().invoke(app, command)
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["contacts"] == 600
    for name, schema, rows in (("customers", "default", 300), ("contacts", "contacts", 600)):
        path = tmp_path / "a" / f"{name}.csv"
        assert len(load_dataset(path, load_schema(Path(f"configs/schemas/{schema}.yaml")))) == rows
        assert path.read_bytes() == (tmp_path / "b" / f"{name}.csv").read_bytes()


def test_prepare_command_reports_rows(customers: Dataset, tmp_path: Path) -> None:
    """`data prepare --json` says how many rows each part has."""
    command = ["data", "prepare", "--schema", str(DEFAULT_SCHEMA), "--csv", str(customers.source)]
    answer = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.stdout)
    assert rows["train_rows"] + rows["valid_rows"] + rows["test_rows"] == len(customers)
