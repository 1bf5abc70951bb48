"""`keys`, `publish`, `promote`, `rollback` and `checkpoints`: the registry that services follow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from churnsaver.errors import GateFailed
from churnsaver.settings import ServeSettings, load_serve_settings
from cli.apps import app
from cli.common import JsonOption, emit, stderr, stdout

if TYPE_CHECKING:
    from churnsaver.checkpoints import Checkpoint, Manifest
    from churnsaver.checkpoints.registry import Catalogue, Registry, Release

HINT_TIMEOUT_S = 2.0
REGISTRY_VARIABLE = "CHURN_SAVER_REGISTRY__URL"
FOLLOWED = "followed-registry"  # file in the state folder, there while the local stack runs

KindArgument = Annotated[
    str, typer.Argument(help="risk, acceptance, policy, generator, writer, reward, shield or uplift.")
]
EvaluationOption = Annotated[
    Path | None,
    typer.Option("--evaluation", help="report.json of `eval policy`: of this checkpoint, with no target missed."),
]
PublishOption = Annotated[
    bool, typer.Option("--publish", help="Publish it as the champion: every running service swaps to it.")
]


@app.command()
def keys(
    *,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default: where serve.yaml looks.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the pair of keys that checkpoints are signed with.

    The private key stays with those who publish; the public one is added to the file of trusted keys, which
    every service is given. A key that is there is never overwritten.
    """
    from churnsaver.checkpoints.signing import PRIVATE_KEY, Signer, create_key_pair

    folder = out
    if folder is None:
        named = load_serve_settings().registry.signing_key
        folder = named.parent if named is not None else Path()
    private, public = create_key_pair(folder)
    found = {"key_id": Signer.read(folder / PRIVATE_KEY).key_id, "private_key": private, "trusted_keys": public}
    emit(found, as_json=as_json, title="Keys")


@app.command()
def publish(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint that a trainer wrote.")],
    *,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Publish it without serving it; `promote` makes it champion.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Begin the kind's catalogue again where it is damaged or not trusted.")
    ] = False,
    evaluation: EvaluationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a checkpoint, put it into the registry and make it the champion.

    Running services verify it, run its golden cases and their own, and swap without dropping a request; they
    refuse and report one that fails. Exit 1 where the checkpoint missed the gate of its trainer.

    A policy's own gate is a quick one, of a few campaigns, and publishing asks no more, also in the place of a
    champion that was promoted on a whole evaluation. To ask that too, give --evaluation, or publish with
    --challenger and `promote`.
    """
    published = publish_checkpoint(checkpoint, challenger=challenger, anew=anew, evaluation=evaluation)
    emit(published, as_json=as_json, title="Published")


@app.command()
def promote(
    kind: KindArgument,
    version: Annotated[str | None, typer.Argument(help="A newer release; default: the challenger.")] = None,
    *,
    evaluation: EvaluationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the challenger, or a named newer release, the champion.

    A policy needs an evaluation that missed nothing: the report.json of `eval policy --out` on this very
    checkpoint, or the one that it was promoted on before. It is signed and kept in the registry.
    """
    from churnsaver.checkpoints.evaluation import Evaluation
    from churnsaver.events import CheckpointEvent

    settings = stack_settings()
    shown = Evaluation.read(evaluation) if evaluation else None
    release = open_for_writing().promote(kind, version, shown)
    emit(_told(settings, CheckpointEvent.TYPE_PROMOTED, kind, release, "champion"), as_json=as_json, title="Promoted")


