"""The bare floor: what one answer costs before any of our own work is done.

One HTTP call is three gRPC hops in a row and one Redis script, with our protos, channels and server options,
and handlers that do nothing. Whatever `/v1/retain` takes beyond it is ours; the ratio of the two in one run is
the figure that survives a change of machine.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import orjson
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

from churnsaver.rpc.channels import open_channel
from churnsaver.rpc.server import ServerOptions, stop_requested
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2 as decision_pb2
from churnsaver.rpc.stubs.decision.v1 import decision_service_pb2_grpc as decision_grpc
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as generator_pb2
from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2 as shield_pb2
from churnsaver.rpc.stubs.shield.v1 import shield_service_pb2_grpc as shield_grpc
from tests.load.processes import HOST, end, free_ports, start_module, start_redis, wait_listening

RPC_SERVICES = ("decision", "generator", "shield")
RPC_TIMEOUT_S = 5.0
MAX_REDIS_CONNECTIONS = 1_000  # the client's own default of 100 would end the search for saturation early

# As many keys and arguments as the gateway's booking script, of about the same size, and no work.
SCRIPT = "return ARGV[11]"
KEYS = [f"floor:{index}" for index in range(9)]
ARGUMENTS = ["x" * 1200 if index in {9, 10, 11} else "0" for index in range(16)]

DECIDE = decision_pb2.DecideRequest(
    attributes={f"attribute_{index:02d}": decision_pb2.AttributeValue(number=float(index)) for index in range(20)},
    contact=decision_pb2.ContactState(consent=True, local_hour_at_send=[10.0] * 4, budget_left_cents=1, budget_cents=1),
    seed=42,
)
DECIDED = decision_pb2.DecideResponse(
    action=1, contact=True, offer="check_in", propensity=0.5, mask_reasons=bytes(21), observation=[0.5] * 24
)
GENERATE = generator_pb2.GenerateRequest(
    brief=generator_pb2.Brief(segment="new", offer="check_in", tone="warm", channel="email", language="en"), seed=42
)
GENERATED = generator_pb2.GenerateResponse(
    draft="x" * 240, source=generator_pb2.MESSAGE_SOURCE_BANK, message_id="0" * 16, propensity=0.5
)
REVIEW = shield_pb2.ReviewRequest(
    text="x" * 240,
    stage=shield_pb2.STAGE_FILLED,
    channel="email",
    language="en",
    slots={"first_name": "Ana", "offer": "x" * 24, "expiry": "07 Dec 2026", "opt_out": "x" * 40},
    delivery=shield_pb2.Delivery(send_at_unix_s=1_764_000_000, timezone="Europe/Berlin"),
)
REVIEWED = shield_pb2.ReviewResponse(verdict=shield_pb2.VERDICT_PASS, version="floor")
ANSWER = orjson.dumps(
    {
        "mode": "policy",
        "decision": {"contact": True},
        "message": {"source": "floor", "text": "x" * 240},
        "pad": "x" * 500,
    }
)


class EmptyDecision(decision_grpc.DecisionServiceServicer):
    """Decides nothing."""

    async def Decide(self, request: decision_pb2.DecideRequest, context: Any) -> decision_pb2.DecideResponse:
        return DECIDED


class EmptyGenerator(generator_grpc.GeneratorServiceServicer):
    """Writes nothing."""

    async def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> generator_pb2.GenerateResponse:
        return GENERATED

    async def GetBank(self, request: generator_pb2.GetBankRequest, context: Any) -> generator_pb2.GetBankResponse:
        return generator_pb2.GetBankResponse()


class EmptyShield(shield_grpc.ShieldServiceServicer):
    """Reviews nothing."""

    async def Review(self, request: shield_pb2.ReviewRequest, context: Any) -> shield_pb2.ReviewResponse:
        return REVIEWED


def build_app(addresses: list[str], redis_url: str) -> FastAPI:
    """The empty gateway; `addresses` of decision, generator and shield."""

    @asynccontextmanager
    async def wire(app: FastAPI) -> AsyncIterator[None]:
        channels = [open_channel(address) for address in addresses]
        app.state.decision = decision_grpc.DecisionServiceStub(channels[0])
        app.state.generator = generator_grpc.GeneratorServiceStub(channels[1])
        app.state.shield = shield_grpc.ShieldServiceStub(channels[2])
        app.state.redis = Redis.from_url(redis_url, max_connections=MAX_REDIS_CONNECTIONS)
        app.state.script = app.state.redis.register_script(SCRIPT)
        yield
        await asyncio.gather(*(channel.close() for channel in channels))
        await app.state.redis.aclose()

    app = FastAPI(lifespan=wire)

    @app.post("/v1/retain")
    async def retain(request: Request) -> Response:
        orjson.loads(await request.body())
        state = request.app.state
        await state.decision.Decide(DECIDE, timeout=RPC_TIMEOUT_S)
        await state.generator.Generate(GENERATE, timeout=RPC_TIMEOUT_S)
        await state.shield.Review(REVIEW, timeout=RPC_TIMEOUT_S)
        await state.script(keys=KEYS, args=ARGUMENTS)
        return Response(ANSWER, media_type="application/json")

    return app


async def serve_rpc(service: str, port: int) -> None:
    """Serves one empty service until SIGTERM."""
    server = grpc.aio.server(options=ServerOptions)
    if service == "decision":
        decision_grpc.add_DecisionServiceServicer_to_server(EmptyDecision(), server)
    elif service == "generator":
        generator_grpc.add_GeneratorServiceServicer_to_server(EmptyGenerator(), server)
    else:
        shield_grpc.add_ShieldServiceServicer_to_server(EmptyShield(), server)
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await stop_requested()
    await server.stop(1.0)


class Floor:
    """The floor's five processes, as a context manager: a real redis-server, three services, one gateway.

    Attributes:
        url: where the empty `/v1/retain` listens.
        pids: process ids by name.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="churn-saver-floor-")
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""

    @property
    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self._children.items()}

    def __enter__(self) -> Self:
        redis_port, http_port, *rpc_ports = free_ports(2 + len(RPC_SERVICES))
        try:
            self._children["redis"] = start_redis(redis_port, Path(self._folder.name))
            for service, port in zip(RPC_SERVICES, rpc_ports, strict=True):
                self._children[service] = start_module("tests.load.floor", service, f"--port={port}")
            wait_listening(self._children.values(), [redis_port, *rpc_ports])
            addresses = ",".join(f"{HOST}:{port}" for port in rpc_ports)
            self._children["gateway"] = start_module(
                "tests.load.floor",
                "gateway",
                f"--port={http_port}",
                f"--addresses={addresses}",
                f"--redis=redis://{HOST}:{redis_port}/0",
            )
            wait_listening(self._children.values(), [http_port])
        except BaseException:
            self.close()
            raise
        self.url = f"http://{HOST}:{http_port}/v1/retain"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of the floor."""
        end(self._children.values())
        self._folder.cleanup()


def main() -> None:
    """One process of the floor; `Floor` starts them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("role", choices=[*RPC_SERVICES, "gateway"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--addresses", default="")
    parser.add_argument("--redis", default="")
    arguments = parser.parse_args()
    if arguments.role == "gateway":
        app = build_app(arguments.addresses.split(","), arguments.redis)
        # As our gateway is run, so that the two differ in our code alone.
        uvicorn.run(
            app,
            host=HOST,
            port=arguments.port,
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_level="warning",
        )
    else:
        uvloop.run(serve_rpc(arguments.role, arguments.port))


if __name__ == "__main__":
    main()
