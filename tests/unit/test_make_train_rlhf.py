"""`make train-rlhf` with a stand-in for the command: what a team gives reaches it, and what it made is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Says what it was told, and writes what each step is known by.
STAND_IN = """
import sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
for name in ("train.jsonl", "manifest.json", "report.json"):
    (out / name).write_text("")
print("told:", *sys.argv[1:])
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[str]]:
    """Runs make with variables; the commands that it gave, from the name of each on."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "setup").touch()
    run = f"RUN={sys.executable} {tmp_path / 'stand_in.py'}"
    fixed = [run, f"STATE={tmp_path / 'state'}", f"SETUP={tmp_path / 'setup'}"]

    def told(*given: str) -> list[str]:
        words = ["make", "--no-print-directory", "train-rlhf", *fixed, *given]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        return [line.removeprefix("told: ") for line in done.stdout.splitlines() if line.startswith("told: ")]

    return told


def test_own_messages_and_pairs_reach_the_trainings(tmp_path: Path, told: Callable[..., list[str]]) -> None:
    """Another file makes the rest anew, an older one as well; the same one, or none, makes nothing."""
    ours, others, pairs = (tmp_path / name for name in ("ours.jsonl", "others.jsonl", "pairs.jsonl"))
    for number, path in enumerate((ours, others, pairs)):
        path.write_text(str(number))
        os.utime(path, (0, 0))
    assert len(told()) == 7
    assert told() == []
    again = told(f"APPROVED={ours}")
    assert again[0].startswith(f"data messages --approved {ours} --out ")
    assert [" ".join(line.split()[:2]) for line in again[1:]] == ["train sft", "train ppo-text", "eval text"]
    assert f"--data {tmp_path}/state/rlhf/messages" in again[-1]
    assert told(f"APPROVED={ours}") == told() == []
    assert told(f"APPROVED={others}")[0].startswith(f"data messages --approved {others} ")
    again = told(f"REVIEWERS={pairs}")
    assert f"--reviewers {pairs}" in again[0]
    assert [" ".join(line.split()[:2]) for line in again] == ["train rm", "eval rm", "train ppo-text", "eval text"]


def test_a_training_that_missed_its_gate_is_kept(tmp_path: Path) -> None:
    """It exits 1; make would delete what took hours, and start again."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN + "sys.exit('sft' in sys.argv)\n")
    (tmp_path / "setup").touch()
    fixed = [f"RUN={sys.executable} {stand_in}", f"STATE={tmp_path / 'state'}", f"SETUP={tmp_path / 'setup'}"]
    words = ["make", "--no-print-directory", "train-rlhf", *fixed]
    first, second = (
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False) for _ in range(2)
    )
    assert first.returncode == 2
    assert (tmp_path / "state" / "rlhf" / "sft" / "manifest.json").exists()
    assert second.returncode == 0, second.stderr
    assert "told: eval text" in second.stdout


def test_what_missed_its_gate_is_not_shipped(tmp_path: Path) -> None:
    """It is named, and what was shipped before stays; with all gates passed, the three are copied."""
    state, bundled = tmp_path / "state" / "rlhf", tmp_path / "bundled"
    (tmp_path / "setup").touch()
    for name in ("messages/train.jsonl", "preferences/train.jsonl", "sft/manifest.json", "rm/manifest.json",
                 "ppo_text/manifest.json"):  # fmt: skip
        (state / name).parent.mkdir(parents=True)
        (state / name).write_text('{"metrics": {"passed": 1.0}, "gate": {"passed": true, "missed": []}}')
    (bundled / "writer").mkdir(parents=True)
    words = ["make", "--no-print-directory", "bundle-rlhf", "RUN=false", f"STATE={tmp_path / 'state'}"]
    words += [f"SETUP={tmp_path / 'setup'}", f"BUNDLED={bundled}"]

    def bundle() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    passed = (state / "ppo_text" / "manifest.json").read_text()
    (state / "ppo_text" / "manifest.json").write_text(passed.replace("true", "false"))
    done = bundle()
    assert done.returncode == 2
    assert f"{state}/ppo_text/manifest.json: missed the gate, and is not shipped" in done.stderr
    assert [path.name for path in bundled.iterdir()] == ["writer"]
    (state / "ppo_text" / "manifest.json").write_text(passed)
    done = bundle()
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in bundled.glob("*/manifest.json")) == ["reward", "sft", "writer"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    words = ["make", "train-rlhf", f"STATE={tmp_path}", "APPROVED=nowhere.jsonl"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nowhere.jsonl: no such file" in done.stderr