@app.command()
def rollback(
    kind: KindArgument,
    *,
    to: Annotated[
        str | None, typer.Option("--to", help="Version to go back to; default: the previous champion.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to the previous champion, or to a named older release."""
    from churnsaver.events import CheckpointEvent

    settings = stack_settings()
    release = open_for_writing().rollback(kind, to)
    emit(
        _told(settings, CheckpointEvent.TYPE_ROLLED_BACK, kind, release, "champion"),
        as_json=as_json,
        title="Rolled back",
    )


@app.command()
def checkpoints(
    kind: Annotated[str | None, typer.Argument(help="One kind; default: all.")] = None, *, as_json: JsonOption = False
) -> None:
    """Show what was published: releases, aliases, gates, metrics, and what each was trained from."""
    from churnsaver.errors import ChurnSaverError, RegistryError
    from churnsaver.following import open_registry

    registry = open_registry(stack_settings().registry)
    published = registry.kinds()
    if kind is not None and kind not in published:
        known = ", ".join(published) or "nothing"
        raise RegistryError(f"{registry.location}: nothing of kind {kind!r} was published; there is {known}")
    found: dict[str, Any] = {}
    faults: list[ChurnSaverError] = []
    for name in [kind] if kind else published:
        try:
            found[name] = _described(registry, registry.catalogue(name))
        except ChurnSaverError as fault:  # the others are shown all the same
            faults.append(fault)
    if as_json:
        emit({"registry": registry.location, "kinds": found, "faults": [str(fault) for fault in faults]}, as_json=True)
    elif not published:
        stdout.print(f"{registry.location}: nothing is published here; `make up` or `train … --publish` does")
    else:
        stdout.print(f"{registry.location}")
        for name, catalogue in found.items():
            stdout.print(_tree(name, catalogue["releases"]))
    if faults:
        raise faults[0]


# -- for the other commands ----------------------------------------------------------------------------


def stack_settings() -> ServeSettings:
    """The settings, with the registry that the running local stack follows unless the environment names one.

    `make up DATA=…` keeps a registry for each dataset; what is published afterwards is meant for what runs.
    """
    settings = load_serve_settings()
    followed = followed_registry(settings.state_dir)
    if followed is None or followed == settings.registry.url or REGISTRY_VARIABLE in os.environ:
        return settings
    stderr.print(f"using the registry that the running stack follows, {followed}")
    registry = settings.registry.model_copy(update={"url": followed})
    return settings.model_copy(update={"registry": registry})


def followed_registry(state_dir: Path) -> str | None:
    """The registry that the running local stack follows; None where none runs."""
    try:
        return (state_dir / FOLLOWED).read_text().strip() or None
    except OSError:
        return None


def champion(kind: str) -> Checkpoint:
    """The checkpoint of a kind that services serve: the registry's champion, else the bundled one.

    Raises:
        RegistryError: there is none, or the registry cannot be read or trusted.
    """
    from churnsaver.checkpoints import open_checkpoint
    from churnsaver.checkpoints.registry import Alias
    from churnsaver.errors import RegistryError
    from churnsaver.following import open_registry
    from churnsaver.safety.bundled import BUNDLED_CHECKPOINT

    settings = stack_settings()
    # Nobody has published yet where there are no keys; the bundled shield needs none.
    if kind == "shield" and not settings.registry.trusted_keys.exists():
        return open_checkpoint(BUNDLED_CHECKPOINT, kind)
    registry = open_registry(settings.registry)
    release = registry.catalogue(kind).at(Alias.CHAMPION)
    if release is not None:
        return registry.fetch(kind, release, settings.state_dir / "fetched" / kind / release.manifest_sha256[:16])
    if kind == "shield":
        return open_checkpoint(BUNDLED_CHECKPOINT, kind)
    raise RegistryError(f"{registry.location}: has no {kind} champion; run `make up`, or train one with --publish")


def open_for_writing() -> Registry:
    """The registry with the signing key."""
    from churnsaver.following import open_registry

    return open_registry(stack_settings().registry, writing=True)


def publish_checkpoint(
    path: Path, *, challenger: bool = False, anew: bool = False, evaluation: Path | None = None
) -> dict[str, Any]:
    """Publishes a folder and tells the services; returns what happened."""
    from churnsaver.checkpoints.evaluation import Evaluation
    from churnsaver.events import CheckpointEvent

    settings, shown = stack_settings(), Evaluation.read(evaluation) if evaluation else None
    with stderr.status(f"publishing {path}"):
        manifest, release = open_for_writing().publish(path, challenger=challenger, anew=anew, evaluation=shown)
    alias = "challenger" if challenger else "champion"
    return _told(settings, CheckpointEvent.TYPE_PUBLISHED, manifest.kind, release, alias)


def tell_trained(manifest: Manifest, out: Path, *, publish: bool, as_json: bool, title: str, **more: object) -> None:
    """Says what training made, for people or as --json; published first where that is wanted and its gate passed.

    Raises:
        GateFailed: it missed its gate; the checkpoint is written all the same.
    """
    from churnsaver.checkpoints import Gate

    gate = manifest.gate or Gate(passed=True)
    result: dict[str, object] = {"version": manifest.version, "kind": manifest.kind, "out": str(out), **more}
    if publish and gate.passed:
        result["release"] = publish_checkpoint(out)["release"]
    if manifest.gate is not None:
        result["gate"] = gate.model_dump() if as_json else "passed" if gate.passed else "missed"
    emit(result | manifest.metrics, as_json=as_json, title=title)
    if not gate.passed:
        unpublished = "; it is not published" if publish else ""
        raise GateFailed(f"{manifest.version}: {'; '.join(gate.missed)}{unpublished}")


def _told(settings: Any, event_type: Any, kind: str, release: Release, alias: str) -> dict[str, Any]:
    """Sends the hint and says so; without Pub/Sub, services find out by themselves a little later."""
    from churnsaver.events import EventPublisher, find_pubsub, new_event

    event = new_event(
        event_type, kind, release.version, alias=alias, manifest_sha256=release.manifest_sha256, source="churn-saver"
    )
    sent = EventPublisher(find_pubsub(settings.events)).publish_now(event, HINT_TIMEOUT_S)
    if not sent:
        stderr.print(f"no Pub/Sub to tell; running services look by themselves every {settings.registry.poll_s:g} s")
    return {
        "kind": kind,
        "version": release.version,
        "release": release.number,
        "alias": alias,
        "manifest_sha256": release.manifest_sha256,
        "hint_sent": sent,
    }


def _described(registry: Registry, catalogue: Catalogue) -> dict[str, Any]:
    releases = []
    for release in catalogue.releases:
        manifest = registry.manifest(catalogue.kind, release)
        releases.append(
            {
                "number": release.number,
                "version": release.version,
                "published_at": release.published_at.isoformat(timespec="seconds"),
                "aliases": [alias for alias, pointer in catalogue.aliases.items() if pointer.number == release.number],
                "parents": manifest.parents,
                "data_sha256": manifest.data_sha256,
                "gate": None if manifest.gate is None else manifest.gate.model_dump(),
                "metrics": manifest.metrics,
                "manifest_sha256": release.manifest_sha256,
                "evaluated": registry.evaluation(catalogue.kind, release) is not None,
            }
        )
    return {"serial": catalogue.serial, "releases": releases}


def _tree(kind: str, releases: list[dict[str, Any]]) -> Any:
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(kind)
    for release in reversed(releases):
        said = Text(f"{release['number']}  {release['version']}  {release['published_at']}")
        if release["aliases"]:
            said.append(f"  {', '.join(release['aliases'])}", style="bold")
        if release["gate"] is not None and not release["gate"]["passed"]:
            said.append("  gate missed", style="red")
        if release["evaluated"]:
            said.append("  evaluated")
        branch = tree.add(said)
        for parent, version in release["parents"].items():
            branch.add(f"from {parent} {version}")
    return tree
