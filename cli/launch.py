"""`launch`: a trainer as a Kubernetes Job, with its log and its end."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from churnsaver.errors import BadInput
from cli.apps import app
from cli.common import JsonOption, emit, stderr

if TYPE_CHECKING:
    from cli.cluster import Cluster
    from cli.trainer_jobs import Outcome

INTERRUPTED = 130


@app.command()
def launch(
    job: Annotated[str, typer.Argument(help="A job of trainers.jobs in the values of the installed chart.")],
    args: Annotated[
        list[str] | None, typer.Argument(help="After `--`: another command for it, such as `train ppo … --publish`.")
    ] = None,
    *,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the kubeconfig's.")] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="Of the kubeconfig; default: the current one.")
    ] = None,
    release: Annotated[str | None, typer.Option("--release", help="Where a namespace holds several.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Another image of the trainers.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="A kind of GPU, such as nvidia-l4.")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many of them.")] = 1,
    spot: Annotated[bool, typer.Option("--spot", help="On spot nodes: cheaper, and taken away at times.")] = False,
    retries: Annotated[
        int | None, typer.Option("--retries", min=0, help="After a failure; default: the chart's.")
    ] = None,
    timeout_hours: Annotated[
        float | None, typer.Option("--timeout-hours", min=0.01, help="Of all attempts; default: the chart's.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Only start it, and print how to follow it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a trainer on the cluster: one Job, made from the chart's, followed to its end.

    Its log is written to standard error as it comes, across retries. Ctrl-C takes the Job away. Exit 1: it failed.

    churn-saver launch policy --gpu nvidia-l4 --spot -- train ppo --data /data/customers.csv --out /scratch/p --publish
    """
    from cli.cluster import Cluster
    from cli.trainer_jobs import Changes, container_of, create, find_trainer, job_of

    if gpus > 1 and gpu is None:
        raise BadInput("--gpus: of which kind? Name it with --gpu, such as nvidia-l4")
    if image is not None and not image.strip():
        raise BadInput("--image: is empty; name an image of the trainers, or leave it out for the chart's")
    if timeout_hours is not None and not math.isfinite(timeout_hours):
        raise BadInput(f"--timeout-hours: {timeout_hours} is no time; give hours, such as 4 or 0.5")
    cluster = Cluster.connect(context, namespace)
    changes = Changes(tuple(args or ()), image, gpu, gpus, spot, retries, timeout_hours)
    made = job_of(find_trainer(cluster, job, release), changes)
    command: list[str] = container_of(made)["args"]
    if command[0] == "train" and "--publish" not in command:
        stderr.print("without --publish, what it trains is thrown away with its pod")
    name = create(cluster, made)
    started = {"job": name, "namespace": cluster.namespace, "command": f"churn-saver {' '.join(command)}"}
    if detach:
        emit(started | {"follow": _by_hand(cluster, name)}, as_json=as_json, title="Launched")
        return
    begun = time.monotonic()
    outcome = _stay(cluster, name)
    state = {"state": "succeeded" if outcome.succeeded else "failed", "seconds": round(time.monotonic() - begun, 1)}
    codes: dict[str, Any] = {"attempts": len(outcome.exit_codes), "exit_codes": outcome.exit_codes}
    emit(started | state | codes | {"reason": outcome.reason}, as_json=as_json, title="Launched")
    if not outcome.succeeded:
        raise typer.Exit(1)


def _stay(cluster: Cluster, name: str) -> Outcome:
    """Follows a Job, and takes it away where the person, or who runs this, wants to stop."""
    from cli.trainer_jobs import cancel, follow

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _live_line(f"job {name}") as say:
            return follow(cluster, name, say=say, log=_log)
    except KeyboardInterrupt:
        stderr.print(f"cancelling: job {name} and its pod are being deleted")
        gone = cancel(cluster, name)
        stderr.print("cancelled" if gone else f"it is still going; look: {_by_hand(cluster, name)}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _live_line(title: str) -> Iterator[Callable[[str], None]]:
    """A line with the state and the time on a terminal; elsewhere a line for each new state."""
    begun, last = time.monotonic(), ""

    def say_once(state: str) -> None:
        nonlocal last
        if state != last:
            last = state
            _log(f"{title} after {time.monotonic() - begun:.0f} s: {state}")

    if not stderr.is_terminal:
        yield say_once
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as line:
        task = line.add_task(title, total=None)
        yield lambda state: line.update(task, description=f"{title}: {state}")


def _log(line: str) -> None:
    stderr.print(line, markup=False, highlight=False, soft_wrap=True)


def _by_hand(cluster: Cluster, name: str) -> str:
    return f"kubectl --namespace {cluster.namespace} logs --follow job/{name}"
