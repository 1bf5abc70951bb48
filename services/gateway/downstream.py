"""The gateway's view of decision, generator and shield: typed calls, and one exception for "not now"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import grpc

from churnsaver.domain.message import Brief
from churnsaver.domain.schema import Scalar
from churnsaver.rpc.attributes import attribute_values
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2_grpc as decision_grpc
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as generator_pb2
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb2
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc

SOURCES = {
    generator_pb2.MESSAGE_SOURCE_MODEL: "model",
    generator_pb2.MESSAGE_SOURCE_BANK: "bank",
    generator_pb2.MESSAGE_SOURCE_TEMPLATE: "template",
}


class Unavailable(Exception):
    """A service is down, or did not answer in its slice of the deadline."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """When a message would be sent, and in which zone it would arrive."""

    send_at: datetime
    timezone: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A slotted message; `propensity` is the probability with which it was chosen among its siblings."""

    text: str
    source: str
    message_id: str
    model_version: str
    propensity: float


class Decision(Protocol):
    async def decide(
        self,
        attributes: Mapping[str, Scalar],
        contact: decision_pb2.ContactState,
        seed: int,
        policy: decision_pb2.PolicyName.ValueType,
        timeout_s: float,
    ) -> decision_pb2.DecideResponse: ...


class Generator(Protocol):
    async def generate(self, brief: Brief, seed: int, timeout_s: float) -> Draft: ...


class Shield(Protocol):
    async def review(
        self, text: str, brief: Brief, slots: Mapping[str, str], delivery: Delivery, timeout_s: float
    ) -> shield_pb2.ReviewResponse: ...


class GrpcDecision:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = decision_grpc.DecisionServiceStub(channel)

    async def decide(
        self,
        attributes: Mapping[str, Scalar],
        contact: decision_pb2.ContactState,
        seed: int,
        policy: decision_pb2.PolicyName.ValueType,
        timeout_s: float,
    ) -> decision_pb2.DecideResponse:
        request = decision_pb2.DecideRequest(
            attributes=attribute_values(attributes), contact=contact, seed=seed, policy=policy
        )
        try:
            return await self._stub.Decide(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("decision", error) from None


class GrpcGenerator:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generator_grpc.GeneratorServiceStub(channel)

    async def generate(self, brief: Brief, seed: int, timeout_s: float) -> Draft:
        request = generator_pb2.GenerateRequest(brief=generator_pb2.Brief(**brief.model_dump()), seed=seed)
        try:
            answer = await self._stub.Generate(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("generator", error) from None
        if (source := SOURCES.get(answer.source)) is None:
            raise Unavailable("generator: answered without a source")
        return Draft(answer.draft, source, answer.message_id, answer.model_version, answer.propensity)


class GrpcShield:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = shield_grpc.ShieldServiceStub(channel)

    async def review(
        self, text: str, brief: Brief, slots: Mapping[str, str], delivery: Delivery, timeout_s: float
    ) -> shield_pb2.ReviewResponse:
        request = shield_pb2.ReviewRequest(
            text=text,
            stage=shield_pb2.STAGE_FILLED,
            channel=brief.channel,
            language=brief.language,
            slots=slots,
            delivery=shield_pb2.Delivery(send_at_unix_s=int(delivery.send_at.timestamp()), timezone=delivery.timezone),
        )
        try:
            return await self._stub.Review(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _unavailable("shield", error) from None


async def serving_models(channel: grpc.aio.Channel, timeout_s: float) -> dict[str, dict[str, str]]:
    """What the service behind `channel` serves with, by kind; empty while it does not answer."""
    try:
        answer = await models_grpc.ModelsServiceStub(channel).GetModels(
            models_pb2.GetModelsRequest(), timeout=timeout_s
        )
    except grpc.aio.AioRpcError:
        return {}
    return {model.kind: {"version": model.version, "sha256": model.sha256} for model in answer.models}


def _unavailable(service: str, error: grpc.aio.AioRpcError) -> Unavailable:
    return Unavailable(f"{service}: {error.code().name}")
