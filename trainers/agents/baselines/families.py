"""Each baseline as a family of policies with one dial, which is turned until they cost the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from churnsaver.domain.world import HOURS_PER_DAY, World
from churnsaver.models.baselines import BaselinePolicy, PropensityPolicy, ThompsonPolicy, UpliftTreesPolicy
from churnsaver.models.baselines.pacing import Pacing
from churnsaver.models.baselines.spend import Worth
from churnsaver.models.baselines.thompson import ThompsonSpec
from churnsaver.models.baselines.uplift_trees import UpliftTreesSpec
from trainers.agents.baselines.fit import FEATURES, best_send_hour, fit_posteriors, fit_uplift_trees
from trainers.agents.baselines.pilot import run_pilot
from trainers.env.params import DynamicsParams
from trainers.env.population import Population

# How long customers are left alone; the observation forgets what lies more than four weeks back.
RESTS_HOURS = (7 * HOURS_PER_DAY, 14 * HOURS_PER_DAY, 28 * HOURS_PER_DAY)
WITHIN_HOURS = 3.0
# What a contact must bring, beyond the price of its spend: the higher, the fewer and the better are contacted.
HURDLES_USD = (1.0, 3.0, 6.0)
# Where the dial of the uplift trees begins: they see a campaign and not the year after it, so their values come out
# low, and a price below 0 may be what they need to spend as much as others do.
LOWEST_PRICES = (0.0, -1.0)
DRAWS = 256
EPSILON = 1e-4  # 20 contacts an epoch that are allowed: a customer is tried at random every 500 days
MAX_DIAL = 0.999


@dataclass(frozen=True, slots=True)
class Variant:
    """Policies that differ in how much they spend only.

    Attributes:
        at: the policy at a dial in [0, 1]; the higher the dial, the less it spends.
    """

    at: Callable[[float], BaselinePolicy]


@dataclass(frozen=True, slots=True)
class BaselineFamily:
    """One baseline's variants, each with a dial of its own; the best of them is what is compared."""

    variants: tuple[Variant, ...]


def fit_baselines(world: World, params: DynamicsParams, population: Population, seed: int) -> dict[str, BaselineFamily]:
    """The three baselines by name, fitted on a pilot with customers of `population`; none is calibrated yet.

    Raises:
        BadInput: nobody in `population` can be reached.
    """
    pilot = run_pilot(world, params, population, seed)
    send_hour = best_send_hour(world, pilot)
    at_best = [Pacing(rest_hours=rest, send_hour=send_hour, within_hours=WITHIN_HOURS) for rest in RESTS_HOURS]
    at_once = [Pacing(rest_hours=rest) for rest in RESTS_HOURS]
    free = _worth(0.0, 0.0)
    trees = UpliftTreesSpec(
        features=FEATURES, trees=fit_uplift_trees(world, pilot, seed), worth=free, pacing=at_best[0]
    )
    scaling, posteriors = fit_posteriors(world, pilot)
    beliefs = ThompsonSpec(
        features=scaling,
        posteriors=posteriors,
        draws=DRAWS,
        seed=seed,
        epsilon=EPSILON,
        worth=free,
        pacing=at_best[0],
    )
    offers = [offer.id for offer in world.offers]
    return {
        "propensity": _family(_propensity, [world], offers, [*at_best, *at_once]),
        "uplift_trees": _family(_uplift_trees, [world], [trees], at_best, HURDLES_USD, LOWEST_PRICES),
        "thompson_sampling": _family(_thompson, [world], [beliefs], at_best, HURDLES_USD),
    }


def _family(at: Callable[..., BaselinePolicy], *choices: Sequence[Any]) -> BaselineFamily:
    """A variant for each combination of what `at` is told before the dial."""
    return BaselineFamily(tuple(Variant(partial(at, *choice)) for choice in product(*choices)))


def _propensity(world: World, offer: str, pacing: Pacing, dial: float) -> PropensityPolicy:
    """The dial is the risk from which customers are contacted."""
    return PropensityPolicy(world, dial, offer, pacing.rest_hours, pacing.send_hour, pacing.within_hours)


def _uplift_trees(
    world: World, spec: UpliftTreesSpec, pacing: Pacing, hurdle_usd: float, lowest_price: float, dial: float
) -> UpliftTreesPolicy:
    worth = _worth(dial, hurdle_usd, lowest_price)
    return UpliftTreesPolicy(world, spec.model_copy(update={"worth": worth, "pacing": pacing}))


def _thompson(world: World, spec: ThompsonSpec, pacing: Pacing, hurdle_usd: float, dial: float) -> ThompsonPolicy:
    return ThompsonPolicy(world, spec.model_copy(update={"worth": _worth(dial, hurdle_usd), "pacing": pacing}))


def _worth(dial: float, hurdle_usd: float, lowest_price: float = 0.0) -> Worth:
    """The dial is the price of a dollar spent: the lowest at 0, 1 more at 1/2, beyond every offer's worth near 1."""
    dial = min(dial, MAX_DIAL)
    return Worth(spend_price=lowest_price + dial / (1.0 - dial), hurdle_usd=hurdle_usd)
