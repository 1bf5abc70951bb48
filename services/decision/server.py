"""Speaks the protocol; `decide.py` does the deciding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as pb
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2_grpc as decision_grpc
from services.decision.decide import Decider


class DecisionServicer(decision_grpc.DecisionServiceServicer):
    """A decision takes about a millisecond of one core, less than handing it to a thread would cost."""

    def __init__(self, decider: Callable[[], Decider]) -> None:
        self._decider = decider

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        return self._decider().decide(request)


def register(server: grpc.aio.Server, decider: Callable[[], Decider]) -> str:
    """Adds the service to `server`; returns its full name. `decider` says what decides now."""
    decision_grpc.add_DecisionServiceServicer_to_server(DecisionServicer(decider), server)
    return pb.DESCRIPTOR.services_by_name["DecisionService"].full_name
