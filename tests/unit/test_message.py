"""Messages' common ground: the language that a tag asks for, and values from outside as plain text."""

from __future__ import annotations

import time

import pytest

from churnsaver.domain.message import MAX_NAME_CHARS, neutralise, spoken_language


@pytest.mark.parametrize(
    ("tag", "spoken"),
    [("pt-BR", "pt-BR"), ("pt_br", "pt-BR"), ("pt-PT", "pt"), ("PT", "pt"), ("zh-Hant-TW", None), ("", None)],
)
def test_the_nearest_language_is_found(tag: str, spoken: str | None) -> None:
    assert spoken_language(tag, ["en", "pt", "pt-BR"]) == spoken


def test_an_endless_tag_stalls_nothing() -> None:
    """The nearest language is found by the first subtags, however many there are."""
    started = time.perf_counter()
    assert spoken_language("pt-BR" + "-ab" * 100_000, ["en", "pt", "pt-BR"]) == "pt-BR"
    assert time.perf_counter() - started < 0.5


def test_words_of_a_value_stay_apart() -> None:
    """Line feeds and tabs part words; other control characters do not."""
    assert neutralise("Ana\nBob\tLee\x00s") == "Ana Bob Lees"


def test_a_value_that_is_cut_ends_with_its_last_word() -> None:
    """The shield compares what a customer is called with what the text says."""
    assert neutralise("A" * (MAX_NAME_CHARS - 1) + " Bcd") == "A" * (MAX_NAME_CHARS - 1)
