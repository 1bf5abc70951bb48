"""`keys`, `publish`, `promote`, `rollback` and `checkpoints` as a person types them; no service runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from churnsaver.checkpoints import Gate
from tests.conftest import free_port
from tests.e2e.conftest import run_cli
from tests.support.registry import KIND, Yard


class Shell:
    """Runs the command against a registry of the test's own."""

    def __init__(self, root: Path) -> None:
        self.yard = Yard(root)
        nowhere = {"CHURN_SAVER_EVENTS__EMBEDDED": f"127.0.0.1:{free_port()}"}
        self.env = {**self.yard.environment(), **nowhere, "CHURN_SAVER_STATE_DIR": str(root / "state")}

    def json(self, *words: str) -> Any:
        done = run_cli(*words, "--json", env=self.env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, code: int, *words: str) -> str:
        done = run_cli(*words, env=self.env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_the_life_of_a_checkpoint(shell: Shell) -> None:
    """Published, challenged, promoted, rolled back; the tree shows where everything stands."""
    one = shell.json("publish", str(shell.yard.checkpoint("one")))
    assert (one["kind"], one["release"], one["alias"], one["hint_sent"]) == (KIND, 1, "champion", False)
    two = shell.json("publish", str(shell.yard.checkpoint("two")), "--challenger")
    assert two["alias"] == "challenger"
    assert shell.json("promote", KIND)["version"] == two["version"]
    assert shell.json("rollback", KIND)["version"] == one["version"]
    releases = shell.json("checkpoints")["kinds"][KIND]["releases"]
    assert [(each["version"], each["aliases"]) for each in releases] == [
        (one["version"], ["champion"]),
        (two["version"], ["previous"]),
    ]
    tree = run_cli("checkpoints", env=shell.env).stdout
    assert tree.index(two["version"]) < tree.index(one["version"]), "the newest is on top"


def test_mistakes_are_explained(shell: Shell, tmp_path: Path) -> None:
    """Each names what it is about and what to do; a missed gate is exit 1."""
    assert "no such checkpoint here" in shell.refused(2, "publish", str(tmp_path / "nothing"))
    poor = shell.yard.checkpoint("poor", gate=Gate.of((False, "AUC 0.5 is below 0.8")))
    assert "AUC 0.5 is below 0.8" in shell.refused(1, "publish", str(poor))
    assert "there is no challenger" in shell.refused(2, "promote", KIND)
    assert "there is no previous champion" in shell.refused(2, "rollback", KIND)
    assert "there is a signing key already" in shell.refused(2, "keys", "--out", str(shell.yard.keys))
    shell.env["CHURN_SAVER_REGISTRY__TRUSTED_KEYS"] = str(tmp_path / "no.pem")
    assert "make a pair with `churn-saver keys`" in shell.refused(2, "checkpoints")
    shell.env["CHURN_SAVER_REGISTRY__URL"] = "ftp://somewhere/else"
    assert "expected a folder or gs://bucket/path" in shell.refused(2, "checkpoints")


def test_keys_of_ones_own(shell: Shell, tmp_path: Path) -> None:
    """A pair whose files are where it says; another pair has another name."""
    made, other = (shell.json("keys", "--out", str(tmp_path / name)) for name in ("new", "other"))
    assert Path(made["private_key"]).is_file()
    assert Path(made["trusted_keys"]).is_file()
    assert made["key_id"] != other["key_id"]
