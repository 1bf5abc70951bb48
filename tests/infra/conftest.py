"""Fixtures of what is shipped: a Docker engine, and our images in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.containers import engine, fetch_wheels, missing, run


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
