"""A customer's attributes on their way over RPC and back."""

from __future__ import annotations

from collections.abc import Mapping

from churnsaver.domain.schema import Scalar
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb


def attribute_values(attributes: Mapping[str, Scalar]) -> dict[str, pb.AttributeValue]:
    """Attributes as the protocol has them; those that are null are left out."""
    return {name: _value(value) for name, value in attributes.items() if value is not None}


def _value(value: Scalar) -> pb.AttributeValue:
    if isinstance(value, bool):
        return pb.AttributeValue(flag=value)
    if isinstance(value, int | float):
        return pb.AttributeValue(number=float(value))
    return pb.AttributeValue(text=value or "")
