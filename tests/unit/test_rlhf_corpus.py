"""The corpus that the language model is fine-tuned on: varied, safe, complete, split by scenario."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from churnsaver.domain.message import SLOTS, fill, slots_in
from churnsaver.domain.world import World
from churnsaver.safety.review import Policy, Review, Stage
from churnsaver.safety.rules import review_with_rules
from churnsaver.settings import load_message_books, load_world
from tests.support.rlhf import seeded_corpus
from trainers.rlhf.corpus import (
    MAX_SIMILARITY,
    PARTS,
    Corpus,
    briefs,
    make_corpus,
    scenario_of,
    scenarios,
    split_of,
)
from trainers.rlhf.corpus.grammar import calm, expand, join
from trainers.rlhf.corpus.similarity import SimilarityIndex, shingles
from trainers.rlhf.examples import WrittenMessage

GSM_7 = frozenset("@$_ !\"#%&'()*+,-./0123456789:;<=>?\n{}[]~|^") | frozenset(map(chr, range(65, 91)))
GSM_7 |= frozenset(map(chr, range(97, 123)))


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return seeded_corpus()


def every(corpus: Corpus) -> list[WrittenMessage]:
    return [message for part in PARTS for message in corpus.part(part)]


def test_no_two_texts_are_alike(corpus: Corpus) -> None:
    """Checked apart from the index that built it: all pairs that share a 3-gram, counted here."""
    texts = [shingles(message.text) for message in every(corpus)]
    assert len(texts) >= 5000
    holders: dict[tuple[str, ...], list[int]] = {}
    highest = 0.0
    for i, text in enumerate(texts):
        shared = Counter(j for shingle in text for j in holders.get(shingle, ()))
        highest = max(highest, *(n / len(text | texts[j]) for j, n in shared.most_common(3)), 0.0)
        for shingle in text:
            holders.setdefault(shingle, []).append(i)
    assert 0.3 < highest <= MAX_SIMILARITY


def test_every_text_is_complete_and_passes_the_shield(corpus: Corpus, world: World) -> None:
    """As a draft, and every fifth filled as it would be sent, by the shield's own rules."""
    policy, book = Policy.of(world), load_message_books()["en"]
    for i, message in enumerate(every(corpus)):
        brief, text = message.brief, message.text
        assert sorted(slots_in(text)) == sorted(SLOTS), text
        assert text.startswith("Subject: ") == (brief.channel == "email"), text
        assert review_with_rules(Review(text, Stage.DRAFT, brief.channel), policy) == []
        if brief.channel != "email":
            assert set(text) <= GSM_7, text
        if i % 5:
            continue
        values = {
            "first_name": "Maximilian",
            "offer": world.offer(brief.offer).label["en"],
            "expiry": "12 Dec 2026",
            "opt_out": book.opt_out[brief.channel],
        }
        filled = Review(fill(text, values), Stage.FILLED, brief.channel, slots=values)
        assert review_with_rules(filled, policy) == []


def test_parts_share_no_scenario(corpus: Corpus, world: World) -> None:
    found = {part: {scenario_of(m.brief, world) for m in corpus.part(part)} for part in PARTS}
    assert not (found["train"] & found["valid"] | found["train"] & found["test"] | found["valid"] & found["test"])
    shares = {part: len(found[part]) / len(scenarios(world)) for part in PARTS}
    assert 0.75 < shares["train"] < 0.85
    assert min(shares["valid"], shares["test"]) > 0.07
    everywhere = [set(values) for values in zip(*scenarios(world), strict=True)]
    for part in PARTS:  # every value of every field is held out somewhere, so that figures speak of all
        assert [set(values) for values in zip(*found[part], strict=True)] == everywhere
        assert {b.key for b in briefs(world, part)} >= {m.brief.key for m in corpus.part(part)}
        assert {split_of(brief, world) for brief in briefs(world, part)} == {part}


@pytest.mark.stack
def test_the_seed_decides_the_texts_but_not_the_split(corpus: Corpus, world: World) -> None:
    other = make_corpus(43, world)
    assert make_corpus(43, world) == other
    assert [m.text for m in other.train] != [m.text for m in corpus.train]
    assert [m.brief for m in other.train] == [m.brief for m in corpus.train]


def test_texts_speak_of_their_offers_purpose(corpus: Corpus, world: World) -> None:
    """Words that only one purpose calls for stand in texts of that purpose alone, and in many of them."""
    only = {
        "review": ("over your plan together", "book {offer}", "arrange {offer}", "go through your"),
        "discount": ("on your budget", "pay less", "your wallet", "cost you less"),
        "gift": ("extra", "surprise", "treat"),
    }
    for purpose, words in only.items():
        hits = [
            world.offer(m.brief.offer).purpose for m in every(corpus) if any(word in m.text.lower() for word in words)
        ]
        assert set(hits) == {purpose}
        assert len(hits) > 400


def test_similarity_is_the_jaccard_index_of_word_trigrams() -> None:
    index = SimilarityIndex()
    assert index.nearest("one two three four") == 0.0
    index.add("One two, three four!")
    assert index.nearest("one two three four") == 1.0
    assert index.nearest("one two three five") == pytest.approx(1 / 3)
    assert index.nearest("nothing of the kind") == 0.0


def test_choices_joins_and_marks() -> None:
    assert {expand("[a|b] {offer}", Random(i)) for i in range(20)} == {"a {offer}", "b {offer}"}
    assert join(["You are new, and", "We know.", "", "That is all."]) == "You are new, and we know. That is all."
    assert calm("Hi! A! B! C! D") == "Hi! A! B! C. D"
