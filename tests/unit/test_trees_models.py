"""Risk and acceptance checkpoints: trained, read back, verified, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from churnsaver.checkpoints import open_checkpoint, write_checkpoint
from churnsaver.domain.schema import Role
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError
from churnsaver.models.calibration import CALIBRATION, IsotonicCalibration, NoCalibration, PlattCalibration
from churnsaver.models.trees import AcceptanceModel, RiskModel
from churnsaver.settings import load_schema, load_world
from cli.main import app, main
from tests.support.decision import CUSTOMER, SCHEMAS, TINY
from trainers.data import Part, load_dataset
from trainers.data.simulate import simulate_population
from trainers.eval.metrics import auc, ece, ece_floor, log_loss
from trainers.models.boost import fit_trees
from trainers.models.calibrate import choose_calibration, fit_isotonic, fit_platt
from trainers.models.folds import stratified_folds


def altered(source: Path, folder: Path, kind: str, **files: bytes | None) -> Path:
    """A copy of a checkpoint whose manifest vouches for other `files` (None takes one away)."""
    old = open_checkpoint(source / kind, kind)
    names = {name.replace("_dot_", "."): content for name, content in files.items()}
    contents = {**old.contents, **names}
    write_checkpoint(folder, kind, {k: v for k, v in contents.items() if v is not None}, seed=42, metrics={})
    return folder


def test_risk_ranks_customers(decision_checkpoints: Path) -> None:
    """A new population's churners get higher risks, and the risks mean what they say."""
    model = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk"))
    other = simulate_population(3000, 7)
    left = (other.customers["churned"] == "yes").to_numpy()
    risk = model.risk(other.customers.to_dicts())
    assert auc(left, risk) > 0.72
    assert risk.mean() == pytest.approx(left.mean(), abs=0.05)


def test_one_row_equals_many(decision_checkpoints: Path) -> None:
    """A customer's risk does not depend on who is asked about in the same call."""
    model = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk"))
    rows = simulate_population(50, 3).customers.to_dicts()
    np.testing.assert_array_equal(model.risk(rows), [model.risk([row])[0] for row in rows])


def test_acceptance_follows_the_worlds_order(decision_checkpoints: Path) -> None:
    """Offers come out in the world's order, also when the world lists fewer, otherwise ordered."""
    checkpoint, world = open_checkpoint(decision_checkpoints / "acceptance", "acceptance"), load_world()
    whole = AcceptanceModel.from_checkpoint(checkpoint, world)
    fewer = world.model_copy(update={"offers": (world.offers[3], world.offers[0])})
    some = AcceptanceModel.from_checkpoint(checkpoint, fewer).acceptance([0.2, 0.7], [30.0, 90.0], [5.0, 50.0])
    np.testing.assert_array_equal(some, whole.acceptance([0.2, 0.7], [30.0, 90.0], [5.0, 50.0])[:, [3, 0]])
    generous, nothing = some.T
    assert (generous > nothing).all()


def test_both_models_take_under_two_milliseconds(decision_checkpoints: Path) -> None:
    """One customer's risk and acceptance together, the best of 600 calls: a busy machine must not decide."""
    risk_model = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk"))
    acceptance_model = AcceptanceModel.from_checkpoint(
        open_checkpoint(decision_checkpoints / "acceptance", "acceptance"), load_world()
    )
    times_s = []
    for _ in range(600):
        started = time.perf_counter()
        acceptance_model.acceptance(risk_model.risk([CUSTOMER]), [50.0], [3.0])
        times_s.append(time.perf_counter() - started)
    assert min(times_s) <= 0.002


def test_new_offer_is_refused(decision_checkpoints: Path) -> None:
    """A world with an offer that the log never made is named, with the mend."""
    world: World = load_world()
    added = world.offers[0].model_copy(update={"id": "gift_card"})
    other = world.model_copy(update={"offers": (*world.offers, added)})
    checkpoint = open_checkpoint(decision_checkpoints / "acceptance", "acceptance")
    with pytest.raises(CheckpointError, match="does not know the offer 'gift_card'"):
        AcceptanceModel.from_checkpoint(checkpoint, other)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"model_dot_ubj": b"not a model"}, "is no XGBoost model"),
        ({"model_dot_ubj": None}, "needs model.ubj"),
        ({"calibration_dot_json": b'{"kind": "spline"}'}, "is no calibration"),
        ({"calibration_dot_json": b'{"kind": "platt", "slope": 2.0, "intercept": 0.1}'}, "golden cases come out"),
        ({"golden_dot_json": b"[]"}, "holds no golden cases"),
        ({"golden_dot_json": b"[{"}, "is not valid JSON"),
        ({"schema_dot_json": b'{"name": "x"}'}, "is no dataset schema"),
    ],
)
def test_bad_checkpoints_are_refused(
    decision_checkpoints: Path, tmp_path: Path, files: dict[str, bytes | None], expected: str
) -> None:
    """A checkpoint whose parts do not fit is refused though its hashes are right."""
    folder = altered(decision_checkpoints, tmp_path / "risk", "risk", **files)
    with pytest.raises(CheckpointError, match=expected) as caught:
        RiskModel.from_checkpoint(open_checkpoint(folder, "risk"))
    assert str(folder) in str(caught.value)


