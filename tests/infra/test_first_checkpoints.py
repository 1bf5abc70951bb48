"""What compose/first_checkpoints.sh trains and what it refuses, with a command that only notes what it is told."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.containers import ROOT
from trainers.rlhf.bundled import BUNDLED_WRITER

NOTES = """#!/bin/sh
echo "$*" >>"$NOTES"
out=; for word in "$@"; do [ "$last" = --out ] && out=$word; last=$word; done
[ -z "$out" ] || mkdir -p "$out"
case "$*" in
    "data simulate"*) echo made up >"$out/customers.csv"; echo made up >"$out/contacts.csv" ;;
    "data prepare"*) ! grep -q broken "$4" || { echo "row 4, tenure: is broken" >&2; exit 2; } ;;
    keys*) touch "$out/signing.key" "$out/trusted.pem" ;;
    "train accept"*) touch "$CHURN_SAVER_REGISTRY__URL/kinds/acceptance.json" ;;
    "model prepare"*) cd "$CHURN_SAVER_REGISTRY__URL/kinds" && touch generator.json reward.json writer.json ;;
    "publish trainers/rlhf/bundled/writer") touch "$CHURN_SAVER_REGISTRY__URL/kinds/writer.json" ;;
esac
"""
EVERYTHING = ["data prepare", "keys", "train accept", "train risk", "train ppo", "model prepare"]
LEARNED = ["data prepare", "train risk", "train ppo"]


@dataclass
class Trainer:
    """The script with its folders in `folder`."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("bin", "data", "registry/kinds"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "bin/churn-saver").write_text(NOTES)
        (self.folder / "bin/churn-saver").chmod(0o755)
        (self.folder / "data/schema.yaml").write_text("one")

    def run(self, data: str | Path | None) -> tuple[list[str], str]:
        """The commands that it ran for this DATA, and what it said where it refused."""
        (customers := self.folder / "data/customers.csv").unlink(missing_ok=True)
        if isinstance(data, str):
            customers.write_text(data)
        else:
            customers.symlink_to(data or "/dev/null")
        (notes := self.folder / "notes").write_text("")
        script = (ROOT / "compose/first_checkpoints.sh").read_text()
        script = re.sub(r"(?<=[= ])/(?=data/|tmp/)", f"{self.folder}/", script)
        state = self.folder / "state"
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NOTES": str(notes),
            "CHURN_SAVER_STATE_DIR": str(state),
            "CHURN_SAVER_MODELS": str(state / "models"),
            "CHURN_SAVER_CONFIGS": str(ROOT / "configs"),
            "CHURN_SAVER_REGISTRY__URL": str(self.folder / "registry"),
            "CHURN_SAVER_REGISTRY__SIGNING_KEY": str(state / "keys/signing.key"),
            "CHURN_SAVER_REGISTRY__TRUSTED_KEYS": str(self.folder / "trusted.pem"),
        }
        command = ["sh", "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == (2 if done.stderr else 0), done.stderr
        told = [line.split(" --")[0] for line in notes.read_text().splitlines()]
        return told, done.stderr


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path)


def test_simulated_customers_are_learned_from_once(trainer: Trainer) -> None:
    """A stack without DATA makes some up; the next start trains nothing."""
    assert trainer.run(None) == (["data simulate", *EVERYTHING], "")
    assert trainer.run(None) == ([], "")


def test_a_registry_from_before_vllm_gets_the_adapter_alone(trainer: Trainer) -> None:
    """A vLLM server would wait for it for ever; the model and the reward model that serve stay."""
    trainer.run(None)
    (trainer.folder / "registry/kinds/writer.json").unlink()
    assert trainer.run(None) == ([f"publish {BUNDLED_WRITER.relative_to(ROOT)}"], "")
    assert trainer.run(None) == ([], "")


def test_own_customers_are_not_replaced_by_simulated_ones(trainer: Trainer) -> None:
    """Who forgets DATA the next time keeps the models of their own customers; other DATA are learned from."""
    assert [each for each in trainer.run("mine")[0] if each != "data simulate"] == EVERYTHING
    assert trainer.run(None) == ([], "")
    assert trainer.run("mine") == ([], "")
    assert trainer.run("mine of today") == (LEARNED, "")


@pytest.mark.parametrize(("data", "said"), [("", "DATA: is empty"), (Path("/"), "DATA: is a folder")])
def test_what_cannot_be_customers_is_refused(trainer: Trainer, data: str | Path, said: str) -> None:
    """With a sentence, and before anything is made."""
    told, error = trainer.run(data)
    assert (told, said in error) == ([], True)


def test_wrong_customers_are_refused_before_anything_is_made(trainer: Trainer) -> None:
    """No key and no model for a CSV or a schema that is malformed."""
    assert trainer.run("broken") == (["data prepare"], "row 4, tenure: is broken\n")


def test_another_schema_is_refused_with_data_only(trainer: Trainer) -> None:
    """The models of before go on serving without DATA; a new schema for DATA needs another registry."""
    trainer.run("mine")
    (trainer.folder / "data/schema.yaml").write_text("two")
    told, error = trainer.run("mine")
    assert (told, "SCHEMA: another one" in error) == ([], True)
    assert trainer.run(None) == ([], "")
