"""Uplift learners and checkpoints: what is planted is found, and what is no experiment is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from churnsaver.checkpoints import open_checkpoint, write_checkpoint
from churnsaver.errors import CheckpointError, SchemaError
from churnsaver.models.uplift import Learner, UpliftModel
from churnsaver.settings import load_schema
from cli.main import app, main
from tests.conftest import SHARED_DATA
from trainers.data import Dataset, Part, load_dataset
from trainers.data.prepare import write_prepared
from trainers.eval.metrics import Interval
from trainers.eval.uplift import evaluate_checkpoint
from trainers.eval.uplift_metrics import Judge
from trainers.eval.uplift_peers import ClassTransformation, Dummies
from trainers.eval.uplift_value import effect
from trainers.models.boost import BoostSettings
from trainers.uplift import LEARNERS
from trainers.uplift.boosting import EFFECT, QUICK, Forester
from trainers.uplift.choose import choose_learner
from trainers.uplift.response import fit_response
from trainers.uplift.train import train_uplift, uplift_gate
from trainers.uplift.trial import Trial, compare, trial_of

TINY = BoostSettings(depths=(2,), max_rounds=30, patience=5, eta=0.2)
SCHEMA = """name: planted
columns:
  id: {role: id}
  age: {role: numeric}
  income: {role: numeric, optional: true}
  plan: {role: categorical, categories: [basic, plus]}
  offer: {role: treatment, control: none, proportions: {none: 1, call: 1, mail: 1}}
  stayed: {role: outcome, yes: 1}
  bought: {role: ignore}
"""


def planted(rows: int, seed: int) -> pl.DataFrame:
    """An experiment: a call gains 0.35 below 40 and loses 0.2 above, mail does nothing; income makes people stay."""
    rng = np.random.default_rng(seed)
    age, income = rng.uniform(20, 60, rows), rng.normal(size=rows)
    offer = rng.choice(["none", "call", "mail"], rows)
    effect = np.where(offer == "call", np.where(age < 40, 0.35, -0.2), 0.0)
    stayed = rng.random(rows) < np.clip(0.4 + 0.15 * income + effect, 0.02, 0.98)
    return pl.DataFrame(
        {
            "id": [f"c{i}" for i in range(rows)],
            "age": age.round(1),
            "income": [None if i % 50 == 0 else value for i, value in enumerate(income.round(3))],
            "plan": rng.choice(["basic", "plus"], rows),
            "offer": offer,
            "stayed": stayed.astype(int),
            "bought": (rng.random(rows) < 0.3).astype(int),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `planted.csv`, `planted.yaml` and a checkpoint `uplift` trained on them."""
    path = tmp_path_factory.mktemp("uplift")
    planted(3600, 42).write_csv(path / "planted.csv")
    (path / "planted.yaml").write_text(SCHEMA)
    train_uplift(read(path), path / "uplift", TINY, 42, arm="call", learners=list(Learner))
    return path


def read(folder: Path, name: str = "planted") -> Dataset:
    return load_dataset(folder / f"{name}.csv", load_schema(folder / f"{name}.yaml"))


@pytest.fixture(scope="module")
def trial(folder: Path) -> Trial:
    """The calls of the planted experiment against nothing."""
    return trial_of(compare(read(folder), "call"), 42)


def test_propensities_are_known_by_design(trial: Trial) -> None:
    """Thirds between three arms are halves between the two that are compared."""
    assert trial.how == "by design"
    assert set(trial.propensity) == {0.5}
    assert len(trial) == pytest.approx(3600 * 2 / 3, rel=0.05)


@pytest.mark.parametrize("learner", list(Learner))
def test_every_learner_finds_what_was_planted(trial: Trial, learner: Learner) -> None:
    """On customers it never saw: gains below 40, harm above, and income, which only makes people stay, ignored."""
    model = LEARNERS[learner](Forester(trial.feature_types, QUICK, 42)).fit(
        trial.matrix, trial.treatment, trial.outcome, trial.propensity
    )
    age, income = (grid.ravel() for grid in np.meshgrid([25.0, 32.0, 48.0, 55.0], [-1.0, 0.0, 1.0]))
    found = model.uplift(np.column_stack([age, income, np.zeros(12)]).astype(np.float32))
    # The S-learner's trees split on age and treatment late, which pulls its effects towards each other.
    assert found[age < 40].mean() == pytest.approx(0.35, abs=0.25 if learner is Learner.S else 0.12)
    assert found[age > 40].mean() == pytest.approx(-0.2, abs=0.18 if learner is Learner.S else 0.12)
    assert found[age < 40].min() > found[age > 40].max()


