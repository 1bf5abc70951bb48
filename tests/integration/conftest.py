"""Servers that several integration suites share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.pubsub import PubSubServer, emulator


@pytest.fixture(scope="session", params=["embedded", "emulator"])
def pubsub_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubServer]:
    """A Pub/Sub server: ours, then Google's."""
    if request.param == "emulator" and emulator() is None:
        pytest.skip("Google's emulator is not installed (package google-cloud-cli-pubsub-emulator)")
    server = PubSubServer(request.param, tmp_path_factory.mktemp(request.param))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubServer]:
    """Our server, empty and started, to be stopped and started by one test."""
    server = PubSubServer("embedded", tmp_path_factory.mktemp("embedded"))
    server.start()
    yield server
    server.stop()
