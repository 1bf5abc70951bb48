"""The command in this process, for tests that look at what it says as JSON."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from churnsaver.errors import GateFailed
from cli.main import app


def run_json(*words: object, missed: str | None = None) -> dict[str, Any]:
    """What a command says with --json; its error is raised, unless `missed` says which gate it is to miss."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    if missed is not None:
        assert isinstance(done.exception, GateFailed)
        assert missed in str(done.exception)
    elif done.exception:
        raise done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found
