"""What every `train` command says in the end, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from churnsaver.checkpoints import Gate, Manifest
from churnsaver.errors import GateFailed
from cli import registry
from cli.registry import tell_trained


def manifest(gate: Gate | None) -> Manifest:
    return Manifest(kind="policy", version="policy-x", seed=1, files={}, metrics={"value": 2.0}, gate=gate)


def test_a_missed_gate_is_told_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """The result is printed whole, then the command ends as a gate that failed; nothing is published."""
    missed = manifest(Gate.of((False, "it earns nothing")))
    with pytest.raises(GateFailed, match="policy-x: it earns nothing; it is not published"):
        tell_trained(missed, Path("p"), publish=True, as_json=True, title="Policy")
    told = json.loads(capsys.readouterr().out)
    assert told["gate"] == {"passed": False, "missed": ["it earns nothing"]}
    assert (told["version"], told["value"], "release" in told) == ("policy-x", 2.0, False)


@pytest.mark.parametrize("gate", [None, Gate(passed=True)])
def test_what_passed_is_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: Gate | None
) -> None:
    """Also a kind that nothing is demanded of, which has no gate to tell."""
    monkeypatch.setattr(registry, "publish_checkpoint", lambda out: {"release": 7})
    tell_trained(manifest(gate), Path("p"), publish=True, as_json=True, title="Policy", training="p-training")
    told = json.loads(capsys.readouterr().out)
    assert (told["release"], told["training"]) == (7, "p-training")
    assert told.get("gate") == (None if gate is None else {"passed": True, "missed": []})
