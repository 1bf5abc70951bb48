"""Fixtures that several suites share: a real redis-server and free ports."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local_stack import redis_server

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server of a test's own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        persist = ["--appendonly", "yes", "--save", ""]
        self.process = subprocess.Popen([redis_server(), *options, *persist], stdout=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(7) == b"+PONG\r\n":
                    return
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis_instance(tmp_path: Path) -> Iterator[RedisServer]:
    """A real redis-server, empty at the start of the test."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def telco_csv() -> Path:
    """The real customers; the test is skipped where the data is not there."""
    path = SHARED_DATA / "telco_churn.csv"
    if not path.exists():
        pytest.skip(f"real customers are not here ({path.name} in ../shared/data)")
    return path


@pytest.fixture(scope="session")
def decision_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with quickly trained risk and acceptance checkpoints and a small policy."""
    from tests.support.decision import write_checkpoints

    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))
