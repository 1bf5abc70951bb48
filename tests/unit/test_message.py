"""Messages' common ground: the language that a tag asks for, and values from outside as plain text."""

from __future__ import annotations

import time

from churnsaver.domain.message import neutralise, spoken_language


def test_an_endless_tag_stalls_nothing() -> None:
    """The nearest language is found by the first subtags, however many there are."""
    started = time.perf_counter()
    assert spoken_language("pt-BR" + "-ab" * 100_000, ["en", "pt", "pt-BR"]) == "pt-BR"
    assert time.perf_counter() - started < 0.5


def test_words_of_a_value_stay_apart() -> None:
    """Line feeds and tabs part words; other control characters do not."""
    assert neutralise("Ana\nBob\tLee\x00s") == "Ana Bob Lees"