def test_uplift_beats_propensity_where_they_differ(trial: Trial) -> None:
    """Income decides who stays and age whom a call helps, so ordering by the first is nearly random."""
    rows = np.random.default_rng(1).permutation(len(trial))
    fit, other = trial.pick(rows[:1600]), trial.pick(rows[1600:])
    forester = Forester(trial.feature_types, TINY, 42)
    ours = LEARNERS[Learner.DR](forester).fit(fit.matrix, fit.treatment, fit.outcome, fit.propensity)
    response = fit_response(forester, fit).booster.inplace_predict(other.matrix).astype(float)
    judge = Judge(other.outcome, other.treatment)
    assert judge.qini_gain(ours.uplift(other.matrix), response, 42).low > 0.0


def test_held_out_predictions_were_held_out(trial: Trial) -> None:
    """Trees that regress noise say of held-out rows nothing about their noise, and much about rows they grew on."""
    noise = np.random.default_rng(2).normal(size=len(trial))
    settings = BoostSettings(depths=(6,), max_rounds=60, patience=60, eta=0.5)
    forester = Forester(trial.feature_types, settings, 42)
    folds = forester.folds(trial.treatment, trial.outcome)
    fitted = forester.grow(trial.matrix, noise, folds, objective=EFFECT)
    assert abs(np.corrcoef(fitted.held_out, noise)[0, 1]) < 0.08


def test_estimated_propensities_are_clipped(folder: Path) -> None:
    """Without proportions they are learned from the attributes, and kept off 0 and 1."""
    rng = np.random.default_rng(3)
    frame = planted(3000, 3).filter(pl.col("offer") != "mail")
    often = (frame["age"] < 40).to_numpy()
    offer = np.where(rng.random(frame.height) < np.where(often, 0.999, 0.2), "call", "none")
    frame.with_columns(pl.Series("offer", offer)).write_csv(folder / "skewed.csv")
    (folder / "skewed.yaml").write_text(SCHEMA.replace(", proportions: {none: 1, call: 1, mail: 1}", ""))
    estimated = trial_of(compare(read(folder, "skewed"), None), 42)
    assert estimated.how == "estimated"
    assert estimated.propensity.max() == 0.95
    assert estimated.propensity[estimated.matrix[:, 0] > 42].mean() == pytest.approx(0.2, abs=0.05)


def test_the_best_learner_is_chosen_on_held_out_rows(trial: Trial) -> None:
    """The choice has the highest value, and its held-out uplift orders customers about as well as on new ones."""
    choice = choose_learner(trial, list(Learner), TINY, 42)
    assert choice.learner == max(choice.values, key=choice.values.__getitem__)
    assert min(choice.values.values()) > 0.0
    young = trial.matrix[:, 0] < 40
    assert choice.held_out[young].mean() > 0.15
    assert choice.held_out[~young].mean() < 0.0


def test_checkpoint_serves_what_was_measured(folder: Path) -> None:
    """Read back it gives each customer the same uplift, alone or among others, and passed its gate."""
    checkpoint = open_checkpoint(folder / "uplift", "uplift")
    model = UpliftModel.from_checkpoint(checkpoint)
    rows = planted(20, 5).to_dicts()
    np.testing.assert_array_equal(model.uplift(rows), [model.uplift([row])[0] for row in rows])
    assert (model.spec.arm, model.spec.control, model.spec.outcome) == ("call", "none", "stayed")
    assert checkpoint.manifest.gate is not None
    assert checkpoint.manifest.gate.passed
    # Contacting the younger half gains about 0.175 a customer, contacting everybody half as much.
    assert model.spec.gains[49] == pytest.approx(0.175, abs=0.05)
    assert model.spec.gains[99] == pytest.approx(0.075, abs=0.06)
    assert "instead of 'none'" in checkpoint.read("MODEL_CARD.md").decode()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("spec.json", b"{}", "is no uplift model's"),
        ("response.ubj", b"x", "is no XGBoost model"),
        ("golden.json", b'[{"attributes": {"age": 30, "plan": "plus"}, "uplift": 0.9}]', "golden cases come out"),
    ],
)
def test_bad_checkpoints_are_refused(folder: Path, tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """A checkpoint whose parts do not fit is refused though its hashes are right."""
    old = open_checkpoint(folder / "uplift", "uplift")
    write_checkpoint(tmp_path / "bad", "uplift", {**old.contents, name: content}, seed=42, metrics={})
    with pytest.raises(CheckpointError, match=expected):
        UpliftModel.from_checkpoint(open_checkpoint(tmp_path / "bad", "uplift"))


def test_commands_train_and_measure(folder: Path, tmp_path: Path) -> None:
    """The same seed gives the same bits; a new file is measured whole, with prices, as JSON and HTML, and gates."""
    planted(1500, 6).write_csv(tmp_path / "new.csv")
    schema = ["--schema", str(folder / "planted.yaml")]
    versions = []
    for name in ("one", "two"):
        command = ["train", "uplift", "--data", str(folder / "planted.csv"), *schema, "--arm", "call", "--quick"]
        answer = CliRunner().invoke(app, [*command, "--learner", "dr", "--out", str(tmp_path / name), "--json"])
        assert answer.exit_code == 0, answer.output
        versions.append(json.loads(answer.stdout)["version"])
    assert versions[0] == versions[1]
    command = ["eval", "uplift", "--data", str(tmp_path / "new.csv"), *schema, "--rows", "all", "--gate", "--json"]
    command += ["--checkpoint", str(tmp_path / "one"), "--cost-usd", "0.15", "--value-usd", "10"]
    answer = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "report")])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert result["missed"] == []
    assert result["qini_gain_over_propensity"]["low"] > 0.0
    assert 40 <= result["policy_value"]["contacted_percent"] <= 60
    assert result["policy_value"]["gain_usd_per_customer_over_everybody"]["low"] > 0.0
    assert result["sleeping_dogs"]["provably_harmed_percent"] >= 20
    assert (tmp_path / "report" / "report.html").read_text().count("<svg") == 3


