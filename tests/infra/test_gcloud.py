"""Every `gcloud` line that documents show and that builds call, as gcloud itself reads it: no account, no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.test_cloudbuild import PIPELINE, run_steps
from tests.support.shipping import Bench, running_gateway
from tests.unit.test_documents import DOCUMENTS, ROOT, commands

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

USAGE = 2  # its exit status where a command, a flag or a value is none


def refused(words: list[str], folder: Path) -> str | None:
    """What gcloud says of a line that it cannot read; None where it only lacks an account."""
    env = {
        **os.environ,
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_PROJECT": "example-project",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "NO_GCE_CHECK": "true",
    }
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return done.stderr if done.returncode == USAGE else None


@pytest.fixture(scope="module", autouse=True)
def _gcloud() -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")


def test_it_refuses_what_is_wrong(tmp_path: Path) -> None:
    """A flag that is none is noticed without an account."""
    assert refused(["gcloud", "storage", "cp", "a", "b", "--no-such-flag"], tmp_path)


def test_documents(tmp_path: Path) -> None:
    """Commands and flags are there, whatever stands for names."""
    lines = [words for path in DOCUMENTS for words in commands(path) if words[0] == "gcloud" and len(words) > 2]
    assert len(lines) > 15
    for words in lines:
        # Who signs in is asked for nothing here, and what a shell would fill in is a name like another.
        if words[1] != "auth":
            filled = [re.sub(r"\$\{?\w+\}?", "example-project", word) for word in words if word not in {"…", "&"}]
            for file in re.findall(r"--[a-z-]+-file=(\w+\.\w+)", " ".join(filled)):
                (tmp_path / file).touch()
            said = refused(filled, tmp_path)
            assert said is None, f"{' '.join(words)}\n{said}"


def test_pipeline(tmp_path: Path) -> None:
    """What tools/release.py calls."""
    with running_gateway() as gateway:
        bench = Bench(tmp_path, ROOT, gateway.server_port)
        run_steps(bench, PIPELINE)
    kinds = {}
    for words in bench.calls("gcloud"):
        kinds.setdefault(tuple(words[:5]), words)
    assert len(kinds) >= 5
    for words in kinds.values():
        said = refused(words, tmp_path)
        assert said is None, f"{' '.join(words)}\n{said}"
