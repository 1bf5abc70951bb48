"""Preferences of our own making that the reward model learns from; `checks` reads those of a team's reviewers."""

from __future__ import annotations

from collections import Counter
from random import Random

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.safety.review import Policy
from churnsaver.settings import load_world
from trainers.rlhf.corpus import PARTS, Scenario, fits, scenarios
from trainers.rlhf.corpus.grammar import Writer
from trainers.rlhf.corruptions import MARGINS, Corruptor
from trainers.rlhf.examples import Preference

# More of the kind that only the brief tells: a text for another offer is as good as any in itself.
PAIRS_PER_SCENARIO = {"wrong_offer": 5, "vague": 3, "pushy": 3, "non_compliant": 3, "padded": 3}
# A text may be this much longer than one of the corpus, in words: padding must fit in.
SLACK_WORDS = 14
_TRIES = 2000
_TRIES_FOR_LENGTH = 60


def make_preferences(seed: int, world: World | None = None) -> dict[str, list[Preference]]:
    """Pairs of a good text and one with a fault, by part, for the scenarios of the corpus.

    Both texts of a pair are for the same brief and come from the same grammar. Within each kind and part, the
    chosen text is the longer one about every second time, so that length tells nothing.

    Args:
        world: whose offers and channels; that of `configs/env.yaml` by default.

    Returns:
        `train`, `valid` and `test`, split as the corpus is. Held-out pairs use other phrases for a
        fault than training pairs, but for the few that stand in for a missing offer or expiry.
    """
    world = world or load_world()
    rng = Random(seed)  # noqa: S311 - it decides wording
    policy = Policy.of(world)
    corruptors = {part: Corruptor(Writer(rng), part, policy) for part in PARTS}
    found: dict[str, list[Preference]] = {part: [] for part in PARTS}
    longer: Counter[tuple[str, str]] = Counter()  # pairs whose chosen text is the longer one, less the others
    for scenario in scenarios(world):
        for kind, margin in MARGINS.items():
            for _ in range(PAIRS_PER_SCENARIO[kind]):
                wanted = longer[scenario.part, kind] < 0
                chosen, rejected = _pair(rng, corruptors[scenario.part], kind, scenario, policy, wanted)
                longer[scenario.part, kind] += 1 if len(chosen) > len(rejected) else -1
                brief = rng.choice(scenario.briefs(world))
                pair = Preference(brief=brief, chosen=chosen, rejected=rejected, margin=margin, kind=kind)
                found[scenario.part].append(pair)
    return found


def _pair(rng: Random, corruptor: Corruptor, kind: str, on: Scenario, policy: Policy, longer: bool) -> tuple[str, str]:
    """A chosen and a rejected text, the chosen one the `longer` or the shorter, where such a pair is soon found.

    In half of the tries the rejected text is made from the chosen one itself.
    """
    for attempt in range(_TRIES):
        draft = corruptor.good(kind, on)
        base = draft if rng.random() < 0.5 else corruptor.good(kind, on)
        chosen, rejected = draft.text, corruptor.corrupt(kind, on, base)
        if len(chosen) == len(rejected):
            continue
        if attempt < _TRIES_FOR_LENGTH and not _is_longer(*((chosen, rejected) if longer else (rejected, chosen))):
            continue
        if fits(rejected, on.channel, policy, SLACK_WORDS):
            return chosen, rejected
    raise BadInput(f"trainers/rlhf/data/corruptions.en.yaml: no {kind} pair of {tuple(on)} fits; shorten its phrases")


def _is_longer(text: str, other: str) -> bool:
    """In characters and in words."""
    return len(text) > len(other) and len(text.split()) > len(other.split())
