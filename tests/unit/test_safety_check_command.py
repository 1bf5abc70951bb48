"""`churn-saver shield check`: verdicts as lines, and faults of the input named by line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from churnsaver.errors import BadInput
from cli.main import app

STOP = " Reply STOP to opt out."


def check(tmp_path: Path, *lines: Any) -> list[dict[str, Any]]:
    path = tmp_path / "messages.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    result = CliRunner().invoke(app, ["shield", "check", "--jsonl", str(path)])
    if result.exception is not None:
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def rules(verdict: dict[str, Any]) -> set[str]:
    return {finding["rule"] for finding in verdict["findings"]}


@pytest.mark.parametrize(
    "text",
    [
        "Hi Ana, thanks for being with us. Enjoy 10% off for 3 months until 12 Jan.",
        "Hello Ben, your plan is up for renewal in March. We would love to keep you: take $5 off a month if you stay.",
        "Your free account review is ready. Reply YES and we will call you this week.",
        "We've added more data to your plan as a thank-you for five years with us. No action needed.",
        "Hi! Did you know you can pause your subscription while you travel? Ask us how.",
        "Good news: the new router is available in your area. Pick it up at any store.",
    ],
)
def test_benign_marketing_with_an_opt_out_passes(tmp_path: Path, text: str) -> None:
    """Plain messages without slots may name prices; they only need a way out."""
    (verdict,) = check(tmp_path, {"text": text + STOP})
    assert verdict["verdict"] == "pass", verdict["findings"]
    assert 0.0 <= verdict["scores"]["toxicity"] < 0.5


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path) -> None:
    text = f"Thanks for being with us.\u2028No action needed.{STOP}"
    path = tmp_path / "messages.jsonl"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False))
    result = CliRunner().invoke(app, ["shield", "check", "--jsonl", str(path)])
    assert json.loads(result.stdout)["text"] == text


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("phrase", {"text": "Last chance! Offer ends tonight." + STOP}),
        ("phrase", {"text": "Switching away would be a huge mistake." + STOP}),
        ("toxicity", {"text": "You are a pathetic, worthless moron." + STOP}),
        ("required_element", {"text": "Thanks for being with us."}),
        ("required_element", {"text": "Thanks. {offer} {expiry}"}),
        ("length", {"text": "Thanks for being with us. " * 14 + STOP, "channel": "sms"}),
        ("quiet_hours", {"text": "Thanks." + STOP, "timezone": "UTC", "send_at": "2026-01-02T03:00:00+00:00"}),
        ("quiet_hours", {"text": "Thanks." + STOP, "timezone": "Nowhere/City"}),
        ("price", {"text": "Thanks, 90% off! {offer} {expiry} {opt_out}"}),
    ],
)
def test_bad_messages_are_blocked_by_the_right_rule(tmp_path: Path, rule: str, line: dict[str, Any]) -> None:
    """The verdict's findings name the rule."""
    (verdict,) = check(tmp_path, line)
    assert verdict["verdict"] == "block"
    assert rule in rules(verdict)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("{not json", "line 2"),
        ([1], "line 2"),
        ({"txt": "hi"}, "field text"),
        ({"text": 5}, "field text"),
        ({"text": "hi", "stage": "sent"}, "field stage"),
        ({"text": "hi", "stage": ["draft"]}, "field stage"),
        ({"text": "hi", "channel": "fax"}, "field channel"),
        ({"text": "hi", "channel": {}}, "field channel"),
        ({"text": "hi", "slots": {"offer": 5}}, "field slots"),
        ({"text": "hi", "language": 5}, "field language"),
        ({"text": "hi", "timezone": 5}, "field timezone"),
        ({"text": "hi", "send_at": "tomorrow"}, "field send_at"),
        ({"text": "hi", "send_at": "2026-01-02T03:00:00"}, "offset"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: Any, names: str) -> None:
    """The line's number and the field stand in the message."""
    with pytest.raises(BadInput, match=names) as caught:
        check(tmp_path, {"text": "Thanks." + STOP}, line)
    assert "line 2" in str(caught.value)
