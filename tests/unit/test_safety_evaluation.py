"""`eval shield`: what it plants is planted well, and its gate bites."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from churnsaver.errors import GateFailed
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from churnsaver.settings import load_world
from cli.main import app
from tests.conftest import SHARED_DATA
from trainers.eval import shield as evaluation
from trainers.eval.planted import CARRIERS, CHANNEL, LANGUAGE, carrier, plant
from trainers.eval.shield import wilson


def test_carriers_pass_without_a_violation() -> None:
    """So that what blocks a planted message is the violation."""
    policy = Policy.of(load_world())
    rng = np.random.default_rng(42)
    for _ in range(3 * len(CARRIERS)):
        review = Review(carrier(rng, "We hope all is well."), Stage.DRAFT, CHANNEL, LANGUAGE)
        assert review_with_rules(review, policy) == []


def test_the_same_seed_plants_the_same() -> None:
    """And another seed plants others."""
    world = load_world()
    assert plant(world, 5, 42) == plant(world, 5, 42) != plant(world, 5, 43)


def test_every_planted_violation_is_caught_under_its_name() -> None:
    """A few of every class and trick, with a seed that the report does not use."""
    policy = Policy.of(load_world())
    missed = [
        item
        for item in plant(load_world(), 60, 7)
        if not {finding.rule for finding in review_with_rules(item.review, policy)} & item.rules
    ]
    assert missed == []


def test_wilson_stays_inside_the_unit_interval() -> None:
    """Wilson's interval of 10 of 10 is the textbook's [0.722, 1]."""
    interval = wilson(10, 10)
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (1.0, 0.722, 1.0)


def test_the_command_reports_and_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Benign questions in, JSON and HTML out; a target that cannot be met is exit 1."""
    monkeypatch.setattr(evaluation, "PLANTED_PER_CLASS", 5)
    monkeypatch.setattr(evaluation, "MAX_RULES_P95_MS", 1_000.0)  # a busy machine must not fail the test
    monkeypatch.setattr(evaluation, "MAX_CLASSIFIER_P95_MS", 1_000.0)
    data = tmp_path / "questions.csv"
    data.write_text("text,category\n" + "".join(f"When will card number {i % 90} arrive?,card\n" for i in range(200)))
    arguments = ["eval", "shield", "--data", str(data), "--out", str(tmp_path / "report"), "--json", "--gate"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["false_alarms"]["questions.csv"]["value"] == 0.0
    assert "Every target is met" in (tmp_path / "report" / "report.html").read_text()
    monkeypatch.setattr(evaluation, "MAX_RULES_P95_MS", 0.0)
    assert isinstance(CliRunner().invoke(app, arguments).exception, GateFailed)


@pytest.mark.skipif(not (SHARED_DATA / "dark_patterns.csv").exists(), reason="../shared/data is not here")
def test_most_of_the_public_urgency_and_scarcity_is_caught() -> None:
    """The lists were corrected with a look at these rows, so this is no held-out figure: a drop means a list broke."""
    import polars as pl

    policy = Policy.of(load_world())
    rows = pl.read_csv(SHARED_DATA / "dark_patterns.csv")
    for category in ("Urgency", "Scarcity"):
        texts = rows.filter(pl.col("Pattern Category") == category)["text"]
        reviews = (Review(text, Stage.FILLED, CHANNEL, LANGUAGE) for text in texts)
        caught = [any(f.rule == "phrase" for f in review_with_rules(review, policy)) for review in reviews]
        assert sum(caught) / len(caught) > 0.9
