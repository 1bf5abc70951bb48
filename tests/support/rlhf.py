"""The corpus and the preferences of seed 42, made once a test run."""

from __future__ import annotations

from functools import cache

from trainers.rlhf.corpus import Corpus, make_corpus
from trainers.rlhf.examples import Preference
from trainers.rlhf.preferences import make_preferences

SEED = 42


@cache
def seeded_corpus() -> Corpus:
    return make_corpus(SEED)


@cache
def seeded_preferences() -> dict[str, list[Preference]]:
    return make_preferences(SEED)
