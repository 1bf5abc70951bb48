"""Whether this version and a service that runs understand each other: their contracts, compared field by field.

While a rollout replaces pods one by one, new callers speak to old services, and old callers to new ones. `buf breaking`
compares the files of two commits; this compares with what really runs, which says by reflection what it speaks.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_S = 5.0


def breaks(ours: ServiceDescriptor, address: str) -> list[str] | None:
    """What would break between the service that runs at `address` and this version of it; None if nothing answers."""
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(TIMEOUT_S)
            theirs = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(ours.full_name)
        except grpc.FutureTimeoutError:
            return None
        except KeyError:
            return [f"{ours.full_name} is not what runs there"]
        return list(dict.fromkeys(differences(ours, theirs)))


def differences(ours: ServiceDescriptor, theirs: ServiceDescriptor) -> Iterator[str]:
    """Methods that callers of `theirs` would miss, and fields that the two read differently.

    What one has more is none: an unknown field is skipped, and a method that is not there yet is a service that is
    down, which every caller knows how to live with.
    """
    seen: set[str] = set()
    for method in theirs.methods:
        same = ours.methods_by_name.get(method.name)
        if same is None:
            yield f"{method.full_name} is gone"
            continue
        yield from _of_messages(same.input_type, method.input_type, seen)
        yield from _of_messages(same.output_type, method.output_type, seen)


def _of_messages(ours: Descriptor, theirs: Descriptor, seen: set[str]) -> Iterator[str]:
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    for number, field in ours.fields_by_number.items():
        other = theirs.fields_by_number.get(number)
        if other is None:
            continue
        if _kind(field) != _kind(other):
            yield f"{field.full_name} ({number}) is {_kind(field)}, and {_kind(other)} where it runs"
        elif field.message_type is not None and other.message_type is not None:
            yield from _of_messages(field.message_type, other.message_type, seen)


def _kind(field: FieldDescriptor) -> str:
    """How a field's bytes are read: `repeated double`, `message`."""
    names = {getattr(FieldDescriptor, name): name for name in dir(FieldDescriptor) if name.startswith("TYPE_")}
    return ("repeated " if field.is_repeated else "") + names[field.type].removeprefix("TYPE_").lower()
