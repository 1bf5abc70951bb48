"""Reads settings once and wires the decision service."""

from __future__ import annotations

from collections.abc import Mapping

from churnsaver.checkpoints import Checkpoint
from churnsaver.domain.world import World
from churnsaver.following import following
from churnsaver.rpc.server import serve
from churnsaver.settings import load_serve_settings, load_world
from services.decision.built_in import check_built_in_cases
from services.decision.decide import Decider
from services.decision.models import KINDS, load_models
from services.decision.server import register


async def main() -> None:
    """Serves until told to stop; BadInput where a setting is wrong, or no checkpoint can serve."""
    settings, world = load_serve_settings(), load_world()
    async with following("decision", settings, KINDS, lambda *found: build_decider(world, *found)) as follower:
        await serve(
            settings.decision,
            register=lambda server: register(server, lambda: follower.served),
            serving=follower.serving,
        )


def build_decider(world: World, checkpoints: Mapping[str, Checkpoint], serving: Decider | None) -> Decider:
    """What decides with these checkpoints.

    Raises:
        CheckpointError: a golden case of theirs, or of ours, fails, or callers would have to send other attributes.
    """
    models = load_models(checkpoints, world)
    if serving is not None:
        serving.schema.require_same_features(models.risk.schema)
    decider = Decider(world, models)
    check_built_in_cases(decider, world)
    return decider
