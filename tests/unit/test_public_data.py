"""Anyone's CSV trains with a schema and no code: the public data sets whose schemas are shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from churnsaver.checkpoints import open_checkpoint
from churnsaver.domain.schema import Role
from churnsaver.models.trees import RiskModel
from churnsaver.settings import load_world
from cli.main import app
from tests.conftest import SHARED_DATA
from tests.support.decision import SCHEMAS, TINY
from trainers.data import load_dataset_as
from trainers.models.risk import train_risk

Shared = Callable[[str], Path]


@pytest.fixture
def shared() -> Shared:
    """The path of a public file; the test is skipped where it is not there."""

    def path(name: str) -> Path:
        if not (SHARED_DATA / name).exists():
            pytest.skip(f"public data are not here ({name} in ../shared/data)")
        return SHARED_DATA / name

    return path


@pytest.mark.parametrize(
    ("schema", "file", "least_auc"),
    [
        ("mlc_churn", "mlc_churn.csv", 0.75),
        pytest.param("bank_marketing", "bank_marketing.csv.gz", 0.62, marks=pytest.mark.stack),
    ],
)
def test_labels_of_others_train_without_code(
    shared: Shared, tmp_path: Path, schema: str, file: str, least_auc: float
) -> None:
    """Prepared and trained: a checkpoint that passes its gate, ranks held-out rows and explains itself."""
    yaml = SCHEMAS / f"{schema}.yaml"
    command = ["data", "prepare", "--csv", str(shared(file)), "--schema", str(yaml), "--out", str(tmp_path / "data")]
    assert CliRunner().invoke(app, command).exit_code == 0
    dataset = load_dataset_as(tmp_path / "data", None)
    manifest = train_risk(dataset, load_world(), tmp_path / "risk", TINY, 42)
    assert manifest.gate is not None
    assert manifest.gate.passed
    assert manifest.metrics["test_auc"] > least_auc
    checkpoint = open_checkpoint(tmp_path / "risk", "risk")
    assert len(RiskModel.from_checkpoint(checkpoint).reasons(dataset.rows()[:5])) == 5
    card = (tmp_path / "risk" / "MODEL_CARD.md").read_text()
    assert "## Calibration by segment" in card
    assert "names no revenue" in card


@pytest.mark.parametrize(
    ("schema", "file", "treated"),
    [("hillstrom", "hillstrom_email.csv.gz", 2 / 3), ("starbucks", "starbucks_promo_train.csv.gz", 1 / 2)],
)
def test_experiments_are_read_as_they_were_drawn(shared: Shared, schema: str, file: str, treated: float) -> None:
    """Treatment, control and outcome are found by role, and the arms are as large as the schema says."""
    dataset = load_dataset_as(shared(file), SCHEMAS / f"{schema}.yaml")
    treatment = dataset.column(Role.TREATMENT)
    column = dataset.schema.columns[treatment.name]
    assert column.propensities is not None
    assert float((treatment != column.control).mean() or 0.0) == pytest.approx(treated, abs=0.01)
    assert 0.0 < dataset.yes(Role.OUTCOME).mean() < 0.5
    assert not {treatment.name, dataset.column(Role.OUTCOME).name} & set(dataset.schema.feature_names)


def test_card_says_what_was_measured(decision_checkpoints: Path) -> None:
    """The cards of both models name what they read and where their probabilities hold, with true figures."""
    for kind, column in (("risk", "contract: month_to_month"), ("acceptance", "offer: check_in")):
        checkpoint = open_checkpoint(decision_checkpoints / kind, kind)
        card = checkpoint.read("MODEL_CARD.md").decode()
        assert f"| auc | {checkpoint.manifest.metrics['test_auc']:.4f} |" in card
        assert f"| {column} " in card
        assert "mean \\|SHAP\\|" in card
        assert "\\\\\n" not in card
