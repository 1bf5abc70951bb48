"""`generate`: messages for a file of briefs, from the running generator."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from churnsaver.errors import BadInput
from churnsaver.jsonl import mended, read_lines
from churnsaver.settings import GeneratorSettings, load_serve_settings, load_world
from cli.apps import app
from cli.common import SEED, SeedOption, emit, progress, stderr

if TYPE_CHECKING:
    from churnsaver.domain.message import Brief

# So many briefs wait for a vLLM server at once, which writes them together and gives each a random stream of its own.
IN_FLIGHT = 16
TIMEOUT_S = 600.0  # an engine of one thread takes them in turn, and nobody waits for one message alone

Message = dict[str, Any]


@app.command()
def generate(
    *,
    briefs: Annotated[
        Path, typer.Option("--briefs", help="JSONL: segment, offer, channel, tone, language, reason a line.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="JSONL file to write to; what it holds of these briefs is kept.")
    ] = None,
    seed: SeedOption = SEED,
    as_json: Annotated[bool, typer.Option("--json", help='Print one object, {"messages": […]}, at the end.')] = False,
) -> None:
    """Write a message for each brief with the running generator; prints one JSON object a line.

    Each has the brief, the language that was written in (English where the brief's has no approved texts), the slotted
    draft, its source (bank, model or template) and the message's id. With --out they
    go to a file instead, in the order of the briefs. A run that was cut off goes on where that file ends.
    """
    settings = load_serve_settings()
    wanted = _read_briefs(briefs, settings.generator)
    kept = _resume(out, briefs, wanted) if out else []
    written: list[Message] = []
    with contextlib.closing(_written(settings.addresses.generator, briefs, wanted, len(kept), seed)) as messages:
        if out:
            written = _append(out, messages)
        else:
            for message in messages:
                written.append(message)
                if not as_json:
                    typer.echo(json.dumps(message, ensure_ascii=False))
    sources = Counter(message["source"] for message in [*kept, *written])
    if templates := sources["template"]:
        stderr.print(
            f"{templates} of {len(wanted)} got the approved text: the model does not write the language, was away, or "
            "wrote nothing that passes (see the generator's log)",
            style="yellow",
        )
    if out:
        told = {"out": str(out), "messages": len(wanted), "kept": len(kept), **sources}
        emit(told, as_json=as_json, title="Messages")
    elif as_json:
        typer.echo(json.dumps({"messages": written}, ensure_ascii=False))


def _read_briefs(path: Path, settings: GeneratorSettings) -> list[tuple[int, Brief]]:
    """Every brief and the number of its line; all are read before the first is written for."""
    from pydantic import ValidationError

    from churnsaver.domain.message import Brief
    from churnsaver.domain.writing import check_brief
    from churnsaver.settings import explain

    world, defaults = load_world(), {"tone": settings.tone, "language": settings.languages[0]}
    found = []
    for number, line in read_lines(path):
        try:
            brief = Brief.model_validate({**defaults, **json.loads(line)})
            brief.key.encode()  # JSON can hold what is no text
            check_brief(brief, world)
            found.append((number, brief))
        except ValidationError as error:
            raise BadInput(f"{path}, line {number}: {explain(error)}") from None
        except UnicodeEncodeError:
            raise BadInput(f"{path}, line {number}: holds a lone surrogate, which is no Unicode text") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(f"{path}, line {number}: is not a JSON object ({error})") from None
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from None
    if not found:
        raise BadInput(f"{path}: holds no briefs; expected one JSON object a line")
    return found


def _resume(out: Path, briefs: Path, wanted: list[tuple[int, Brief]]) -> list[Message]:
    """The messages that `out` holds already; a line that was cut off is removed.

    Raises:
        BadInput: it cannot be read, or holds something else than messages for the first of these briefs.
    """
    kept: list[Message] = []
    with mended(out):
        for number, line in read_lines(out) if out.exists() else ():
            n = len(kept)
            try:
                message = json.loads(line)
                same = n < len(wanted) and message["brief"] == wanted[n][1].model_dump()
            except (ValueError, TypeError, KeyError, RecursionError):
                same = False
            if not same:
                said = f"is no message for brief {n + 1} of {briefs}; choose another --out"
                raise BadInput(f"{out}, line {number}: {said}")
            kept.append(message)
    return kept


def _append(out: Path, messages: Iterable[Message]) -> list[Message]:
    """Adds each message to `out` as it comes; where none does, no file is made."""
    written = []
    try:
        for message in messages:
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a", encoding="utf-8") as file:
                print(json.dumps(message, ensure_ascii=False), file=file)
            written.append(message)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    return written


def _in_flight(channel: Any) -> int:
    """How many briefs to ask for at once: what the embedded engine writes together no longer follows from its seeds
    alone (docs/adr/0024).
    """
    import grpc

    from churnsaver.models.adapters import WRITER
    from churnsaver.rpc.stubs.models.v1 import models_service_pb2 as models_pb
    from churnsaver.rpc.stubs.models.v1 import models_service_pb2_grpc as models_grpc

    try:
        models = models_grpc.ModelsServiceStub(channel).GetModels(models_pb.GetModelsRequest(), timeout=5.0).models
    except grpc.RpcError:
        return 1  # the first brief will say what is wrong
    return IN_FLIGHT if any(model.kind == WRITER for model in models) else 1


def _written(address: str, path: Path, wanted: list[tuple[int, Brief]], done: int, seed: int) -> Generator[Message]:
    """A message for each brief after the first `done` ones, in their order."""
    import grpc

    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2 as pb
    from churnsaver.rpc.stubs.generator.v1 import generator_service_pb2_grpc as generator_grpc

    def write(numbered: tuple[int, Brief]) -> Message:
        number, brief = numbered
        request = pb.GenerateRequest(brief=pb.Brief(**brief.model_dump()), seed=seed + number)
        try:
            answer = stub.Generate(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise BadInput(f"{address}: the generator does not answer; run `churn-saver up`") from None
            raise BadInput(f"{path}, line {number}: {error.details()}") from None
        source = pb.MessageSource.Name(answer.source).removeprefix("MESSAGE_SOURCE_").lower()
        return {
            "brief": brief.model_dump(),
            "language": answer.language,
            "draft": answer.draft,
            "source": source,
            "message_id": answer.message_id,
        }

    with grpc.insecure_channel(address) as channel, progress() as bar:
        stub = generator_grpc.GeneratorServiceStub(channel)
        pool = ThreadPoolExecutor(_in_flight(channel))
        task = bar.add_task("writing", total=len(wanted), completed=done)
        try:
            for message in pool.map(write, wanted[done:]):
                bar.advance(task)
                yield message
        finally:
            channel.close()  # ends what is still asked for
            pool.shutdown(cancel_futures=True)
