"""`eval rm`: how often the served reward model agrees with held-out preferences, beside scorers that know less.

Pairs of one scenario, and public pairs that share a text, are not independent, so intervals are of a bootstrap over
scenarios, or over pairs that are so connected (the arms of a headline test). The rivals are learned on
the training pairs: one sees lengths alone, the other bags of words and pairs of words.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, vstack
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.reward import RewardModel
from trainers.eval.figures import new_axes, svg
from trainers.eval.metrics import Interval
from trainers.eval.resample import TwoWayBootstrap, percentile_interval
from trainers.rlhf.corpus import scenario_of
from trainers.rlhf.examples import Preference
from trainers.rlhf.reward_data import Pairs
from trainers.rlhf.reward_model import RmSettings
from trainers.rlhf.win_rate import agreed_bounds

Floats = NDArray[np.float64]
HEADLINE = "headline"
WORD = r"(?u)\{?\w+\}?|[!?]"  # slots are words, and a mark that shouts is one


def evaluate(
    model: RewardModel, checkpoint: Checkpoint, pairs: Pairs, world: World, settings: RmSettings, seed: int
) -> dict[str, Any]:
    """Every figure of the report, and which targets were missed.

    Raises:
        BadInput: no held-out pair has a brief.
    """
    ours = [pair for pair in pairs.test if pair.brief is not None]
    others = [pair for pair in pairs.test if pair.brief is None]
    if not ours:
        raise BadInput("no held-out preference has a brief; `churn-saver data preferences` writes such pairs")
    scored, ms = timed_scores(model, [*ours, *others])
    margins = scored.mean(axis=-1) @ np.array([1.0, -1.0])
    rivals = {
        "length_only": rival(pairs.train, [*ours, *others], lengths),
        "bag_of_words": rival(pairs.train, [*ours, *others], bags_of_words),
    }
    n = len(ours)
    clusters = cluster_numbers(ours, world)
    everyone = {"reward_model": margins, **rivals}
    overall = {name: accuracy(found[:n], clusters, seed) for name, found in everyone.items()}
    result: dict[str, Any] = {
        "checkpoint": {
            "kind": checkpoint.manifest.kind,
            "version": checkpoint.version,
            "sha256": checkpoint.sha256,
            "parents": dict(checkpoint.manifest.parents),
        },
        "pairs": n,
        "ms_per_text": ms,
        "log_loss": float(np.logaddexp(0.0, -margins[:n]).mean()),
        "members_disagree": float((np.ptp(np.sign(scored[:n, 0] - scored[:n, 1]), axis=-1) > 0).mean()),
        "accuracy": overall,
        "by_kind": by_kind(ours, {name: found[:n] for name, found in everyone.items()}, clusters, seed),
        "length": length_bias(ours, scored[:n].mean(axis=-1), margins[:n]),
    }
    if others:
        numbers = connected(others)
        result["public"] = by_kind(others, {name: found[n:] for name, found in everyone.items()}, numbers, seed)
        told = [(pair.weight + 1.0) / 2.0 for pair in others if pair.kind == HEADLINE]
        result["public_clusters"] = int(numbers.max()) + 1
        if told:
            result["headline_noise_ceiling"] = float(np.mean(told))
    result["missed"] = missed(result, settings)
    return result


def timed_scores(model: RewardModel, pairs: Sequence[Preference]) -> tuple[Floats, float]:
    """Scores of chosen and rejected, (pairs, 2, members), and milliseconds a text."""
    briefs = [pair.brief for pair in pairs]
    begun = time.perf_counter()
    scores = [model.scores(briefs, [getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]
    return np.stack(scores, axis=1), (time.perf_counter() - begun) * 1000.0 / (2 * len(pairs))


def missed(result: Mapping[str, Any], settings: RmSettings) -> list[str]:
    """A sentence for each target that was missed."""
    scorers, length = result["accuracy"], result["length"]
    ours = scorers["reward_model"]["value"]
    best = max(scorers[name]["value"] for name in ("length_only", "bag_of_words"))
    correlation = length["correlation"]
    lead = (
        f"{ours - best:.3f} better than the better of a length-only and a bag-of-words scorer, at least "
        f"{settings.min_lead:g} is demanded"
    )
    demands = [
        (ours >= settings.min_accuracy, at_least("accuracy on held-out pairs", ours, settings.min_accuracy)),
        (ours - best >= settings.min_lead, lead),
    ]
    if correlation is not None:
        biased = (
            f"reward and length have a rank correlation of {correlation:.2f}, at most "
            f"{settings.max_length_correlation:g} either way is allowed"
        )
        demands.append((abs(correlation) <= settings.max_length_correlation, biased))
    for name, where in (("chosen_shorter", "shorter"), ("chosen_longer", "longer")):
        if (found := length[name]) is not None:
            said = at_least(
                f"accuracy where the chosen text is the {where} one", found, settings.min_accuracy_by_length
            )
            demands.append((found >= settings.min_accuracy_by_length, said))
    return [sentence for holds, sentence in demands if not holds]


def at_least(what: str, found: float, demanded: float) -> str:
    """A sentence that says what was missed."""
    return f"{what} is {found:.3f}, at least {demanded:g} is demanded"


def right(differences: Floats) -> Floats:
    """1 for a pair in the right order, 0.5 for a tie."""
    return np.asarray((differences > 0) + 0.5 * (differences == 0), dtype=np.float64)


def accuracy(differences: Floats, clusters: NDArray[np.int64], seed: int) -> dict[str, float]:
    """The share of pairs in the right order, with an interval of a bootstrap over clusters.

    Where all are right, or all wrong, a bootstrap knows no doubt, and the exact bound takes over.
    """
    count = int(clusters.max()) + 1
    sums = [np.bincount(clusters, right(differences), count), np.bincount(clusters, minlength=count)]
    totals = np.stack(sums, axis=-1).astype(np.float64)
    totals = totals[totals[:, 1] > 0]
    means = TwoWayBootstrap(1, len(totals), seed).means(totals[None])
    share = float(right(differences).mean())
    if share in (0.0, 1.0):
        return Interval(share, *agreed_bounds(share, len(totals))).as_dict()
    return percentile_interval(share, means[:, 0] / means[:, 1]).as_dict()


def by_kind(
    pairs: Sequence[Preference], found: Mapping[str, Floats], clusters: NDArray[np.int64], seed: int
) -> dict[str, dict[str, Any]]:
    """Accuracy of each scorer by what tells the two texts apart."""
    kinds = np.array([pair.kind for pair in pairs])
    return {
        kind: {"pairs": int((kinds == kind).sum())}
        | {name: accuracy(values[kinds == kind], clusters[kinds == kind], seed) for name, values in found.items()}
        for kind in sorted(set(kinds.tolist()))
    }


def length_bias(pairs: Sequence[Preference], rewards: Floats, differences: Floats) -> dict[str, float | None]:
    """What length has to do with it.

    Args:
        rewards: of chosen and rejected texts, (pairs, 2).
        differences: (pairs,).

    Returns:
        The rank correlation of reward and characters, each less its channel's mean; and the accuracy where the chosen
        text is the shorter one, and where it is the longer one. None is what no pair can say.
    """
    characters = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs], dtype=np.float64)
    channels = np.array([pair.brief.channel if pair.brief else "" for pair in pairs])
    centred_rewards, centred_lengths = rewards.copy(), characters.copy()
    for channel in set(channels.tolist()):
        rows = channels == channel
        centred_rewards[rows] -= rewards[rows].mean()
        centred_lengths[rows] -= characters[rows].mean()
    shorter, longer = characters[:, 0] < characters[:, 1], characters[:, 0] > characters[:, 1]
    vary = min(np.ptp(centred_lengths), np.ptp(centred_rewards)) > 0.0
    return {
        "correlation": float(spearmanr(centred_lengths.ravel(), centred_rewards.ravel()).statistic) if vary else None,
        "chosen_shorter": float(right(differences[shorter]).mean()) if shorter.any() else None,
        "chosen_longer": float(right(differences[longer]).mean()) if longer.any() else None,
    }


def cluster_numbers(pairs: Sequence[Preference], world: World) -> NDArray[np.int64]:
    """A number for each pair's scenario."""
    numbers: defaultdict[tuple[str, ...], int] = defaultdict(lambda: len(numbers))
    return np.array([numbers[scenario_of(pair.brief, world)] for pair in pairs if pair.brief is not None])


