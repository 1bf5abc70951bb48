"""Reads settings once and wires the shield."""

from __future__ import annotations

from churnsaver.checkpoints import Checkpoint, open_checkpoint
from churnsaver.rpc.server import serve, serving_model
from churnsaver.safety.bundled import shield_checkpoint
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
    """Serves until told to stop; BadInput where a setting or the checkpoint cannot be used."""
    settings = load_serve_settings()
    checkpoint = open_checkpoint(shield_checkpoint(settings.checkpoints), KIND)
    reviewer = build_reviewer(settings, checkpoint)
    await serve(
        settings.shield,
        register=lambda server: register(server, reviewer),
        serving=lambda: [serving_model(checkpoint)],
    )
