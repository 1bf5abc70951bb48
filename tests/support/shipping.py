"""Stand-ins for what the pipeline calls: one program under five names, and a gateway."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMANDS = ("git", "docker", "gcloud", "helm", "kubectl")
SERVICES = ("gateway", "decision", "generator", "shield")


class Bench:
    """A folder with the project's files, where commands are stand-ins that write down how they were called.

    Attributes:
        root: where `make` runs.
        env: the environment that finds the stand-ins.
    """

    def __init__(self, folder: Path, project: Path, gateway_port: int = 0) -> None:
        self.root = folder / "workspace"
        self.root.mkdir()
        for name in ("Makefile", "tools", "charts", "configs", "examples"):
            (self.root / name).symlink_to(project / name)
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._calls, self._registry = folder / "calls.jsonl", folder / "registry.txt"
        for command in COMMANDS:
            program = self.command(command)
            program.write_text(f"#!{sys.executable} -SE\n{Path(__file__).with_name('stand_in.py').read_text()}")
            program.chmod(0o755)
        python = self.command("python3")  # this one, so that what runs below make is measured as well
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL"}},
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "STAND_IN_CALLS": str(self._calls),
            "STAND_IN_REGISTRY": str(self._registry),
            "STAND_IN_PORT": str(gateway_port),
        }

    def command(self, name: str) -> Path:
        """Where a stand-in lies."""
        return self._bin / name

    def calls(self, *beginning: str) -> list[list[str]]:
        """What was called, in order, with this beginning."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call for call in map(json.loads, lines) if tuple(call[: len(beginning)]) == beginning]

    def put(self, image: str, digest: str) -> None:
        """Puts an image into the registry."""
        with self._registry.open("a") as file:
            file.write(f"{image} {digest}\n")


def digest(name: str) -> str:
    """What the stand-in's registry makes of an image of this name."""
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


class Gateway(ThreadingHTTPServer):
    """Answers as the gateway does to whoever retains one customer; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.models: dict[str, Any] = {name: {"risk": {}} for name in SERVICES}
        self.remembers = True
        self.retain_status = 200


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self._answer(200, self.server.models if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        times = len([path for _, path in self.server.asked if path == self.path])
        decision = body["request_id"] if self.server.remembers else str(times)
        self._answer(self.server.retain_status, {"decision_id": decision, "baseline_reason": None})

    def do_DELETE(self) -> None:
        self._answer(200, {})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked.append((self.command, self.path))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
