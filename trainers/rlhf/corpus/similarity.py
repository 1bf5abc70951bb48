"""How alike two texts are, and an index that finds a text's nearest neighbour.

Similarity is the Jaccard index of two texts' sets of word 3-grams (Broder 1997, "On the resemblance and containment
of documents"): 1 for the same words in the same order, 0 where no three words in a row are shared. Slots stand as
words of their own, so texts are compared as they would be with the same values filled in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import chain

import numpy as np

_WORD = re.compile(r"\{[a-z_]+\}|[a-z0-9']+")
SHINGLE_WORDS = 3


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The set of word 3-grams of `text`; of a shorter text, its words as one."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return frozenset([tuple(words)])
    return frozenset(zip(words, words[1:], words[2:], strict=False))


class SimilarityIndex:
    """The texts so far, by their 3-grams: a neighbour shares at least one, so no other text is looked at."""

    def __init__(self) -> None:
        self._sizes = np.zeros(1024, dtype=np.int64)
        self._count = 0
        self._holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Makes `text` one of those that later ones are held against."""
        found = shingles(text)
        for shingle in found:
            self._holders[shingle].append(self._count)
        if self._count == len(self._sizes):
            self._sizes = np.concatenate([self._sizes, np.zeros_like(self._sizes)])
        self._sizes[self._count] = len(found)
        self._count += 1

    def nearest(self, text: str) -> float:
        """Similarity of `text` to the most similar text so far, [0, 1]; 0 where there is none."""
        found = shingles(text)
        holders = list(chain.from_iterable(self._holders.get(shingle, ()) for shingle in found))
        if not holders:
            return 0.0
        shared = np.bincount(holders)
        return float((shared / (len(found) + self._sizes[: len(shared)] - shared)).max())
