"""Reads settings once and wires the generator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.message import MessageBook
from churnsaver.domain.world import World
from churnsaver.errors import CheckpointError, SettingsError
from churnsaver.following import following
from churnsaver.models.adapters import WRITER
from churnsaver.models.language_model import GENERATOR
from churnsaver.redis_client import open_redis
from churnsaver.reward import REWARD, RewardModel
from churnsaver.rpc.channels import open_channel
from churnsaver.rpc.server import serve
from churnsaver.settings import ServeSettings, configs_dir, load_message_books, load_serve_settings, load_world
from churnsaver.tasks import giving_way, stop_tasks
from services.generator.bank import Bank
from services.generator.engine import Engine, EngineFailed, InProcessEngine
from services.generator.generate import Writer
from services.generator.reviewing import DraftReview, ShieldReview
from services.generator.server import register
from services.generator.vllm_engine import Unopened, VllmEngine
from services.generator.vllm_server import VllmServer

log = structlog.get_logger()

# A server that is away at the start is asked for again after so long.
OPEN_AGAIN_S = 5.0
# What serves, by engine: the merged model, or the adapter for the base that the vLLM server has.
MODEL_KINDS = {"embedded": GENERATOR, "vllm": WRITER}


async def main() -> None:
    """Serves until told to stop, and fills the bank meanwhile; BadInput where a setting or a file is wrong."""
    settings, world, books = load_serve_settings(), load_world(), load_message_books()
    check_books(books, settings.generator.languages)
    redis = open_redis(settings.redis, timeout_s=2.0)
    shield = open_channel(settings.addresses.shield)
    server = VllmServer(settings.generator.vllm) if settings.generator.engine == "vllm" else None
    watching = [asyncio.create_task(server.watch())] if server else []
    shift = Shift(settings, world, books, ShieldReview(shield), redis, server)
    try:
        async with following(
            "generator", settings, shift.kinds, shift.prepare, retire=shift.change, is_put_off=is_unopened
        ) as follower:
            await shift.change(None)
            watching.append(asyncio.create_task(shift.open_later(follower.begin_again)))
            await serve(
                settings.generator,
                register=lambda server: register(server, lambda: follower.served),
                serving=follower.serving,
            )
    finally:
        await shift.end()
        await stop_tasks(watching)
        if server:
            await server.close()
        await redis.aclose()
        await shield.close()


class Shift:
    """Who writes: a writer for each checkpoint that serves, one after the other.

    A new writer gives out the former one's messages until its own bank is filled.

    Attributes:
        kinds: of the checkpoints that a writer needs.
    """

    def __init__(
        self,
        settings: ServeSettings,
        world: World,
        books: Mapping[str, MessageBook],
        review: DraftReview,
        redis: Redis,
        server: VllmServer | None = None,
    ) -> None:
        """`server`: what writes, where the settings say vllm."""
        self._settings, self._world, self._books = settings, world, books
        self._review, self._redis, self._server = review, redis, server
        self._loop = asyncio.get_running_loop()
        self.kinds = (MODEL_KINDS[settings.generator.engine], REWARD)
        self._reward: tuple[str, RewardModel] | None = None  # the last one, and its checkpoint's sha256
        self._prepared: Writer | None = None
        self._on_duty: Writer | None = None
        self._filling: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[Any] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def prepare(self, checkpoints: Mapping[str, Checkpoint], serving: Writer | None) -> Writer:
        """A writer with the models of checkpoints, after their golden texts; CheckpointError where one fails."""
        chosen, seed = self._settings.generator, self._settings.seed
        reward = self._reward_model(checkpoints[REWARD])
        engine = self._engine(checkpoints, opened=serving is not None and not is_unopened(serving))
        version = "+".join(checkpoints[kind].version for kind in self.kinds)
        bank = Bank(
            chosen,
            self._world,
            engine,
            reward,
            self._review,
            self._redis,
            seed=seed,
            version=version,
            former=serving.bank if serving is not None else None,
        )
        self._prepared = Writer(self._world, self._books, bank, engine, reward, self._review)
        return self._prepared

    def _reward_model(self, checkpoint: Checkpoint) -> RewardModel:
        """A new one only where the checkpoint is: a swap of the language model is a second shorter without."""
        if self._reward is None or self._reward[0] != checkpoint.sha256:
            load = partial(RewardModel.load, checkpoint, self._settings.generator.threads, world=self._world)
            self._reward = checkpoint.sha256, giving_way(load)
        return self._reward[1]

    def _engine(self, checkpoints: Mapping[str, Checkpoint], *, opened: bool) -> Engine:
        """`opened`: whether another one writes already, so that a server that is away makes this one wait."""
        if self._server is None:
            return InProcessEngine(checkpoints[GENERATOR], self._settings.generator)
        checkpoint = checkpoints[WRITER]
        try:
            return asyncio.run_coroutine_threadsafe(self._open(self._server, checkpoint), self._loop).result()
        except EngineFailed as error:
            if opened:
                raise CheckpointError(
                    f"{checkpoint.version}: cannot be tried, the vLLM server fails ({error})"
                ) from None
            log.warning("vllm.not_opened", version=checkpoint.version, reason=str(error))
            return Unopened(checkpoint.version)

    async def _open(self, server: VllmServer, checkpoint: Checkpoint) -> Engine:
        self._opening = asyncio.current_task()
        return await VllmEngine.open(server, checkpoint, self._settings.generator, self._world)

    async def open_later(self, begin_again: Callable[[], None]) -> None:
        """Calls `begin_again` until the engine of a server that was away at the start is open."""
        while self._server is not None and self._on_duty is not None and is_unopened(self._on_duty):
            if self._server.up:
                begin_again()
            await asyncio.sleep(OPEN_AGAIN_S)

    async def change(self, _: Writer | None) -> None:
        """The writer that was prepared last fills its bank; the one before it ends once it has written its last."""
        former, self._on_duty = self._on_duty, self._prepared
        if self._filling is not None:
            await stop_tasks([self._filling])
        may_write = asyncio.Event()
        if self._on_duty is not None:
            self._filling = asyncio.create_task(_keep_bank(self._on_duty, may_write))
        try:
            if former is not None and self._server is not None:
                # A server writes with both: what the former one is asked for may take minutes, which nobody waits for.
                closing = asyncio.create_task(_close(former.engine))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            elif former is not None:
                await former.engine.close()
        finally:
            may_write.set()

    async def end(self) -> None:
        """Nobody writes any more."""
        if self._opening is not None:
            await stop_tasks([self._opening])
        self._prepared = None
        await self.change(None)
        await asyncio.gather(*self._closing)


def is_unopened(writer: Writer) -> bool:
    """Whether its engine waits for a server that is away."""
    return isinstance(writer.engine, Unopened)


def check_books(books: Mapping[str, MessageBook], languages: Iterable[str]) -> None:
    """SettingsError where `messages.yaml` lacks the approved texts of a language that the model writes in."""
    for language in languages:
        if language not in books:
            raise SettingsError(
                f"generator.languages names {language!r}, for which {configs_dir() / 'messages.yaml'} has no "
                "approved texts; add them or take the language out of serve.yaml"
            )


async def _close(engine: Engine) -> None:
    try:
        await engine.close()
    except Exception:
        log.exception("engine.not_closed", version=engine.version)  # what follows it serves all the same


async def _keep_bank(writer: Writer, may_write: asyncio.Event) -> None:
    """Follows what is decided about messages at once, and writes some when it may.

    Args:
        may_write: set when a former engine of this process has ended, for CTranslate2 has one seed for all of them.
    """

    async def warm_up() -> None:
        await may_write.wait()
        await writer.warm_up()

    try:
        await writer.bank.load()
        tasks = [asyncio.create_task(each) for each in (warm_up(), writer.bank.run(may_write))]
        try:
            await asyncio.gather(*tasks)
        finally:
            await stop_tasks(tasks)  # where one fails, the other would go on as nobody's
    except Exception:
        log.exception("bank.stopped")  # nobody waits for this task: a fault would look like an empty bank
        raise
