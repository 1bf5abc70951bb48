"""Tools that suites of this folder share: each is installed or built once and kept in the user's cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import CACHE, KUBERNETES, control_plane
from tests.support.containers import engine, fetch_wheels, missing, run

CHECKOV = "checkov==3.3.30"


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real API server (1.20) with its controllers, and a stand-in kubelet, for the session."""
    if not KUBERNETES.exists():
        pytest.skip("the control plane is not here (../shared/tools/kubernetes)")
    with control_plane(tmp_path_factory.mktemp("control-plane")) as found:
        yield found


@pytest.fixture(scope="session")
def checkov() -> Path:
    """Checkov in a folder of its own, for it wants other versions than ours."""
    command = CACHE / "checkov" / "bin" / "checkov"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE / "checkov"], check=True)
    install = [command.with_name("pip"), "install", "--quiet", CHECKOV]
    done = subprocess.run(install, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode:
        pytest.skip(f"{CHECKOV} cannot be installed: {done.stderr.strip()[-300:]}")
    return command


@pytest.fixture(scope="session")
def docker() -> Iterator[dict[str, str]]:
    """The environment in which `docker` speaks to the private engine."""
    if reason := missing():
        pytest.skip(reason)
    with engine() as environment:
        yield {**environment, "TAG": "test"}


@pytest.fixture(scope="session")
def images(docker: dict[str, str]) -> dict[str, str]:
    """The same, after every image of docker-compose.yaml was built, with the tag `test`."""
    fetch_wheels()
    run("docker", "compose", "build", environment=docker)
    return docker
