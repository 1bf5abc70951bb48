"""What measuring a generator that writes live needs: a filled bank, and briefs that it does not hold."""

from __future__ import annotations

import itertools

import grpc

from churnsaver.domain.message import SEGMENTS, Brief
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.settings import ServeSettings, load_world
from tests.load.processes import wait_until

FILLED_TIMEOUT_S = 1_200.0  # a vLLM server on two cores fills a bank in some six minutes
ANSWER_TIMEOUT_S = 30.0


def unheld_briefs(settings: ServeSettings) -> list[Brief]:
    """Of a tone that the bank does not hold."""
    tone = "cheerful" if settings.generator.tone == "plain" else "plain"
    world, language = load_world(), settings.generator.languages[0]
    return [
        Brief(segment=segment, offer=offer.id, tone=tone, channel=channel, language=language)
        for segment, offer, channel in itertools.product(SEGMENTS, world.offers, world.channels)
    ]


def wait_until_filled(address: str) -> pb.GetBankResponse:
    """The bank of the generator at `address`, once each brief had its turn; BadInput where that never comes."""
    with grpc.insecure_channel(address) as channel:
        stub = generator_grpc.GeneratorServiceStub(channel)

        def bank() -> pb.GetBankResponse:
            return stub.GetBank(pb.GetBankRequest(without_entries=True), timeout=ANSWER_TIMEOUT_S)

        wait_until(lambda: not bank().filling, "the bank is filled (see the generator's log)", FILLED_TIMEOUT_S, 1.0)
        return bank()
