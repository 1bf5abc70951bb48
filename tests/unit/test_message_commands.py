"""`generate` and `bank`: what is no text is bad input, before any generator is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from churnsaver.errors import BadInput
from cli.main import app


def test_a_brief_with_a_lone_surrogate(tmp_path: Path) -> None:
    """JSON can hold half a character; the line is named."""
    briefs = tmp_path / "briefs.jsonl"
    line = {"segment": "new", "offer": "check_in", "channel": "sms", "language": "\ud800"}
    briefs.write_text(json.dumps(line) + "\n")
    refused = CliRunner().invoke(app, ["generate", "--briefs", str(briefs)]).exception
    assert isinstance(refused, BadInput)
    assert "line 1: holds a lone surrogate" in str(refused)


@pytest.mark.parametrize("which", range(3))
def test_an_argument_that_is_not_utf8(which: int) -> None:
    """Python keeps such bytes of a command line as surrogates."""
    message, by, reason = ("\udcff" if which == n else "x" for n in range(3))
    refused = CliRunner().invoke(app, ["bank", "retire", message, "--by", by, "--reason", reason]).exception
    assert isinstance(refused, BadInput)
    assert "is not UTF-8" in str(refused)
