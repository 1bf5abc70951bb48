"""What the services read and what the chart's ConfigMap and environment say are the same settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from churnsaver.settings import ServeSettings, load_message_books, load_serve_settings, load_world
from tests.support.chart import (
    CHART,
    FILES,
    SERVICES,
    at,
    chart,
    container,
    environment,
    merged,
    render,
    the,
    values_of,
)
from tools.generate_chart_schema import CHARTS_OWN, settings_schema

Schema = dict[str, Any]


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of every setting."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield str(field.validation_alias or prefix + name)


def found_at(document: dict[str, Any], path: str) -> bool:
    """Whether a dotted name stands in nested mappings."""
    for key in path.split("."):
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True


def install(values: dict[str, Any], service: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Puts a service's files and environment where its pod would find them; returns its serve.yaml."""
    objects = render(values)
    data = the(objects, "ConfigMap", "churn-saver-config")["data"]
    for name, text in data.items():
        (folder / name).write_text(text)
    for name in [name for name in os.environ if name.startswith("CHURN_SAVER_")]:
        monkeypatch.delenv(name)  # a pod has what the chart gives it, and nothing of this shell
    samples = {"secret:pseudonym-key": "sample", "secret:redis-url": "rediss://10.0.0.3:6379/0"}
    for name, value in environment(container(objects, service)).items():
        monkeypatch.setenv(name, samples.get(value, value))
    monkeypatch.setenv("CHURN_SAVER_CONFIGS", str(folder))
    document: dict[str, Any] = yaml.safe_load(data["serve.yaml"])
    return document


@pytest.mark.parametrize("installation", FILES)
@pytest.mark.parametrize("service", SERVICES)
def test_service_starts_with_what_the_chart_gives_it(
    installation: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each service's own code reads its ConfigMap and environment, and finds a cluster, not this machine."""
    document = install(values_of(installation), service, tmp_path, monkeypatch)
    settings = load_serve_settings()
    load_world()
    load_message_books()
    assert "127.0.0.1" not in json.dumps(document)
    assert settings.addresses.model_dump() == {
        name: f"churn-saver-{name}:{document[name]['port']}" for name in ("decision", "generator", "shield")
    }
    assert settings.registry.url == "gs://example-models/registry"
    assert settings.registry.signing_key is None
    assert settings.state_dir.is_absolute()
    assert settings.registry.trusted_keys.is_absolute()
    assert settings.events.embedded == ("pubsub:8085" if installation == "dev" else None)
    assert settings.force_baseline is False


def test_every_setting_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is new in the code stands in the ConfigMap or the environment, or this fails."""
    document = install(values_of("production"), "gateway", tmp_path, monkeypatch)
    given = {
        name.removeprefix("CHURN_SAVER_").lower().replace("__", "."): True
        for name in environment(container(render(values_of("production")), "gateway"))
        if name.startswith("CHURN_SAVER_")
    }
    missing = {path for path in leaves(ServeSettings) if not found_at(document, path) and path not in given}
    assert missing == {"FORCE_BASELINE", "registry.signing_key"}  # the gateway's environment; nobody's who serves


def test_schema_says_what_services_read() -> None:
    """Run `python tools/generate_chart_schema.py` where this fails."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["settings"] == settings_schema()


def test_what_the_chart_owns_is_a_setting() -> None:
    """No name is kept that the services no longer read."""
    known = set(leaves(ServeSettings))
    known |= {path.partition(".")[0] for path in known}
    assert known >= CHARTS_OWN


def other(schema: Schema, now: Any) -> Any:
    """Another value that the schema allows."""
    if "properties" in schema:
        return {name: other(each, now[name]) for name, each in schema["properties"].items()}
    if "anyOf" in schema:
        return other(schema["anyOf"][0], now)
    if "enum" in schema or schema["type"] == "boolean":
        return next(each for each in schema.get("enum", (False, True)) if each != now)
    if schema["type"] == "string":
        return f"{now or 'other'}-x"
    if schema["type"] == "array":
        return [*now, "x"]
    return 0.25 if schema.get("maximum") == 1.0 else now + 1


def test_every_setting_can_be_turned() -> None:
    """A value under `settings` reaches serve.yaml under the same name, zero and null included."""
    defaults = yaml.safe_load((CHART / "configs/serve.yaml").read_text())
    facts = {"registry": {"url": "gs://example-models/registry"}, "events": {"project": "example-project"}}
    turned = other(settings_schema(), merged(defaults, facts))
    document = yaml.safe_load(
        the(render(values_of("production", {"settings": turned})), "ConfigMap", "churn-saver-config")["data"][
            "serve.yaml"
        ]
    )
    assert merged(document, turned) == document
    zero = render(values_of("production", at("settings.shield.toxicity_threshold", 0)))
    text = the(zero, "ConfigMap", "churn-saver-config")["data"]["serve.yaml"]
    assert yaml.safe_load(text)["shield"]["toxicity_threshold"] == 0


def test_own_world_and_texts_take_their_place() -> None:
    """`--set-file configs.env=…` replaces the file as a whole."""
    data = the(render(values_of("dev", at("configs.env", "mine: 1\n"))), "ConfigMap", "churn-saver-config")["data"]
    assert yaml.safe_load(data["env.yaml"]) == {"mine": 1}
    assert yaml.safe_load(data["messages.yaml"]) == yaml.safe_load((CHART / "configs/messages.yaml").read_text())


def test_defaults_stand_once() -> None:
    """What values.yaml says of settings is only what no default can say."""
    assert chart().values["settings"] == {"registry": {"url": ""}, "events": {"project": ""}}


def test_packaged_chart_brings_its_settings(tmp_path: Path) -> None:
    """configs/ and monitoring/ are links; in the package they are the files."""
    code = (
        "import helm_python, sys; package = helm_python.package(sys.argv[1], destination=sys.argv[2]);"
        "names = {each['name'] for each in helm_python.Chart.load(package).files};"
        "print({'configs/serve.yaml', 'monitoring/rules/services.yaml'} <= names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(CHART), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