def connected(pairs: Sequence[Preference]) -> NDArray[np.int64]:
    """A number for each pair, the same where pairs share a text, or each does with a third."""
    texts: defaultdict[str, int] = defaultdict(lambda: len(texts))
    edges = np.array([(texts[pair.chosen], texts[pair.rejected]) for pair in pairs])
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (len(texts), len(texts)))
    _, number = connected_components(graph, directed=False)
    return np.unique(number[edges[:, 0]], return_inverse=True)[1].astype(np.int64)


# -- rivals ----------------------------------------------------------------------------------------------


def rival(train: Sequence[Preference], test: Sequence[Preference], features: Any) -> Floats:
    """Log-odds that the chosen text is the better one, by logistic regression on the difference of `features`."""
    of_train, of_test = features(train, test)
    # Each pair both ways round, so that there is nothing to learn but the difference.
    x = _stacked(of_train, -of_train)
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    weights = np.array([pair.weight for pair in train])
    model.fit(x, np.repeat([1, 0], len(train)), np.tile(weights, 2))
    return np.asarray(model.decision_function(of_test), dtype=np.float64)


def lengths(train: Sequence[Preference], test: Sequence[Preference]) -> tuple[Floats, Floats]:
    """Differences in characters and in words, scaled."""

    def of(text: str) -> list[float]:
        return [len(text) / 100.0, len(text.split()) / 20.0]

    def difference(pairs: Sequence[Preference]) -> Floats:
        sides = np.array([[of(pair.chosen), of(pair.rejected)] for pair in pairs], dtype=np.float64)
        return np.asarray(sides[:, 0] - sides[:, 1])

    return difference(train), difference(test)


