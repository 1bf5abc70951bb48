"""A logged bandit from anyone's CSV: a schema says which column is the action, its propensity and the outcome."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from churnsaver.domain.money import offer_costs_cents
from churnsaver.domain.schema import MISSING, NUMERIC_ROLES, Role
from churnsaver.domain.world import World
from churnsaver.errors import BadInput, SchemaError
from trainers.data.csv_reader import RawCsv
from trainers.data.dataset import Dataset
from trainers.ope.estimators import Predicted
from trainers.ope.logged import Floats, Ints, LoggedBandit
from trainers.ope.outcome_model import cross_fit, cross_fit_actions, folds_of

TARGETS = ("uniform", "greedy", "thompson")
THOMPSON_DRAWS = 4_000
MAX_ONE_HOT = 30  # categories of one column that the outcome model reads; the rest count as one


def logged_from_csv(
    dataset: Dataset, world: World, target: str, seed: int
) -> tuple[LoggedBandit, dict[str, Predicted]]:
    """The log of a CSV for a target policy over its actions, and cross-fitted predictions of its outcomes.

    The outcome is 1 or 0. Where the actions are env.yaml's offers and the schema names a revenue, the accepted
    offer's cost is estimated too, as spend_usd.

    Args:
        target: one of TARGETS, or an action that is always taken. `greedy` takes the action that a model of the
            other folds' rows thinks best; `thompson` is Beta-Bernoulli Thompson sampling after the other folds'
            rows, its probabilities counted over THOMPSON_DRAWS seeded draws (Chapelle & Li 2011).

    Raises:
        SchemaError, BadInput: a role is missing, an action is outside the catalogue, or the target is unknown.
    """
    names = dataset.column(Role.TREATMENT).to_list()
    catalogue = _catalogue(dataset, world, names)
    actions = np.array([catalogue.index(name) for name in names])
    rewards = dataset.yes(Role.OUTCOME).astype(np.float64)
    propensities = dataset.column(Role.PROPENSITY).to_numpy().astype(np.float64)
    features, described = _features(dataset), np.eye(len(catalogue))
    clusters = np.arange(len(rewards))
    folds = folds_of(clusters, seed)
    if target == "greedy":
        best = cross_fit_actions(features, actions, described, rewards, folds).argmax(axis=1)
        probabilities = described[best]
    else:
        probabilities = _context_free(target, catalogue, actions, rewards, folds, seed)
    costs = _spend(dataset, world, catalogue, actions, rewards)
    chosen = probabilities[np.arange(len(actions)), actions]
    logged = LoggedBandit(rewards, propensities, chosen, costs, clusters)
    models = cross_fit(features, actions, described, {"reward": rewards, **costs}, probabilities, folds)
    return logged, models


def _catalogue(dataset: Dataset, world: World, names: list[str]) -> list[str]:
    """What can be done: what the schema lists; else env.yaml's offers where any was logged; else what was logged."""
    column = dataset.schema.name_of(Role.TREATMENT)
    assert column is not None
    offers = [offer.id for offer in world.offers]
    found = list(dataset.schema.columns[column].categories or ())
    if None in names:
        raise SchemaError(
            f"{dataset.source}, row {RawCsv.row_number(names.index(None))}, column {column}: no action; name it"  # type: ignore[arg-type]
        )
    if not set(found) & set(offers):
        return found
    if strange := [name for name in found if name not in offers]:
        row = RawCsv.row_number(names.index(strange[0])) if strange[0] in names else None
        where = f", row {row}" if row else ""
        raise BadInput(
            f"{dataset.source}{where}, column {column}: is {strange[0]!r}; expected one of env.yaml's offers "
            f"{', '.join(offers)}; add the offer there or leave the row out"
        )
    return offers


def _context_free(target: str, catalogue: list[str], actions: Ints, rewards: Floats, folds: Ints, seed: int) -> Floats:
    """Probabilities that do not look at the row's features, (n, actions)."""
    n, k = len(actions), len(catalogue)
    if target == "uniform":
        return np.full((n, k), 1.0 / k)
    if target == "thompson":
        per_fold = {
            fold: thompson_probabilities(actions[folds != fold], rewards[folds != fold], k, [seed, int(fold)])
            for fold in np.unique(folds)
        }
        return np.array([per_fold[fold] for fold in folds])
    if target in catalogue:
        return np.broadcast_to(np.eye(k)[catalogue.index(target)], (n, k))
    raise BadInput(f"--target is {target!r}; expected {', '.join(TARGETS)} or an action: {', '.join(catalogue)}")


def thompson_probabilities(actions: Ints, rewards: Floats, n_actions: int, seed: list[int]) -> Floats:
    """How often each action's draw from its Beta(1 + yes, 1 + no) posterior is the largest, (actions,)."""
    yes = np.bincount(actions, weights=rewards, minlength=n_actions)
    shown = np.bincount(actions, minlength=n_actions)
    draws = np.random.default_rng(seed).beta(1.0 + yes, 1.0 + shown - yes, size=(THOMPSON_DRAWS, n_actions))
    return np.bincount(draws.argmax(axis=1), minlength=n_actions) / THOMPSON_DRAWS


def _features(dataset: Dataset) -> Floats:
    """Numbers as they are, 0 where missing; categories one-hot, (n, features)."""
    columns: list[Floats] = [np.zeros(len(dataset))]
    for name in dataset.schema.feature_names:
        cells = dataset.frame[name]
        if dataset.schema.columns[name].role in NUMERIC_ROLES:
            columns.append(cells.fill_null(0.0).to_numpy().astype(np.float64))
        else:
            common = cells.drop_nulls().value_counts(sort=True)[name].to_list()[1:MAX_ONE_HOT]
            columns += [(cells == category).fill_null(value=False).to_numpy().astype(np.float64) for category in common]
    return np.column_stack(columns)


def _spend(
    dataset: Dataset, world: World, catalogue: list[str], actions: Ints, rewards: Floats
) -> Mapping[str, Floats]:
    revenue = dataset.schema.name_of(Role.REVENUE)
    if revenue is None or catalogue != [offer.id for offer in world.offers]:
        return {}
    monthly_usd = np.array([0.0 if value in MISSING else value for value in dataset.frame[revenue].to_list()])
    offer_usd = offer_costs_cents(world, monthly_usd)[np.arange(len(actions)), actions] / 100.0
    return {"spend_usd": rewards * offer_usd}
