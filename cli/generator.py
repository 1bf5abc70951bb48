"""`model prepare` and `bank`: the language model and what it has written ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from churnsaver.errors import BadInput
from churnsaver.settings import load_serve_settings
from cli.apps import app, bank_app
from cli.common import SEED, JsonOption, SeedOption, emit, stderr, stdout
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
    converted for the engine: checkpoints of kind generator and reward. What is there and verified is left alone.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.language_model import model_folder
    from churnsaver.settings import load_section
    from trainers.language_model.prepare import prepare_model
    from trainers.rlhf.bundled import BUNDLED_REWARD
    from trainers.rlhf.reward_model import RmSettings
    from trainers.rlhf.reward_serving import served_reward
    from trainers.rlhf.sft import WRITER

    settings = load_serve_settings()
    name, quantization = settings.generator.model, settings.generator.quantization
    with stderr.status("preparing the language model") as line:
        adapter = open_checkpoint(writer, WRITER) if writer else None
        manifest = prepare_model(settings.models, name, quantization, seed, writer=adapter, say=line.update)
        served = served_reward(
            reward or BUNDLED_REWARD, settings.models, load_section("rm", RmSettings), say=line.update
        )
    if publish:
        publish_checkpoint(served.path)
    folder = model_folder(settings.models, name, quantization)
    told = {"folder": str(folder), "reward": served.version, "reward_folder": str(served.path)}
    tell_trained(manifest, folder, publish=publish, as_json=as_json, title="Language model", **told)


@bank_app.command("list")
def bank_list(*, as_json: JsonOption = False) -> None:
    """List the messages that were written ahead, by brief."""
    entries = _bank()
    if as_json:
        emit({"entries": entries}, as_json=True)
        return
    table = Table("brief", "message", "score", "uses", "draft")
    for entry in entries:
        table.add_row(entry["brief"], entry["message_id"], f"{entry['score']:.2f}", str(entry["uses"]), entry["draft"])
    stdout.print(table)


@bank_app.command("show")
def bank_show(message_id: str, *, as_json: JsonOption = False) -> None:
    """Show one message of the bank."""
    found = next((entry for entry in _bank() if entry["message_id"] == message_id), None)
    if found is None:
        raise BadInput(f"the bank has no message {message_id!r}; `churn-saver bank list` shows them")
    emit(found, as_json=as_json, title="Message")


def _bank() -> list[dict[str, Any]]:
    import grpc

    from churnsaver.domain.message import Brief
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc

    address = load_serve_settings().addresses.generator
    with grpc.insecure_channel(address) as channel:
        try:
            bank = generator_grpc.GeneratorServiceStub(channel).GetBank(pb.GetBankRequest(), timeout=5.0)
        except grpc.RpcError:
            raise BadInput(f"{address}: the generator does not answer; run `churn-saver up`") from None
    fields = tuple(Brief.model_fields)
    return [
        {
            "message_id": entry.message_id,
            "brief": "|".join(getattr(entry.brief, name) for name in fields),
            "draft": entry.draft,
            "uses": entry.uses,
            "score": entry.score,
        }
        for entry in bank.entries
    ]
