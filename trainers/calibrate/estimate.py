"""One parameter of the environment as a data set says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from churnsaver.domain.world import World
from trainers.env.params import DynamicsParams
from trainers.env.population import Population

DIGITS = 3  # significant; no interval here is narrow enough for more


@dataclass(frozen=True, slots=True)
class Context:
    """What estimates are translated into: the environment as far as it is calibrated, and whom it is played with."""

    world: World
    params: DynamicsParams
    population: Population
    seed: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its 95 % interval.

    Attributes:
        parameter: path below `dynamics:` of `env.yaml`.
        file: the data set.
        estimator: how it was estimated and translated, in one sentence.
        note: what the figure may not be taken for.
        used: it replaces the value in `env.yaml`; False where the data does not identify it well enough.
    """

    parameter: str
    value: float
    low: float
    high: float
    file: str
    estimator: str
    note: str
    used: bool = True

    @classmethod
    def of(cls, parameter: str, interval: tuple[float, float, float], file: str, estimator: str, note: str) -> Estimate:
        """From a value and its interval, rounded to what they can bear."""
        value, low, high = (rounded(number) for number in interval)
        return cls(parameter, value, low, high, file, estimator, note)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rounded(number: float) -> float:
    """To `DIGITS` significant digits, and never to -0."""
    return float(f"{number:.{DIGITS}g}") + 0.0
