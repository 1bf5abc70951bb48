"""`train ppo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.apps import train_app
from cli.common import SEED, CheckpointOutOption, JsonOption, SeedOption, progress, stderr
from cli.registry import PublishOption, champion, tell_trained

if TYPE_CHECKING:
    from churnsaver.checkpoints import Checkpoint

DataOption = Annotated[Path, typer.Option("--data", help="Customers: a CSV, or what `data prepare` wrote.")]
SchemaOption = Annotated[Path | None, typer.Option("--schema", help="Their schema; not needed for prepared data.")]
RiskOption = Annotated[Path | None, typer.Option("--risk", help="Risk checkpoint; default: the champion.")]
AcceptOption = Annotated[Path | None, typer.Option("--accept", help="Acceptance checkpoint; default: the champion.")]


@train_app.command("ppo")
def train_ppo(
    *,
    data: DataOption,
    schema: SchemaOption = None,
    risk: RiskOption = None,
    accept: AcceptOption = None,
    out: CheckpointOutOption,
    quick: Annotated[bool, typer.Option("--quick", help="The quick preset of ppo.yaml.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was cut off.")] = False,
    publish: PublishOption = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Train the contact policy in the simulator, on these customers as the models see them.

    Customers of the test part are left out, so that `eval policy` can judge on them. Beside --out, the folder
    OUT-training holds the learning curves (report.html), TensorBoard events and the state that --resume needs.
    Exit 1 where the policy misses its quick gate, which held-out campaigns decide; it is written all the same.
    """
    from churnsaver.models.trees import RiskModel
    from churnsaver.settings import load_section, load_world
    from trainers.agents.feasibility import idle_limits, require_feasible
    from trainers.agents.settings import PpoSettings
    from trainers.agents.train import Provenance, score_population, train_policy, training_folder
    from trainers.data import Part
    from trainers.data.load import load_dataset_as
    from trainers.env.params import load_dynamics, load_soft_limits
    from trainers.models.seen import trained_on

    world, params, settings = load_world(), load_dynamics(), load_section("ppo", PpoSettings)
    dataset, checkpoints = load_dataset_as(data, schema), models(risk, accept)
    seen = dataset.take(Part.TRAIN, Part.VALID)
    population, parents = score_population(seen, world, params, *checkpoints, seed)
    held_out, _ = score_population(dataset.take(Part.TEST), world, params, *checkpoints, seed)
    preset, limits = settings.presets.quick if quick else settings.presets.full, load_soft_limits()
    schema_of_risk = RiskModel.from_checkpoint(checkpoints[0]).schema
    provenance = Provenance(data.name, dataset.sha256, trained_on(seen, schema_of_risk), parents)
    require_feasible(world, params, limits, preset.customers)
    for idle in idle_limits(world, params, limits):
        stderr.print(f"warning: {idle}", soft_wrap=True)
    with progress() as bar:
        task = bar.add_task("training the policy", total=preset.iterations)
        manifest = train_policy(
            population,
            held_out,
            world,
            params,
            limits,
            settings,
            preset,
            out,
            seed=seed,
            provenance=provenance,
            resume=resume,
            on_iteration=lambda iteration: bar.update(task, completed=iteration.number),
        )
    folder = str(training_folder(out))
    tell_trained(manifest, out, publish=publish, as_json=as_json, title="Policy", training=folder)


def models(risk: Path | None, accept: Path | None) -> tuple[Checkpoint, Checkpoint]:
    """The risk and acceptance checkpoints of these folders; the champions where none is named."""
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.models.trees import ACCEPTANCE, RISK

    return (
        champion(RISK) if risk is None else open_checkpoint(risk, RISK),
        champion(ACCEPTANCE) if accept is None else open_checkpoint(accept, ACCEPTANCE),
    )
