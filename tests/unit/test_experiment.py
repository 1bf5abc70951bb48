"""Live arms: confidence sequences, sample ratio, sleeping dogs, and the report, where the truth is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import multinomial
from typer.testing import CliRunner

from churnsaver.errors import BadInput
from churnsaver.settings import load_schema, load_world
from cli import experiment as command
from cli.main import app
from tests.support.records import START, Experiment, decision, scored, write_experiment, write_lines
from trainers.env.params import load_dynamics
from trainers.eval.experiment import evaluate_experiment, missed_targets
from trainers.eval.experiment_plots import experiment_plots
from trainers.eval.experiment_sequences import (
    CONCENTRATION,
    MIN_CUSTOMERS,
    MIN_TERMS,
    TUNED_FOR,
    _running,
    difference,
    half_width,
    sample_ratio_p_values,
)
from trainers.ope.estimators import mean_of
from trainers.ope.intervals import variance_terms
from trainers.ope.records import read_log

WORLD, PARAMS = load_world(), load_dynamics()


def evaluated(folder: Path, truth: Experiment, seed: int = 1) -> dict[str, Any]:
    log = read_log(write_experiment(folder, truth, seed), WORLD)
    return evaluate_experiment(log, WORLD, PARAMS, scored, 14, 0.05)


class TestSequences:
    """Intervals that hold at every look."""

    def test_formula(self) -> None:
        """Waudby-Smith et al. 2021, theorem 2.2, by hand at t = 1000."""
        rho2 = (-2 * np.log(0.05) + np.log(-2 * np.log(0.05) + 1)) / TUNED_FOR
        spread = 1000 * rho2 + 1
        expected = 2.0 * np.sqrt(2 * spread / (1000**2 * rho2) * np.log(np.sqrt(spread) / 0.05))
        assert float(half_width(4.0, 1000.0, 0.05)) == pytest.approx(expected)

    @pytest.mark.parametrize("effect", [0.0, -0.1])
    def test_coverage_over_time(self, effect: float) -> None:
        """In 95 % of experiments or more the truth is inside at all of a thousand looks, A/A and with an effect."""
        held, runs = 0, 300
        for run in range(runs):
            rng = np.random.default_rng([run, 3])
            treated = rng.random(1_500) < 0.6
            churned = (rng.random(1_500) < 0.3 + effect * treated).astype(np.float64)
            value, half = difference(churned, treated, 0.05)
            looks = ~np.isnan(half)
            held += bool((np.abs(value - effect) <= half)[looks].all())
        assert held / runs >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / runs)

    @pytest.mark.parametrize("alpha", [0.05, 0.05 / 8])
    def test_coverage_of_rare_churn(self, alpha: float) -> None:
        """2 % churn, halved in nine of ten: nothing is said on few events, and what is said holds; segments' too."""
        held, said, runs = 0, 0, 150
        for run in range(runs):
            rng = np.random.default_rng([run, 9])
            treated = rng.random(16_000) < 0.9
            churned = (rng.random(16_000) < 0.02 - 0.01 * treated).astype(np.float64)
            value, half = difference(churned, treated, alpha)
            looks = ~np.isnan(half)
            assert np.cumsum(churned * ~treated)[looks].min(initial=MIN_TERMS) >= 0.9 * MIN_TERMS
            held += bool((np.abs(value + 0.01) <= half)[looks].all())
            said += bool(looks.any())
        assert said / runs > 0.9
        assert held / runs >= 0.95

    def test_variance_terms(self) -> None:
        """The running count agrees with the one of `eval ope`."""
        values = np.random.default_rng(0).exponential(size=500) * 1e4 + 1e6
        *_, terms = _running(values, np.ones(500, dtype=bool))
        assert terms[[99, -1]] == pytest.approx([variance_terms(mean_of(values[:n])) for n in (100, 500)])

    def test_a_fixed_interval_would_not_hold(self) -> None:
        """The same looks with 1.96 standard errors reject a true null far more often: what the sequence is for."""
        wrong = 0
        for run in range(100):
            rng = np.random.default_rng([run, 4])
            treated, values = rng.random(1_500) < 0.5, rng.normal(size=1_500)
            value, _ = difference(values, treated, 0.05)
            n = np.arange(1, 1_501)
            wrong += bool(np.nanmax(np.abs(value) / (2.0 / np.sqrt(n))) > 1.96)
        assert wrong > 15

    def test_no_interval_before_variances_are_known(self) -> None:
        """NaN until both arms have MIN_CUSTOMERS."""
        treated = np.arange(400) % 4 == 0
        _, half = difference(np.random.default_rng(0).normal(size=400), treated, 0.05)
        assert np.isnan(half[: 4 * MIN_CUSTOMERS - 4]).all()
        assert not np.isnan(half[-1])


