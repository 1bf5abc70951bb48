"""Which of our languages a tag means."""

from __future__ import annotations

import pytest

from churnsaver.domain.message import spoken_language


@pytest.mark.parametrize(
    ("tag", "spoken"),
    [("pt-BR", "pt-BR"), ("pt_br", "pt-BR"), ("pt-PT", "pt"), ("PT", "pt"), ("zh-Hant-TW", None), ("", None)],
)
def test_the_nearest_language_is_found(tag: str, spoken: str | None) -> None:
    assert spoken_language(tag, ["en", "pt", "pt-BR"]) == spoken
