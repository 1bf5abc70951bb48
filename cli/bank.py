"""`bank`: the messages that were written ahead, and what people decide about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from churnsaver.domain.message import Brief
from churnsaver.errors import BadInput
from churnsaver.settings import load_serve_settings
from cli.apps import bank_app
from cli.common import JsonOption, emit, flatten, stderr, stdout

if TYPE_CHECKING:
    from churnsaver.rpc.stubs.generator.v1.generator_service_pb2 import BankEntry
    from churnsaver.rpc.stubs.generator.v1.generator_service_pb2_grpc import GeneratorServiceStub

MAX_BANK_BYTES = 64 << 20  # 20,000 messages and what is known of them are a third of it

MessageArgument = Annotated[str, typer.Argument(help="Id of the message, as `bank list` shows it.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is shown to everyone who asks.")]
ByOption = Annotated[str, typer.Option("--by", help="Who decides.")]


@bank_app.command("list")
def bank_list(*, as_json: JsonOption = False) -> None:
    """List the messages by brief: whether each may be given out, how likely it is chosen, and what came of it."""
    entries = _bank()
    if as_json:
        emit({"entries": entries}, as_json=True)
        return
    table = Table("brief", "message", "state", "chance", "score", "uses", "outcomes", "draft")
    for entry in entries:
        outcomes = ", ".join(f"{name} {count}" for name, count in entry["outcomes"].items())
        table.add_row(
            entry["brief"],
            entry["message_id"],
            entry["state"],
            f"{entry['propensity']:.2f}" if entry["propensity"] else "",
            f"{entry['score']:.2f}" if entry["model"] else "",
            str(entry["uses"]),
            outcomes,
            entry["draft"],
        )
    stdout.print(table)


@bank_app.command("show")
def bank_show(message_id: MessageArgument, *, as_json: JsonOption = False) -> None:
    """Show one message, with what came of it and who approved or retired it, and why."""
    found = next((entry for entry in _bank() if entry["message_id"] == message_id), None)
    if found is None:
        raise BadInput(f"the bank has no message {message_id!r}; `churn-saver bank list` shows them")
    _show(found, as_json=as_json)


@bank_app.command("approve")
def bank_approve(
    message_id: MessageArgument, *, reason: ReasonOption, by: ByOption, as_json: JsonOption = False
) -> None:
    """Let a message be given out, where the settings ask for a person's approval (generator.bank.approval)."""
    _judge(message_id, retire=False, reason=reason, by=by, as_json=as_json)


@bank_app.command("retire")
def bank_retire(
    message_id: MessageArgument, *, reason: ReasonOption, by: ByOption, as_json: JsonOption = False
) -> None:
    """Take a message out of every replica within a second, for good."""
    _judge(message_id, retire=True, reason=reason, by=by, as_json=as_json)


def _judge(message_id: str, *, retire: bool, reason: str, by: str, as_json: bool) -> None:
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb

    try:
        request = pb.JudgeMessageRequest(message_id=message_id, retire=retire, reason=reason, by=by)
    except UnicodeEncodeError as error:
        raise BadInput(f"{error.object!r} is not UTF-8; type it again") from None
    answer = _ask(lambda stub: stub.JudgeMessage(request, timeout=10.0))
    if not answer.stored:
        stderr.print(
            "Redis could not store it: the generator that answered knows, and tells the others when it can. Where it "
            "is restarted before that, say it again. Uses and outcomes are not known meanwhile.",
            style="yellow",
        )
    # What has left the bank can be retired, and is known by its counts alone.
    gone = {"message_id": message_id, "state": "retired", "judged_by": by, "judged_because": reason}
    shown = _document(answer.entry) if answer.HasField("entry") else gone
    _show({**shown, "stored": answer.stored}, as_json=as_json)


def _show(entry: dict[str, Any], *, as_json: bool) -> None:
    emit(entry if as_json else flatten(entry), as_json=as_json, title="Message")


def _bank() -> list[dict[str, Any]]:
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb

    return [_document(entry) for entry in _ask(lambda stub: stub.GetBank(pb.GetBankRequest(), timeout=30.0)).entries]


def _ask(call: Callable[[GeneratorServiceStub], Any]) -> Any:
    """The running generator's answer; BadInput in its own words where it refuses, or where none answers."""
    import grpc

    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc

    address = load_serve_settings().addresses.generator
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", MAX_BANK_BYTES)]) as channel:
        try:
            return call(generator_grpc.GeneratorServiceStub(channel))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise BadInput(error.details()) from None
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise BadInput(f"{address}: the generator does not answer; run `churn-saver up`") from None
            raise BadInput(f"{address}: the generator cannot say ({error.code().name}: {error.details()})") from None


def _document(entry: BankEntry) -> dict[str, Any]:
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb

    return {
        "message_id": entry.message_id,
        "brief": "|".join(getattr(entry.brief, name) for name in Brief.model_fields),
        "draft": entry.draft,
        "state": pb.MessageState.Name(entry.state).removeprefix("MESSAGE_STATE_").lower(),
        "propensity": entry.propensity,
        "score": entry.score,
        "model": entry.model_version,
        "uses": entry.uses,
        "outcomes": dict(sorted(entry.outcomes.items())),
        "judged_by": entry.judged_by,
        "judged_because": entry.judged_because,
    }
