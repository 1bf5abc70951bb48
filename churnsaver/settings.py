"""Settings: YAML in `configs/`, overridden by the environment, frozen after they are read once.

`CHURN_SAVER_CONFIGS` names another folder than `configs/`. Every value of `serve.yaml` can be set in
the environment: `CHURN_SAVER_GATEWAY__PORT=8081` sets `gateway.port`. Only a service's `bootstrap.py`
and the command line read settings; everything else is handed what it needs.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, HttpUrl, RedisDsn, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from churnsaver.domain.message import MessageBook
from churnsaver.domain.schema import DatasetSchema
from churnsaver.domain.world import Fraction, Frozen, World
from churnsaver.errors import BadInput, SchemaError, SettingsError

DEFAULT_SEED = 42
Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)


class ExperimentSettings(Frozen):
    """Shares of the arms; what is left of 1 goes to the champion."""

    baseline: Fraction = 0.0
    holdout: Fraction = 0.0

    @model_validator(mode="after")
    def _at_most_everybody(self) -> Self:
        total = self.baseline + self.holdout
        if total > 1.0 and not math.isclose(total, 1.0):  # 0.7 + 0.2 + 0.1 is not quite 1 in binary
            raise ValueError(
                f"baseline {self.baseline:g} and holdout {self.holdout:g} are shares of all customers and add up "
                f"to {total:g}; lower one of them so that they add up to 1 or less"
            )
        return self

    @property
    def champion(self) -> float:
        """The champion's share."""
        return max(0.0, 1.0 - self.baseline - self.holdout)

    def budget_cents(self, arm: str, campaign_cents: int) -> int:
        """An arm's part of a campaign's budget: by its share of all customers, rounded down.

        So that what one arm spends does not change what another can do, and each has the money for its customers that
        it would have for all of them. The holdout's part stays unspent; who spends nothing is shown all.
        """
        shares = {"champion": self.champion, "baseline": self.baseline}
        return int(campaign_cents * shares[arm]) if shares.get(arm) else campaign_cents


class GatewaySettings(Frozen):
    """The gateway.

    Attributes:
        baseline: what decides in baseline mode; all but the gateway's own scorecard are asked of the decision
            service, and the scorecard answers while it is away.
    """

    host: str
    port: Port
    deadline_ms: Milliseconds
    decision_timeout_ms: Milliseconds
    generator_timeout_ms: Milliseconds
    shield_timeout_ms: Milliseconds
    ledger_timeout_ms: Milliseconds
    max_body_bytes: Annotated[int, Field(gt=0)]
    idempotency_hours: Annotated[int, Field(gt=0)]
    record_days: Annotated[int, Field(gt=0)]
    kill_switch_poll_ms: Milliseconds
    baseline: Literal["scorecard", "propensity", "uplift_trees", "thompson_sampling"]
    experiment: ExperimentSettings


class RpcServiceSettings(Frozen):
    """A gRPC service: where it listens, and for Prometheus; how long it drains on SIGTERM."""

    host: str
    port: Port
    metrics_port: Port
    drain_s: Annotated[float, Field(gt=0)]


class DecisionSettings(RpcServiceSettings):
    threads: Annotated[int, Field(ge=1)]


class VllmSettings(Frozen):
    """A vLLM server, and how much is asked of it.

    Attributes:
        url: of its OpenAI-compatible API, without `/v1`; whoever reaches it can load adapters.
        adapters: folder that the generator writes adapters to and the server loads them from.
        max_concurrency: prompts that it writes for at once; more wait in the generator.
        quantization: how a server that `up` starts holds the base's weights; fp8 is for GPUs.
    """

    url: HttpUrl
    adapters: Path
    max_concurrency: Annotated[int, Field(ge=1)]
    quantization: Literal["none", "fp8"]


class BankSettings(Frozen):
    """The bank of messages written ahead.

    Attributes:
        messages_per_brief: how many reviewed messages it wants for each brief.
        candidates_per_message: how many drafts are written for each message that is kept.
        max_messages: that it holds in all; where that is not enough, the briefs asked for most have theirs.
        exploration: the share of choices that is uniform among a brief's messages; the others follow their rewards.
        engine_share: the share of time in which the engine may refill it, once each brief had its first turn.
        max_age_days: after which a message is replaced.
        approval: `person`: no message is given out before somebody has approved it.
    """

    messages_per_brief: Annotated[int, Field(ge=1)]
    candidates_per_message: Annotated[int, Field(ge=1)]
    max_messages: Annotated[int, Field(ge=1)]
    exploration: Annotated[float, Field(gt=0.0, le=1.0)]
    engine_share: Annotated[float, Field(gt=0.0, le=1.0)]
    max_age_days: Annotated[float, Field(gt=0.0)]
    approval: Literal["none", "person"]


class GeneratorSettings(RpcServiceSettings):
    """The engine and the bank.

    Attributes:
        engine: embedded is CTranslate2 in the generator's process, with checkpoints of kind generator; vllm is a server
            of the base model, with adapters, checkpoints of kind writer.
        quantization: how the embedded engine holds the model's weights.
        threads: of the embedded engine, and of the reward model.
        tone: of every message, one of `churnsaver.domain.writing.TONES`.
    """

    engine: Literal["embedded", "vllm"]
    vllm: VllmSettings
    model: str
    quantization: Literal["none", "int8"]
    threads: Annotated[int, Field(ge=1)]
    max_new_tokens: Annotated[int, Field(ge=8)]
    temperature: Annotated[float, Field(gt=0)]
    top_k: Annotated[int, Field(ge=1)]
    tone: Literal["warm", "plain", "cheerful"]
    languages: Annotated[tuple[str, ...], Field(min_length=1)]
    bank: BankSettings


