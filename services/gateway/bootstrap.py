"""Reads settings once and wires the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.scorecard import Scorecard
from churnsaver.errors import BadInput, CheckpointError
from churnsaver.following import following
from churnsaver.redis_client import open_redis
from churnsaver.rpc.channels import open_channel
from churnsaver.settings import ServeSettings, load_message_books, load_serve_settings, load_world
from churnsaver.tasks import stop_tasks
from services.gateway.app import build_app
from services.gateway.baseline import ServedScorecard
from services.gateway.case import pseudonym
from services.gateway.downstream import GrpcDecision, GrpcGenerator, GrpcShield, serving_models
from services.gateway.journal import Journal
from services.gateway.kill_switch import KillSwitch
from services.gateway.ledger import RedisLedger
from services.gateway.outbox import send_on
from services.gateway.records import Records
from services.gateway.retain import Retention
from services.gateway.upkeep import keep_ledger

log = structlog.get_logger()

RISK = "risk"  # the checkpoint that carries the scorecard
SECONDS_PER_DAY = 86_400
# Longer than Google's load balancers keep an idle connection, or they send a request into one that is being closed:
# https://cloud.google.com/load-balancing/docs/https/request-distribution#backend-keepalive-timeout
KEEP_ALIVE_S = 620
WARM_UP_S = 1.0


def read_scorecard(checkpoint: Checkpoint) -> ServedScorecard:
    """The baseline's scorecard from a risk checkpoint; CheckpointError where it has none."""
    try:
        card = Scorecard.model_validate(checkpoint.read_json("scorecard.json"))
    except ValidationError as error:
        raise CheckpointError(
            f"{checkpoint.path / 'scorecard.json'}: {error.error_count()} values are no scorecard; train risk again"
        ) from None
    return ServedScorecard(**dict(card), checkpoint_version=checkpoint.version, checkpoint_sha256=checkpoint.sha256)


async def warm_up(redis: Redis, channels: Iterable[grpc.aio.Channel]) -> None:
    """Connects to whoever is there, so that a new replica's first requests need not; who is away costs a second."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WARM_UP_S):
            ready = (channel.channel_ready() for channel in channels)
            await asyncio.gather(redis.ping(), *ready, return_exceptions=True)


@asynccontextmanager
async def wired(settings: ServeSettings) -> AsyncIterator[FastAPI]:
    """The application with everything that it needs running.

    Raises:
        BadInput: a setting or a folder is wrong, or no risk checkpoint can serve.
    """
    world, gateway, books = load_world(), settings.gateway, load_message_books()
    # The scripts recognise their own token: one that ran before its reply was lost is not run twice.
    redis = open_redis(settings.redis, gateway.ledger_timeout_ms / 1000.0)
    ledger = RedisLedger(
        redis,
        world,
        claim_ms=2 * gateway.deadline_ms,
        idempotency_s=gateway.idempotency_hours * 3600,
        record_s=gateway.record_days * SECONDS_PER_DAY,
    )
    journal = Journal(settings.state_dir / "gateway")
    journal.require_key(pseudonym(settings.pseudonym_key, "which key this is"))
    kill_switch = KillSwitch(
        redis,
        force_baseline=settings.force_baseline,
        poll_s=gateway.kill_switch_poll_ms / 1000.0,
        memory=settings.state_dir / "gateway" / "kill_switch.json",
    )
    channels = {name: open_channel(address) for name, address in settings.addresses.model_dump().items()}

    def retention(found: Mapping[str, Checkpoint], serving: Retention | None) -> Retention:
        """A request keeps the scorecard that it began with, so a new one comes with a new `Retention`."""
        scorecard = read_scorecard(found[RISK])
        if serving is not None:
            serving.scorecard.dataset.require_same_features(scorecard.dataset)
        return Retention(
            settings,
            world,
            books,
            scorecard,
            ledger=ledger,
            journal=journal,
            kill_switch=kill_switch,
            decision=GrpcDecision(channels["decision"]),
            generator=GrpcGenerator(channels["generator"]),
            shield=GrpcShield(channels["shield"]),
        )

    async with following("gateway", settings, (RISK,), retention) as follower:

        async def serving() -> dict[str, Any]:
            found = await asyncio.gather(*(serving_models(channel, 0.2) for channel in channels.values()))
            ours = {
                kind: {"version": each.version, "sha256": each.sha256} for kind, each in follower.checkpoints.items()
            }
            return {"gateway": ours, **dict(zip(channels, found, strict=True))}

        work = (kill_switch.follow(), keep_ledger(ledger, journal), send_on(ledger, settings.events))
        background = [asyncio.create_task(each) for each in work]
        await warm_up(redis, channels.values())
        yield build_app(
            lambda: follower.served,
            Records(ledger, journal, kill_switch, world, pseudonym_key=settings.pseudonym_key),
            kill_switch,
            serving=serving,
            max_body_bytes=gateway.max_body_bytes,
        )
        await stop_tasks(background)
    journal.close()
    await redis.aclose()
    for channel in channels.values():
        await channel.close()


async def main() -> None:
    """Serves until SIGTERM, then finishes what is in flight."""
    settings = load_serve_settings()
    host, port = settings.gateway.host, settings.gateway.port
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise BadInput(
            f"{host}:{port}: cannot listen ({error.strerror}); stop what listens there or set CHURN_SAVER_GATEWAY__PORT"
        ) from None
    async with wired(settings) as app:
        log.info("gateway.serving", address=f"{host}:{port}")
        config = uvicorn.Config(
            app,
            http="httptools",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=10,
        )
        # uvicorn raises a signal that it has obeyed once more; what `wired` closes comes after that.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        await uvicorn.Server(config).serve(sockets=[listener])