class TestSampleRatio:
    """Customers in the arms as their shares say."""

    def test_bayes_factor(self) -> None:
        """The Dirichlet-multinomial against the multinomial, from their densities."""
        arms, shares = np.ones(400, dtype=np.int64), np.array([0.5, 0.5])
        counts, prior = np.array([0, 400]), CONCENTRATION * shares
        log_marginal = (
            gammaln(401) - gammaln(counts + 1).sum()
            + gammaln(prior.sum()) - gammaln(prior.sum() + 400)
            + (gammaln(prior + counts) - gammaln(prior)).sum()
        )  # fmt: skip
        log_bayes_factor = log_marginal - multinomial.logpmf(counts, 400, shares)
        assert log_bayes_factor > 1
        assert sample_ratio_p_values(arms, shares)[-1] == pytest.approx(np.exp(-log_bayes_factor))

    def test_false_alarms_over_time(self) -> None:
        """No more than α at any time."""
        shares = np.array([0.7, 0.2, 0.1])
        runs = [np.random.default_rng(run).choice(3, p=shares, size=2_000) for run in range(200)]
        assert np.mean([sample_ratio_p_values(arms, shares)[-1] < 0.05 for arms in runs]) <= 0.05

    def test_alarm(self) -> None:
        """One customer in ten lost from an arm is noticed."""
        arms = np.random.default_rng(0).choice(2, p=[0.45, 0.55], size=10_000)
        assert sample_ratio_p_values(arms, np.array([0.5, 0.5]))[-1] < 1e-6


