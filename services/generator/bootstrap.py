"""Reads settings once and wires the generator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from redis.asyncio import Redis

from churnsaver.domain.message import MessageBook
from churnsaver.errors import SettingsError
from churnsaver.models.language_model import model_folder
from churnsaver.rpc.channels import open_channel
from churnsaver.rpc.server import serve
from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb2
from churnsaver.settings import configs_dir, load_message_books, load_serve_settings, load_world
from churnsaver.tasks import stop_tasks
from services.generator.bank import Bank
from services.generator.engine import InProcessEngine
from services.generator.generate import Writer
from services.generator.prompt import Cell
from services.generator.reviewing import ShieldReview
from services.generator.server import register


async def main() -> None:
    """Serves until told to stop, and fills the bank meanwhile; BadInput where a setting or a file is wrong."""
    settings, world, books = load_serve_settings(), load_world(), load_message_books()
    chosen = settings.generator
    engine = InProcessEngine(model_folder(settings.models, chosen.model, chosen.quantization), chosen)
    redis = Redis.from_url(str(settings.redis.url), socket_timeout=2.0)
    shield = open_channel(settings.addresses.shield)
    review = ShieldReview(shield)
    bank = Bank(chosen, world, books, engine, review, redis, seed=settings.seed)
    check_books(books, bank.cells)
    writer = Writer(world, books, bank, engine, review)
    serving = models_pb2.ServingModel(kind="generator", version=engine.version, sha256=engine.manifest.sha256)
    filling = asyncio.create_task(_load_and_fill(writer, bank))
    try:
        await serve(chosen, register=lambda server: register(server, writer), serving=lambda: [serving])
    finally:
        await stop_tasks([filling])
        engine.close()
        await redis.aclose()
        await shield.close()


def check_books(books: Mapping[str, MessageBook], cells: Iterable[Cell]) -> None:
    """SettingsError where `messages.yaml` lacks what the model is shown for one of `cells`."""
    for cell in cells:
        if cell.language not in books:
            raise SettingsError(
                f"generator.languages names {cell.language!r}, for which {configs_dir() / 'messages.yaml'} has no "
                "approved texts; add them or take the language out of serve.yaml"
            )
        if not books[cell.language].examples.get(cell.segment, {}).get(cell.purpose):
            raise SettingsError(
                f"{configs_dir() / 'messages.yaml'}: {cell.language}.examples.{cell.segment}.{cell.purpose} is empty; "
                "add approved bodies that show the model what is wanted"
            )


async def _load_and_fill(writer: Writer, bank: Bank) -> None:
    await bank.load()
    await writer.warm_up()
    await bank.fill()
