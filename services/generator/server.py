"""Speaks the protocol; `generate.py` does the writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from churnsaver.domain.message import Brief
from churnsaver.message_counts import USES, MessageCounts
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from services.generator.bank import Bank
from services.generator.generate import Writer
from services.generator.listing import Entry, State
from services.generator.message import Verdict
from services.generator.store import StoreUnavailable

NO_DEADLINE_S = 30.0
STATES = {
    State.ACTIVE: pb.MESSAGE_STATE_ACTIVE,
    State.WAITING: pb.MESSAGE_STATE_WAITING,
    State.NEXT: pb.MESSAGE_STATE_NEXT,
    State.RETIRED: pb.MESSAGE_STATE_RETIRED,
}


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
        return pb.GetBankResponse(
            entries=[] if request.without_entries else await _entries(bank, bank.entries()),
            briefs_filled=bank.briefs_filled,
            briefs_wanted=len(bank.wanted),
            filling=bank.filling,
        )

    async def JudgeMessage(self, request: pb.JudgeMessageRequest, context: Any) -> pb.JudgeMessageResponse:
        bank = self._writer().bank
        verdict = Verdict.RETIRED if request.retire else Verdict.APPROVED
        stored = await bank.judge(request.message_id, verdict, by=request.by, reason=request.reason)
        judged = [each for each in bank.entries() if each.message_id == request.message_id]
        shown = await _entries(bank, judged)
        return pb.JudgeMessageResponse(entry=shown[0] if shown else None, stored=stored)


async def _entries(bank: Bank, entries: Sequence[Entry]) -> list[pb.BankEntry]:
    try:
        counts = await bank.counts([entry.message_id for entry in entries])
    except StoreUnavailable:
        counts = [MessageCounts() for _ in entries]  # the messages can be shown all the same
    return [_entry(*each) for each in zip(entries, counts, strict=True)]


def _entry(entry: Entry, counted: MessageCounts) -> pb.BankEntry:
    message, judgement, counts = entry.message, entry.judgement, counted.total
    return pb.BankEntry(
        message_id=entry.message_id,
        brief=pb.Brief(**entry.brief.model_dump()),
        draft=entry.draft,
        uses=counts.get(USES, 0),
        score=message.score if message else 0.0,
        state=STATES[entry.state],
        outcomes={name: count for name, count in counts.items() if name != USES and count},
        propensity=entry.chance,
        model_version=message.model if message else "",
        judged_by=judgement.by if judgement else "",
        judged_because=judgement.reason if judgement else "",
    )


def register(server: grpc.aio.Server, writer: Callable[[], Writer]) -> str:
    """Adds the service to `server`; returns its full name. `writer` says who writes now."""
    generator_grpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(writer), server)
    return pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
