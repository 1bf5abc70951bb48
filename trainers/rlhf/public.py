"""Real preferences from public data: headlines that readers clicked more, requests that people found more polite.

Read from a folder that is passed in; nothing of them is shipped. Upworthy: Matias et al. 2021, "The Upworthy Research
Archive, a time series of 32,487 experiments in U.S. media" (https://doi.org/10.1038/s41597-021-00934-7). Politeness:
Danescu-Niculescu-Mizil et al. 2013, "A computational approach to politeness" (https://arxiv.org/abs/1306.6078).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import NormalDist

from churnsaver.errors import BadInput
from trainers.data.csv_reader import RawCsv, read_csv
from trainers.rlhf.corpus import PARTS
from trainers.rlhf.examples import Preference

UPWORTHY, POLITENESS = "upworthy_headlines.csv.gz", "politeness.csv.gz"
SIGNIFICANCE = 0.05  # two-sided level of the two-proportion z-test that a pair of headlines must pass
POLITENESS_GAP = 1.0  # in standard deviations of the annotators' normalised score
MAX_REQUEST_WORDS = 50
LENGTH_BAND = 1.15  # requests of a pair are of one band of length, a band reaching this many times its start


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm of a headline test."""

    headline: str
    impressions: int
    clicks: int

    @property
    def rate(self) -> float:
        return self.clicks / self.impressions


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two arms of one test with the same image, the one with the higher observed rate first.

    Attributes:
        difference: of the observed click rates, ≥ 0.
        variance: of `difference`, unpooled.
        z: of the two-proportion test, pooled, ≥ 0.
    """

    test: str
    better: Trial
    worse: Trial
    difference: float
    variance: float
    z: float

    def agrees(self, spread: float) -> float:
        """Probability that the true rates are ordered as the observed ones are.

        By normal shrinkage: true differences ~ N(0, spread²), observed ones around them with `variance`.
        """
        shrunk = spread / math.sqrt(spread**2 + self.variance)
        return NormalDist().cdf(self.difference / math.sqrt(self.variance) * shrunk)


@dataclass(frozen=True, slots=True)
class PublicPreferences:
    """Pairs by part, and what is to be known about them.

    Attributes:
        noise_ceiling: of the significant headline pairs, the accuracy that whoever knew the true click rates would
            have; None where there are none.
    """

    parts: dict[str, list[Preference]]
    noise_ceiling: float | None


def read_public(folder: Path | None, seed: int, say: Callable[[str], None] = lambda _: None) -> PublicPreferences:
    """The pairs of the files that `folder` has; `say` is told of each that it has not.

    Raises:
        BadInput: a file is there and is not what it should be.
    """
    parts: dict[str, list[Preference]] = {part: [] for part in PARTS}
    ceiling = None
    if (cells := _cells(folder, UPWORTHY, say)) is not None:
        found = contrasts(cells)
        spread = true_spread(found)
        level = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2)
        significant = [contrast for contrast in found if contrast.z >= level]
        for contrast in significant:
            parts[_part(contrast.test)].append(_headline_pair(contrast, spread))
        if significant:
            ceiling = sum(contrast.agrees(spread) for contrast in significant) / len(significant)
    if (cells := _cells(folder, POLITENESS, say)) is not None:
        for part, pairs in politeness_pairs(cells, seed).items():
            parts[part].extend(pairs)
    # A headline may be tried again in another test: what is held out has no text that was trained on.
    seen = {text for pair in parts["train"] for text in (pair.chosen, pair.rejected)}
    for part in PARTS[1:]:
        parts[part] = [pair for pair in parts[part] if seen.isdisjoint((pair.chosen, pair.rejected))]
    return PublicPreferences(parts, ceiling)


def contrasts(raw: RawCsv) -> list[Contrast]:
    """All pairs of different headlines of one test with the same image."""
    arms: defaultdict[tuple[str, str], list[Trial]] = defaultdict(list)
    columns = ("clickability_test_id", "eyecatcher_id", "headline", "impressions", "clicks")
    for i, row in enumerate(_rows(raw, columns)):
        test, image, headline, impressions, clicks = row
        if not (impressions.isdecimal() and clicks.isdecimal() and 0 <= int(clicks) <= int(impressions)):
            raise BadInput(
                f"{raw.path}, row {raw.row_number(i)}: has {clicks!r} clicks of {impressions!r} impressions; "
                "expected whole numbers, clicks at most impressions"
            )
        if int(impressions) > 0 and headline:
            arms[test, image].append(Trial(headline, int(impressions), int(clicks)))
    found = (_contrast(test, a, b) for (test, _), trials in arms.items() for a, b in itertools.combinations(trials, 2))
    return [contrast for contrast in found if contrast is not None]


def true_spread(found: Sequence[Contrast]) -> float:
    """Standard deviation of the true differences, by moments: what observed ones vary beyond their own noise."""
    excess = sum(contrast.difference**2 - contrast.variance for contrast in found) / max(len(found), 1)
    return math.sqrt(max(excess, 0.0))


def politeness_pairs(raw: RawCsv, seed: int) -> dict[str, list[Preference]]:
    """Requests of one community and about one length whose scores differ by POLITENESS_GAP or more, each used once."""
    bands: defaultdict[tuple[str, str, int], list[tuple[float, str]]] = defaultdict(list)
    for i, (community, request, score) in enumerate(_rows(raw, ("Community", "Request", "Normalized Score"))):
        words = len(request.split())
        if not 3 <= words <= MAX_REQUEST_WORDS:
            continue
        try:
            band = int(math.log(len(request), LENGTH_BAND))
            bands[_part(request), community, band].append((float(score), request))
        except ValueError:
            raise BadInput(
                f"{raw.path}, row {raw.row_number(i)}: Normalized Score is {score!r}; expected a number"
            ) from None
    rng = Random(seed)  # noqa: S311 - it decides which requests meet
    parts: dict[str, list[Preference]] = {part: [] for part in PARTS}
    for (part, _, _), requests in bands.items():
        requests.sort()
        half = len(requests) // 2
        rude, polite = requests[:half], requests[-half:] if half else []
        rng.shuffle(polite)
        for (low, rejected), (high, chosen) in zip(rude, polite, strict=True):
            if high - low >= POLITENESS_GAP and chosen != rejected:
                parts[part].append(Preference(chosen=chosen, rejected=rejected, kind="politeness"))
    return parts


def _contrast(test: str, a: Trial, b: Trial) -> Contrast | None:
    if a.headline == b.headline:
        return None
    better, worse = (a, b) if a.rate >= b.rate else (b, a)
    pooled = (a.clicks + b.clicks) / (a.impressions + b.impressions)
    pooled_variance = pooled * (1 - pooled) * (1 / a.impressions + 1 / b.impressions)
    variance = sum(arm.rate * (1 - arm.rate) / arm.impressions for arm in (a, b))
    if variance <= 0.0:
        return None
    difference = better.rate - worse.rate
    return Contrast(test, better, worse, difference, variance, difference / math.sqrt(pooled_variance))


def _headline_pair(contrast: Contrast, spread: float) -> Preference:
    """Weighted by what the test tells: 0 for a coin's throw, 1 where the order is certain."""
    weight = max(2 * contrast.agrees(spread) - 1, 1e-3)
    better, worse = contrast.better.headline, contrast.worse.headline
    return Preference(chosen=better, rejected=worse, kind="headline", weight=weight)


def _part(name: str) -> str:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % 10
    return "valid" if share == 8 else "test" if share == 9 else "train"


def _cells(folder: Path | None, name: str, say: Callable[[str], None]) -> RawCsv | None:
    if folder is None:
        say(f"no folder of public data was named: no pairs from {name}")
        return None
    if not folder.is_dir():
        raise BadInput(f"{folder}: is no folder; expected one that holds {UPWORTHY} or {POLITENESS}")
    if not (folder / name).exists():
        say(f"{folder}: has no {name}: no pairs from it")
        return None
    return read_csv(folder / name)


def _rows(raw: RawCsv, columns: Sequence[str]) -> Iterable[tuple[str, ...]]:
    if missing := [name for name in columns if name not in raw.cells.columns]:
        raise BadInput(f"{raw.path}: has no column {missing[0]!r}; expected {', '.join(columns)}")
    return raw.cells.select(columns).iter_rows()
