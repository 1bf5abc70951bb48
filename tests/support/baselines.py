"""Small baselines made by hand: quick to build, and each contacts some customers and leaves others alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from churnsaver.domain.actions import NO_CONTACT, ActionSpace
from churnsaver.domain.observation import observation_names
from churnsaver.domain.world import World
from churnsaver.models.baselines import (
    BaselinePolicy,
    PropensityPolicy,
    ThompsonPolicy,
    UpliftTreesPolicy,
    write_baselines,
)
from churnsaver.models.baselines.pacing import Pacing
from churnsaver.models.baselines.spend import Worth
from churnsaver.models.baselines.thompson import Posterior, Scaling, ThompsonSpec, quadratic
from churnsaver.models.baselines.uplift_trees import UpliftTree, UpliftTreesSpec

PACING = Pacing(rest_hours=168.0)
FREE = Worth(spend_price=0.0, hurdle_usd=0.0)
FEATURES = ("risk", "log_monthly_usd", "log_tenure_months")


def stump(uplifts: tuple[float, ...], threshold: float = 0.2) -> UpliftTree:
    """No uplift up to this risk, these uplifts beyond it."""
    nothing = (0.0,) * len(uplifts)
    return UpliftTree(
        feature=(0, 0, 0),
        threshold=(threshold, 0.0, 0.0),
        left=(1, 1, 2),
        right=(2, 1, 2),
        uplift=(nothing, nothing, uplifts),
    )


def uplift_spec(world: World, worth: Worth = FREE) -> UpliftTreesSpec:
    """One stump: the second offer works best."""
    uplifts = tuple(0.3 if number == 1 else 0.01 for number in range(len(world.offers)))
    return UpliftTreesSpec(features=FEATURES, trees=(stump(uplifts),), worth=worth, pacing=PACING)


def thompson_spec(world: World, seed: int = 1, epsilon: float = 1e-3, worth: Worth = FREE) -> ThompsonSpec:
    """Wide beliefs about every offer, centred on a few dollars, more for the risky."""
    scaling = tuple(Scaling(name=name, mean=0.4, std=0.3) for name in FEATURES)
    d = quadratic(np.zeros((1, len(FEATURES)))).shape[1]
    rng = np.random.default_rng(seed)
    posteriors = tuple(_belief(float(number) - 1.0, d, rng) for number in range(len(world.offers)))
    return ThompsonSpec(
        features=scaling, posteriors=posteriors, draws=256, seed=seed, epsilon=epsilon, worth=worth, pacing=PACING
    )


def _belief(level_usd: float, d: int, rng: np.random.Generator) -> Posterior:
    lower = np.tril(0.3 * rng.normal(size=(d, d)), -1) + np.eye(d)
    mean = (level_usd, 3.0, *rng.normal(size=d - 2).tolist())
    return Posterior(mean=mean, cholesky=tuple(tuple(row) for row in lower.tolist()))


def small_baselines(world: World) -> dict[str, BaselinePolicy]:
    """The three by name."""
    return {
        "propensity": PropensityPolicy(world, 0.2, "discount_10", PACING.rest_hours),
        "uplift_trees": UpliftTreesPolicy(world, uplift_spec(world)),
        "thompson_sampling": ThompsonPolicy(world, thompson_spec(world)),
    }


def seen(world: World, n: int, seed: int = 3) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Made-up observations, (n, features), and masks, (n, actions); half of the customers rest."""
    rng = np.random.default_rng(seed)
    observation = rng.uniform(0.0, 1.0, (n, len(observation_names(world)))).astype(np.float32)
    names = observation_names(world)
    observation[: n // 2, names.index("recency")] = 0.0
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    observation[:, names.index("hour_sin")], observation[:, names.index("hour_cos")] = np.sin(angle), np.cos(angle)
    allowed = rng.random((n, len(ActionSpace(world)))) < 0.6
    allowed[:, NO_CONTACT] = True
    return observation, allowed


def small_bundle(world: World) -> bytes:
    """`baselines.json` of them."""
    return write_baselines(small_baselines(world), *seen(world, 16))