class TestExperiment:
    """From records to verdict."""

    def test_effect_is_found(self, tmp_path: Path) -> None:
        """Contact halves churn: the truth is inside, the arms' numbers add up, and there is no alarm."""
        result = evaluated(tmp_path, Experiment(customers=3_000))
        found = result["against_holdout"]["champion"]["incremental_churn"]
        truth = -0.25 * 20 / 21
        assert found["low"] < truth < found["high"] < 0
        assert result["sample_ratio"]["alarm"] is None
        assert result["shared_budget"]["alarm"] is None
        assert result["sleeping_dogs"]["woken"] == []
        assert result["missed"] == []
        assert result["followed_customers"] + 0 == sum(arm["followed"] for arm in result["arms"].values())
        assert result["arms"]["holdout"]["contacts"] == 0
        assert len(experiment_plots(result)) == 3

    def test_sleeping_dogs(self, tmp_path: Path) -> None:
        """Contact that raises churn only where risk is low is named there, and for the offers, not elsewhere."""
        truth = Experiment(
            customers=4_000,
            churn=lambda risk, contacted: np.where(risk < 0.37, 0.1 + 0.5 * contacted, 0.4 - 0.1 * contacted),
        )
        result = evaluated(tmp_path, truth)
        assert "champion: low risk" in result["sleeping_dogs"]["woken"]
        assert not {"champion: middle risk", "champion: high risk"} & set(result["sleeping_dogs"]["woken"])
        assert "champion: low risk: contact raised churn" in result["missed"]

    def test_sample_ratio_alarm(self, tmp_path: Path) -> None:
        """Customers lost from an arm stop the comparison."""
        result = evaluated(tmp_path, Experiment(customers=3_000, drawn={"champion": 0.6, "holdout": 0.4}))
        assert "did not come to the arms in their shares" in result["sample_ratio"]["alarm"]
        assert result["missed"][0] == result["sample_ratio"]["alarm"]
        assert result["against_holdout"] == result["sleeping_dogs"]["segments"] == {}
        assert "withheld" in result["withheld"]
        assert experiment_plots(result)

    def test_few_events(self, tmp_path: Path) -> None:
        """Thousands of customers of whom a few left: no interval, and the gate says why."""
        truth = Experiment(customers=2_000, churn=lambda risk, contacted: 0.005 + 0.0 * risk * contacted)
        result = evaluated(tmp_path, truth)
        found = result["against_holdout"]["champion"]["incremental_churn"]
        assert found["low"] is None
        assert "too few events yet" in found["why"]
        assert "champion: too few events yet" in result["missed"][0]
        assert all(told["low"] is None for told in result["sleeping_dogs"]["segments"].values())

    def test_gate_does_not_pass_on_nan(self) -> None:
        """What is no number is not above 0."""
        lows = {"incremental_net_value_usd": {"low": float("nan")}}
        checks: dict[str, Any] = {key: {"alarm": None} for key in ("sample_ratio", "shared_budget", "orphans")}
        result = {**checks, "sleeping_dogs": {"woken": []}, "against_holdout": {"champion": lows}}
        assert len(missed_targets(result)) == 1

    def test_no_outcomes(self, tmp_path: Path) -> None:
        """A missing topic is not everybody's staying."""
        write_experiment(tmp_path, Experiment(customers=300), 1)
        told = (tmp_path / "outcomes/2026/a.jsonl").read_text()
        strangers = told.replace('"decision_id": "d', '"decision_id": "e')
        (tmp_path / "outcomes/2026/a.jsonl").write_text(strangers)
        with pytest.raises(BadInput, match=r"no outcome of any of the .* decisions that were followed"):
            evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)

    def test_orphans(self, tmp_path: Path) -> None:
        """Outcomes without their decisions are counted, and too many are an alarm."""
        write_experiment(tmp_path, Experiment(customers=1_000), 1)
        path = tmp_path / "decisions/2026/a.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:900]))
        result = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert result["orphans"]["outcomes_without_decision"] > 100
        assert result["orphans"]["alarm"] in result["missed"]

    def test_unknown_arm(self, tmp_path: Path) -> None:
        """It is named with its record."""
        write_experiment(tmp_path, Experiment(customers=300), 1)
        path = tmp_path / "decisions/2026/a.jsonl"
        path.write_text(path.read_text().replace('"drawn_arm": "champion"', '"drawn_arm": "zzz"', 1))
        result = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert re.search(r"decision d\d+ was drawn for the arm 'zzz'", result["sample_ratio"]["alarm"])

    def test_shared_budget_alarm(self, tmp_path: Path) -> None:
        """Two contacting arms on one budget that ran short are not independent."""
        truth = Experiment(customers=1_000, shares={"champion": 0.4, "baseline": 0.3, "holdout": 0.3})
        write_experiment(tmp_path, truth, 1)
        starved = decision(5_000, "champion", 0.4, 3, 0.5, read_log(tmp_path, WORLD).decisions[0].decided_at)
        write_lines(tmp_path / "decisions/b.jsonl", [starved | {"booking": "budget"}])
        result = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert "leave out who came in then, by --since" in result["shared_budget"]["alarm"]
        assert result["shared_budget"]["short"] == {"champion": 1}
        own = starved["contact_state"] | {"budget_shared": False}
        (tmp_path / "decisions/b.jsonl").unlink()
        write_lines(tmp_path / "decisions/b.jsonl", [starved | {"booking": "budget", "contact_state": own}])
        result = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert result["shared_budget"] == {"short": {}, "alarm": None}

    def test_intention_to_treat(self, tmp_path: Path) -> None:
        """A champion's customer whom the kill switch gave the baseline still counts for the champion."""
        truth = Experiment(customers=600)
        write_experiment(tmp_path, truth, 1)
        before = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        log = read_log(tmp_path, WORLD)
        forced = next(each for each in log.decisions if each.arm == "champion")
        document = json.loads(forced.model_dump_json()) | {
            "arm": "baseline", "mode": "baseline", "baseline_reason": "kill_switch", "revision": 10_000
        }  # fmt: skip
        write_lines(tmp_path / "decisions/b.jsonl", [document])
        after = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert after["arms"] == before["arms"]

    def test_needs_a_holdout(self, tmp_path: Path) -> None:
        """Without one there is nothing to compare with."""
        with pytest.raises(BadInput, match="needs a holdout and another arm"):
            evaluated(tmp_path, Experiment(customers=50, shares={"champion": 1.0}))

    def test_shares_that_changed(self, tmp_path: Path) -> None:
        """One look over two designs is refused as a test of the ratio."""
        write_experiment(tmp_path, Experiment(customers=300), 1)
        at = read_log(tmp_path, WORLD).decisions[0].decided_at
        write_lines(tmp_path / "decisions/b.jsonl", [decision(900, "champion", 0.5, 0, 0.5, at)])
        result = evaluate_experiment(read_log(tmp_path, WORLD), WORLD, PARAMS, scored, 14, 0.05)
        assert "shares of champion changed" in result["sample_ratio"]["alarm"]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table for a person, JSON for programs, a report, and exit 1 by the gate."""
    monkeypatch.setattr(command, "_scored", lambda _: scored)
    truth = Experiment(customers=800, churn=lambda risk, contacted: 0.2 + 0.3 * contacted * (risk > 0))
    folder = write_experiment(tmp_path / "records", truth, 2)
    arguments = ["eval", "experiment", "--records", str(folder), "--follow-days", "14"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["customers"] == 800
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    gated = CliRunner().invoke(app, [*arguments, "--gate"])
    assert "not above 0 with confidence" in str(gated.exception)
    assert "incremental_churn" in gated.stdout


def test_one_campaign_and_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two campaigns of other shares are withheld together; one of them, or one period, is compared."""
    monkeypatch.setattr(command, "_scored", lambda _: scored)
    folder = write_experiment(tmp_path / "records", Experiment(customers=800), 2)
    at = read_log(folder, WORLD).decisions[-1].decided_at + timedelta(days=1)
    spring = decision(9_000, "champion", 0.5, 0, 0.5, at) | {"campaign": "spring"}
    write_lines(folder / "decisions/b.jsonl", [spring])
    arguments = ["eval", "experiment", "--records", str(folder), "--follow-days", "14"]
    pooled = CliRunner().invoke(app, [*arguments, "--gate"])
    assert "shares of champion changed" in str(pooled.exception)
    assert "withheld" in pooled.stdout
    assert "incremental_churn" not in pooled.stdout
    for choice in (["--campaign", "default"], ["--since", "2026-01-01", "--until", f"{at.date()}"]):
        told = json.loads(CliRunner().invoke(app, [*arguments, "--json", *choice]).stdout)
        assert told["sample_ratio"]["alarm"] is None
        assert told["customers"] <= 800
        assert told["against_holdout"]["champion"]["incremental_churn"]["low"] is not None
    nobody = CliRunner().invoke(app, [*arguments, "--campaign", "winter"])
    assert "the records hold the campaigns default, spring" in str(nobody.exception)


