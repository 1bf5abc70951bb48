"""Fitting the baselines on a pilot, and turning all of them to one spend."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from churnsaver.checkpoints import Checkpoint, Manifest
from churnsaver.domain.eligibility import in_quiet_hours
from churnsaver.errors import BadInput
from churnsaver.models.baselines import BASELINES, PropensityPolicy, load_baselines
from churnsaver.models.baselines.thompson import quadratic
from churnsaver.models.baselines.uplift_trees import UpliftForest
from tests.support.campaign import population, settings
from trainers.agents.baselines import (
    BaselineFamily,
    Calibration,
    bundle_baselines,
    calibrate,
    equal_spend_baselines,
    fit_baselines,
)
from trainers.agents.baselines.bundle import SEED_OFFSET
from trainers.agents.baselines.families import Variant
from trainers.agents.baselines.fit import FEATURES, best_send_hour, export_tree, fit_posteriors, grow_forest
from trainers.agents.baselines.pilot import CONTACTED, Pilot, assignment, columns, run_pilot
from trainers.env.params import load_soft_limits

WORLD, PARAMS = settings()
N = 300
COLUMN = dict(zip(FEATURES, columns(WORLD, FEATURES), strict=True))


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    return run_pilot(WORLD, PARAMS, population(N), 42)


@pytest.fixture(scope="module")
def families() -> dict[str, BaselineFamily]:
    return fit_baselines(WORLD, PARAMS, population(N), 42)


def test_the_pilot_is_randomised_with_known_propensities(pilot: Pilot) -> None:
    """Three quarters are contacted, evenly over offers; inverse propensities weigh every arm to all customers."""
    assert (pilot.offer >= 0).mean() == pytest.approx(CONTACTED, abs=0.02)
    assert np.bincount(pilot.offer + 1)[1:].min() / len(pilot.offer) == pytest.approx(CONTACTED / 5, abs=0.02)
    for offer in range(-1, len(WORLD.offers)):
        arm = pilot.offer == offer
        risk = np.average(pilot.observation[arm, 0], weights=1.0 / pilot.propensity[arm])
        assert risk == pytest.approx(pilot.observation[:, 0].mean(), abs=0.03)
    assert not in_quiet_hours(WORLD.contact_rules.quiet_hours, pilot.send_hour[pilot.offer >= 0]).any()
    assert pilot.value_usd[pilot.offer < 0].std() < 0.1 * pilot.value_usd[pilot.offer >= 0].std()


def test_assignment_never_takes_what_is_masked() -> None:
    """All of the contacts' probability goes to what is allowed, and none where nothing is."""
    allowed = np.array([[True, True, False, True], [True, False, False, False]])
    np.testing.assert_allclose(assignment(allowed), [[0.25, 0.375, 0.0, 0.375], [1.0, 0.0, 0.0, 0.0]])


def test_nobody_to_contact_is_said() -> None:
    """Without consent there is no experiment."""
    unwilling = dataclasses.replace(population(50), consent=np.zeros(50, dtype=bool))
    with pytest.raises(BadInput, match="no customer consents"):
        run_pilot(WORLD, PARAMS, unwilling, 1)


def test_exported_trees_answer_as_causalml_does(pilot: Pilot) -> None:
    """On random rows, also outside of what was seen, to the last bits; they are no stumps."""
    features = pilot.observation[:, columns(WORLD, FEATURES)]
    forest = grow_forest(features, pilot.offer, pilot.stayed, 7)
    trees = tuple(export_tree(tree.tree_, len(WORLD.offers)) for tree in forest.estimators_)
    assert max(len(tree.uplift) for tree in trees) >= 3
    rows = np.random.default_rng(8).uniform(-0.2, 1.5, (2_000, len(FEATURES))).astype(np.float32)
    np.testing.assert_allclose(UpliftForest(trees).uplift(rows), forest.predict(rows), atol=1e-12)
    assert np.ptp(UpliftForest(trees).uplift(rows), axis=0).max() > 0.01


def test_the_best_hour_is_found(pilot: Pilot) -> None:
    """Among planted acceptances that peak at 18:00, whatever the offers' levels and the delays' drag."""
    rng = np.random.default_rng(3)
    wave = 0.2 * np.cos((pilot.send_hour - 18.0) * 2 * np.pi / 24)
    chance = 0.4 + wave + 0.05 * pilot.offer - 0.01 * pilot.delay_hours
    planted = dataclasses.replace(pilot, accepted=rng.random(len(chance)) < chance)
    assert best_send_hour(WORLD, planted) == pytest.approx(18.0, abs=1.5)
    night = 0.5 + 0.2 * np.cos((pilot.send_hour - 2.0) * 2 * np.pi / 24)
    at_night = best_send_hour(WORLD, dataclasses.replace(pilot, accepted=rng.random(len(night)) < night))
    assert not in_quiet_hours(WORLD.contact_rules.quiet_hours, np.array([at_night]))[0]


