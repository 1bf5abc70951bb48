"""A server that speaks as vLLM does over real HTTP, loads adapters from a folder, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from churnsaver.models.adapters import ADAPTER, ADAPTER_CONFIG
from tests.conftest import free_port

ROOT = "/models/tiny"
LOG_PROB = -0.5
TEXT = "We have {offer} for you until {expiry}. {opt_out}"


@dataclass
class StandIn:
    """What it says, and what it saw.

    Attributes:
        served_name: of its base.
        fault: how it misbehaves: "500", "503", "garbage", "no json", "count", "cut" (the connection), "slow",
            "drip" (bytes for ever), "long" (it says that the prompt is); or "".
        text, finish_reason: what each completion is.
        log_prob: of every token that it is asked about.
        loaded: the adapters that it has.
        aborted: requests whose caller went away.
        silent: whether it does not answer what it is asked of itself.
        other_metrics: series that are not ours to read.
    """

    served_name: str
    adapters: Path
    port: int = field(default_factory=free_port)
    fault: str = ""
    text: str = TEXT
    finish_reason: str = "stop"
    log_prob: float = LOG_PROB
    loaded: set[str] = field(default_factory=set)
    seen: list[dict[str, Any]] = field(default_factory=list)
    writing: int = 0
    written: int = 0
    most: int = 0
    aborted: int = 0
    waiting: float = 0.0
    silent: bool = False
    other_metrics: int = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def has(self, name: str) -> bool:
        """As the filesystem resolver: from the folder, if the config names our base."""
        config = self.adapters / name / ADAPTER_CONFIG
        if name in self.loaded or name == self.served_name:
            return True
        if config.exists() and json.loads(config.read_text())["base_model_name_or_path"] == ROOT:
            self.loaded.add(name)
        return name in self.loaded

    def refusal(self, name: str) -> Response | None:
        """As vLLM says that it has no such adapter, or one that it cannot read."""
        if not self.has(name):
            return JSONResponse({"error": {"message": f"The model `{name}` does not exist."}}, 404)
        if name in self.loaded and (self.adapters / name / ADAPTER).read_bytes() == b"broken":
            self.loaded.discard(name)
            return JSONResponse(
                {"error": {"message": f"LoRA adapter '{name}' was found but could not be loaded."}}, 400
            )
        return None

    async def answer(self, request: Request) -> Response:
        """A completion, or what `fault` says in its place."""
        body = await request.json()
        self.seen.append(body)
        if (wrong := self.misbehaviour()) is not None:
            return wrong
        if (refused := self.refusal(body["model"])) is not None:
            return refused
        self.writing += 1
        self.most = max(self.most, self.writing)
        try:
            await _written(self, request)
        finally:
            self.writing -= 1
        return JSONResponse(self.completion(body))

    def misbehaviour(self) -> Response | None:
        """What takes the place of an answer."""
        if self.fault in {"500", "503"}:
            return JSONResponse({"error": {"message": "out of memory"}}, int(self.fault))
        too_long = {"error": {"message": "This model's maximum context length is 1024 tokens."}}
        answers: dict[str, Callable[[], Response]] = {
            "drip": lambda: StreamingResponse(_dripping()),
            "long": lambda: JSONResponse(too_long, 400),
            "no json": lambda: Response("<html>", media_type="text/html"),
            "garbage": lambda: JSONResponse({"choices": [{"index": "first", "text": None}]}),
            "cut": lambda: StreamingResponse(_cut_off()),
        }
        return answers[self.fault]() if self.fault in answers else None

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        count = body.get("n", 1) - (self.fault == "count")
        self.written += count * len(self.text.split())
        choice: dict[str, Any] = {"text": self.text, "finish_reason": self.finish_reason}
        if "prompt_logprobs" in body:
            tokens = body["prompt"]
            scored = [{str(token): {"logprob": self.log_prob, "rank": 1}} for token in tokens[1:]]
            choice["prompt_logprobs"] = [None, *scored]
        return {"choices": [{"index": index, **choice} for index in range(count)]}


def application(server: StandIn) -> FastAPI:
    """The routes that the generator asks for."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Any:
        if server.fault == "drip":
            return StreamingResponse(_dripping())
        return {"data": [{"id": server.served_name, "root": ROOT}, *({"id": n, "root": "?"} for n in server.loaded)]}

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await request.json()
        return server.refusal(body["model"]) or JSONResponse({"tokens": [ord(letter) for letter in body["prompt"]]})

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await server.answer(request)

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if name not in server.loaded:
            return JSONResponse({"error": {"message": "cannot be found"}}, 404)
        server.loaded.discard(name)
        return Response("Success")

    @app.get("/metrics")
    async def metrics() -> Response:
        if server.fault == "drip":
            return StreamingResponse(_dripping())
        while server.silent:  # noqa: ASYNC110 - a test turns it
            await asyncio.sleep(0.01)
        # Two engines, and a metric that is not ours to read.
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f'vllm:num_requests_running{{engine="0"}} {server.writing}',
            "# TYPE vllm:num_requests_waiting gauge",
            f'vllm:num_requests_waiting{{engine="0"}} {server.waiting}',
            'vllm:num_requests_waiting{engine="1"} 1',
            "# TYPE vllm:kv_cache_usage_perc gauge",
            'vllm:kv_cache_usage_perc{engine="0"} 0.25',
            'vllm:kv_cache_usage_perc{engine="1"} 0.5',
            "# TYPE vllm:generation_tokens_total counter",
            *(f'vllm:generation_tokens_total{{engine="{n}"}} {server.written}' for n in range(server.other_metrics)),
        ]
        return Response("\n".join(lines) + "\n", media_type="text/plain")

    return app


async def _cut_off() -> AsyncIterator[bytes]:
    yield b'{"choices": ['
    raise ConnectionResetError


async def _dripping() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.02)


async def _written(server: StandIn, request: Request) -> None:
    """A moment; with "slow", until the caller goes away."""
    await asyncio.sleep(0.02)
    while server.fault == "slow":
        if await request.is_disconnected():
            server.aborted += 1
            return
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(server: StandIn) -> AsyncIterator[StandIn]:
    """Serves until the context ends; may be started anew on the same port."""
    config = uvicorn.Config(application(server), host="127.0.0.1", port=server.port, log_config=None, lifespan="off")
    uvicorn_server = uvicorn.Server(config)
    uvicorn_server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(uvicorn_server.serve())
    while not uvicorn_server.started:  # noqa: ASYNC110 - a flag of uvicorn's
        await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        uvicorn_server.should_exit = uvicorn_server.force_exit = True
        await task
