"""What each service does with the registry: opens it, follows it, listens for hints, reports."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from churnsaver.checkpoints import Checkpoint
from churnsaver.checkpoints.follower import Follower, Report
from churnsaver.checkpoints.registry import Registry
from churnsaver.checkpoints.signing import Signer, TrustedKeys
from churnsaver.checkpoints.stores import open_store
from churnsaver.errors import RegistryError
from churnsaver.events import CheckpointEvent, EventPublisher, PubSub, checkpoint_events, find_pubsub, new_event
from churnsaver.settings import RegistrySettings, ServeSettings
from churnsaver.tasks import stop_tasks

Served = TypeVar("Served")


def open_registry(settings: RegistrySettings, *, writing: bool = False) -> Registry:
    """The registry of the settings; with the signing key where it is to be written.

    Raises:
        RegistryError: a key is missing or none, or the URL names no store.
    """
    signer = None
    if writing:
        if settings.signing_key is None:
            raise RegistryError("registry.signing_key is not set; make a pair with `churn-saver keys` and name it")
        signer = Signer.read(settings.signing_key)
    return Registry(open_store(settings.url), TrustedKeys.read(settings.trusted_keys), signer)


@asynccontextmanager
async def following(
    service: str,
    settings: ServeSettings,
    kinds: Sequence[str],
    load: Callable[[Mapping[str, Checkpoint], Served | None], Served],
    *,
    bundled: Mapping[str, Path] | None = None,
    retire: Callable[[Served], Awaitable[None]] | None = None,
    is_put_off: Callable[[Served], bool] = lambda _: False,
) -> AsyncIterator[Follower[Served]]:
    """A follower that has started, and follows until the context ends. See `Follower` for the arguments.

    Raises:
        ChurnSaverError: a kind has nothing that can serve.
    """
    pubsub = find_pubsub(settings.events)
    publisher = EventPublisher(pubsub)

    def report(said: Report) -> None:
        what = CheckpointEvent.TYPE_REFUSED if said.reason else CheckpointEvent.TYPE_SERVING
        sha256 = said.manifest_sha256
        publisher.publish(
            new_event(what, said.kind, said.version, manifest_sha256=sha256, source=service, reason=said.reason)
        )

    registry = open_registry(settings.registry)
    # Serials and champions are a registry's own, so what served is remembered for each.
    name = hashlib.sha256(registry.location.encode()).hexdigest()[:12]
    follower = Follower(
        registry,
        kinds,
        settings.state_dir / service / "checkpoints" / name,
        load,
        bundled=bundled,
        report=report,
        retire=retire,
        is_put_off=is_put_off,
    )
    tasks: list[asyncio.Task[None]] = []
    try:
        await follower.start()
        tasks = [
            asyncio.create_task(follower.follow(settings.registry.poll_s)),
            asyncio.create_task(_listen(pubsub, service, follower)),
        ]
        yield follower
    finally:
        await stop_tasks(tasks)
        await publisher.close()


async def _listen(pubsub: PubSub, service: str, follower: Follower[Served]) -> None:
    """Looks at once when somebody moved an alias of a kind that is followed."""
    moves = (CheckpointEvent.TYPE_PUBLISHED, CheckpointEvent.TYPE_PROMOTED, CheckpointEvent.TYPE_ROLLED_BACK)
    async with checkpoint_events(pubsub, service) as events:
        async for event in events:
            if event.type in moves and event.kind in follower.checkpoints:
                follower.hint()
