"""`churn-saver calibrate`: planted effects are found, broken files named, and only numbers are rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from churnsaver.errors import BadInput, SchemaError, SettingsError
from churnsaver.settings import load_world
from cli.apps import app
from tests.support.campaign import population, settings
from trainers.calibrate import bank_marketing, completejourney, coupon_acceptance, hillstrom, starbucks
from trainers.calibrate.estimate import Context, Estimate
from trainers.calibrate.run import DATA_SETS, calibrate
from trainers.calibrate.spread import acceptance_variation, effect_variation, solve_persuadables, solve_spread
from trainers.calibrate.statistics import heterogeneity, logistic
from trainers.calibrate.write import write_estimates
from trainers.env.params import load_dynamics, value_at, with_value
from trainers.env.response import sigmoid

ENV_YAML = Path("configs/env.yaml")
REAL = Path("../shared/data")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(*settings(), population(2000), 42)


def bank(folder: Path, slope: float = -0.3, n: int = 6000) -> Path:
    """A made-up phone campaign whose log-odds of yes fall by `slope` with each earlier call."""
    rng = np.random.default_rng(1)
    campaign = rng.geometric(0.5, n)
    constant = dict.fromkeys((*bank_marketing.PEOPLE, *bank_marketing.CIRCUMSTANCES), "same")
    market = {name: rng.normal(size=n) for name in bank_marketing.MARKET}
    said = rng.random(n) < sigmoid(-0.5 + slope * (campaign - 1.0))
    frame = pl.DataFrame({"campaign": campaign, **market})
    path = folder / bank_marketing.FILE.removesuffix(".gz")
    constants = [pl.lit(value).alias(name) for name, value in constant.items()]
    frame.with_columns(*constants, pl.Series("y", np.where(said, "yes", "no"))).write_csv(path)
    return path.rename(folder / bank_marketing.FILE)  # a plain CSV under the public name is read as well


def coupons(folder: Path, per_log_hour: float = 0.3, crest: float = 18.0, n: int = 8000) -> None:
    """Made-up coupons with an elasticity in the time that they are good for, and a daily wave."""
    rng = np.random.default_rng(2)
    valid, time = rng.choice(["2h", "1d"], n), rng.choice(list(coupon_acceptance.HOURS), n)
    hours = np.array([coupon_acceptance.VALID_HOURS[cell] for cell in valid])
    angle = 2.0 * np.pi * (np.array([coupon_acceptance.HOURS[cell] for cell in time]) - crest) / 24.0
    accepted = rng.random(n) < sigmoid(-0.7 + per_log_hour * np.log(hours) + 0.5 * np.cos(angle))
    frame = pl.DataFrame({"expiration": valid, "time": time, "Y": accepted.astype(int)})
    frame = frame.with_columns(pl.lit("same").alias(name) for name in coupon_acceptance.CONTROLS)
    frame.write_csv(folder / coupon_acceptance.FILE)


def test_fatigue_is_found_where_it_is_planted(tmp_path: Path, context: Context) -> None:
    """The slope of the earlier calls lies in its interval."""
    bank(tmp_path, slope=-0.3)
    (found,) = bank_marketing.estimates(tmp_path, context)
    assert found.low < -0.3 < found.high < 0.0


def test_elasticity_and_the_best_hour_are_found(tmp_path: Path, context: Context) -> None:
    """k · √g / 2 at the median discount is the planted elasticity; the wave has the planted crest."""
    coupons(tmp_path)
    pull, bonus, hour = coupon_acceptance.estimates(tmp_path, context)
    planted = 0.3 * 2.0 / np.sqrt(0.6)
    assert pull.low < planted < pull.high
    assert bonus.low < 0.5 < bonus.high
    assert hour.low < 18.0 < hour.high


def test_a_wave_of_lapses_is_found(tmp_path: Path) -> None:
    """Households that pause more in winter show the wave's amplitude; without one the interval reaches 0."""
    rng = np.random.default_rng(3)
    for amplitude in (0.0, 0.8):
        rows = []
        for household in range(500):
            away = 0
            for week in range(1, 53):
                away = max(away - 1, 0)
                pausing = sigmoid(np.array(-2.5 + amplitude * np.cos(2.0 * np.pi * 7.0 * week / 365.25)))
                if away == 0:
                    rows.append((household, week))
                    away = 6 if rng.random() < pausing else 0
        path = tmp_path / completejourney.WEEKLY
        pl.DataFrame(rows, schema=["household_id", "week"], orient="row").write_csv(path, check_extension=False)
        found = completejourney.season(completejourney.Table.read(path), 42)
        assert found.low <= amplitude < found.high
        assert (found.low > 0.0) == (amplitude > 0.0)


