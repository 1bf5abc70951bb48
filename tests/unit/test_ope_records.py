"""Off-policy evaluation of decision records and of CSV logs, from files to verdict."""

from __future__ import annotations

import codecs
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from churnsaver.domain.actions import NO_CONTACT
from churnsaver.domain.money import retained_value_usd
from churnsaver.domain.world import HOURS_PER_MONTH
from churnsaver.errors import BadInput, GateFailed, SchemaError
from churnsaver.settings import load_schema
from cli.main import app
from tests.support.records import (
    MONTHLY_USD,
    SPACE,
    START,
    WORLD,
    Experiment,
    decision,
    outcome,
    write_experiment,
    write_lines,
)
from trainers.agents.baselines import NeverContact
from trainers.data.load import load_dataset
from trainers.env.params import load_dynamics
from trainers.eval.ope import evaluate_logged, missed_targets, ope_plots
from trainers.eval.report import write_report
from trainers.ope.from_csv import logged_from_csv, thompson_probabilities
from trainers.ope.from_records import Decided, decided
from trainers.ope.outcome_model import cross_fit, folds_of
from trainers.ope.records import read_log

PARAMS = load_dynamics()
DATA = Path("../shared/data")
VALUE_USD = float(retained_value_usd(WORLD, MONTHLY_USD))
CONTACTS = Path("configs/schemas/contacts.yaml")


