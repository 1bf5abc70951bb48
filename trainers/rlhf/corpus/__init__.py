"""The corpus that the language model is fine-tuned on: briefs and approved texts, split by scenario."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.safety.form import repetition
from churnsaver.safety.length import length
from churnsaver.safety.normal import plain
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.slots import blank_slots
from churnsaver.safety.subject import Subject
from churnsaver.settings import load_world
from trainers.rlhf.corpus.grammar import Writer
from trainers.rlhf.corpus.scenarios import LANGUAGE, PARTS, Scenario, briefs, scenario_of, scenarios, split_of
from trainers.rlhf.corpus.similarity import SimilarityIndex
from trainers.rlhf.examples import WrittenMessage

__all__ = ["PARTS", "Corpus", "Scenario", "briefs", "make_corpus", "scenario_of", "scenarios", "split_of"]

TEXTS_PER_SCENARIO = 14
MAX_SIMILARITY = 0.5  # of any two texts, whatever their scenarios; see `similarity`
# Short, as two cores train a small model at some hundred tokens a second.
MAX_WORDS = {"email": 64}
MAX_WORDS_SHORT = 36
_TRIES = 400


@dataclass(frozen=True, slots=True)
class Corpus:
    """Written messages by part; no scenario stands in two parts."""

    train: list[WrittenMessage] = field(default_factory=list)
    valid: list[WrittenMessage] = field(default_factory=list)
    test: list[WrittenMessage] = field(default_factory=list)

    def part(self, name: str) -> list[WrittenMessage]:
        """The messages of `train`, `valid` or `test`."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def make_corpus(seed: int, world: World | None = None) -> Corpus:
    """TEXTS_PER_SCENARIO approved texts for every scenario, the same for the same seed.

    Args:
        world: whose offers and channels; that of `configs/env.yaml` by default.

    Raises:
        BadInput: the phrases do not allow so many texts that differ by MAX_SIMILARITY.
    """
    world = world or load_world()
    rng = Random(seed)  # noqa: S311 - it decides wording
    writer = Writer(rng)
    seen, policy = SimilarityIndex(), Policy.of(world)
    corpus = Corpus()
    for scenario in scenarios(world):
        choices = scenario.briefs(world)
        for i in range(TEXTS_PER_SCENARIO):
            text = _new_text(writer, scenario, seen, policy)
            corpus.part(scenario.part).append(WrittenMessage(brief=choices[i % len(choices)], text=text))
    return corpus


def _new_text(writer: Writer, scenario: Scenario, seen: SimilarityIndex, policy: Policy) -> str:
    for _ in range(_TRIES):
        text = writer.write(scenario).text
        if fits(text, scenario.channel, policy) and seen.nearest(text) <= MAX_SIMILARITY:
            seen.add(text)
            return text
    raise BadInput(
        f"trainers/rlhf/data/corpus.en.yaml: has too few phrases for {TEXTS_PER_SCENARIO} texts of {tuple(scenario)} "
        f"no two of which are more alike than {MAX_SIMILARITY}; add some"
    )


def fits(text: str, channel: str, policy: Policy, slack_words: int = 0) -> bool:
    """Whether the channel carries the filled text, and the draft is short and does not repeat itself.

    Args:
        slack_words: how many words it may be longer than a text of the corpus.

    Of the shield's rules these two look at a text as a whole; by the others, phrases are safe or not (a test).
    """
    if len(text.split()) > MAX_WORDS.get(channel, MAX_WORDS_SHORT) + slack_words:
        return False
    review, own_words = Review(text, Stage.DRAFT, channel, LANGUAGE), blank_slots(text)
    # With the plain view alone: undoing tricks of spelling takes most of a review's time, and phrases have none.
    subject = Subject(review, policy, text, own_words, (plain(own_words),), ())
    return not (any(length(subject)) or any(repetition(subject)))
