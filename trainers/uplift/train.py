"""`train uplift`: whom a contact changes, from an experiment, as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from churnsaver.checkpoints import Gate, Manifest, write_checkpoint
from churnsaver.checkpoints.checkpoint import GOLDEN, MODEL_CARD
from churnsaver.models.trees import SCHEMA
from churnsaver.models.uplift import RESPONSE, SPEC, UPLIFT, Learner, UpliftModel, UpliftSpec, predict
from trainers.data import Dataset, Part
from trainers.eval.metrics import Floats, Interval
from trainers.eval.uplift_metrics import Judge
from trainers.eval.uplift_value import incremental
from trainers.models.boost import BoostSettings
from trainers.models.cards import card_table
from trainers.models.golden import made_up_customers
from trainers.models.seen import TRAINED_ON, trained_on
from trainers.uplift import LEARNERS
from trainers.uplift.boosting import Forester
from trainers.uplift.choose import Advance, Choice, choose_learner
from trainers.uplift.response import fit_response
from trainers.uplift.trial import MIN_FIT_ROWS, MIN_TEST_ROWS, Comparison, Trial, compare, require_rows, trial_of

GAIN = "qini_gain_over_propensity"
TITLES = {Learner.S: "S-learner", Learner.T: "T-learner", Learner.X: "X-learner", Learner.DR: "DR-learner"}


def train_uplift(
    dataset: Dataset,
    out: Path,
    settings: BoostSettings,
    seed: int,
    *,
    arm: str | None,
    learners: Sequence[Learner],
    advance: Advance = lambda: None,
) -> Manifest:
    """Chooses among `learners` and fits on the train and valid parts, measures on the test part, writes to `out`.

    Raises:
        SchemaError, BadInput: the data are no experiment with `arm`, or have too few rows of an outcome.
    """
    comparison = compare(dataset, arm)
    fit, test = comparison.take(Part.TRAIN, Part.VALID), comparison.take(Part.TEST)
    require_rows(fit, MIN_FIT_ROWS)
    require_rows(test, MIN_TEST_ROWS)
    trial = trial_of(fit, seed)
    choice = choose_learner(trial, learners, settings, seed, advance=advance)
    forester = Forester(trial.feature_types, settings, seed)
    response = fit_response(forester, trial)
    model = _fit(comparison, trial, choice, forester, response.booster)
    test_trial = trial_of(test, seed)
    measured, gain = _measure(model, test_trial, seed)
    gain_held_out, qini_held_out = _held_out(model, trial, choice.held_out, response.held_out, test_trial, seed)
    files = {
        **{f"{name}.ubj": bytes(booster.save_raw("ubj")) for name, booster in model.trees.boosters.items()},
        f"{RESPONSE}.ubj": bytes(model.response.save_raw("ubj")),
        SCHEMA: dataset.schema.model_dump_json(indent=2, exclude_defaults=True).encode(),
        SPEC: model.spec.model_dump_json(indent=1).encode(),
        TRAINED_ON: trained_on(fit.rows),
        GOLDEN: json.dumps(_golden(model, fit.rows, seed), indent=1).encode(),
        MODEL_CARD: _card(comparison, trial, choice, measured, gain, gain_held_out).encode(),
    }
    metrics = {f"test_{name}": interval.value for name, interval in measured.items()}
    metrics |= {f"test_{GAIN}": gain.value, f"test_{GAIN}_low": gain.low}
    metrics |= {f"held_out_{GAIN}": gain_held_out.value, f"held_out_{GAIN}_low": gain_held_out.low}
    gate = uplift_gate(gain_held_out, qini_held_out)
    return write_checkpoint(out, UPLIFT, files, seed=seed, metrics=metrics, data_sha256=dataset.sha256, gate=gate)


def uplift_gate(gain: Interval, qini: Interval) -> Gate:
    """A model may decide whom to contact that orders customers provably better than how likely they respond does.

    And better than chance, since propensity may be worse than that. Both are measured on every row, each scored by
    trees that it was held out from: cross-validated ones on the train and valid rows, the checkpoint's own on the test
    rows. The test rows alone are too few: Hillstrom's 5,800 leave an interval of ± 0.05 around a gain of 0.04. Without
    a provable gain, a response model is simpler and as good; where effects hardly differ between customers, no model
    passes, and none should.
    """
    said = f"Qini gain over propensity is {gain.value:.4f}, at least {gain.low:.4f}; its lower bound is not above 0"
    by_chance = f"its Qini is {qini.value:.4f}, at least {qini.low:.4f}; the lower bound is not above 0, that of chance"
    return Gate.of((gain.low > 0.0, said), (qini.low > 0.0, by_chance))


def _fit(
    comparison: Comparison, trial: Trial, choice: Choice, forester: Forester, response: xgb.Booster
) -> UpliftModel:
    learner = LEARNERS[choice.learner](forester)
    trees = learner.fit(trial.matrix, trial.treatment, trial.outcome, trial.propensity)
    spec = UpliftSpec(
        learner=choice.learner,
        arm=comparison.arm,
        control=comparison.control,
        outcome=comparison.outcome,
        treated_share=trees.treated_share,
        gains=tuple(incremental(trial, choice.held_out).tolist()),
    )
    return UpliftModel(comparison.rows.schema, spec, trees, response)


def _measure(model: UpliftModel, test: Trial, seed: int) -> tuple[dict[str, Interval], Interval]:
    judge, ours = Judge(test.outcome, test.treatment, test.mass), model.trees.uplift(test.matrix)
    return judge.measure(ours, seed), judge.qini_gain(ours, predict(model.response, test.matrix), seed)


def _held_out(
    model: UpliftModel, trial: Trial, uplift: Floats, response: Floats, test: Trial, seed: int
) -> tuple[Interval, Interval]:
    """Qini gain over propensity, and over chance, on all rows.

    Args:
        uplift, response: the held-out scores of `trial`.
    """
    rows = trial.joined(test)
    judge = Judge(rows.outcome, rows.treatment, rows.mass)
    ours = np.r_[uplift, model.trees.uplift(test.matrix)]
    propensity = np.r_[response, predict(model.response, test.matrix)]
    return judge.qini_gain(ours, propensity, seed), judge.qini_gain(ours, np.zeros(len(ours)), seed)


def _golden(model: UpliftModel, dataset: Dataset, seed: int) -> list[dict[str, Any]]:
    rows = made_up_customers(dataset, seed)
    return [{"attributes": row, "uplift": found} for row, found in zip(rows, model.uplift(rows).tolist(), strict=True)]


def _card(
    comparison: Comparison,
    trial: Trial,
    choice: Choice,
    measured: dict[str, Interval],
    gain: Interval,
    gain_held_out: Interval,
) -> str:
    dataset = comparison.rows
    rows = ", ".join(f"{len(dataset.take(part))} {part}" for part in Part)
    values = ", ".join(f"{TITLES[learner]} {value:.5f}" for learner, value in choice.values.items())
    best_of = (
        f" It is that of the best of {len(choice.values)} learners, which the train and valid rows, counted here, also "
        "chose: it is a little too good. The test rows alone had no part in the choice."
        if len(choice.values) > 1
        else ""
    )
    return f"""# Uplift of {comparison.arm}

By how much {comparison.arm!r} instead of {comparison.control!r} changes the probability of `{comparison.outcome}`, \
for deciding whom a contact helps. Below zero, a contact drives the customer away.

## Data

`{dataset.source.name}`, schema `{dataset.schema.name}`, sha256 `{dataset.sha256}`; rows of the two arms: {rows}. \
Propensities: {trial.how}{"" if trial.mass is None else "; they vary, so rows are weighted by their inverse"}.

## Model

{TITLES[choice.learner]} on XGBoost, chosen by the cross-validated value of its order on the train and valid rows, \
in outcomes a customer (the higher the better): {values}.

## Measured on the test rows

{card_table({**measured, GAIN: gain})}
Qini and AUUC as scikit-uplift defines them.

## Measured on all rows, each held out

{card_table({GAIN: gain_held_out})}
This gain decides whether the model passes its gate.{best_of}

## Limits

An uplift is a mean over customers with the same attributes, never a fact about one. Where propensities are \
estimated, it is causal only as far as the attributes tell why a customer was contacted. Figures hold for this arm, \
this outcome and customers like those of the data.
"""
