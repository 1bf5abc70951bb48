"""`eval risk` and `eval accept`: gates, calibration by segment, reasons, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from churnsaver.checkpoints import Checkpoint, Manifest, open_checkpoint
from churnsaver.domain.schema import Role
from churnsaver.errors import BadInput
from churnsaver.models.calibration import PlattCalibration
from churnsaver.models.trees import AcceptanceModel, CalibratedTrees, RiskModel
from churnsaver.settings import load_schema, load_world
from cli.main import app
from tests.support.decision import SCHEMAS, TINY
from trainers.data import Dataset, load_dataset
from trainers.data.simulate import simulate_population
from trainers.eval import risk as evaluation
from trainers.eval.accept import evaluate_acceptance
from trainers.eval.metrics import auc
from trainers.eval.peers import tuned_xgboost
from trainers.eval.segments import Segment, customer_segments, segment_calibration
from trainers.models.accept import offer_matrix
from trainers.models.seen import TRAINED_ON, require_unseen, trained_on


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def new_customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Customers of the same population whom no model has seen."""
    path = tmp_path_factory.mktemp("new") / "customers.csv"
    simulate_population(1200, 7).customers.write_csv(path)
    return path


def customers(path: Path) -> Dataset:
    return load_dataset(path, load_schema(SCHEMAS / "default.yaml"))


