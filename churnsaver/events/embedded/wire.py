"""The protobuf classes of google.pubsub.v1, and the answer to a call that cannot be met.

Google's client wraps its messages in proto-plus, which costs several times what the messages do; a server
that only passes them on uses what is inside the wrappers. Those classes are made at run time and have no
types for mypy: `Message` marks where one of them is meant.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

Message: TypeAlias = Any

Topic: Message = types.Topic.pb()
Subscription: Message = types.Subscription.pb()
Snapshot: Message = types.Snapshot.pb()
PubsubMessage: Message = types.PubsubMessage.pb()
ReceivedMessage: Message = types.ReceivedMessage.pb()
StreamingPullRequest: Message = types.StreamingPullRequest.pb()
StreamingPullResponse: Message = types.StreamingPullResponse.pb()
Empty = empty_pb2.Empty


def message_class(name: str) -> Message:
    """The class of any other message, by its name in the proto."""
    return getattr(types, name).pb()


class Refused(Exception):
    """A call that is answered with a status.

    Attributes:
        code: the status code.
        details: bytes of a google.rpc.Status for clients that want more than the message; may be empty.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code, self.details = code, details


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT: the caller has to send something else."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(name: str) -> Refused:
    """NOT_FOUND, which tells Google's clients to create the resource or to give up."""
    return Refused(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name}).")
