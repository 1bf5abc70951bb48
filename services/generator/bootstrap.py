"""Reads settings once and wires the generator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.message import MessageBook
from churnsaver.domain.world import World
from churnsaver.errors import SettingsError
from churnsaver.following import following
from churnsaver.models.language_model import GENERATOR
from churnsaver.redis_client import open_redis
from churnsaver.reward import REWARD, RewardModel
from churnsaver.rpc.channels import open_channel
from churnsaver.rpc.server import serve
from churnsaver.settings import ServeSettings, configs_dir, load_message_books, load_serve_settings, load_world
from churnsaver.tasks import giving_way, stop_tasks
from services.generator.bank import Bank
from services.generator.engine import InProcessEngine
from services.generator.generate import Writer
from services.generator.reviewing import DraftReview, ShieldReview
from services.generator.server import register

KINDS = (GENERATOR, REWARD)


async def main() -> None:
    """Serves until told to stop, and fills the bank meanwhile; BadInput where a setting or a file is wrong."""
    settings, world, books = load_serve_settings(), load_world(), load_message_books()
    check_books(books, settings.generator.languages)
    redis = open_redis(settings.redis, timeout_s=2.0)
    shield = open_channel(settings.addresses.shield)
    shift = Shift(settings, world, books, ShieldReview(shield), redis)
    try:
        async with following("generator", settings, KINDS, shift.prepare, retire=shift.change) as follower:
            await shift.change(None)
            await serve(
                settings.generator,
                register=lambda server: register(server, lambda: follower.served),
                serving=follower.serving,
            )
    finally:
        await shift.end()
        await redis.aclose()
        await shield.close()


class Shift:
    """Who writes: a writer for each checkpoint that serves, one after the other.

    A new writer gives out the former one's messages until it has written and had reviewed its own.
    """

    def __init__(
        self,
        settings: ServeSettings,
        world: World,
        books: Mapping[str, MessageBook],
        review: DraftReview,
        redis: Redis,
    ) -> None:
        self._settings, self._world, self._books = settings, world, books
        self._review, self._redis = review, redis
        self._prepared: Writer | None = None
        self._on_duty: Writer | None = None
        self._filling: asyncio.Task[None] | None = None

    def prepare(self, checkpoints: Mapping[str, Checkpoint], serving: Writer | None) -> Writer:
        """A writer with the models of checkpoints, after their golden texts; CheckpointError where one fails."""
        chosen, seed = self._settings.generator, self._settings.seed
        reward = giving_way(partial(RewardModel.load, checkpoints[REWARD], chosen.threads, world=self._world))
        engine = InProcessEngine(checkpoints[GENERATOR], chosen)
        version = "+".join(checkpoints[kind].version for kind in KINDS)
        bank = Bank(chosen, self._world, engine, reward, self._review, self._redis, seed=seed, version=version)
        if serving is not None:
            bank.take_over(serving.bank)
        self._prepared = Writer(self._world, self._books, bank, engine, reward, self._review)
        return self._prepared

    async def change(self, _: Writer | None) -> None:
        """The writer that was prepared last fills its bank; the one before it ends once it has written its last."""
        former, self._on_duty = self._on_duty, self._prepared
        if self._filling is not None:
            await stop_tasks([self._filling])
        if self._on_duty is not None:
            self._filling = asyncio.create_task(_load_and_fill(self._on_duty))
        if former is not None:
            await asyncio.to_thread(former.engine.close)

    async def end(self) -> None:
        """Nobody writes any more."""
        self._prepared = None
        await self.change(None)


def check_books(books: Mapping[str, MessageBook], languages: Iterable[str]) -> None:
    """SettingsError where `messages.yaml` lacks the approved texts of a language that the model writes in."""
    for language in languages:
        if language not in books:
            raise SettingsError(
                f"generator.languages names {language!r}, for which {configs_dir() / 'messages.yaml'} has no "
                "approved texts; add them or take the language out of serve.yaml"
            )


async def _load_and_fill(writer: Writer) -> None:
    await writer.bank.load()
    await writer.warm_up()
    await writer.bank.fill()
