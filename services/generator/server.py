"""Speaks the protocol; `generate.py` does the writing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from churnsaver.domain.message import Brief
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from services.generator.generate import Writer

NO_DEADLINE_S = 30.0


class GeneratorServicer(generator_grpc.GeneratorServiceServicer):
    def __init__(self, writer: Callable[[], Writer]) -> None:
        self._writer = writer

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        asked = request.brief
        brief = Brief(
            segment=asked.segment,
            offer=asked.offer,
            tone=asked.tone,
            channel=asked.channel,
            language=asked.language,
            reason=asked.reason or "general",
        )
        time_left_s = context.time_remaining()
        return await self._writer().write(brief, request.seed, NO_DEADLINE_S if time_left_s is None else time_left_s)

    async def GetBank(self, request: pb.GetBankRequest, context: Any) -> pb.GetBankResponse:
        bank = self._writer().bank
        entries = [
            pb.BankEntry(
                message_id=message.message_id,
                brief=pb.Brief(**brief.model_dump()),
                draft=message.draft,
                uses=bank.uses[message.message_id],
                score=message.score,
            )
            for brief, message in bank.entries()
        ]
        return pb.GetBankResponse(
            entries=entries,
            briefs_filled=bank.briefs_filled,
            briefs_wanted=len(bank.wanted),
            filling=bank.filling,
        )


def register(server: grpc.aio.Server, writer: Callable[[], Writer]) -> str:
    """Adds the service to `server`; returns its full name. `writer` says who writes now."""
    generator_grpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(writer), server)
    return pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
