"""Starting, watching and draining a gRPC service: the same for decision, generator and shield."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from churnsaver import __version__
from churnsaver.checkpoints import Checkpoint
from churnsaver.errors import BadInput, ChurnSaverError
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb2
from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc
from churnsaver.settings import RpcServiceSettings
from churnsaver.telemetry import BUILD_INFO, RPC_REQUESTS, RPC_SECONDS, configure_logging

log = structlog.get_logger()

ServerOptions = [
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server that shares it
    ("grpc.max_connection_age_ms", 300_000),  # so that callers find pods that were added since
    # Longer than any call (`generate` waits 600 s for a message), or the last ones would end as UNAVAILABLE.
    ("grpc.max_connection_age_grace_ms", 660_000),
    ("grpc.max_receive_message_length", 1 << 20),
]


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts and times unary RPCs, and turns exceptions into a status without a stack trace."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.unary_unary is None or not method.startswith("/churnsaver."):
            return handler
        answer = handler.unary_unary

        async def timed(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return await answer(request, context)
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except ChurnSaverError as error:
                code = grpc.StatusCode.INVALID_ARGUMENT
                await context.abort(code, str(error))
            except Exception as error:
                # The boundary of the process: whatever it was, the caller gets a status and we a log line.
                code = grpc.StatusCode.INTERNAL
                log.exception("rpc.failed", method=method)
                await context.abort(code, f"{type(error).__name__} in {method}; see the service's log")
            finally:
                RPC_REQUESTS.labels(method, code.name).inc()
                RPC_SECONDS.labels(method).observe(time.perf_counter() - started)

        return grpc.unary_unary_rpc_method_handler(
            timed,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class ModelsServicer(models_grpc.ModelsServiceServicer):
    """Answers which checkpoints serve, from whatever the service says at that moment."""

    def __init__(self, serving: Callable[[], Iterable[Checkpoint]]) -> None:
        self._serving = serving

    async def GetModels(self, request: models_pb2.GetModelsRequest, context: Any) -> models_pb2.GetModelsResponse:
        models = (
            models_pb2.ServingModel(kind=each.manifest.kind, version=each.version, sha256=each.sha256)
            for each in self._serving()
        )
        return models_pb2.GetModelsResponse(models=models)


async def serve(
    settings: RpcServiceSettings,
    register: Callable[[grpc.aio.Server], str],
    serving: Callable[[], Iterable[Checkpoint]],
) -> None:
    """Serves until SIGTERM or SIGINT, then refuses new work and finishes what is in flight.

    Args:
        settings: where to listen and how long to drain.
        register: adds the servicer to the server and returns the service's full name.
        serving: the checkpoints that serve now.
    """
    server = grpc.aio.server(interceptors=[MetricsInterceptor()], options=ServerOptions)
    name = register(server)
    models_grpc.add_ModelsServiceServicer_to_server(ModelsServicer(serving), server)
    models_name = models_pb2.DESCRIPTOR.services_by_name["ModelsService"].full_name
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection([name, models_name, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = f"{settings.host}:{settings.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise BadInput(f"{address} is in use; stop what listens there or set another port in serve.yaml") from None
    try:
        start_http_server(settings.metrics_port, addr=settings.host)
    except OSError:
        raise BadInput(
            f"metrics_port {settings.metrics_port} is in use; stop what listens there or set another in serve.yaml"
        ) from None
    await server.start()
    for service in (name, ""):
        await health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    log.info("rpc.serving", address=address, models=[checkpoint.version for checkpoint in serving()])

    await stop_requested()
    log.info("rpc.draining", grace_s=settings.drain_s)
    await health_servicer.enter_graceful_shutdown()
    await server.stop(settings.drain_s)


async def stop_requested() -> None:
    """Returns on the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


def run(service: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Entry point of a process: a person's error is one line on standard error and exit 2."""
    configure_logging(service)
    BUILD_INFO.labels(service, __version__).set(1)
    try:
        uvloop.run(main())
    except ChurnSaverError as error:
        print(f"{service}: {error}", file=sys.stderr)
        sys.exit(2)