def test_a_period_is_of_customers_not_of_decisions(tmp_path: Path) -> None:
    """Who came in before it has been treated before; of who came in within it, later decisions count too."""
    days = {"early": (0, 20), "within": (10, 30), "late": (25,)}
    lines = [
        decision(100 * i + day, "champion", 0.7, 0, 0.5, START + timedelta(days=day)) | {"customer_ref": who}
        for i, (who, on) in enumerate(days.items())
        for day in on
    ]
    write_lines(tmp_path / "decisions/a.jsonl", lines)
    log = read_log(tmp_path, WORLD).entered(None, START + timedelta(days=5), START + timedelta(days=24))
    assert [(one.customer_ref, (one.decided_at - START).days) for one in log.decisions] == [
        ("within", 10),
        ("within", 30),
    ]


def test_shares_that_changed_later_are_not_those_of_the_draw(tmp_path: Path) -> None:
    """Who came in under the old shares goes on deciding under the new ones; --until takes them all the same."""
    write_experiment(tmp_path, Experiment(customers=600), 1)
    log = read_log(tmp_path, WORLD)
    entry = next(one for one in log.decisions if one.arm == "champion")
    changed = entry.propensity.model_copy(update={"arm": entry.propensity.arm / 2, "total": entry.propensity.total / 2})
    later = entry.model_copy(
        update={"decision_id": "d-later", "decided_at": log.decisions[-1].decided_at, "propensity": changed}
    )
    result = evaluate_experiment(replace(log, decisions=[*log.decisions, later]), WORLD, PARAMS, scored, 14, 0.05)
    assert result["sample_ratio"]["alarm"] is None


def test_so_few_outcomes_are_a_topic_that_was_read_in_part(tmp_path: Path) -> None:
    """Four reports of a thousand customers say nothing of who stayed; and each arm's share is told."""
    folder = write_experiment(tmp_path, Experiment(customers=1_000), 1)
    result = evaluate_experiment(read_log(folder, WORLD), WORLD, PARAMS, scored, 14, 0.05)
    assert all(0.0 < arm["reported"] <= 1.0 for arm in result["arms"].values())
    path = folder / "outcomes/2026/a.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(BadInput, match=r"outcomes of only 0.\d\d% of the customers .* at least 1% or 20"):
        evaluate_experiment(read_log(folder, WORLD), WORLD, PARAMS, scored, 14, 0.05)


def test_schemas_that_are_shipped() -> None:
    """The Open Bandit schema names the three roles that a log needs."""
    schema = load_schema(Path("configs/schemas/open_bandit.yaml"))
    assert {str(column.role) for column in schema.columns.values()} >= {"treatment", "propensity", "outcome"}