def test_codes_are_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    """A file whose schema lists categories in another order is measured with the codes that the trees learned."""
    model = UpliftModel.from_checkpoint(open_checkpoint(folder / "uplift", "uplift"))
    planted(600, 12).write_csv(tmp_path / "turned.csv")
    (tmp_path / "turned.yaml").write_text(SCHEMA.replace("[basic, plus]", "[plus, basic]"))
    turned = read(tmp_path, "turned")
    assert (turned.matrix() != turned.matrix(model.schema)).any()
    scored = evaluate_checkpoint(model, compare(turned, "call"), None, 42).result["sleeping_dogs"]
    uplift = model.uplift(compare(turned, "call").rows.rows())
    assert scored["predicted_percent"] == pytest.approx(100.0 * (uplift < 0.0).mean())


@pytest.mark.stack
def test_repeated_cv(folder: Path) -> None:
    """The recipe beats propensity on held-out folds, reports every learner, and chooses inside each fold."""
    command = ["eval", "uplift", "--data", str(folder / "planted.csv"), "--schema", str(folder / "planted.yaml")]
    command += ["--arm", "call", "--repeated-cv", "--peers", "--quick", "--cost-usd", "1", "--value-usd", "10"]
    answer = CliRunner().invoke(app, [*command, "--gate", "--json"])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert sum(result["chosen"].values()) == 15
    assert {"s", "t", "x", "dr", "auto", "causalml_dr", "class_transformation"} <= set(result["orders"])
    assert result["qini_gain"]["propensity"]["low"] > 0.0
    assert result["policy_value"]["gain_usd_per_customer_over_everybody"]["low"] > 0.0


def one_arm(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if ",call," not in line and ",mail," not in line)


def one_class(text: str) -> str:
    return "\n".join(
        line if not i else ",".join([*line.split(",")[:5], "1", "0"]) for i, line in enumerate(text.split())
    )


def few_calls(text: str) -> str:
    lines = text.splitlines(keepends=True)
    calls = [line for line in lines if ",call," in line]
    return "".join(line for line in lines if line not in set(calls[30:]))


def call_always_works(text: str) -> str:
    return "\n".join(",".join([*line.split(",")[:5], "1", "0"]) if ",call," in line else line for line in text.split())


def with_propensity(value: str) -> Callable[[str], str]:
    """A column of propensities, of which row 2 has `value`."""
    return lambda text: "\n".join(
        f"{line},{('p' if i == 0 else value if i == 1 else '0.5')}" for i, line in enumerate(text.split())
    )


LOGGED = SCHEMA.replace(", proportions: {none: 1, call: 1, mail: 1}", "") + "  p: {role: propensity}\n"
WITHOUT_MAIL = ("--arm", "call")