def test_risk_report_has_reasons_for_every_row(decision_checkpoints: Path, new_customers: Path, tmp_path: Path) -> None:
    """--out writes plots of every segment and, for each measured customer, the reasons that `RiskModel` gives."""
    checkpoint, out = decision_checkpoints / "risk", tmp_path / "a" / "b"
    answer = invoke(
        *("eval", "risk", "--data", new_customers, "--schema", SCHEMAS / "default.yaml", "--rows", "all"),
        *("--checkpoint", checkpoint, "--out", out, "--json"),
    )
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert {segment["feature"] for segment in result["segments"]} == {"contract", "tenure_months", "monthly_usd"}
    assert list(result["importance"]) == sorted(result["importance"], key=lambda name: -result["importance"][name])
    html = (out / "report.html").read_text()
    assert html.count("<svg") == 2 + 3
    assert "Reliability by contract" in html

    with (out / "reasons.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = customers(new_customers).rows()
    model = RiskModel.from_checkpoint(open_checkpoint(checkpoint, "risk"))
    assert [line["id"] for line in lines] == [row["customer_id"] for row in rows]
    first = model.reasons(rows[:1])[0]
    assert [lines[0][f"reason_{n}"] for n in (1, 2, 3)] == [reason.feature for reason in first]
    assert float(lines[0]["reason_1_log_odds"]) == pytest.approx(first[0].log_odds, abs=1e-4)
    assert float(lines[0]["risk"]) == pytest.approx(model.risk(rows[:1])[0], abs=1e-6)


def test_a_file_that_was_trained_on_is_refused(decision_checkpoints: Path) -> None:
    """--rows all on the training file would measure memory."""
    answer = invoke(
        *("eval", "risk", "--data", decision_checkpoints / "customers.csv", "--schema", SCHEMAS / "default.yaml"),
        *("--rows", "all", "--checkpoint", decision_checkpoints / "risk"),
    )
    assert "the checkpoint was trained on this file" in str(answer.exception)


@pytest.mark.parametrize("rows", ["all", "test"])
def test_one_more_line_does_not_make_rows_new(decision_checkpoints: Path, tmp_path: Path, rows: str) -> None:
    """Rows that were trained on are refused in another file, too, and among rows that a new split calls test."""
    header, first, *others = (decision_checkpoints / "customers.csv").read_text().splitlines()
    changed = [f"n{number}-{line}" for number, line in enumerate([first, first, *others])]
    (tmp_path / "more.csv").write_text("\n".join([header, *changed]) + "\n")
    answer = invoke(
        *("eval", "risk", "--data", tmp_path / "more.csv", "--schema", SCHEMAS / "default.yaml"),
        *("--rows", rows, "--checkpoint", decision_checkpoints / "risk"),
    )
    assert re.search(r"trained on (7|8|9)\d % of the \d+ rows", str(answer.exception))


def test_fingerprints_are_few_and_know_chance(decision_checkpoints: Path) -> None:
    """The file stays below 100 kB, tells known rows from a sample, and lets customers pass who are alike by chance."""
    content = json.loads(trained_on(customers(decision_checkpoints / "customers.csv")))
    assert content["below"] == 2**32
    many = customers(decision_checkpoints / "customers.csv")
    many = many.pick(np.arange(len(many)))
    rng = np.random.default_rng(3)
    usd = pl.Series(rng.uniform(10, 99, 40_000))
    many = replace(
        many,
        frame=many.frame[rng.integers(len(many), size=40_000)].with_columns(monthly_usd=usd),
        parts=np.full(40_000, "test"),
    )
    kept = trained_on(many.pick(np.arange(20_000)))
    assert len(kept) < 100_000
    manifest = Manifest(kind="risk", version="risk-x", seed=1, files={})
    opened = Checkpoint(Path("risk"), manifest, "", {TRAINED_ON: kept})
    require_unseen(many.pick(np.arange(20_000, 40_000)), opened, many.schema)
    with pytest.raises(BadInput, match="trained on 50 %"):
        require_unseen(many.pick(np.arange(10_000, 30_000)), opened, many.schema)


def test_a_schema_of_other_roles_is_refused(decision_checkpoints: Path, new_customers: Path, tmp_path: Path) -> None:
    """A feature that is numeric to the model and categorical to the schema is named."""
    text = (SCHEMAS / "default.yaml").read_text().replace("late_payments_12m: {role: numeric, minimum: 0}", "X")
    (tmp_path / "s.yaml").write_text(text.replace("X", "late_payments_12m: {role: categorical}"))
    answer = invoke(
        *("eval", "risk", "--data", new_customers, "--schema", tmp_path / "s.yaml"),
        *("--checkpoint", decision_checkpoints / "risk"),
    )
    assert "other features than the checkpoint's (late_payments_12m)" in str(answer.exception)


def test_segments_are_found_by_roles(new_customers: Path) -> None:
    """The most important categorical feature by value, tenure and revenue by thirds, and no row twice in one."""
    dataset = customers(new_customers)
    importance = dict.fromkeys(dataset.schema.feature_names, 0.0) | {"plan": 2.0, "payment": 1.0}
    segments = customer_segments(dataset, importance)
    assert {segment.feature for segment in segments} == {"plan", "tenure_months", "monthly_usd"}
    for feature in ("plan", "tenure_months", "monthly_usd"):
        masks = [segment.rows for segment in segments if segment.feature == feature]
        assert len(masks) == 3
        np.testing.assert_array_equal(np.sum(masks, axis=0), 1)


def test_blanks_are_a_segment_of_their_own() -> None:
    """Where many rows have no tenure, they are looked at apart; few are not looked at at all."""
    frame = pl.DataFrame({"tenure": [float(n) if n % 3 else None for n in range(600)], "usd": [1.0] * 550 + [2.0] * 50})
    schema = load_schema(SCHEMAS / "default.yaml").model_copy(
        update={
            "columns": {
                name: load_schema(SCHEMAS / "default.yaml").columns[old]
                for name, old in (("tenure", "tenure_months"), ("usd", "monthly_usd"))
            }
        }
    )
    dataset = Dataset(Path("f.csv"), "", schema, frame, np.full(600, "test"))
    names = [(s.feature, s.name) for s in customer_segments(dataset, {"tenure": 1.0, "usd": 1.0})]
    assert ("tenure", "missing") in names
    assert ("usd", "up to 1") in names
    assert len([feature for feature, _ in names if feature == "usd"]) == 1


def test_segment_that_lies_is_told_from_segments_that_do_not() -> None:
    """Perfect probabilities pass in both halves; with ten points added in one half, that one fails."""
    rng = np.random.default_rng(42)
    truth = rng.uniform(0.1, 0.7, 4000)
    target, half = rng.random(4000) < truth, np.arange(4000) < 2000
    segments = [Segment("half", "first", half), Segment("half", "second", ~half)]
    honest = segment_calibration(segments, target, truth, 42)
    lying = segment_calibration(segments, target, np.where(half, truth + 0.1, truth), 42)
    assert [found["calibrated"] for found in honest] == [True, True]
    assert [found["calibrated"] for found in lying] == [False, True]


def test_tuned_peer_learns_and_is_the_same_again(new_customers: Path) -> None:
    """The peer is a real competitor, and its search depends on the seed alone."""
    dataset = customers(new_customers)
    matrix, target, types = dataset.matrix(), dataset.yes(Role.LABEL), dataset.schema.feature_types()
    first = tuned_xgboost(matrix[:800], target[:800], types, 2, 42)(matrix[800:])
    assert auc(target[800:], first) > 0.7
    np.testing.assert_array_equal(first, tuned_xgboost(matrix[:800], target[:800], types, 2, 42)(matrix[800:]))


def test_acceptance_is_measured_as_it_is_served(decision_checkpoints: Path) -> None:
    """The probabilities that are measured are those that `AcceptanceModel.acceptance` serves, offer by offer."""
    contacts = load_dataset(decision_checkpoints / "contacts.csv", load_schema(SCHEMAS / "contacts.yaml"))
    model = AcceptanceModel.from_checkpoint(
        open_checkpoint(decision_checkpoints / "acceptance", "acceptance"), load_world()
    )
    measured = model.trees.probability(offer_matrix(contacts, model.schema))
    made = [model.offers.index(offer) for offer in contacts.column(Role.TREATMENT)]
    served = model.acceptance(contacts.frame["risk"].to_numpy(), contacts.monthly_usd(), contacts.tenure_months())
    np.testing.assert_array_equal(measured, served[np.arange(len(made)), made])


def test_acceptance_report_goes_by_offer(decision_checkpoints: Path, tmp_path: Path) -> None:
    """`eval accept` shows every offer, against the offer's own rate, and draws them."""
    answer = invoke(
        *("eval", "accept", "--data", decision_checkpoints / "contacts.csv", "--schema", SCHEMAS / "contacts.yaml"),
        *("--checkpoint", decision_checkpoints / "acceptance", "--out", tmp_path, "--json"),
    )
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert {segment["segment"] for segment in result["segments"]} == {offer.id for offer in load_world().offers}
    assert result["auc_difference"]["offer_rate"]["low"] < result["auc_difference"]["offer_rate"]["high"]
    assert "Reliability by offer" in (tmp_path / "report.html").read_text()


def test_acceptance_gate_fails_a_model_that_lies(decision_checkpoints: Path) -> None:
    """Probabilities that are half of what they should be miss the sampling floor of the ECE."""
    contacts = load_dataset(decision_checkpoints / "contacts.csv", load_schema(SCHEMAS / "contacts.yaml"))
    model = AcceptanceModel.from_checkpoint(
        open_checkpoint(decision_checkpoints / "acceptance", "acceptance"), load_world()
    )
    liar = CalibratedTrees(model.trees.booster, PlattCalibration(slope=1.0, intercept=-1.0))
    report = evaluate_acceptance(AcceptanceModel(model.schema, liar, model.offers), contacts, 42)
    assert any("above the sampling floor" in sentence for sentence in report.result["missed"])
    assert report.result["segments_miscalibrated"] > 0


def test_unknown_offer_is_named(decision_checkpoints: Path, tmp_path: Path) -> None:
    """A log with an offer that the checkpoint never saw is refused, with the mend."""
    text = (decision_checkpoints / "contacts.csv").read_text().replace("check_in", "gift_card")
    (tmp_path / "c.csv").write_text(text)
    answer = invoke(
        *("eval", "accept", "--data", tmp_path / "c.csv", "--schema", SCHEMAS / "contacts.yaml", "--rows", "all"),
        *("--checkpoint", decision_checkpoints / "acceptance"),
    )
    assert "the offer 'gift_card' is unknown to the checkpoint" in str(answer.exception)


def test_log_of_one_class_is_refused(decision_checkpoints: Path, tmp_path: Path) -> None:
    """Contacts that nobody accepted cannot be measured on."""
    frame = pl.read_csv(decision_checkpoints / "contacts.csv")
    frame.with_columns(accepted=pl.lit(0)).write_csv(tmp_path / "c.csv")
    answer = invoke(
        *("eval", "accept", "--data", tmp_path / "c.csv", "--schema", SCHEMAS / "contacts.yaml"),
        *("--checkpoint", decision_checkpoints / "acceptance"),
    )
    assert "column accepted: no row is '1'" in str(answer.exception)


@pytest.mark.stack
def test_cross_validation_does_not_see_what_it_predicts(monkeypatch: pytest.MonkeyPatch, new_customers: Path) -> None:
    """On labels that mean something every model ranks; on shuffled ones none does, calibrated or tuned."""
    monkeypatch.setattr(evaluation, "FOLDS", 2)
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    dataset = customers(new_customers)
    shuffled = dataset.frame["churned"].sample(fraction=1.0, shuffle=True, seed=42)
    nonsense = replace(dataset, frame=dataset.frame.with_columns(churned=shuffled))
    for data, low, high in ((dataset, 0.7, 0.95), (nonsense, 0.42, 0.58)):
        result = evaluation.repeated_cv(data, load_world(), TINY, 42).result
        for name in ("calibrated", "uncalibrated", "xgboost", "logistic"):
            assert low < result["models"][name]["auc"]["mean"] < high
        assert set(result["auc_difference"]) == {"uncalibrated", "xgboost", "logistic"}
        assert sum(s["rows"] for s in result["segments"] if s["feature"] == "tenure_months") == len(data)
