"""`eval drift`: silent where nothing has changed, loud where something has, and sure of its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from scipy.stats import chi2, kstest
from typer.testing import CliRunner, Result

from churnsaver.errors import BadInput
from cli.main import app
from tests.support.decision import SCHEMAS
from trainers.data.simulate import simulate_population
from trainers.eval import model_plots
from trainers.eval.drift import RISK, measure_drift, psi, told_apart


def frames(rows: int = 1500) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two samples of one population, features only, typed as `read_features` types them."""
    customers = simulate_population(2 * rows, 42).customers.drop("customer_id", "churned")
    typed = customers.with_columns(pl.col(pl.Int64).cast(pl.Float64))
    return typed[:rows], typed[rows:]


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["eval", "drift", *(str(word) for word in words)])


def test_halves_of_one_population_have_not_drifted() -> None:
    """In 40 random halvings no column drifts, and tests reject in about as few as their rate says."""
    one, other = frames(1000)
    both = pl.concat([one, other])
    rejected = 0
    for seed in range(40):
        mixed = both.sample(fraction=1.0, shuffle=True, seed=seed)
        columns = measure_drift(mixed[:1000], mixed[1000:])
        assert all(column.verdict in {"none", "small"} for column in columns.values())
        rejected += any(column.verdict != "none" for column in columns.values())
    assert rejected <= 6  # 2 are expected at a rate of 5 %; 7 or more have a chance below 1 %


def test_psi_of_chance_is_what_theory_says() -> None:
    """PSI between samples of one distribution follows (1/n + 1/m) χ² with bins − 1 degrees of freedom."""
    rng = np.random.default_rng(42)
    n, m, shares = 2000, 3000, np.full(10, 0.1)
    found = [psi(rng.multinomial(n, shares), rng.multinomial(m, shares)) for _ in range(1000)]
    scale = 1 / n + 1 / m
    assert np.mean(found) == pytest.approx(9 * scale, rel=0.05)
    assert kstest(np.array(found) / scale, chi2(9).cdf).pvalue > 0.001


def test_shifts_are_named_and_sized() -> None:
    """Dearer plans, a category that vanished and a blank column are found; what did not change is not."""
    reference, new = frames()
    new = new.with_columns(
        pl.col("monthly_usd") * 1.3,
        pl.col("contract").replace("two_year", "lifetime"),
        satisfaction=pl.lit(None, dtype=pl.Float64),
    )
    columns = measure_drift(reference, new)
    found = {name for name, column in columns.items() if column.verdict in {"moderate", "large"}}
    assert found == {"monthly_usd", "contract", "satisfaction"}
    assert columns["contract"].unseen == {"lifetime": float((new["contract"] == "lifetime").mean() or 0.0)}
    assert columns["satisfaction"].missing_new == 1.0
    assert columns["satisfaction"].missing_p_value == pytest.approx(0.0)
    assert columns["monthly_usd"].test == "ks"


def test_many_rows_make_a_trifle_significant_not_large() -> None:
    """A shift of a fortieth of a standard deviation over 200,000 rows is small, however sure the test is."""
    rng = np.random.default_rng(1)
    reference = pl.DataFrame({"x": rng.normal(size=100_000)})
    column = measure_drift(reference, pl.DataFrame({"x": rng.normal(0.025, 1.0, 100_000)}))["x"]
    assert column.p_value < 0.001
    assert column.verdict == "small"


def test_a_changed_relation_is_told_apart() -> None:
    """Where every column looks the same and only their relation turned round, the classifier sees it."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 1000)), rng.normal(size=(2, 1000))
    sign = np.array([[1.0], [-1.0]])
    frame = [pl.DataFrame({"x": a, "y": b}) for a, b in zip(x, sign * x + 0.3 * y, strict=True)]
    assert all(column.verdict == "none" for column in measure_drift(*frame).values())
    assert told_apart(*frame, 42).low > 0.8
    same = told_apart(frame[0][:500], frame[0][500:], 42)
    assert same.low < 0.55


def test_plotted_shares_are_each_data_sets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars show the reference's shares and the new rows', not a mixture."""
    drawn: list[Figure] = []
    monkeypatch.setattr(model_plots, "svg", drawn.append)
    model_plots.distribution_plot("x", pl.Series("x", ["a", "a", "a", "b"]), pl.Series("x", ["b", "b"]))
    old, new = drawn[0].axes[0].containers
    # Most common first, ties in any order: a and b are three each.
    assert sorted(bar.get_height() for bar in old.patches) == [0.25, 0.75]
    assert sorted(bar.get_height() for bar in new.patches) == [0.0, 1.0]


def test_command_reports_and_gates(decision_checkpoints: Path, tmp_path: Path) -> None:
    """Exit 0 on more of the same, 1 on other customers, whose risk has moved; labels are not needed."""
    reference = decision_checkpoints / "customers.csv"
    customers = simulate_population(2500, 8).customers.drop("churned")
    customers[:1200].write_csv(tmp_path / "same.csv")
    customers.filter(pl.col("contract") == "month_to_month").write_csv(tmp_path / "other.csv")
    options = ("--reference", reference, "--checkpoint", decision_checkpoints / "risk", "--gate", "--json")
    same = invoke("--data", tmp_path / "same.csv", "--schema", SCHEMAS / "default.yaml", *options)
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["columns"][RISK]["verdict"] in {"none", "small"}
    other = invoke("--data", tmp_path / "other.csv", *options, "--out", tmp_path / "report")
    assert "contract: large drift" in str(other.exception)
    assert "predicted risk: " in str(other.exception)
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count("<svg") == 6
    assert "predicted risk" in html


def test_prepared_folders_need_no_schema(decision_checkpoints: Path, tmp_path: Path) -> None:
    """Two folders that `data prepare` wrote bring their own."""
    simulate_population(600, 9).customers.write_csv(tmp_path / "new.csv")
    for name, path in (("old", decision_checkpoints / "customers.csv"), ("new", tmp_path / "new.csv")):
        command = ["data", "prepare", "--csv", str(path), "--schema", str(SCHEMAS / "default.yaml")]
        assert CliRunner().invoke(app, [*command, "--out", str(tmp_path / name)]).exit_code == 0
    answer = invoke("--data", tmp_path / "new", "--reference", tmp_path / "old", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["drifted"] == 0
    mixed = invoke("--data", tmp_path / "new.csv", "--reference", tmp_path / "old")
    assert "say with --schema how to read the CSV" in str(mixed.exception)


def test_too_few_rows_and_other_columns_are_refused() -> None:
    """On fewer rows a PSI is noise; other columns cannot be compared."""
    reference, new = frames(300)
    with pytest.raises(BadInput, match="new data have 199 rows; a drift report needs at least 200"):
        measure_drift(reference, new[:199])
    with pytest.raises(BadInput, match=r"\(plan differ\)"):
        measure_drift(reference, new.drop("plan"))