def bags_of_words(train: Sequence[Preference], test: Sequence[Preference]) -> tuple[Any, Any]:
    """Differences in counts of words and of pairs of words, sparse."""
    counter = CountVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=WORD)
    counter.fit([text for pair in train for text in (pair.chosen, pair.rejected)])

    def difference(pairs: Sequence[Preference]) -> Any:
        sides = [counter.transform([getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]
        return sides[0] - sides[1]

    return difference(train), difference(test)


def _stacked(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return vstack([first, second])


def plots(result: Mapping[str, Any]) -> list[str]:
    """Accuracy by kind of each scorer, with intervals."""
    kinds = {**result["by_kind"], **result.get("public", {})}
    figure, (axes,) = new_axes(width_in=9.0, height_in=3.8)
    for number, name in enumerate(("reward_model", "bag_of_words", "length_only")):
        values = [kinds[kind][name] for kind in kinds]
        heights = np.array([each["value"] for each in values])
        errors = np.abs(np.array([[each["value"] - each["low"], each["high"] - each["value"]] for each in values]).T)
        axes.bar(np.arange(len(kinds)) + 0.27 * (number - 1), heights, 0.25, yerr=errors, label=name.replace("_", " "))
    axes.axhline(0.5, linewidth=0.8, color="#57606a")
    axes.set_xticks(np.arange(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_ylabel("accuracy on held-out pairs")
    axes.set_ylim(0.0, 1.05)
    axes.legend(loc="lower left", ncols=3)
    return [svg(figure)]
