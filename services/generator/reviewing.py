"""Asks the shield about a draft."""

from __future__ import annotations

from typing import Protocol

import grpc

from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc


class ShieldUnavailable(Exception):
    """The shield does not answer, so nothing can be admitted now."""


class DraftReview(Protocol):
    async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool: ...


class ShieldReview:
    """The real shield, over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = shield_grpc.ShieldServiceStub(channel)

    async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool:
        """Whether the shield passes a slotted draft; ShieldUnavailable where it does not say."""
        request = pb.ReviewRequest(text=draft, stage=pb.STAGE_DRAFT, channel=channel, language=language)
        try:
            answer = await self._stub.Review(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise ShieldUnavailable(error.code().name) from None
        return bool(answer.verdict == pb.VERDICT_PASS)
