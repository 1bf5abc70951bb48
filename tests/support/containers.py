"""The private Docker engine, and the system of docker-compose.yaml as a project of a test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT.parent / "shared" / "tools" / "compose"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "churn-saver" / "tools" / "docker"
SERVICES = ("gateway", "decision", "generator", "shield")
IMAGES = (*SERVICES, "trainers")
REPLICAS = ("gateway-1", "gateway-2")


def dockerfile(image: str) -> str:
    """Where an image's Dockerfile is, from the project's root."""
    return f"{'' if image == 'trainers' else 'services/'}{image}/Dockerfile"


def missing() -> str | None:
    """Why there can be no engine here; None where there can be one."""
    if not (TOOLS / "docker_up.sh").exists():
        return "the private Docker engine is not here (../shared/tools/compose/docker_up.sh)"
    return None if os.geteuid() == 0 else "a Docker engine needs root"


@contextmanager
def engine() -> Iterator[dict[str, str]]:
    """The environment in which `docker` speaks to the engine; one that runs already is left running.

    Its images and build cache stay in the user's cache folder.
    """
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{CACHE}/docker.sock",
        "DOCKER_CONFIG": f"{CACHE}/config",
    }
    runs = (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode == 0
    )
    if not runs:
        subprocess.run([TOOLS / "docker_up.sh", CACHE], check=True, capture_output=True, timeout=600)
    try:
        yield environment
    finally:
        if not runs:
            subprocess.run([TOOLS / "docker_down.sh", CACHE], check=True, capture_output=True, timeout=60)


def _answers(environment: dict[str, str]) -> bool:
    return subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode == 0


def fetch_wheels() -> None:
    """torch for the trainers' image, where no earlier run has fetched it."""
    if not list((ROOT / "build" / "wheels").glob("torch-*.whl")):
        run("make", "--old-file", ".venv/.setup", "wheels", environment=dict(os.environ))


def run(*words: str, environment: dict[str, str], timeout_s: float = 900.0, fails: bool = False) -> str:
    """What a command says on standard output, or, where it shall fail, on both."""
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert (done.returncode != 0) == fails, (
        f"{' '.join(words)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout + done.stderr if fails else done.stdout


class Project:
    """One project of docker compose: its own containers, volumes and port.

    Args:
        docker: the environment of `engine`.
        settings: variables of docker-compose.yaml.
    """

    def __init__(self, docker: dict[str, str], name: str, port: int, **settings: str) -> None:
        self.environment = {**docker, "COMPOSE_PROJECT_NAME": name, "PORT": str(port), **settings}
        self.url = f"http://127.0.0.1:{port}"

    def compose(self, *words: str, fails: bool = False, **settings: str) -> str:
        return run("docker", "compose", *words, environment={**self.environment, **settings}, fails=fails)

    def cli(self, *words: str, fails: bool = False) -> str:
        """`churn-saver …` in a container of the trainers' image."""
        return self.compose("run", "--rm", "--no-TTY", "--quiet-pull", "cli", *words, fails=fails)

    def upgrade(self, service: str, **settings: str) -> None:
        """As a person does it; other settings of the build make another image."""
        run("make", "compose-upgrade", f"SERVICE={service}", environment={**self.environment, **settings})

    def containers(self) -> dict[str, dict[str, Any]]:
        """What `docker inspect` says of every container, by service."""
        ids = self.compose("ps", "--all", "--quiet").split()
        found = json.loads(run("docker", "inspect", *ids, environment=self.environment))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def address(self, service: str) -> str:
        """The container's address on the project's network, which this machine reaches."""
        (network,) = self.containers()[service]["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def close(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