def test_repeated_contact_is_compared_within_households(tmp_path: Path, context: Context) -> None:
    """Keen households that are mailed more look immune to fatigue across households; within them it shows."""
    rng = np.random.default_rng(4)
    rows = []
    for household in range(1500):
        keen = household % 2
        days = np.sort(rng.choice(40, size=2 + 4 * keen, replace=False)) * 7
        for i, day in enumerate(days):
            tired = sum(0.5 ** ((day - before) / 7.0) for before in days[:i])
            redeemed = rng.random() < min(0.1 + 0.7 * keen, 1.0) - (0.3 * keen + 0.05) * min(tired, 1.0)
            start = np.datetime64("2017-01-01") + np.timedelta64(int(day), "D")
            rows.append((int(day) % 5, household, str(start), int(redeemed)))
    schema = ["campaign_id", "household_id", "start_date", "redemptions"]
    path = tmp_path / completejourney.CAMPAIGNS
    pl.DataFrame(rows, schema=schema, orient="row").write_csv(path)
    half_life, slope = completejourney.fatigue(completejourney.Table.read(path), context)
    assert slope.high < 0.0
    assert half_life.low <= 7.0 <= half_life.high
    assert not half_life.used
    assert not slope.used


def test_heterogeneity_is_measured_not_the_learners_noise() -> None:
    """An effect that is the same for all varies by nothing; one that half of them have varies by its mean."""
    rng = np.random.default_rng(5)
    x, treated = rng.normal(size=(20_000, 3)), (rng.random(20_000) < 0.5).astype(float)
    for share_moved, variation in ((1.0, 0.0), (0.5, 1.0)):
        moved = np.ones(20_000) if share_moved == 1.0 else (x[:, 0] > 0).astype(float)
        y = (rng.random(20_000) < 0.2 + 0.2 * moved * treated).astype(float)
        found = heterogeneity(x, treated, y, 42, Path("made_up.csv"))
        assert found.mean == pytest.approx(0.2 * share_moved, abs=0.02)
        assert found.variation[1] - 0.05 <= variation <= found.variation[2] + 0.1
    assert abs(found.lowest_fifth[0]) < 0.03  # the half that is not moved


def test_logistic_regression_equals_scikit_learns() -> None:
    """Newton's coefficients are the maximum of the likelihood that scikit-learn climbs too."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(6)
    x = rng.normal(size=(3000, 3))
    y = (rng.random(3000) < sigmoid(x @ [0.5, -1.0, 0.0] + 0.2)).astype(float)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=500).fit(x, y)
    np.testing.assert_allclose(logistic(y, x).coefficients, [*peer.coef_[0], *peer.intercept_], atol=1e-4)


def test_translations_give_the_environment_the_datas_variation(context: Context) -> None:
    """Solved and put back, the environment's customers are as unequal as asked."""
    world, params = context.world, context.params
    spread = with_value(params, "acceptance_spread", solve_spread(world, params, context.population, 0.2))
    assert acceptance_variation(world, spread, context.population) == pytest.approx(0.2, abs=1e-3)
    path = "segments.persuadable.membership.intercept"
    rarer = with_value(params, path, solve_persuadables(world, params, context.population, 1.1))
    assert effect_variation(world, rarer, context.population) == pytest.approx(1.1, abs=1e-3)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace(",yes\n", ",perhaps\n", 1), r"bank_marketing.*row \d+, column 'y': 'perhaps'"),
        (lambda text: text.replace("campaign", "kampagne", 1), r"no column 'campaign'"),
        (lambda text: text.replace("\n1,", "\nonce,", 1), r"row \d+, column 'campaign': 'once' is not a number"),
        (lambda text: text.replace("\n1,", "\n0,", 1), r"column 'campaign': '0' is not a number of 1 or more"),
        (lambda text: text.replace(",yes\n", ",no\n"), r"column 'y': is the same in every row"),
        (lambda text: text.split("\n")[0], r"no rows"),
    ],
)
def test_broken_files_are_named_by_row_and_column(
    tmp_path: Path, context: Context, edit: Callable[[str], str], message: str
) -> None:
    """What is wrong, where, and what was expected."""
    path = bank(tmp_path, n=400)
    path.write_text(edit(path.read_text()))
    with pytest.raises(SchemaError, match=message):
        bank_marketing.estimates(tmp_path, context)


def test_an_arm_without_outcomes_is_refused() -> None:
    """Nothing can be learned from an arm where nobody, or everybody, bought."""
    treated = np.repeat([0.0, 1.0], 500)
    with pytest.raises(BadInput, match=r"made_up\.csv: an arm has 500 customers without and 0 with"):
        heterogeneity(np.zeros((1000, 1)), treated, treated, 42, Path("made_up.csv"))


