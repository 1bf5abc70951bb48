"""A checkpoint event: made, written and read."""

from __future__ import annotations

import uuid

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from churnsaver.checkpoints.checkpoint import KINDS
from churnsaver.rpc.stubs.events.v1.checkpoint_event_pb2 import CheckpointEvent

SCHEMA_VERSION = 1


def new_event(
    type: CheckpointEvent.Type.ValueType,  # noqa: A002 - the field's name in the proto
    kind: str,
    version: str,
    alias: str = "",
    manifest_sha256: str = "",
    source: str = "",
    reason: str = "",
) -> CheckpointEvent:
    """An event that happens now; the proto says what each field holds."""
    occurred_at = Timestamp()
    occurred_at.GetCurrentTime()
    return CheckpointEvent(
        event_id=uuid.uuid4().hex,
        schema_version=SCHEMA_VERSION,
        occurred_at=occurred_at,
        type=type,
        kind=kind,
        version=version,
        alias=alias,
        manifest_sha256=manifest_sha256,
        source=source,
        reason=reason,
    )


def read_event(data: bytes) -> CheckpointEvent:
    """The event in a message's data; ValueError says why it cannot be used."""
    try:
        event = CheckpointEvent.FromString(data)
    except DecodeError:
        raise ValueError("is no checkpoint event") from None
    if event.schema_version != SCHEMA_VERSION:
        raise ValueError(f"has schema version {event.schema_version}; this process knows {SCHEMA_VERSION}")
    if event.type == CheckpointEvent.TYPE_UNSPECIFIED or event.type not in CheckpointEvent.Type.values():
        raise ValueError(f"has the unknown type {event.type}")
    if event.kind not in KINDS:
        raise ValueError(f"has the unknown kind {event.kind[:40]!r}")
    return event
