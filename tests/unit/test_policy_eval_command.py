"""`eval policy` as it is typed, but for the minutes of play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from churnsaver.checkpoints import open_checkpoint, write_checkpoint
from churnsaver.errors import BadInput, GateFailed
from churnsaver.models.trees import RiskModel
from cli.main import app
from tests.support.decision import SCHEMAS
from trainers.data import Part
from trainers.data.load import load_dataset_as
from trainers.data.simulate import simulate_population
from trainers.env.params import load_dynamics
from trainers.eval.judged_under import TRAINED_UNDER, trained_under
from trainers.eval.policy import PolicyReport
from trainers.models.seen import TRAINED_ON, trained_on


@pytest.fixture
def customers(tmp_path: Path) -> Path:
    path = tmp_path / "customers.csv"
    simulate_population(400, 7).customers.write_csv(path)
    return path


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that were played, by a stand-in that finds nothing amiss."""
    calls: list[Any] = []

    def evaluate(*arguments: Any, **_: Any) -> PolicyReport:
        calls.append(arguments)
        nothing: dict[str, Any] = {part: {} for part in ("gain_over", "stress", "constraints")}
        return PolicyReport({**nothing, "missed": []}, {})

    monkeypatch.setattr("trainers.agents.baselines.fit_baselines", lambda *_: {})
    monkeypatch.setattr("trainers.eval.policy.evaluate_policy", evaluate)
    return calls


def evaluated(checkpoints: Path, customers: Path, *words: str) -> Result:
    named = {"--checkpoint": "policy", "--risk": "risk", "--accept": "acceptance"}
    folders = [word for option, kind in named.items() for word in (option, str(checkpoints / kind))]
    data = ("--data", str(customers), "--schema", str(SCHEMAS / "default.yaml"))
    return CliRunner().invoke(app, ["eval", "policy", *folders, *data, *words])


def test_a_bad_folder_is_found_before_play(
    decision_checkpoints: Path, customers: Path, tmp_path: Path, played: list[Any]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside", decision_checkpoints / "policy"):
        answer = evaluated(decision_checkpoints, customers, "--out", str(out))
        assert isinstance(answer.exception, BadInput)
        assert str(answer.exception).startswith(f"{out}: ")
    assert not played


def test_what_the_policy_was_not_trained_with_is_warned_of(
    decision_checkpoints: Path, customers: Path, played: list[Any]
) -> None:
    """The small policy names neither parents nor limits: both are said, and limits are a miss, which fails the gate."""
    answer = evaluated(decision_checkpoints, customers, "--json")
    report = json.loads(answer.stdout)
    risk = open_checkpoint(decision_checkpoints / "risk")
    assert report["judged_under"]["models"]["risk"] == {"version": risk.version, "sha256": risk.sha256}
    assert sum(f"scored by {risk.version}" in warning for warning in report["warnings"]) == 1
    limits = [warning for warning in report["warnings"] if warning.startswith("the limit of ")]
    assert len(limits) == 4
    assert report["missed"] == limits
    assert answer.stderr.count("warning: ") == len(report["warnings"])
    assert len(played) == 1
    gated = evaluated(decision_checkpoints, customers, "--json", "--gate")
    assert isinstance(gated.exception, GateFailed)
    assert str(gated.exception) == "; ".join(limits)


def test_customers_that_the_risk_model_does_not_know_are_refused(
    decision_checkpoints: Path, customers: Path, tmp_path: Path, played: list[Any]
) -> None:
    """A category that it never saw, or a column that it needs: before anything is scored."""
    schema = (SCHEMAS / "default.yaml").read_text()
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(customers.read_text().replace("month_to_month", "monthly"))
    for text, data, said in (
        (schema.replace("  plan: {role: categorical, categories: [basic, plus, premium]}\n", ""), customers, "plan"),
        (schema.replace(", categories: [month_to_month, one_year, two_year]", ""), renamed, "contract"),
    ):
        (tmp_path / "schema.yaml").write_text(text)
        answer = evaluated(decision_checkpoints, data, "--schema", str(tmp_path / "schema.yaml"))
        assert isinstance(answer.exception, BadInput), answer.output
        assert said in str(answer.exception)
        assert "with --risk" in str(answer.exception)
    assert not played


def test_other_dynamics_than_in_training_are_a_miss(
    decision_checkpoints: Path, customers: Path, tmp_path: Path, played: list[Any]
) -> None:
    """Customers who respond better flatter a policy as moved limits do; a checkpoint that says nothing is warned of."""
    contents = open_checkpoint(decision_checkpoints / "policy", "policy").contents
    for dynamics, missed in ((trained_under(load_dynamics()), False), (b'{"dynamics": "other"}', True)):
        folder = tmp_path / str(missed)
        write_checkpoint(folder / "policy", "policy", {**contents, TRAINED_UNDER: dynamics}, seed=1, metrics={})
        for kind in ("risk", "acceptance"):
            (folder / kind).symlink_to(decision_checkpoints / kind)
        report = json.loads(evaluated(folder, customers, "--json").stdout)
        assert any("the dynamics in env.yaml are not those" in each for each in report["missed"]) == missed
        assert any("has no trained_on.json, so" in each for each in report["warnings"])
    assert len(played) == 2


def test_customers_of_the_training_are_not_judged_on(
    decision_checkpoints: Path, customers: Path, tmp_path: Path, played: list[Any]
) -> None:
    """Known by their features, whatever the file is called and however its rows lie; others of the kind are judged."""
    dataset = load_dataset_as(customers, SCHEMAS / "default.yaml")
    schema = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk")).schema
    for part, refused in ((Part.TEST, True), (Part.TRAIN, False)):
        contents = open_checkpoint(decision_checkpoints / "policy", "policy").contents
        files = {**contents, TRAINED_ON: trained_on(dataset.take(part), schema)}
        write_checkpoint(tmp_path / part / "policy", "policy", files, seed=1, metrics={})
        for kind in ("risk", "acceptance"):
            (tmp_path / part / kind).symlink_to(decision_checkpoints / kind)
        answer = evaluated(tmp_path / part, customers)
        assert isinstance(answer.exception, BadInput) == refused, answer.output
        if refused:
            assert "trained on 100 %" in str(answer.exception)
            assert "an id column" in str(answer.exception)
    assert len(played) == 1
