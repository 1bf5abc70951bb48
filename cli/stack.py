"""`up`, `down`, `status` and `kill`: the local stack and its switch."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import httpx
import typer
from rich.table import Table

from churnsaver.errors import BadInput
from churnsaver.settings import ServeSettings, load_serve_settings
from cli.apps import app, kill_app
from cli.common import JsonOption, emit, flatten, progress, stderr, stdout
from cli.registry import stack_settings

BANK_TIMEOUT_S = 180.0

UrlOption = Annotated[str | None, typer.Option("--url", help="Gateway; the local one if not given.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is shown to everyone who asks.")]


@app.command()
def up(
    *,
    wait_for_bank: Annotated[bool, typer.Option(help="Wait until the bank of messages is filled.")] = True,
    engine: Annotated[
        Literal["embedded", "vllm"] | None,
        typer.Option(help="What writes: a model in the generator, or a vLLM server; default: as serve.yaml says."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start redis-server, Pub/Sub and the four services, vLLM where it is to write, and wait until they are ready.

    What runs already is left alone, unless its settings changed; new checkpoints need no restart.
    """
    from churnsaver.events.records import records_dir
    from cli.local_stack import LocalStack

    settings = stack_settings()
    if engine is not None:
        generator = settings.generator.model_copy(update={"engine": engine})
        settings = settings.model_copy(update={"generator": generator})
    stack = LocalStack(settings)
    with stderr.status("starting") as line:
        started = stack.up(line.update)
    _set_switch_if_unset(stack.gateway_url)
    if wait_for_bank:
        _wait_for_bank(settings)
    registry = settings.registry.url
    records = str(records_dir(settings))
    result = {
        "gateway_url": stack.gateway_url,
        "started": started,
        "registry": registry,
        "records": records,
        "logs": str(stack.logs),
    }
    if as_json:
        emit(result, as_json=True)
        return
    stdout.print(f"started  {', '.join(started) or 'nothing: everything runs already'}")
    stdout.print(f"serving  the champions of {registry}")
    stdout.print(
        f"gateway  {stack.gateway_url}  (for people: {stack.gateway_url}/console, API: {stack.gateway_url}/docs)"
    )
    stdout.print(f"metrics  {stack.gateway_url}/metrics")
    stdout.print(f"records  {records}  (for `eval ope` and `eval experiment`)")
    stdout.print(f"logs     {stack.logs}")


@app.command()
def down(*, as_json: JsonOption = False) -> None:
    """Stop everything that `up` started; nothing is left running."""
    from cli.local_stack import LocalStack

    stopped = LocalStack(load_serve_settings()).down()
    if as_json:
        emit({"stopped": stopped}, as_json=True)
    else:
        stdout.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(*, as_json: JsonOption = False) -> None:
    """Show what runs, where it listens, whether it is ready and what it serves with."""
    from cli.local_stack import LocalStack

    result = LocalStack(load_serve_settings()).status()
    if as_json:
        emit(result, as_json=True)
        return
    table = Table("service", "pid", "address", "ready", "checkpoints")
    for name, service in result["services"].items():
        versions = ", ".join(service["checkpoints"].values())
        table.add_row(
            name, str(service["pid"] or "–"), service["address"], "yes" if service["ready"] else "no", versions
        )
    stdout.print(table)


@kill_app.command("on")
def kill_on(
    *,
    reason: ReasonOption,
    no_contact: Annotated[bool, typer.Option("--no-contact", help="Contact nobody at all.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Flip every gateway to the baseline policies at once."""
    body = {"state": "on", "scope": "no_contact" if no_contact else "baseline", "reason": reason}
    emit(_gateway("PUT", url, body), as_json=as_json, title="kill switch")


@kill_app.command("off")
def kill_off(*, reason: ReasonOption, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Let the policy serve again."""
    emit(_gateway("PUT", url, {"state": "off", "reason": reason}), as_json=as_json, title="kill switch")


@kill_app.command("status")
def kill_status(*, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the switch as the gateway knows it."""
    known = _gateway("GET", url)
    emit(known if as_json else flatten(known), as_json=as_json, title="kill switch")


def gateway_url(url: str | None) -> str:
    """`url`, or where the settings put the local gateway."""
    if url is not None:
        return url.rstrip("/")
    gateway = load_serve_settings().gateway
    return f"http://{gateway.host}:{gateway.port}"


def _gateway(method: str, url: str | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Calls the kill switch's route; BadInput with the gateway's own words where it refuses."""
    base = gateway_url(url)
    return read_answer(_kill_switch(method, base, json=body))


def read_answer(response: httpx.Response) -> dict[str, Any]:
    """A gateway's JSON; BadInput with its own words where it refuses, or where it is no gateway."""
    base = f"{response.url.scheme}://{response.url.netloc.decode()}"
    try:
        answer: dict[str, Any] = response.json()
        refusal = str(answer["detail"]) if response.is_error else None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{base}: something answers that is no Churn-Saver gateway; check --url") from None
    if refusal is not None:
        raise BadInput(f"{base}: {refusal}")
    return answer


def _kill_switch(method: str, base: str, **options: Any) -> httpx.Response:
    try:
        return httpx.request(method, f"{base}/v1/kill-switch", timeout=5.0, **options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BadInput(f"{base}: the gateway does not answer ({error}); run `churn-saver up`") from None


def _set_switch_if_unset(url: str) -> None:
    """A switch that was never set means baseline (law 5), so a new stack sets it; a lost state is a person's to set."""
    body = {"state": "off", "reason": "first start of the local stack"}
    answer = _kill_switch("PUT", url, json=body, headers={"If-None-Match": "*"})
    if answer.status_code != httpx.codes.PRECONDITION_FAILED:
        read_answer(answer)
    elif _gateway("GET", url)["state"] == "unknown":
        stderr.print(
            "the kill switch had a state that is lost or unreadable, so customers get the baseline or nothing; "
            'to let the policy serve: churn-saver kill off --reason "…"',
            style="yellow",
        )


def _wait_for_bank(settings: ServeSettings) -> None:
    import grpc

    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2, generator_service_pb2_grpc

    deadline = time.monotonic() + BANK_TIMEOUT_S
    with progress() as bar, grpc.insecure_channel(settings.addresses.generator) as channel:
        task = bar.add_task("filling the bank of messages", total=None)
        stub = generator_service_pb2_grpc.GeneratorServiceStub(channel)
        while time.monotonic() < deadline:
            try:
                bank = stub.GetBank(generator_service_pb2.GetBankRequest(without_entries=True), timeout=5.0)
            except grpc.RpcError as error:
                raise BadInput(
                    f"{settings.addresses.generator}: the generator does not answer ({error.code()})"
                ) from None
            bar.update(task, completed=bank.briefs_filled, total=bank.briefs_wanted)
            if not bank.filling:
                return
            time.sleep(0.5)
    stderr.print("the bank is not full yet; meanwhile the former model's serves, or the approved text")
