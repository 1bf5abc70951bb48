"""The scale measurement of training: its rows, and that it measures the process that it started."""

from __future__ import annotations

from pathlib import Path

import pytest

from churnsaver.errors import BadInput
from tests.load.risk_scale import multiply, run
from trainers.data import load_dataset_as

SCHEMA = "name: s\ncolumns:\n  {id}\n  usd: {{role: revenue}}\n  left: {{role: label, yes: 1}}\n"


def test_rows_are_multiplied_with_ids_of_their_own(tmp_path: Path) -> None:
    """Ten times the rows pass the schema, whose ids are unique, and hold nothing but the source's rows."""
    (tmp_path / "s.yaml").write_text(SCHEMA.format(id="name: {role: id}"))
    (tmp_path / "a.csv").write_text("usd,name,left\n10,x,1\n20,y,0\n30,z,0\n")
    assert multiply(tmp_path / "a.csv", tmp_path / "s.yaml", tmp_path / "b.csv", 10, 42) == 30
    frame = load_dataset_as(tmp_path / "b.csv", tmp_path / "s.yaml").frame
    assert frame["name"].n_unique() == 30
    assert {(row["usd"], row["left"]) for row in frame.to_dicts()} == {(10.0, True), (20.0, False), (30.0, False)}


def test_a_schema_without_an_id_is_refused(tmp_path: Path) -> None:
    """Copies could not be told apart."""
    (tmp_path / "s.yaml").write_text(SCHEMA.format(id="name: {role: ignore}"))
    (tmp_path / "a.csv").write_text("usd,name,left\n10,x,1\n20,y,0\n")
    with pytest.raises(BadInput, match=r"needs a column of a\.csv with the role id"):
        multiply(tmp_path / "a.csv", tmp_path / "s.yaml", tmp_path / "b.csv", 2, 42)


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    """Its time would be that of its error."""
    with pytest.raises(BadInput, match="`churn-saver data prepare` exits 2"):
        run("data", "prepare", "--csv", tmp_path / "none.csv", "--schema", tmp_path / "none.yaml", "--out", tmp_path)
