"""Reads settings once and wires the decision service."""

from __future__ import annotations

from churnsaver.rpc.server import serve, serving_model
from churnsaver.settings import load_serve_settings, load_world
from services.decision.decide import Decider
from services.decision.models import load_models
from services.decision.server import register


async def main() -> None:
    """Serves until told to stop; BadInput where a setting or a checkpoint cannot be used."""
    settings, world = load_serve_settings(), load_world()
    models = load_models(settings.checkpoints, world)
    decider = Decider(world, models)
    await serve(
        settings.decision,
        register=lambda server: register(server, decider),
        serving=lambda: [serving_model(checkpoint) for checkpoint in models.checkpoints.values()],
    )
