"""Which Pub/Sub is meant, what an event holds, and which events are usable."""

from __future__ import annotations

import re

import pytest

from churnsaver.events import KINDS, CheckpointEvent, find_pubsub, new_event
from churnsaver.events.event import read_event
from churnsaver.events.subscriber import subscription_id
from churnsaver.settings import EventsSettings, load_serve_settings

LOCAL = EventsSettings(project="p", topic="t", decisions_topic="d", outcomes_topic="o", embedded="127.0.0.1:8085")


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)


def test_settings_name_the_embedded_server() -> None:
    pubsub = find_pubsub(load_serve_settings().events)
    assert pubsub.address == "127.0.0.1:8085"
    assert pubsub.topic_path == "projects/churn-saver-local/topics/checkpoint-events"


@pytest.mark.parametrize(
    ("emulator", "embedded", "address"),
    [
        ("localhost:9", "127.0.0.1:8085", "localhost:9"),
        ("localhost:9", None, "localhost:9"),
        ("", "127.0.0.1:8085", "127.0.0.1:8085"),
        ("", None, None),
    ],
)
def test_which_pubsub(
    monkeypatch: pytest.MonkeyPatch, emulator: str, embedded: str | None, address: str | None
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator)
    assert find_pubsub(LOCAL.model_copy(update={"embedded": embedded})).address == address


def test_real_service_by_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURN_SAVER_EVENTS__EMBEDDED", "null")
    assert find_pubsub(load_serve_settings().events).address is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_event_comes_back(kind: str) -> None:
    event = new_event(CheckpointEvent.TYPE_REFUSED, kind, "v1", alias="champion", source="decision", reason="golden")
    assert read_event(event.SerializeToString()) == event
    assert len(event.event_id) == 32
    assert event.schema_version == 1
    assert event.occurred_at.seconds > 0


def test_subscription_ids_are_valid_and_differ() -> None:
    ids = {subscription_id("a name / with ž" + "x" * 300) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{2,254}", each) for each in ids)
