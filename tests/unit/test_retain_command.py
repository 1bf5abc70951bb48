"""What `churn-saver retain` shows of an answer."""

from __future__ import annotations

from cli.retain import _said


def test_a_subject_is_shown_where_there_is_one() -> None:
    """On one line; the standing answer of a gateway that knew no subjects has none."""
    assert _said({"subject": "For you", "text": "Hi Ana,\n\nthank you."}) == "For you Hi Ana, thank you."
    assert _said({"subject": None, "text": "Hi Ana!"}) == _said({"text": "Hi Ana!"}) == "Hi Ana!"