@pytest.mark.parametrize(
    ("change", "schema", "options", "expected"),
    [
        (str, SCHEMA, (), "has 2 arms; choose one with --arm: 'call', 'mail'"),
        (str, SCHEMA, ("--arm", "fax"), "--arm 'fax' is in no row; expected one of 'call', 'mail'"),
        (str, SCHEMA, ("--arm", "none"), "--arm 'none' is the control"),
        (one_arm, SCHEMA, (), "every row is 'none'; uplift compares"),
        (str, SCHEMA.replace("control: none, ", ""), (), "say with `control` which value means left alone"),
        (str, SCHEMA.replace("role: outcome, yes: 1", "role: ignore"), (), "no column has the role outcome"),
        (one_class, SCHEMA, ("--arm", "call"), "every row is '1'; nothing can be learned"),
        (call_always_works, SCHEMA, ("--arm", "call"), "rows with offer 'call', "),
        (few_calls, SCHEMA, ("--arm", "call"), "at least 20 of each are needed, so give more rows"),
        (with_propensity("0"), LOGGED, ("--arm", "call"), "row 2, column p: is 0.0; expected a probability in (0, 1]"),
        (with_propensity("1.2"), LOGGED, ("--arm", "call"), "row 2, column p: is 1.2; expected a probability"),
        (str, SCHEMA, ("--arm", "call", "--outcome", "churned"), "--outcome 'churned' is no column of it"),
    ],
)
def test_what_is_no_experiment_exits_2(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    schema: str,
    options: tuple[str, ...],
    expected: str,
) -> None:
    """`train uplift` says in one sentence what is wrong and how to mend it, and writes nothing."""
    (tmp_path / "data.csv").write_text(change((folder / "planted.csv").read_text()))
    (tmp_path / "schema.yaml").write_text(schema)
    command = ["churn-saver", "train", "uplift", "--data", str(tmp_path / "data.csv"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--schema", str(tmp_path / "schema.yaml"), *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_logged_propensities_leave_a_choice(folder: Path, tmp_path: Path) -> None:
    """With two treatments the logged propensity is read, turned round for the control; a certain one is refused."""
    two = "".join(
        line for line in (folder / "planted.csv").read_text().splitlines(keepends=True) if ",mail," not in line
    )
    (tmp_path / "two.yaml").write_text(LOGGED)
    (tmp_path / "two.csv").write_text(with_propensity("0.4")(two))
    trial = trial_of(compare(read(tmp_path, "two"), None), 42)
    assert trial.how == "logged"
    assert trial.propensity[0] == pytest.approx(0.4 if trial.treatment[0] else 0.6)
    (tmp_path / "two.csv").write_text(with_propensity("1")(two))
    with pytest.raises(Exception, match="1 rows have propensity 1 and 0 none; leave out rows"):
        trial_of(compare(read(tmp_path, "two"), None), 42)


def test_another_outcome(folder: Path, tmp_path: Path) -> None:
    """--outcome makes another column the outcome; a checkpoint of the first is then refused."""
    command = ["eval", "uplift", "--data", str(folder / "planted.csv"), "--schema", str(folder / "planted.yaml")]
    answer = CliRunner().invoke(app, [*command, "--checkpoint", str(folder / "uplift"), "--outcome", "bought"])
    assert "its outcome is 'stayed', not 'bought'" in str(answer.exception)
    write_prepared(read(folder), tmp_path / "prepared")
    prepared = ["eval", "uplift", "--data", str(tmp_path / "prepared"), "--outcome", "bought"]
    assert "was prepared with another outcome" in str(CliRunner().invoke(app, prepared).exception)
    answer = CliRunner().invoke(app, [*command, "--checkpoint", str(folder / "uplift"), "--cost-usd", "1"])
    assert "belong together" in str(answer.exception)
    answer = CliRunner().invoke(app, [*command, "--checkpoint", str(folder / "uplift"), "--rows", "all"])
    assert "was trained on this file" in str(answer.exception)


def test_known_rows_in_another_file_are_refused(folder: Path, tmp_path: Path) -> None:
    """One more line makes another file of the same rows: `eval uplift --rows all` says how many it knows."""
    (tmp_path / "more.csv").write_text((folder / "planted.csv").read_text() + "new,30,0.5,plus,none,1,0\n")
    command = ["eval", "uplift", "--data", str(tmp_path / "more.csv"), "--schema", str(folder / "planted.yaml")]
    answer = CliRunner().invoke(app, [*command, "--checkpoint", str(folder / "uplift"), "--rows", "all"])
    assert re.search(r"was trained on (7|8)\d % of the \d+ rows", str(answer.exception))


def test_a_contact_that_does_nothing_passes_no_gate(tmp_path: Path) -> None:
    """Whoever says yes less was contacted more, by logged propensities: no effect is reported and no gate passed."""
    rng = np.random.default_rng(3)
    likely = (0.1 + 0.8 * rng.random(3000)).round(4)
    call = rng.random(3000) < likely
    frame = pl.DataFrame(
        {
            "z": likely,
            "offer": np.where(call, "call", "none"),
            "p": np.where(call, likely, 1.0 - likely),
            "stayed": (rng.random(3000) < 0.75 - 0.6 * likely).astype(int),
        }
    )
    frame.write_csv(tmp_path / "planted.csv")
    (tmp_path / "planted.yaml").write_text(
        "name: z\ncolumns:\n  z: {role: numeric}\n  offer: {role: treatment, categories: [none, call], control: none}\n"
        "  p: {role: propensity}\n  stayed: {role: outcome, yes: 1}\n"
    )
    dataset = read(tmp_path)
    manifest = train_uplift(dataset, tmp_path / "out", TINY, 42, arm=None, learners=[Learner.T, Learner.DR])
    assert manifest.gate is not None
    assert not manifest.gate.passed
    checkpoint = open_checkpoint(tmp_path / "out", "uplift")
    assert "best of 2 learners" in checkpoint.read("MODEL_CARD.md").decode()
    test = compare(dataset, None).take(Part.TEST)
    result = evaluate_checkpoint(UpliftModel.from_checkpoint(checkpoint), test, None, 42).result
    assert result["weighted_by_propensity"]
    every = effect(trial_of(test, 42), np.ones(len(test.rows), dtype=np.bool_))
    assert result["mean_effect"] == every.value
    assert every.low < 0.0 < every.high
    assert result["sleeping_dogs"]["provably_harmed_percent"] == 0
    for found in (result["metrics"]["qini"], result["propensity"]["qini"]):
        assert found["low"] < 0.0 < found["high"]


def test_peers_see_categories_as_dummies(trial: Trial) -> None:
    """Codes become columns of 0 and 1, missing ones zeros; the class transformation finds what was planted, too."""
    dummies = Dummies.of(np.array([[0.0, 5.0], [2.0, np.nan]], dtype=np.float32), ["c", "q"])
    np.testing.assert_array_equal(
        dummies(np.array([[2.0, 7.0], [np.nan, 1.0]], dtype=np.float32)), [[0.0, 1.0, 7.0], [0.0, 0.0, 1.0]]
    )
    model = ClassTransformation(trial.feature_types, 42).fit(
        trial.matrix, trial.treatment, trial.outcome, trial.propensity
    )
    low, high = model.uplift(np.array([[25.0, 0.0, 0.0], [55.0, 0.0, 0.0]], dtype=np.float32))
    assert low > 0.15 > -0.05 > high


def test_serving_needs_no_training_library() -> None:
    """The module that serves imports with the training libraries blocked."""
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'sklearn', 'polars', 'pandas', 'causalml', 'trainers', 'cli'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import churnsaver.models.uplift\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.stack
def test_hillstrom_womens_visit_gains_over_propensity(tmp_path: Path) -> None:
    """The real e-mail test: the checkpoint passes its gate, a Qini provably above a response model's."""
    path = SHARED_DATA / "hillstrom_email.csv.gz"
    if not path.exists():
        pytest.skip(f"real customers are not here ({path.name} in ../shared/data)")
    dataset = load_dataset(path, load_schema(Path("configs/schemas/hillstrom.yaml")))
    manifest = train_uplift(dataset, tmp_path / "uplift", QUICK, 42, arm="Womens E-Mail", learners=list(Learner))
    assert manifest.gate is not None
    assert manifest.gate.passed, manifest.gate.missed
    assert manifest.metrics["held_out_qini_gain_over_propensity_low"] > 0.0


def test_an_experiment_that_was_not_drawn_as_stated_is_refused(tmp_path: Path) -> None:
    """Half of the mailed are gone, so contact was not by the lot that the schema tells of."""
    frame = planted(3600, 42)
    mailed = frame["offer"] == "mail"
    frame.filter(~mailed | (pl.int_range(pl.len()) % 2 == 0)).write_csv(tmp_path / "planted.csv")
    (tmp_path / "planted.yaml").write_text(SCHEMA)
    comparison = compare(load_dataset(tmp_path / "planted.csv", load_schema(tmp_path / "planted.yaml")), "mail")
    with pytest.raises(SchemaError, match=r"column offer: .* 50%, .* standard deviations away"):
        trial_of(comparison, 42)


def test_an_order_that_is_no_better_than_chance_fails_however_bad_propensity_is() -> None:
    """Both lower bounds are asked."""
    above, open_question = Interval(0.05, 0.01, 0.09), Interval(0.02, -0.03, 0.07)
    assert uplift_gate(above, above).passed
    assert "that of chance" in uplift_gate(above, open_question).missed[0]
    assert "gain over propensity" in uplift_gate(open_question, above).missed[0]