class Always:
    """Takes one action wherever it is allowed."""

    def __init__(self, action: int) -> None:
        self.action = action

    def probabilities(self, observation: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        chosen = np.zeros(allowed.shape)
        chosen[np.arange(len(allowed)), np.where(allowed[:, self.action], self.action, NO_CONTACT)] = 1.0
        return chosen


def evaluated(found: Decided, min_effective: float = 30.0) -> dict[str, Any]:
    logged = found.logged
    outcomes = {"reward": logged.rewards, **logged.costs}
    folds = folds_of(logged.clusters, 42)
    models = cross_fit(found.features, found.actions, found.described, outcomes, found.target, folds)
    return evaluate_logged(logged, models, 42, min_effective, found.never)


class TestRecords:
    """A folder of records as Pub/Sub writes it."""

    def test_never_contacting_is_worth_what_the_holdout_shows(self, tmp_path: Path) -> None:
        """Two ways to the same truth: the target's estimate and its exact value."""
        log = read_log(write_experiment(tmp_path, Experiment(customers=4_000), 1), WORLD)
        found = decided(log, NeverContact(), WORLD, PARAMS, 28)
        result = evaluated(found)
        truth = 0.5 * VALUE_USD  # mean risk is 0.5
        assert result["value"]["dr"]["low"] < truth < result["value"]["dr"]["high"]
        assert result["costs"]["contact"]["dr"]["value"] == pytest.approx(0.0, abs=0.02)
        assert found.left_out["of a deterministic policy"] == sum(d.arm == "holdout" for d in log.decisions)

    def test_contacting_is_worth_and_costs_what_is_true(self, tmp_path: Path) -> None:
        """Value in dollars and each constraint's cost, for a target that always makes one offer."""
        log = read_log(write_experiment(tmp_path, Experiment(customers=6_000), 2), WORLD)
        result = evaluated(decided(log, Always(SPACE.index_of("bonus_pack", 0)), WORLD, PARAMS, 28))
        spend = 0.05 + 0.3 * 6.0
        truth = 0.75 * VALUE_USD - spend - PARAMS.opt_out_penalty_usd * 0.02
        told = {name: result["costs"][name]["dr"] for name in ("contact", "spend_usd", "opt_out")}
        assert result["value"]["dr"]["low"] < truth < result["value"]["dr"]["high"]
        assert told["spend_usd"]["low"] < spend < told["spend_usd"]["high"]
        assert told["contact"]["value"] == pytest.approx(1.0, abs=0.02)
        assert told["opt_out"]["low"] < 0.02 < told["opt_out"]["high"]
        assert write_report(tmp_path / "out", "x", {**result, "missed": []}, ope_plots(result)).exists()

    def test_a_refused_contact_keeps_its_intention(self, tmp_path: Path) -> None:
        """The action counts as intended; what it cost is what was booked."""
        refused = decision(0, "champion", 0.7, 3, 0.5, START) | {"booking": "budget"}
        idle = decision(1, "champion", 0.7, 0, 0.5, START)
        write_lines(tmp_path / "decisions/a.jsonl", [refused, idle])
        write_lines(tmp_path / "outcomes/a.jsonl", [outcome(idle, "retained", START + timedelta(days=40))])
        found = decided(read_log(tmp_path, WORLD), Always(3), WORLD, PARAMS, 28)
        assert found.actions.tolist() == [3, 0]
        assert found.logged.target.tolist() == [1.0, 0.0]
        assert found.logged.costs["contact"].tolist() == [0.0, 0.0]
        assert found.logged.weights.tolist() == pytest.approx([len(SPACE), 0.0])

    def test_delivered_twice_and_changed_since(self, tmp_path: Path) -> None:
        """The highest revision of a decision holds, in whatever order it comes; an outcome counts once."""
        first = decision(0, "champion", 0.7, 3, 0.5, START)
        later = first | {"booking": "released", "revision": 9}
        write_lines(tmp_path / "records/decisions/b.jsonl", [later, first, later])
        told = outcome(first, "accepted", START + timedelta(days=30))
        write_lines(tmp_path / "records/outcomes/a.jsonl", [told, told, {**told, "decision_id": "gone"}])
        log = read_log(tmp_path, WORLD)
        assert [each.booking for each in log.decisions] == ["released"]
        assert list(log.outcomes) == ["d0"]
        assert log.orphans == 1

    def test_what_is_not_followed_long_enough_is_left_out(self, tmp_path: Path) -> None:
        """A decision whose outcome may still come says nothing yet."""
        lines = [decision(i, "champion", 0.7, 0, 0.5, START + timedelta(days=20 * i)) for i in range(3)]
        write_lines(tmp_path / "decisions/a.jsonl", lines)
        write_lines(tmp_path / "outcomes/a.jsonl", [outcome(lines[0], "retained", START + timedelta(days=28))])
        found = decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 28)
        assert len(found.logged) == 1
        assert found.left_out["not followed yet"] == 2
        with pytest.raises(BadInput, match=r"none can be evaluated .*3 not followed yet"):
            decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 100)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"propensity": {"arm": 0.5, "policy": 0.0, "message": 1, "total": 0}}, "propensity.policy: .*0.0.*0, 1"),
            ({"propensity": {"arm": 0.5, "policy": 1.2, "message": 1, "total": 0.6}}, "propensity.policy: .*1.2"),
            ({"propensity": {"arm": 0.5, "policy": 0.5, "message": 1, "total": 0.5}}, "propensity.total: is 0.5, not"),
            ({"propensity": {"arm": 0.5, "policy": float("nan"), "message": 1, "total": 1}}, "propensity.policy"),
            ({"action": {"index": 3, "label": "discount_90+0h"}}, "action: is 'discount_90.0h' .*no such action"),
            ({"action": {"index": 4, "label": "check_in+0h"}}, "action: .*number 1 has that name"),
            ({"action": {"index": 99, "label": "x"}}, "field action: .*no such action"),
            ({"mask_reasons": [0, 6, *[0] * 19]}, r"forbids \(budget\)"),
            ({"mask_reasons": [0]}, "mask_reasons: has 1 reasons for 21 actions"),
            ({"observation": [0.1]}, "observation: has 1 numbers; expected 14 or none"),
            ({"decided_at": "2026-01-01T00:00:00"}, "decided_at: .* has no time zone"),
            ({"arm": None}, "field arm: .*found 'None'"),
            ({"decided_at": "2199-01-01T00:00:00+00:00"}, "decided_at: .* lies in the future"),
            ({"features": {"risk": float("nan")}}, "features.risk: is nan; expected a finite number"),
            ({"contact_state": {"hours_since_contact": [], "contact_cost_cents": 10**24}}, "contact_cost_cents"),
            ({"arm": "holdout"}, "decision d0 differs from revision 0 of it in .*line 1"),
        ],
    )
    def test_bad_records(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        """Refused by file, line and field."""
        good = decision(0, "champion", 0.7, 1, 0.5, START)
        write_lines(tmp_path / "decisions/a.jsonl", [good, good | changes])
        with pytest.raises(BadInput, match=f"a.jsonl, line 2(, field|, .*|: ){message}"):
            read_log(tmp_path, WORLD)

    def test_bad_files(self, tmp_path: Path) -> None:
        """Nothing there, no JSON, an outcome that does not exist."""
        with pytest.raises(BadInput, match="holds no decisions"):
            read_log(tmp_path, WORLD)
        good = decision(0, "champion", 0.7, 1, 0.5, START)
        write_lines(tmp_path / "decisions/a.jsonl", [good])
        (tmp_path / "outcomes").mkdir()
        (tmp_path / "outcomes/o.jsonl").write_text("\nnot json\n")
        with pytest.raises(BadInput, match=r"o\.jsonl, line 2: is no JSON object"):
            read_log(tmp_path, WORLD)
        (tmp_path / "outcomes/o.jsonl").write_text(json.dumps(outcome(good, "bought", START)))
        with pytest.raises(BadInput, match=r"line 1, field outcome: .*'bought'"):
            read_log(tmp_path, WORLD)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"at": "2099-01-01T00:00:00+00:00"}, "field at: 2099.* lies in the future"),
            ({"at": "2020-01-01T00:00:00+00:00"}, "field at: is 2020.*, before its decision"),
            ({"customer_ref": "other"}, "field customer_ref: is 'other', but decision d0 is of 'c0'"),
        ],
    )
    def test_bad_outcomes(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        """An outcome that its decision or the clock contradicts."""
        good = decision(0, "champion", 0.7, 1, 0.5, START)
        write_lines(tmp_path / "decisions/a.jsonl", [good])
        told = outcome(good, "churned", START + timedelta(days=1))
        write_lines(tmp_path / "outcomes/o.jsonl", [told, told | changes])
        with pytest.raises(BadInput, match=f"o.jsonl, line 2, {message}"):
            read_log(tmp_path, WORLD)

    def test_files_that_are_no_json_lines(self, tmp_path: Path) -> None:
        """Cut off, another encoding, packed, and no folder each say what they are."""
        line = json.dumps(decision(0, "champion", 0.7, 1, 0.5, START)).encode()
        path = tmp_path / "decisions/a.jsonl"
        path.parent.mkdir()
        for content, message in (
            (line[:-40], r"line 1: is no JSON object \(.*cut off"),
            (line.replace(b"default", b"d\xe9fault"), r"line 1: byte \d+ \(0xe9\) is no UTF-8"),
        ):
            path.write_bytes(content)
            with pytest.raises(BadInput, match=message):
                read_log(tmp_path, WORLD)
        path.rename(path.with_suffix(".jsonl.gz"))
        with pytest.raises(BadInput, match=r"but a\.jsonl\.gz; unpack it"):
            read_log(tmp_path, WORLD)
        with pytest.raises(BadInput, match="nowhere: does not exist"):
            read_log(tmp_path / "nowhere", WORLD)

    def test_outcomes_that_are_missing(self, tmp_path: Path) -> None:
        """No report at all is not everybody's staying."""
        write_experiment(tmp_path, Experiment(customers=200), 1)
        (tmp_path / "outcomes/2026/a.jsonl").unlink()
        with pytest.raises(BadInput, match=r"no outcome of any of the .* decisions that were followed was reported"):
            decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 14)

    def test_outcomes_after_the_window(self, tmp_path: Path) -> None:
        """An acceptance or an opt-out after the time followed is not this decision's."""
        offered = SPACE.index_of("bonus_pack", 0)
        lines = [decision(i, "champion", 0.7, offered, 0.5, START) for i in range(2)]
        write_lines(tmp_path / "decisions/a.jsonl", lines)
        told = [outcome(lines[i], kind, START + timedelta(days=(5, 40)[i])) for i in range(2) for kind in LATE]
        write_lines(tmp_path / "outcomes/a.jsonl", told)
        costs = decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 28).logged.costs
        assert costs["opt_out"].tolist() == [1.0, 0.0]
        assert costs["spend_usd"][0] > costs["spend_usd"][1] == 0.05

    def test_propensities_that_are_too_small(self, tmp_path: Path) -> None:
        """Half of the true ones double every weight; refused."""
        log = read_log(write_experiment(tmp_path, Experiment(customers=3_000), 1), WORLD)
        found = decided(log, Always(0), WORLD, PARAMS, 28)
        halved = replace(found.logged, propensities=found.logged.propensities / 2)
        assert evaluated(found)["refused"] == []
        assert "propensities are too small" in evaluated(replace(found, logged=halved))["refused"][0]

    def test_a_short_log_has_no_month(self, tmp_path: Path) -> None:
        """Monthly limits are not checked by a day's decisions; the gate says so."""
        lines = [decision(i, "champion", 0.7, i % len(SPACE), 0.5, START + timedelta(minutes=i)) for i in range(900)]
        write_lines(tmp_path / "decisions/a.jsonl", lines)
        told = [outcome(line, "retained", START + timedelta(days=30)) for line in lines]
        write_lines(tmp_path / "outcomes/a.jsonl", told)
        found = decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 14)
        result = evaluated(found)
        assert found.per_customer_month is None
        assert missed_targets(result, {"contact": 1.0}, None)[-1].startswith("the log spans less than a month")
        for name in ("spend_usd", "contact", "fatigue"):
            assert result["costs"][name]["dr"]["high"] == result["costs"][name]["ips"]["value"] == 0.0

    def test_months_are_those_that_customers_were_there(self, tmp_path: Path) -> None:
        """One decision a customer and epoch is one, however late half of them came; an editor's BOM does no harm."""
        lines = [
            decision(100 * i + day, "champion", 0.7, day % len(SPACE), 0.5, START + timedelta(days=day))
            | {"customer_ref": f"c{i}"}
            for i in range(20)
            for day in range((0, 40)[i % 2], 60)
        ]
        write_lines(tmp_path / "decisions/a.jsonl", lines)
        write_lines(tmp_path / "outcomes/a.jsonl", [outcome(lines[0], "retained", START + timedelta(days=90))])
        for path in tmp_path.rglob("*.jsonl"):
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        found = decided(read_log(tmp_path, WORLD), NeverContact(), WORLD, PARAMS, 14)
        epochs_per_month = HOURS_PER_MONTH / WORLD.epoch_hours
        assert found.per_customer_month == pytest.approx(epochs_per_month, rel=1e-6)


