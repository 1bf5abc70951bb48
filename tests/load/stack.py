"""A stack of `churn-saver up` for measuring: its own ports, state and ledger, the project's own checkpoints.

Bench and chaos book thousands of contacts and kill processes, so they never touch the stack that a person
runs. The campaign here has more money for more customers, at the same money for each: were it spent half-way,
the rest of the run would measure refusals.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from churnsaver.domain.world import World
from churnsaver.errors import BadInput
from churnsaver.settings import configs_dir, load_serve_settings, read_yaml
from tests.load.processes import HOST, free_ports

RPC_SERVICES = ("decision", "generator", "shield")
VICTIMS = (*RPC_SERVICES, "redis")
COMMAND_TIMEOUT_S = 900.0  # a vLLM server on two cores fills a bank in some six minutes


class LoadStack:
    """A running stack, as a context manager; `up` on entry, `down` on exit.

    Args:
        campaign_factor: by how much the default campaign's budget and customers are multiplied.

    Attributes:
        url: the gateway's base URL.
        folder: where it keeps everything; deleted on exit.
        environment: what its processes are started with.
        settings: more of their settings, as environment variables.
    """

    def __init__(self, *, campaign_factor: int = 1, settings: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="churn-saver-load-"))
        names = ("gateway", "redis", "pubsub", *RPC_SERVICES)
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.url = f"http://{HOST}:{self._ports['gateway']}"
        self.world = _copy_configs(self.folder / "configs", campaign_factor)
        # A registry of its own, for what is published while it runs; the champions are the project's.
        shutil.copytree(load_serve_settings().registry.url, self.folder / "registry")
        self.environment = {**os.environ, **self._settings(), **(settings or {})}

    @property
    def retain_url(self) -> str:
        return f"{self.url}/v1/retain"

    def port(self, name: str) -> int:
        """Where a service listens."""
        return self._ports[name]

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def up(self) -> None:
        """Starts what is not running and waits until it is ready."""
        self._command("up", "--json")

    def restart(self) -> None:
        """Starts what is not running; a bank that has to be filled again is not waited for."""
        self._command("up", "--json", "--no-wait-for-bank")

    def close(self) -> None:
        """Stops everything and deletes what it kept."""
        self._command("down", "--json")
        shutil.rmtree(self.folder)

    def status(self) -> dict[str, Any]:
        """What `churn-saver status --json` says."""
        status: dict[str, Any] = json.loads(self._command("status", "--json"))
        return status

    def pids(self) -> dict[str, int]:
        """Process ids of what runs, by name."""
        return {name: each["pid"] for name, each in self.status()["services"].items() if each["pid"]}

    def kill(self, pid: int) -> None:
        """kill -9."""
        os.kill(pid, signal.SIGKILL)

    def kill_switch(self, state: str, reason: str) -> None:
        """Flips the switch over the public route."""
        httpx.put(f"{self.url}/v1/kill-switch", json={"state": state, "reason": reason}).raise_for_status()

    def kill_command(self, state: str, reason: str) -> subprocess.Popen[bytes]:
        """Starts `churn-saver kill on|off`."""
        return self._start("kill", state, "--reason", reason, "--json")

    def _command(self, *words: str) -> str:
        process = self._start(*words)
        output, errors = process.communicate(timeout=COMMAND_TIMEOUT_S)
        if process.returncode != 0:
            raise BadInput(f"churn-saver {' '.join(words)}: {errors.decode(errors='replace').strip()[-2000:]}")
        return output.decode()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _settings(self) -> dict[str, str]:
        """The settings in which this stack differs from `serve.yaml`, as environment variables."""
        settings = {
            "CHURN_SAVER_CONFIGS": str(self.folder / "configs"),
            "CHURN_SAVER_STATE_DIR": str(self.folder / "state"),
            "CHURN_SAVER_REGISTRY__URL": str(self.folder / "registry"),
            "CHURN_SAVER_EVENTS__EMBEDDED": f"{HOST}:{self._ports['pubsub']}",
            "CHURN_SAVER_GATEWAY__PORT": str(self._ports["gateway"]),
            "CHURN_SAVER_REDIS__URL": f"redis://{HOST}:{self._ports['redis']}/0",
        }
        for name, metrics_port in zip(RPC_SERVICES, free_ports(len(RPC_SERVICES)), strict=True):
            settings[f"CHURN_SAVER_{name.upper()}__PORT"] = str(self._ports[name])
            settings[f"CHURN_SAVER_{name.upper()}__METRICS_PORT"] = str(metrics_port)
            settings[f"CHURN_SAVER_ADDRESSES__{name.upper()}"] = f"{HOST}:{self._ports[name]}"
        return settings


def new_run() -> str:
    """A word that no earlier run used, for customers' ids."""
    return f"load-{os.urandom(4).hex()}"


def _copy_configs(folder: Path, campaign_factor: int) -> World:
    """Copies the settings with a campaign `campaign_factor` times as large; returns the world that they state."""
    shutil.copytree(configs_dir(), folder)
    document = read_yaml(folder / "env.yaml")
    campaign = document["campaigns"]["default"]
    campaign["budget_cents"] *= campaign_factor
    campaign["customers"] *= campaign_factor
    (folder / "env.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return World.model_validate({key: document[key] for key in World.model_fields if key in document})
