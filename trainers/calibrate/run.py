"""`calibrate`: every estimate that a folder of data sets allows, in an order in which each sees the earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from churnsaver.domain.world import World
from churnsaver.errors import BadInput, SettingsError
from trainers.calibrate import bank_marketing, completejourney, coupon_acceptance, hillstrom, starbucks
from trainers.calibrate.estimate import Context, Estimate, rounded
from trainers.calibrate.statistics import Heterogeneity
from trainers.env.params import DynamicsParams, with_value
from trainers.env.population import SYNTHETIC_CUSTOMERS, synthetic_population

DIRECT: tuple[ModuleType, ...] = (bank_marketing, coupon_acceptance, completejourney)
HETEROGENEITY: tuple[ModuleType, ...] = (starbucks, hillstrom)
DATA_SETS = (*DIRECT, *HETEROGENEITY)
# How rare persuadables are and how much acceptance spreads depend on each other; a few rounds settle both.
ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was estimated, and which files were missing, each with the parameters that stay as they are for it."""

    estimates: list[Estimate]
    missing: dict[str, list[str]]


def calibrate(
    folder: Path, world: World, params: DynamicsParams, seed: int, advance: Callable[[], None] = lambda: None
) -> Calibration:
    """Estimates all parameters whose data sets lie in `folder`.

    Raises:
        BadInput: the folder has none of them, or one is broken: the message names file, row and column.
    """
    missing = {
        name: list(module.PARAMETERS) for module in DATA_SETS for name in module.FILES if not (folder / name).is_file()
    }
    if len(missing) == sum(len(module.FILES) for module in DATA_SETS):
        raise BadInput(f"{folder}: has none of the data sets {', '.join(missing)}; name the folder that holds them")
    context = Context(world, params, synthetic_population(world, params, SYNTHETIC_CUSTOMERS, seed), seed)
    estimates: list[Estimate] = []
    for module in DIRECT:
        if not any(name in missing for name in module.FILES):
            estimates += module.estimates(folder, context)
        advance()
    estimates = _playable(estimates, params)
    context = _with(context, estimates)
    measured: dict[ModuleType, Heterogeneity] = {}
    for module in HETEROGENEITY:
        if not any(name in missing for name in module.FILES):
            measured[module] = module.measure(folder, seed)
        advance()
    return Calibration(estimates + _settled(measured, context), missing)


def _settled(measured: dict[ModuleType, Heterogeneity], context: Context) -> list[Estimate]:
    for _ in range(ROUNDS):
        before = context.params
        for module, heterogeneity in measured.items():
            solved = rounded(module.solve(heterogeneity.variation[0], context))
            context = replace(context, params=with_value(context.params, module.PARAMETERS[0], solved))
        if context.params == before:
            break
    return [module.translate(heterogeneity, context) for module, heterogeneity in measured.items()]


def _playable(estimates: list[Estimate], params: DynamicsParams) -> list[Estimate]:
    """The estimates, those that the dynamics cannot play not used."""
    return [_if_playable(estimate, params) for estimate in estimates]


def _if_playable(estimate: Estimate, params: DynamicsParams) -> Estimate:
    try:
        with_value(params, estimate.parameter, estimate.value)
    except SettingsError as error:
        return replace(estimate, used=False, note=f"not used, the environment cannot play it ({error})")
    return estimate


def _with(context: Context, estimates: list[Estimate]) -> Context:
    params = context.params
    for estimate in estimates:
        if estimate.used:
            params = with_value(params, estimate.parameter, estimate.value)
    return replace(context, params=params)
