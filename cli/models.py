"""`churn-saver train risk|accept`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, progress
from cli.registry import PublishOption, tell_trained

if TYPE_CHECKING:
    from collections.abc import Callable

    from churnsaver.checkpoints import Manifest

DataOption = Annotated[Path, typer.Option("--data", help="A CSV, or a folder that `data prepare` wrote.")]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="YAML schema; a prepared folder needs none.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="One depth and fewer rounds: seconds, not minutes.")]


@train_app.command()
def risk(
    data: DataOption,
    out: CheckpointOutOption,
    schema: SchemaOption = None,
    quick: QuickOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Trains the churn model, its calibration and the gateway's scorecard."""
    from trainers.models.risk import train_risk

    manifest = _train(train_risk, data, schema, out, quick=quick, seed=seed)
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Risk model")


@train_app.command()
def accept(
    data: DataOption,
    out: CheckpointOutOption,
    schema: SchemaOption = None,
    quick: QuickOption = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Trains the acceptance model on a log of contacts, such as `data simulate` writes.

    `configs/schemas/contacts.yaml` describes one: for each contact the churn risk, monthly charge, tenure, the
    offer that was made, its propensity, and whether it was accepted.
    """
    from trainers.models.accept import train_accept

    manifest = _train(train_accept, data, schema, out, quick=quick, seed=seed)
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Acceptance model")


def _train(
    train: Callable[..., Manifest], data: Path, schema: Path | None, out: Path, *, quick: bool, seed: int
) -> Manifest:
    from churnsaver.settings import load_world
    from trainers.data import load_dataset_as
    from trainers.models.boost import FULL, QUICK

    settings = QUICK if quick else FULL
    dataset, world = load_dataset_as(data, schema), load_world()
    with progress() as bar:
        task = bar.add_task("cross-validating", total=settings.steps)
        return train(dataset, world, out, settings, seed, advance=lambda: bar.advance(task))