LATE = ("accepted", "opted_out")


def csv_log(path: Path, rows: int, **changes: str) -> Path:
    """Uniform contacts of two offers, of which the second is accepted twice as often; `changes` go into row 4."""
    rng = np.random.default_rng(0)
    lines = ["contact_id,risk,monthly_usd,tenure_months,offer,propensity,accepted"]
    for i in range(rows):
        offer = rng.integers(2)
        cells = {
            "contact_id": str(i),
            "risk": f"{rng.random():.3f}",
            "monthly_usd": "50",
            "tenure_months": "3",
            "offer": ("check_in", "bonus_pack")[offer],
            "propensity": "0.5",
            "accepted": str(int(rng.random() < (0.2, 0.4)[offer])),
        }
        lines.append(",".join((cells | (changes if i == 2 else {})).values()))
    path.write_text("\n".join(lines) + "\n")
    return path


class TestCsv:
    """A CSV of logged actions."""

    @pytest.mark.parametrize(("target", "truth"), [("bonus_pack", 0.4), ("check_in", 0.2), ("greedy", 0.4)])
    def test_value_of_offers(self, tmp_path: Path, target: str, truth: float) -> None:
        """The truth is inside, and an accepted offer's cost is estimated with it."""
        dataset = load_dataset(csv_log(tmp_path / "log.csv", 2_000), load_schema(CONTACTS))
        logged, models = logged_from_csv(dataset, WORLD, target, 42)
        result = evaluate_logged(logged, models, 42)
        assert result["value"]["dr"]["low"] < truth < result["value"]["dr"]["high"]
        spend = 0.4 * 6.0 if target != "check_in" else 0.0
        assert result["costs"]["spend_usd"]["snips"]["value"] == pytest.approx(spend, abs=0.25)

    def test_thompson_by_monte_carlo(self) -> None:
        """P(Beta(3, 2) > Beta(2, 3)) is 0.757…, counted; the same seed counts the same."""
        actions, rewards = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
        counted = thompson_probabilities(actions, rewards, 2, [42, 0])
        assert counted == pytest.approx([0.757, 0.243], abs=0.03)
        assert (counted == thompson_probabilities(actions, rewards, 2, [42, 0])).all()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"propensity": "0"}, r"row 4, column propensity: is 0.0; expected a probability in \(0, 1\]"),
            ({"propensity": "1.5"}, "row 4, column propensity: is 1.5"),
            ({"offer": "discount_90"}, "row 4, column offer: is 'discount_90'; expected one of env.yaml's offers"),
            ({"accepted": "nan"}, "column accepted, row 4: is 'nan', which is no answer"),
            ({"accepted": ""}, "row 4, column accepted: is missing"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, changes: dict[str, str], message: str) -> None:
        """Refused by file, row and column."""
        path = csv_log(tmp_path / "log.csv", 20, **changes)
        with pytest.raises((SchemaError, BadInput), match=message):
            logged_from_csv(load_dataset(path, load_schema(CONTACTS)), WORLD, "uniform", 42)

    def test_unknown_target(self, tmp_path: Path) -> None:
        """The message lists what there is."""
        dataset = load_dataset(csv_log(tmp_path / "log.csv", 20), load_schema(CONTACTS))
        with pytest.raises(BadInput, match="--target is 'best'; expected uniform, greedy, thompson or an action"):
            logged_from_csv(dataset, WORLD, "best", 42)

    @pytest.mark.parametrize("part", ["all", "men"])
    def test_open_bandit(self, part: str) -> None:
        """Uniform logging's clicks, seen from Thompson sampling's log; wide, and it holds the truth."""
        if not DATA.exists():
            pytest.skip("../shared/data is absent")
        schema = load_schema(Path("configs/schemas/open_bandit.yaml"))
        dataset = load_dataset(DATA / f"open_bandit_bts_{part}.csv.gz", schema)
        logged, models = logged_from_csv(dataset, WORLD, "uniform", 42)
        result = evaluate_logged(logged, models, 42)
        truth = load_dataset(DATA / f"open_bandit_random_{part}.csv.gz", schema).frame["click"].mean()
        told = result["value"]["dr"]
        assert told["low"] < truth < told["high"]
        assert told["high"] - told["low"] > 0.5 * truth