def test_model_of_another_schema_is_refused(decision_checkpoints: Path, tmp_path: Path) -> None:
    """A model that reads other features than its schema names is refused."""
    acceptance = open_checkpoint(decision_checkpoints / "acceptance", "acceptance")
    folder = altered(decision_checkpoints, tmp_path / "risk", "risk", model_dot_ubj=acceptance.read("model.ubj"))
    with pytest.raises(CheckpointError, match=r"reads 4 features, its schema\.json has 11"):
        RiskModel.from_checkpoint(open_checkpoint(folder, "risk"))


def test_truncated_file_is_refused(decision_checkpoints: Path, tmp_path: Path) -> None:
    """A file that is shorter than the manifest says is named."""
    shutil.copytree(decision_checkpoints / "risk", tmp_path / "risk")
    model = tmp_path / "risk" / "model.ubj"
    model.write_bytes(model.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.ubj: is truncated or altered"):
        open_checkpoint(tmp_path / "risk", "risk")


def test_golden_customers_are_made_up(decision_checkpoints: Path) -> None:
    """No golden case is a customer of the training data."""
    customers = load_dataset(decision_checkpoints / "customers.csv", load_schema(SCHEMAS / "default.yaml"))
    features = customers.schema.feature_names
    real = {tuple(row[name] for name in features) for row in customers.rows()}
    golden = open_checkpoint(decision_checkpoints / "risk", "risk").read_json("golden.json")
    assert len(golden) == 8
    assert not [case for case in golden if tuple(case["attributes"][name] for name in features) in real]


def test_training_again_gives_the_same_bits(tmp_path: Path, decision_checkpoints: Path) -> None:
    """Same data and seed: the same version; another seed: another."""
    command = ["train", "risk", "--data", str(decision_checkpoints / "customers.csv"), "--quick", "--json"]
    command += ["--schema", str(SCHEMAS / "default.yaml"), "--out", str(tmp_path / "risk")]
    versions = []
    for seed in ("42", "42", "7"):
        answer = CliRunner().invoke(app, [*command, "--seed", seed])
        assert answer.exit_code == 0, answer.output
        versions.append(json.loads(answer.stdout)["version"])
    assert versions[0] == versions[1] != versions[2]
    measured = CliRunner().invoke(
        app, ["eval", "risk", *command[2:4], *command[6:8], "--checkpoint", str(tmp_path / "risk"), "--json"]
    )
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)["auc_difference"]["scorecard"]["value"] > 0


def one_class(text: str) -> str:
    return text.replace(",yes", ",no")


def unlabelled(text: str) -> str:
    return text.replace("churned", "gone")


