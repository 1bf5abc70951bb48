"""Wires the embedded Pub/Sub and serves it until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from churnsaver.errors import BadInput, SettingsError
from churnsaver.events.embedded.bells import Bells
from churnsaver.events.embedded.broker import Broker
from churnsaver.events.embedded.buckets import Buckets
from churnsaver.events.embedded.deliverers import Deliverers
from churnsaver.events.embedded.journal import Journal
from churnsaver.events.embedded.push import Pushers
from churnsaver.events.embedded.servicer import Servicer
from churnsaver.events.embedded.state import State
from churnsaver.rpc.server import stop_requested
from churnsaver.settings import load_serve_settings
from churnsaver.tasks import stop_tasks

log = structlog.get_logger()

TICK_S = 0.1
DRAIN_S = 1.0
OPTIONS = [
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server that shares it
    ("grpc.max_receive_message_length", 12 << 20),  # the service takes 10 MB in one publish
]


async def main(listen: str | None = None) -> None:
    """Serves at `listen`, else where the settings say; BadInput where that cannot be."""
    settings = load_serve_settings()
    if listen is None and settings.events.embedded is None:
        raise SettingsError("events.embedded is null in serve.yaml; give it the host:port to serve Pub/Sub at")
    await serve(listen or str(settings.events.embedded), settings.state_dir / "pubsub", reachable=listen is not None)


async def serve(address: str, folder: Path, *, reachable: bool = False) -> None:
    """Serves Pub/Sub until SIGTERM or SIGINT.

    Args:
        address: host:port.
        folder: of the journal, and of the folder `buckets` that stand for buckets.
        reachable: whether others than this machine may be served. There is no access control, so whoever says
            so answers for the network.

    Raises:
        BadInput: the address is taken, not of this machine, or the folder cannot be written.
    """
    check_address(address, reachable=reachable)
    offset_s = time.time() - time.monotonic()

    def clock() -> float:
        return offset_s + time.monotonic()  # the time of day, but it never goes back

    state, bells = State(clock), Bells()
    journal = Journal(folder, state.whole)
    journal.replay(state.apply)
    broker = Broker(state, clock, journal.append, bells.ring)
    deliverers = (Pushers(broker, bells), Buckets(broker, bells, folder / "buckets"))
    server = grpc.aio.server(options=OPTIONS)
    Servicer(broker, journal, bells).register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise BadInput(f"{address} cannot be listened at; set another events.embedded in serve.yaml") from None

    async with journal:
        await server.start()
        await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        log.info("pubsub.serving", address=address, topics=len(state.topics), subscriptions=len(state.subscriptions))
        ticker = asyncio.create_task(_tick(broker, deliverers))
        stopping = asyncio.create_task(stop_requested())
        await asyncio.wait([ticker, stopping], return_when=asyncio.FIRST_COMPLETED)
        log.info("pubsub.draining", grace_s=DRAIN_S)
        await health_servicer.enter_graceful_shutdown()
        bells.close()
        await server.stop(DRAIN_S)
        await stop_tasks([ticker, stopping])
        for each in deliverers:
            await each.close()
    if not ticker.cancelled():
        ticker.result()  # it never ends by itself but by a defect, which is then shown


def check_address(address: str, *, reachable: bool = False) -> None:
    """BadInput unless something could listen at this address, which only this machine reaches unless `reachable`."""
    host, _, port = address.rpartition(":")
    try:
        local = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
        number = int(port)
    except ValueError:
        raise SettingsError(f"events.embedded is {address!r}; expected host:port, such as 127.0.0.1:8085") from None
    if not (local or reachable):
        raise SettingsError(f"events.embedded is {address!r}; the embedded Pub/Sub serves this machine only: 127.0.0.1")
    # Asked first, because gRPC says it in several lines.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), number))
        except OSError as error:
            raise BadInput(
                f"{address} cannot be listened at ({error.strerror}); "
                "stop what listens there or set another events.embedded in serve.yaml"
            ) from None


async def _tick(broker: Broker, deliverers: Iterable[Deliverers]) -> None:
    while True:
        broker.tick()
        for each in deliverers:
            await each.reconcile()
        await asyncio.sleep(TICK_S)
