"""`model prepare`: the language model's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from churnsaver.settings import load_serve_settings
from cli.apps import app
from cli.common import SEED, JsonOption, SeedOption, stderr
from cli.registry import PublishOption, publish_checkpoint, tell_trained

model_app = typer.Typer(no_args_is_help=True, help="The language model's files.")
app.add_typer(model_app, name="model")


@model_app.command("prepare")
def prepare(
    *,
    writer: Annotated[
        Path | None,
        typer.Option("--writer", help="Folder that `train sft` or `train ppo-text` wrote; default: what is shipped."),
    ] = None,
    reward: Annotated[
        Path | None, typer.Option("--reward", help="Folder that `train rm` wrote; default: what is shipped.")
    ] = None,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Make what the generator serves with: the language model that serve.yaml names, and the reward model.

    Weights are fetched, checked by their sha256, merged with adapters (those that the project ships, or your own) and
    converted for the embedded engine: checkpoints of kind generator and reward. What is there and verified is left
    alone. --publish publishes the writer's adapter too, with which a vLLM server writes.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.errors import GateFailed
    from churnsaver.models.adapters import WRITER
    from churnsaver.models.language_model import model_folder
    from churnsaver.settings import load_section
    from trainers.language_model.prepare import PACKAGED, bundled_writer, prepare_model
    from trainers.rlhf.bundled import BUNDLED_REWARD
    from trainers.rlhf.reward_model import RmSettings
    from trainers.rlhf.reward_serving import served_reward

    settings = load_serve_settings()
    name, quantization = settings.generator.model, settings.generator.quantization
    with stderr.status("preparing the language model") as line:
        adapter = open_checkpoint(writer, WRITER) if writer else None
        manifest = prepare_model(settings.models, name, quantization, seed, writer=adapter, say=line.update)
        served = served_reward(
            reward or BUNDLED_REWARD, settings.models, load_section("rm", RmSettings), say=line.update
        )
    if publish:
        adapter = adapter or bundled_writer(PACKAGED[name])
        published = [each for each in (served, adapter) if each is not None]
        for each in published:  # all or none: a new reward model is not to serve beside the former writer
            if missed := each.manifest.gate and each.manifest.gate.missed:
                raise GateFailed(f"{each.path}: {'; '.join(missed)}; nothing is published")
        for each in published:
            publish_checkpoint(each.path)
    folder = model_folder(settings.models, name, quantization)
    told = {"folder": str(folder), "reward": served.version, "reward_folder": str(served.path)}
    tell_trained(manifest, folder, publish=publish, as_json=as_json, title="Language model", **told)
