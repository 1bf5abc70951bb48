"""Reads settings once and wires the shield."""

from __future__ import annotations

from churnsaver.checkpoints import Checkpoint
from churnsaver.following import following
from churnsaver.rpc.server import serve
from churnsaver.safety.bundled import BUNDLED_CHECKPOINT
from churnsaver.safety.review import Policy
from churnsaver.safety.toxicity import KIND, ToxicityModel
from churnsaver.settings import ServeSettings, load_serve_settings, load_world
from services.shield.review import Reviewer
from services.shield.server import register


def build_reviewer(settings: ServeSettings, checkpoint: Checkpoint) -> Reviewer:
    """The reviewer, after the checkpoint's golden cases and its own.

    Raises:
        CheckpointError: a case came out otherwise.
        SettingsError: the world cannot be read.
    """
    policy = Policy.of(load_world(), frozenset(settings.shield.allowed_link_hosts))
    toxicity = ToxicityModel.from_checkpoint(checkpoint)
    reviewer = Reviewer(policy, toxicity, settings.shield.toxicity_threshold, checkpoint.version)
    reviewer.check_built_in_cases()
    return reviewer


async def main() -> None:
    """Serves until told to stop; BadInput where a setting is wrong, or no checkpoint can serve."""
    settings = load_serve_settings()
    async with following(
        "shield",
        settings,
        (KIND,),
        lambda found, _: build_reviewer(settings, found[KIND]),
        bundled={KIND: BUNDLED_CHECKPOINT},
    ) as follower:
        await serve(
            settings.shield,
            register=lambda server: register(server, lambda: follower.served),
            serving=follower.serving,
        )