class TestCommand:
    """`eval ope`."""

    def test_json_and_refusal(self, tmp_path: Path) -> None:
        """One JSON object; exit 1 by refusal where too little was logged, with no estimate in it."""
        runner = CliRunner()
        few = csv_log(tmp_path / "few.csv", 50)
        arguments = ["eval", "ope", "--schema", str(CONTACTS), "--json", "--target", "bonus_pack", "--data"]
        log = str(csv_log(tmp_path / "log.csv", 800))
        done = runner.invoke(app, [*arguments, log, "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        said = (tmp_path / "out" / "report.html").read_text()
        assert "Every target is met (the gain over the logging policy; no cost has a limit here)" in said
        assert set(json.loads(done.stdout)["value"]) >= {"ips", "snips", "dm", "dr", "switch_dr", "dr_os", "gain"}
        refused = runner.invoke(app, [*arguments, str(few)])
        assert isinstance(refused.exception, GateFailed)
        assert "value" not in json.loads(refused.stdout)

    def test_on_records(self, tmp_path: Path) -> None:
        """A baseline by name, a report, and the gate: never contacting loses against this champion."""
        folder = write_experiment(tmp_path / "records", Experiment(customers=4_000), 3)
        arguments = ["eval", "ope", "--records", str(folder), "--baseline", "never_contact"]
        done = CliRunner().invoke(app, [*arguments, "--gate", "--out", str(tmp_path / "out")])
        assert isinstance(done.exception, GateFailed)
        assert "may be negative" in str(done.exception)
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert "one-step" in report["scope"]
        assert report["limits_per_customer_month"]["contact"] > 0

    def test_one_source(self) -> None:
        """Either records or a CSV."""
        done = CliRunner().invoke(app, ["eval", "ope"])
        assert isinstance(done.exception, BadInput)
