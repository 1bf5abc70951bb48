"""Asks the shield about a draft."""

from __future__ import annotations

from typing import Protocol

import grpc
import structlog

from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as pb
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc

log = structlog.get_logger()

# What says of the shield that it is away; whatever else it answers is about the draft.
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class ShieldUnavailable(Exception):
    """The shield does not answer, so nothing can be admitted now."""


class DraftReview(Protocol):
    async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool: ...


class ShieldReview:
    """The real shield, over gRPC."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = shield_grpc.ShieldServiceStub(channel)

    async def passes(self, draft: str, channel: str, language: str, timeout_s: float) -> bool:
        """Whether the shield passes a slotted draft, which it does not where it cannot be asked about it.

        Raises:
            ShieldUnavailable: it is away.
        """
        request = pb.ReviewRequest(text=draft, stage=pb.STAGE_DRAFT, channel=channel, language=language)
        try:
            answer = await self._stub.Review(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in AWAY:
                raise ShieldUnavailable(error.code().name) from None
            log.warning("shield.refused", code=error.code().name, reason=(error.details() or "")[:200])
            return False
        return bool(answer.verdict == pb.VERDICT_PASS)