class ShieldSettings(RpcServiceSettings):
    """The shield.

    Attributes:
        toxicity_threshold: drafts that score this much are blocked; 0.5 is the classifier's operating point.
        allowed_link_hosts: hosts that a message may link to, their subdomains included; no others.
    """

    toxicity_threshold: Fraction
    allowed_link_hosts: tuple[str, ...] = ()


class RedisSettings(Frozen):
    """Where Redis is.

    Attributes:
        iam: log in with tokens of the Google service account in place of a password, as Memorystore wants it.
    """

    url: RedisDsn
    iam: bool = False


class EventsSettings(Frozen):
    """Where events go.

    Attributes:
        project: the Google Cloud project.
        topic: the topic of events about checkpoints.
        decisions_topic: the topic that decisions' records go to.
        outcomes_topic: the topic that outcomes go to.
        embedded: host:port of the local stack's own Pub/Sub; null for the real service.
    """

    project: str
    topic: str
    decisions_topic: str
    outcomes_topic: str
    embedded: str | None


class RegistrySettings(Frozen):
    """Where checkpoints are published and whose signatures count.

    Attributes:
        url: a folder, or `gs://bucket/path`.
        trusted_keys: file of public keys in PEM, one block each.
        signing_key: file of the private key; only those who publish need it.
        poll_s: how often services look without being told to.
    """

    url: str
    trusted_keys: Path
    signing_key: Path | None = None
    poll_s: Annotated[float, Field(gt=0)]


class Addresses(Frozen):
    """Where the gateway and the generator find the others, as gRPC targets."""

    decision: str
    generator: str
    shield: str


class ServeSettings(BaseSettings):
    """`configs/serve.yaml`: how the services run."""

    model_config = SettingsConfigDict(
        env_prefix="CHURN_SAVER_",
        env_nested_delimiter="__",
        env_parse_none_str="null",  # as YAML says it
        frozen=True,
        extra="forbid",
    )

    seed: int = DEFAULT_SEED
    models: Path
    state_dir: Path
    pseudonym_key: str
    gateway: GatewaySettings
    decision: DecisionSettings
    generator: GeneratorSettings
    shield: ShieldSettings
    redis: RedisSettings
    events: EventsSettings
    registry: RegistrySettings
    addresses: Addresses
    force_baseline: Annotated[bool, Field(validation_alias="FORCE_BASELINE")] = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        yaml_file = configs_dir() / "serve.yaml"
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file)


class _YamlLoader(yaml.SafeLoader):
    """YAML in which only true and false are truth values: a schema's `yes: Yes` is two texts."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def configs_dir() -> Path:
    """The folder of settings: `CHURN_SAVER_CONFIGS`, else `configs` in the working directory."""
    return Path(os.environ.get("CHURN_SAVER_CONFIGS", "configs"))


def load_serve_settings() -> ServeSettings:
    """`serve.yaml` and the environment; SettingsError names the setting that is wrong."""
    read_yaml(configs_dir() / "serve.yaml")
    try:
        return ServeSettings()
    except ValidationError as error:
        raise SettingsError(f"{configs_dir() / 'serve.yaml'} or the environment: {explain(error)}") from None


def load_world() -> World:
    """The world of `env.yaml`, without the parts that only the environment reads."""
    path = configs_dir() / "env.yaml"
    document = read_yaml(path)
    return parse(World, {key: document[key] for key in World.model_fields if key in document}, path)


def load_message_books() -> dict[str, MessageBook]:
    """The approved texts of `messages.yaml`, by language."""
    path = configs_dir() / "messages.yaml"
    return {language: parse(MessageBook, book, path) for language, book in read_yaml(path).items()}


def load_schema(path: Path) -> DatasetSchema:
    """A dataset schema; SchemaError names the file and the key that is wrong."""
    return parse(DatasetSchema, read_yaml(path), path, SchemaError)


def load_section(name: str, model: type[Model]) -> Model:
    """`configs/<name>.yaml` as `model`."""
    path = configs_dir() / f"{name}.yaml"
    return parse(model, read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; SettingsError where the file is missing, no YAML or no mapping."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _YamlLoader)  # noqa: S506 – it is a SafeLoader
    except FileNotFoundError:
        ours = "; run from the project's root or set CHURN_SAVER_CONFIGS" if path.parent == configs_dir() else ""
        raise SettingsError(f"{path}: no such file{ours}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, got {type(document).__name__}")
    return document


def parse(model: type[Model], document: Any, path: Path, error_type: type[BadInput] = SettingsError) -> Model:
    """`document` as `model`; `error_type` names `path` and every key that is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise error_type(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Pydantic's findings as one line: `gateway.port: Input should be …; …`."""
    parts = (
        (".".join(str(step) for step in item["loc"]), item["msg"].removeprefix("Value error, "))
        for item in error.errors()
    )
    return "; ".join(f"{where}: {what}" if where else what for where, what in parts)
