"""Pub/Sub servers for tests: ours, and Google's emulator where it is installed."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0


@functools.cache
def emulator() -> str | None:
    """The program of Google's emulator, or None where the package is not installed."""
    try:
        listing = subprocess.run(
            ["dpkg", "-L", "google-cloud-cli-pubsub-emulator"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next((line for line in listing.splitlines() if line.endswith("bin/cloud-pubsub-emulator")), None)


class PubSubServer:
    """A server of a test's own, which can be killed and started again at the same address.

    Args:
        kind: `embedded` or `emulator`.
        folder: for the journal and the log.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.port = kind, folder, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.journal = folder / "pubsub" / "journal.jsonl"
        self.log = folder / "pubsub.log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process and does not wait for it."""
        if self.kind == "emulator":
            command = [str(emulator()), "--host=127.0.0.1", f"--port={self.port}"]
            settings = {"JAVA_OPTS": "-Xmx256m"}
        else:
            command = [sys.executable, "-m", "churnsaver.events.embedded"]
            settings = {"CHURN_SAVER_STATE_DIR": str(self.folder), "CHURN_SAVER_EVENTS__EMBEDDED": self.address}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def start(self) -> None:
        process = self.launch()
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the Pub/Sub server did not start: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ends the process; returns how many seconds that took."""
        started = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)  # the emulator is a script and a Java process
            self.process.wait(10)
            self.process = None
        return time.monotonic() - started

    def kill(self) -> None:
        self.stop(signal.SIGKILL)
