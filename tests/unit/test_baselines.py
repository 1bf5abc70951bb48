"""The served baselines: what each contacts, with which probability, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from churnsaver.checkpoints import Checkpoint, Manifest
from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.money import offer_costs_cents, retained_value_usd
from churnsaver.domain.observation import observation_names
from churnsaver.errors import CheckpointError
from churnsaver.models.baselines import (
    BASELINES,
    NeverContact,
    PropensityPolicy,
    ThompsonPolicy,
    UpliftTreesPolicy,
    load_baselines,
)
from churnsaver.models.baselines.pacing import Pacing, Schedule
from churnsaver.models.baselines.spend import Worth
from churnsaver.models.baselines.thompson import Posterior
from churnsaver.models.baselines.uplift_trees import UpliftForest, UpliftTree
from churnsaver.settings import load_world
from tests.support.baselines import seen, small_baselines, small_bundle, stump, thompson_spec, uplift_spec

WORLD = load_world()
SPACE = ActionSpace(WORLD)
NAMES = observation_names(WORLD)


def observed(n: int = 1, hour: float = 12.0, **values: float) -> np.ndarray:
    """N rested customers who are alike, at this local hour."""
    row = dict.fromkeys(NAMES, 0.0) | {"risk": 0.5, "log_monthly_usd": np.log1p(50.0) / 6.0} | values
    row |= {"hour_sin": np.sin(2 * np.pi * hour / 24), "hour_cos": np.cos(2 * np.pi * hour / 24)}
    return np.tile([row[name] for name in NAMES], (n, 1)).astype(np.float32)


def everything(n: int = 1) -> np.ndarray:
    return np.ones((n, len(SPACE)), dtype=bool)


@given(seed=st.integers(0, 10_000), name=st.sampled_from(["propensity", "uplift_trees", "thompson_sampling", "never"]))
@settings(max_examples=40, deadline=None)
def test_rows_are_distributions_under_the_mask(seed: int, name: str) -> None:
    """Whatever is seen and allowed: rows sum to 1, nothing is negative, and nothing masked has a chance."""
    policy = {**POLICIES, "never": NeverContact()}[name]
    observation, allowed = seen(WORLD, 20, seed)
    probabilities = policy.probabilities(observation, allowed)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    assert (probabilities >= 0.0).all()
    assert not probabilities[~allowed].any()
    nothing = np.zeros_like(allowed)
    nothing[:, NO_CONTACT] = True
    assert (policy.probabilities(observation, nothing)[:, NO_CONTACT] == 1.0).all()


POLICIES = small_baselines(WORLD)


@pytest.mark.parametrize("name", POLICIES)
def test_a_row_is_answered_alike_alone_and_in_a_batch(name: str) -> None:
    """A propensity does not depend on who else is decided about, nor on the day: all is seeded."""
    observation, allowed = seen(WORLD, 700)
    together = POLICIES[name].probabilities(observation, allowed)
    for row in (0, 5, 600):
        alone = POLICIES[name].probabilities(observation[row : row + 1], allowed[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-12)
    assert (small_baselines(WORLD)[name].probabilities(observation, allowed) == together).all()
    assert 0.05 < (together.argmax(axis=1) != NO_CONTACT).mean() < 0.95


# -- pacing --------------------------------------------------------------------------------------------


def test_without_an_hour_the_first_allowed_delay_is_taken() -> None:
    """Per offer, and nothing where no delay is allowed."""
    allowed = everything()
    allowed[0, [SPACE.index_of("discount_10", 0), SPACE.index_of("discount_10", 6)]] = False
    allowed[0, [SPACE.index_of("check_in", delay) for delay in WORLD.delays_hours]] = False
    actions = Schedule(WORLD, Pacing(rest_hours=168)).actions(observed(), allowed)[0]
    assert [SPACE[int(index)].label for index in actions] == [
        "no_contact", "discount_10+12h", "discount_20+0h", "discount_30+0h", "bonus_pack+0h",
    ]  # fmt: skip


@pytest.mark.parametrize(("hour", "delay"), [(18.0, 0), (12.5, 6), (6.0, 12), (23.9, None), (17.0, 0), (9.5, 6)])
def test_sends_come_near_the_hour_or_wait(hour: float, delay: int | None) -> None:
    """The delay that ends nearest to 18:00, if within three hours; of today and tomorrow, today."""
    pacing = Pacing(rest_hours=168, send_hour=18.0, within_hours=3.0)
    action = SPACE[int(Schedule(WORLD, pacing).actions(observed(hour=hour), everything())[0, 0])]
    assert (action.delay_hours if action.contact else None) == delay


@pytest.mark.parametrize(("hours", "contacts"), [(100.0, False), (167.0, False), (169.0, True), (np.inf, True)])
def test_customers_rest(hours: float, contacts: bool) -> None:
    """A week after the last contact they may be contacted again."""
    observation = observed(recency=float(np.exp(-hours / 168.0)))
    assert (Schedule(WORLD, Pacing(rest_hours=168)).actions(observation, everything())[0] > 0).all() == contacts


# -- propensity ----------------------------------------------------------------------------------------


def test_propensity_contacts_from_the_threshold_on() -> None:
    """With its one offer; an offer that the world lacks is refused."""
    observation = np.concatenate([observed(risk=risk) for risk in (0.1, 0.3, 0.6)])
    chosen = PropensityPolicy(WORLD, 0.3, "discount_20", 168).probabilities(observation, everything(3)).argmax(axis=1)
    assert [SPACE[int(index)].label for index in chosen] == ["no_contact", "discount_20+0h", "discount_20+0h"]
    with pytest.raises(ValueError, match="bonus_pony"):
        PropensityPolicy(WORLD, 0.3, "bonus_pony", 168)


# -- uplift trees --------------------------------------------------------------------------------------


def walk(tree: UpliftTree, row: np.ndarray) -> tuple[float, ...]:
    """One customer down one tree, a node at a time."""
    node = 0
    while tree.left[node] != node:
        node = tree.left[node] if row[tree.feature[node]] <= tree.threshold[node] else tree.right[node]
    return tree.uplift[node]


def random_tree(rng: np.random.Generator, nodes: int, features: int) -> UpliftTree:
    """Splits random leaves until there are enough nodes."""
    left, right = [0], [0]
    while len(left) < nodes:
        leaf = int(rng.choice([node for node in range(len(left)) if left[node] == node]))
        left[leaf], right[leaf] = len(left), len(left) + 1
        left += [len(left), len(left) + 1]
        right += [len(right), len(right) + 1]
    n = len(left)
    return UpliftTree(
        feature=tuple(rng.integers(features, size=n).tolist()),
        threshold=tuple(rng.random(n).tolist()),
        left=tuple(left),
        right=tuple(right),
        uplift=tuple(tuple(row) for row in rng.uniform(-1, 1, (n, 5)).tolist()),
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_forest_is_walked_as_its_trees_one_by_one(seed: int) -> None:
    """Trees of different sizes, side by side, a lone root among them."""
    rng = np.random.default_rng(seed)
    trees = tuple(random_tree(rng, nodes, 3) for nodes in (1, 3, int(rng.integers(5, 40))))
    rows = rng.random((30, 3)).astype(np.float32)
    expected = [np.mean([walk(tree, row) for tree in trees], axis=0) for row in rows]
    np.testing.assert_allclose(UpliftForest(trees).uplift(rows), expected)


def test_uplift_is_valued_in_dollars_net_of_cost() -> None:
    """0.3 of the retained value less the expected cost; below the threshold nothing is worth a contact."""
    policy = UpliftTreesPolicy(WORLD, uplift_spec(WORLD))
    observation = np.concatenate([observed(acceptance_discount_10=0.5), observed(risk=0.1)])
    values = policy.values_usd(observation)
    cost_usd = 0.5 * offer_costs_cents(WORLD, 50.0)[0, 1] / 100.0 + 0.05
    assert values[0, 1] == pytest.approx(0.3 * retained_value_usd(WORLD, 50.0) - cost_usd, rel=1e-5)
    chosen = policy.probabilities(observation, everything(2)).argmax(axis=1)
    assert [SPACE[int(index)].label for index in chosen] == ["discount_10+0h", "no_contact"]


def test_a_price_on_spend_turns_to_cheaper_offers_and_a_hurdle_to_none() -> None:
    """The dearest offer gives way where its spend is priced; nothing clears a high hurdle."""
    tree = stump((0.05, 0.06, 0.07, 0.5, 0.06))
    sure = observed(**{f"acceptance_{offer.id}": 1.0 for offer in WORLD.offers})
    labels = []
    for worth in (Worth(spend_price=p, hurdle_usd=h) for p, h in ((0.0, 0.0), (5.0, 0.0), (0.0, 1e4))):
        spec = uplift_spec(WORLD).model_copy(update={"trees": (tree,), "worth": worth})
        chosen = UpliftTreesPolicy(WORLD, spec).probabilities(sure, everything()).argmax()
        labels.append(SPACE[int(chosen)].label)
    assert labels == ["discount_30+0h", "check_in+0h", "no_contact"]


# -- Thompson sampling ---------------------------------------------------------------------------------


def test_propensities_are_how_often_a_thompson_draw_chooses() -> None:
    """Against 40,000 draws of its own from the posterior, made the slow way."""
    spec = thompson_spec(WORLD).model_copy(update={"draws": 4096})
    observation, allowed = observed(acceptance_check_in=0.2), everything()
    found = ThompsonPolicy(WORLD, spec).probabilities(observation, allowed)[0]
    rng = np.random.default_rng(99)
    z = (observation[0, [NAMES.index(f.name) for f in spec.features]].astype(float) - 0.4) / 0.3
    x = np.array([1.0, *z, *(z[i] * z[j] for i in range(3) for j in range(i, 3))])
    sampled = np.column_stack(
        [
            rng.multivariate_normal(p.mean, np.array(p.cholesky) @ np.array(p.cholesky).T, size=40_000) @ x
            for p in spec.posteriors
        ]
    )
    best = np.where(sampled.max(axis=1) > 0.0, sampled.argmax(axis=1), -1)
    for number, offer in enumerate(WORLD.offers):
        frequency = float((best == number).mean())
        assert found[SPACE.index_of(offer.id, 0)] == pytest.approx(frequency, abs=0.035)
    assert found[NO_CONTACT] == pytest.approx((best == -1).mean(), abs=0.035)
    assert found.max() < 0.9


def test_every_allowed_action_has_at_least_epsilon() -> None:
    """Also customers who rest: a log holds every allowed action now and then."""
    observation, allowed = seen(WORLD, 200)
    observation[:, NAMES.index("recency")] = 0.99
    probabilities = ThompsonPolicy(WORLD, thompson_spec(WORLD, epsilon=0.002)).probabilities(observation, allowed)
    assert (probabilities[allowed] >= 0.002 - 1e-15).all()
    assert probabilities[:, NO_CONTACT].min() > 1.0 - 0.002 * len(SPACE)


def test_another_seed_gives_other_draws_and_nearly_the_same_propensities() -> None:
    """256 draws estimate a probability to within a few hundredths."""
    observation, allowed = seen(WORLD, 100)
    first, second = (
        ThompsonPolicy(WORLD, thompson_spec(WORLD).model_copy(update={"seed": seed})).probabilities(
            observation, allowed
        )
        for seed in (1, 2)
    )
    assert (first != second).any()
    np.testing.assert_allclose(first, second, atol=0.2)


# -- files ---------------------------------------------------------------------------------------------


def checkpoint_with(document: Any) -> Checkpoint:
    contents = {} if document is None else {BASELINES: json.dumps(document).encode()}
    manifest = Manifest(kind="policy", version="policy-x", seed=1, files={})
    return Checkpoint(Path("policy-x"), manifest, "0" * 64, contents)


def bundle() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(small_bundle(WORLD))
    return document


def test_a_checkpoint_brings_its_baselines_or_none() -> None:
    """What was written answers the same again; an older checkpoint without the file has none."""
    loaded = load_baselines(checkpoint_with(bundle()), WORLD)
    observation, allowed = seen(WORLD, 50)
    for name, policy in POLICIES.items():
        np.testing.assert_array_equal(
            loaded[name].probabilities(observation, allowed), policy.probabilities(observation, allowed)
        )
    assert load_baselines(checkpoint_with(None), WORLD) == {}


def edit(path: str, value: Any) -> dict[str, Any]:
    """The bundle with one value replaced, named by its dotted path."""
    document = bundle()
    *parents, last = path.split(".")
    node: Any = document
    for key in parents:
        node = node[int(key)] if key.isdigit() else node[key]
    node[int(last) if last.isdigit() else last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("propensity", {}, "propensity.threshold: Field required"),
        ("propensity.threshold", 1.5, "propensity.threshold: Input should be less than or equal to 1"),
        ("propensity.offer", "pony", "another world .*pony"),
        ("propensity.pacing.rest_hours", -1, "propensity.pacing.rest_hours"),
        ("uplift_trees.trees.0.left", [0, 0, 2], "uplift_trees.trees.0: Value error, node 0 has children 0 and 2"),
        ("uplift_trees.trees.0.threshold", [0.1], "must be equally many"),
        ("uplift_trees.trees.0.feature", [9, 0, 0], "a feature beyond the 3"),
        ("uplift_trees.trees.0.uplift", [[0.0]] * 3, "another number of offers"),
        ("uplift_trees.features.1", "shoe_size", "another world .*shoe_size"),
        ("uplift_trees.worth.spend_price", -1.5, "uplift_trees.worth.spend_price"),
        ("thompson_sampling.epsilon", 0.0, "thompson_sampling.epsilon: Input should be greater than 0"),
        ("thompson_sampling.epsilon", 0.06, "epsilon 0.06 is too much for 21 actions"),
        ("thompson_sampling.posteriors", [], "thompson_sampling.posteriors"),
        ("thompson_sampling.posteriors.0.cholesky.0", [1.0], "cholesky must have 10 rows of 10"),
        ("thompson_sampling.posteriors.0.mean", [1.0], "cholesky must have 1 rows"),
        ("thompson_sampling.features.0.std", 0.0, "thompson_sampling.features.0.std"),
        ("golden.allowed", [[True]], "golden: expected 16 cases"),
        ("golden.probabilities", {}, "golden: expected 16 cases"),
        ("golden.probabilities.propensity.0.0", 0.5, "golden case 0 of propensity differs by 0.5"),
        ("surprise", 1, "surprise: Extra inputs"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense_are_refused(path: str, value: Any, message: str) -> None:
    """One sentence that names the value and how to mend it; nothing is served from it."""
    with pytest.raises(CheckpointError, match=rf"(?s){message}.*train"):
        load_baselines(checkpoint_with(edit(path, value)), WORLD)


@pytest.mark.parametrize("lower", [((1.0, 0.5), (0.0, 1.0)), ((0.0, 0.0), (0.0, 1.0))])
def test_a_posterior_needs_a_covariance(lower: tuple[tuple[float, ...], ...]) -> None:
    """No upper triangle and no zero variance."""
    with pytest.raises(ValidationError, match="lower triangle with a positive diagonal"):
        Posterior(mean=(0.0, 0.0), cholesky=lower)