def too_few(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:30])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (one_class, "column churned: no row is 'yes'"),
        (unlabelled, "column 'churned' (label) is missing"),
        (too_few, "at least 20 of each are needed"),
        (lambda _text: "", "is empty"),
        (lambda text: text.replace(",basic,", ",gold,"), "is 'gold'; expected one of 'basic'"),
    ],
)
def test_bad_data_exits_2(
    decision_checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    expected: str,
) -> None:
    """`train risk` says what is wrong with the data on standard error and exits 2."""
    path = tmp_path / "customers.csv"
    path.write_text(change((decision_checkpoints / "customers.csv").read_text()))
    command = ["churn-saver", "train", "risk", "--data", str(path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--schema", str(SCHEMAS / "default.yaml")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_customers_are_no_contact_log(decision_checkpoints: Path, tmp_path: Path) -> None:
    """`train accept` on customers says what a contact log's schema needs."""
    command = ["train", "accept", "--data", str(decision_checkpoints / "customers.csv")]
    answer = CliRunner().invoke(
        app, [*command, "--schema", str(SCHEMAS / "default.yaml"), "--out", str(tmp_path / "out")]
    )
    assert "has 0 columns with the role treatment" in str(answer.exception)


def test_calibration_mends_an_overconfident_model() -> None:
    """Where margins are twice too large, calibration is chosen and brings log-loss and ECE down."""
    rng = np.random.default_rng(42)
    truth = rng.normal(0.0, 1.0, 4000)
    target = rng.random(4000) < 1.0 / (1.0 + np.exp(-truth))
    chosen, losses = choose_calibration(2.0 * truth, target, 42)
    assert isinstance(chosen, PlattCalibration)
    assert chosen.slope == pytest.approx(0.5, abs=0.05)
    assert losses["platt"] < losses["none"]
    floor, sd = ece_floor(chosen.probability(2.0 * truth), 42)
    assert ece(target, chosen.probability(2.0 * truth)) < floor + 2.0 * sd


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_calibrations_survive_json(fit: Callable[..., PlattCalibration | IsotonicCalibration]) -> None:
    """A calibration that is written and read gives the same probabilities, rising and inside (0, 1)."""
    rng = np.random.default_rng(1)
    margins = rng.normal(0.0, 2.0, 300)
    calibration = fit(margins, rng.random(300) < 1.0 / (1.0 + np.exp(-margins)))
    again = CALIBRATION.validate_json(calibration.model_dump_json())
    grid = np.linspace(-50.0, 50.0, 101)
    np.testing.assert_array_equal(again.probability(grid), calibration.probability(grid))
    assert (np.diff(again.probability(grid)) >= 0).all()
    assert log_loss(np.array([True]), again.probability(np.array([-50.0]))) < 100
    assert NoCalibration().probability(np.array([0.0]))[0] == 0.5


def test_folds_hold_every_row_out_once() -> None:
    """Folds partition the rows and spread both classes evenly."""
    target = np.arange(103) % 4 == 0
    folds = stratified_folds(target, 5, 42)
    assert sorted(np.concatenate([fold.held_out for fold in folds]).tolist()) == list(range(103))
    assert max(target[f.held_out].sum() for f in folds) - min(target[f.held_out].sum() for f in folds) <= 1
    assert not [fold for fold in folds if set(fold.fit) & set(fold.held_out)]


def test_margins_in_calibration_were_held_out(decision_checkpoints: Path) -> None:
    """The cross-validated log-loss predicts the one on new rows: it was not measured on rows fitted on."""
    customers = load_dataset(decision_checkpoints / "customers.csv", load_schema(SCHEMAS / "default.yaml"))
    fit, test = customers.take(Part.TRAIN, Part.VALID), customers.take(Part.TEST)
    fitted = fit_trees(fit.matrix(), fit.yes(Role.LABEL), customers.schema.feature_types(), TINY, 42)
    on_test = log_loss(test.yes(Role.LABEL), fitted.trees.probability(test.matrix()))
    assert min(fitted.log_losses.values()) == pytest.approx(on_test, abs=0.06)


def test_serving_needs_neither_torch_nor_sklearn_nor_polars() -> None:
    """The decision service imports with the training libraries blocked, as in its image."""
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'sklearn', 'polars', 'pandas', 'trainers', 'cli'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import services.decision.bootstrap\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reasons_add_up_to_the_margin(decision_checkpoints: Path) -> None:
    """All SHAP values and the base make the margin; `reasons` are the strongest, with the customer's own values."""
    model = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk"))
    rows = simulate_population(60, 3).customers.to_dicts()
    matrix = model.schema.encode(rows)
    shap = model.trees.contributions(matrix, model.schema.feature_types())
    np.testing.assert_allclose(shap.sum(axis=1), model.trees.margin(matrix), atol=1e-5)
    everything = model.reasons(rows, top=len(model.schema.feature_names))
    for row, values, reasons in zip(rows, shap, everything, strict=True):
        assert sum(reason.log_odds for reason in reasons) == pytest.approx(values[:-1].sum(), abs=1e-9)
        strengths = [abs(reason.log_odds) for reason in reasons]
        assert strengths == sorted(strengths, reverse=True)
        assert [row[reason.feature] for reason in reasons] == [reason.value for reason in reasons]
    assert [len(reasons) for reasons in model.reasons(rows)] == [3] * len(rows)


def test_reasons_name_what_makes_a_customer_leave(decision_checkpoints: Path) -> None:
    """A two-year contract is a reason to stay that a month-to-month one is not."""
    model = RiskModel.from_checkpoint(open_checkpoint(decision_checkpoints / "risk", "risk"))
    contracts = ("month_to_month", "two_year")
    found = model.reasons([{**CUSTOMER, "contract": contract} for contract in contracts], top=11)
    free, bound = ({reason.feature: reason.log_odds for reason in reasons}["contract"] for reasons in found)
    assert free > 0 > bound