def test_missing_files_leave_their_parameters_as_they_are(tmp_path: Path) -> None:
    """Each missing file is listed with what stays; a folder with none of them is refused."""
    with pytest.raises(BadInput, match=r"none of the data sets"):
        calibrate(tmp_path, *settings(), seed=42)
    bank(tmp_path)
    found = calibrate(tmp_path, *settings(), seed=42)
    assert [estimate.parameter for estimate in found.estimates] == ["acceptance_per_fatigue"]
    assert found.missing[hillstrom.FILE] == ["acceptance_spread"]
    assert found.missing[starbucks.FILE] == ["segments.persuadable.membership.intercept"]
    assert bank_marketing.FILE not in found.missing


def test_what_the_environment_cannot_play_is_not_used(tmp_path: Path) -> None:
    """Data in which repetition helps says so, and env.yaml keeps its value."""
    bank(tmp_path, slope=0.4)
    (found,) = calibrate(tmp_path, *settings(), seed=42).estimates
    assert found.value > 0
    assert not found.used
    assert "less than or equal to 0" in found.note


def estimate(parameter: str, file: str, value: float, low: float, high: float) -> Estimate:
    return Estimate(parameter, value, low, high, file, "", "")


def test_writing_changes_only_numbers_and_twice_is_once(tmp_path: Path) -> None:
    """Values and the intervals beside them change, every other byte stays, and a second write changes nothing."""
    path = tmp_path / "env.yaml"
    text = ENV_YAML.read_bytes().decode()
    path.write_bytes(text.encode())
    estimates = [
        estimate("acceptance_per_fatigue", "bank_marketing.csv.gz", -0.5, -0.75, -0.25),
        estimate("segments.persuadable.membership.intercept", "starbucks_promo_train.csv.gz", -7.0, -8.0, -6.0),
    ]
    write_estimates(path, estimates)
    written = path.read_bytes()
    expected = text
    for old, new in (
        ("acceptance_per_fatigue: -0.0324 #", "acceptance_per_fatigue: -0.5 #"),
        ("bank_marketing, 95 % -0.0496 to -0.0151:", "bank_marketing, 95 % -0.75 to -0.25:"),
        ("{intercept: -6.07,", "{intercept: -7,"),
        ("starbucks_promo_train, 95 % -6.76 to -5.44.", "starbucks_promo_train, 95 % -8 to -6."),
    ):
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert written.decode() == expected
    write_estimates(path, estimates)
    assert path.read_bytes() == written


def test_estimates_that_are_not_used_are_not_written(tmp_path: Path) -> None:
    """Nor is a file without the parameter touched: it is refused."""
    path = tmp_path / "env.yaml"
    path.write_bytes(ENV_YAML.read_bytes())
    shown = Estimate("acceptance_per_fatigue", -9.0, -10.0, -8.0, completejourney.CAMPAIGNS, "", "", used=False)
    write_estimates(path, [shown])
    assert path.read_bytes() == ENV_YAML.read_bytes()
    path.write_text("dynamics: {}\n")
    with pytest.raises(SettingsError, match=r"has no dynamics\.acceptance_per_fatigue"):
        write_estimates(path, [estimate("acceptance_per_fatigue", "bank_marketing.csv.gz", 1.0, 0.0, 2.0)])


def test_the_command_writes_json_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`calibrate --write --out --json`: one JSON object, the same in the file, and env.yaml holds the value."""
    import cli.calibrate  # noqa: F401 - adds the command

    (tmp_path / "env.yaml").write_bytes(ENV_YAML.read_bytes())
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    bank(data)
    command = ["calibrate", "--data", str(data), "--write", "--json", "--out", str(tmp_path / "out" / "found.json")]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result == json.loads((tmp_path / "out" / "found.json").read_text())
    assert value_at(load_dynamics(), "acceptance_per_fatigue") == result["estimates"][0]["value"]
    shown = CliRunner().invoke(app, command[:3])
    assert "hillstrom_email.csv.gz is missing: acceptance_spread" in shown.stdout


@pytest.mark.stack
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is absent: the public data sets are not kept here")
def test_env_yaml_holds_what_the_public_data_says() -> None:
    """Every value that env.yaml calls calibrated is what `calibrate` finds, with the interval that it states."""
    world, params = load_world(), load_dynamics()
    found = calibrate(REAL, world, params, seed=42)
    assert not found.missing
    assert {e.parameter for e in found.estimates} == {name for module in DATA_SETS for name in module.PARAMETERS}
    text = ENV_YAML.read_text()
    for each in found.estimates:
        if each.used:
            assert value_at(params, each.parameter) == each.value
            assert f"{each.file.split('.')[0]}, 95 % {each.low:g} to {each.high:g}" in text