def test_posteriors_cover_planted_coefficients(pilot: Pilot) -> None:
    """Nine in ten of known coefficients lie within two standard deviations; more data makes them narrower."""
    rng = np.random.default_rng(4)
    scaling, _ = fit_posteriors(WORLD, pilot)
    z = np.column_stack([(pilot.observation[:, COLUMN[f.name]].astype(float) - f.mean) / f.std for f in scaling])
    truth = rng.normal(size=(len(WORLD.offers), quadratic(z).shape[1])) * 2.0
    value = (quadratic(z) * truth[pilot.offer]).sum(axis=1) + rng.normal(scale=5.0, size=len(z))
    _, posteriors = fit_posteriors(WORLD, dataclasses.replace(pilot, value_usd=value))
    errors = []
    for posterior, coefficients in zip(posteriors, truth, strict=True):
        lower = np.array(posterior.cholesky)
        std = np.sqrt(np.diag(lower @ lower.T))
        errors.append(np.abs(np.array(posterior.mean) - coefficients) / std)
    assert (np.concatenate(errors) < 2.0).mean() > 0.85
    few = dataclasses.replace(pilot, **{f.name: getattr(pilot, f.name)[:1_000] for f in dataclasses.fields(pilot)})
    wide = np.array(fit_posteriors(WORLD, dataclasses.replace(few, value_usd=value[:1_000]))[1][0].cholesky)
    assert np.linalg.det(wide) > np.linalg.det(np.array(posteriors[0].cholesky))


def test_spend_falls_as_the_dial_rises(families: dict[str, BaselineFamily]) -> None:
    """From the dearest to next to nothing, but for what a tried customer in a thousand costs.

    Of those who rest for four weeks: where all may be contacted weekly, the budget is gone whatever the dial.
    """
    calibration, four_weeks = Calibration(WORLD, PARAMS, population(N), 5), {"propensity": 8, "uplift_trees": 12}
    for name, family in families.items():
        variant = family.variants[four_weeks.get(name, 6)]
        assert variant.at(0.5).spec.pacing.rest_hours == 672
        spends = [calibration.play(variant.at(dial)).spend_usd for dial in (0.0, 0.7, 1.0)]
        assert spends[0] > spends[1] > spends[2]
        assert spends[2] < 0.3


@pytest.mark.parametrize("name", ["uplift_trees", "thompson_sampling"])
def test_each_is_calibrated_to_the_spend_and_keeps_the_limits(families: dict[str, BaselineFamily], name: str) -> None:
    """On the calibration's own customers and campaigns, within what one more acceptance costs."""
    limits, calibration = load_soft_limits(), Calibration(WORLD, PARAMS, population(N), 77)
    turned = calibrate(families[name], calibration, limits, 1.0)
    assert turned.trial.spend_usd == pytest.approx(1.0, rel=0.1)
    assert turned.trial.keeps(limits)
    assert calibration.play(turned.policy) == turned.trial


def test_what_cannot_spend_as_much_is_no_rival_of_what_can(families: dict[str, BaselineFamily]) -> None:
    """A variant that is worth more for a tenth of the spend does not compete at equal spend, unless it is alone."""
    calibration, limits = Calibration(WORLD, PARAMS, population(N), 77), load_soft_limits()
    free = Variant(lambda dial: PropensityPolicy(WORLD, 0.5 + dial / 2.0, "check_in", 672))
    wasteful = Variant(lambda dial: PropensityPolicy(WORLD, dial, "discount_30", 672))
    spends_little, spends_all = (calibration.turn(variant, 3.0) for variant in (free, wasteful))
    assert spends_little.trial.gain_usd > spends_all.trial.gain_usd
    assert spends_little.dearest_usd < 0.3
    assert calibrate(BaselineFamily((free, wasteful)), calibration, limits, 3.0).variant is wasteful
    assert calibrate(BaselineFamily((free,)), calibration, limits, 3.0).variant is free


@pytest.mark.stack
def test_a_checkpoints_baselines_spend_what_its_policy_spends() -> None:
    """The bundle is read back as it will be served, bitwise the same each time, at the spend of the policy."""
    policy, customers = PropensityPolicy(WORLD, 0.4, "discount_10", 672), population(N)
    baselines = equal_spend_baselines(policy, WORLD, PARAMS, load_soft_limits(), customers, 42)
    bundle = bundle_baselines(baselines, WORLD, PARAMS, customers, 42)
    again = equal_spend_baselines(policy, WORLD, PARAMS, load_soft_limits(), customers, 42)
    assert bundle == bundle_baselines(again, WORLD, PARAMS, customers, 42)
    manifest = Manifest(kind="policy", version="policy-x", seed=1, files={})
    served = load_baselines(Checkpoint(Path("policy-x"), manifest, "0" * 64, {BASELINES: bundle}), WORLD)
    calibration = Calibration(WORLD, PARAMS, customers, 42 + SEED_OFFSET)
    wanted = calibration.play(policy).spend_usd
    assert len(json.loads(bundle)["golden"]["observation"]) == 32
    for each in served.values():
        assert calibration.play(each).spend_usd == pytest.approx(wanted, rel=0.1)
