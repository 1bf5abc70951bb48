"""A vLLM server, asked over its OpenAI-compatible HTTP API and watched through its metrics; never trusted.

Whatever it does wrong is an EngineFailed with a reason: it is away (nobody answers, or the connection breaks), late or
busy, it refused the request, broke on it, or answered garbage. A request that nobody waits for any more is cancelled
by closing its connection, upon which vLLM aborts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from churnsaver.settings import VllmSettings
from services.generator import metrics
from services.generator.engine import AWAY, SMALL_WRITE, EngineFailed
from services.generator.vllm_adapters import RENEW_S, AdapterFolder

log = structlog.get_logger()

CONNECT_S = 1.0
# Nobody waits for longer (`generate` has this deadline): a server that is silent for so long has lost the request.
SILENCE_S = 600.0
# For questions that it answers without writing. One that is busy may miss some.
ANSWER_S, MISSES = 5.0, 3
UNLOAD_S = 10.0
WATCH_S = 1.0
# Of an answer, far more than is asked for: what is longer would be read for longer than a request has.
MOST_BYTES = 1_000_000
# Of its metrics: a healthy server may have many.
MOST_METRICS_BYTES = 16_000_000
# What was measured so long ago says nothing about now: one write finds out.
FORGET_S = 5.0
RUNNING, WAITING, CACHE_USE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
# How lines of them begin.
OURS = tuple(
    f"{before}{name}".encode() for before in ("", "# HELP ", "# TYPE ") for name in (RUNNING, WAITING, CACHE_USE)
)
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)

Answer = TypeVar("Answer", bound=BaseModel)


class Refused(EngineFailed):
    """The server does not take the request."""

    def __init__(self, url: str, status: int, said: str) -> None:
        super().__init__("refused", f"{url}: {status} {said}")
        self.status, self.said = status, said


class Model(BaseModel):
    """A model that the server has.

    Attributes:
        id: what requests call it.
        root: where it was loaded from.
    """

    id: str
    root: str


class Models(BaseModel):
    """The server's models: its base first."""

    data: list[Model]


class VllmServer:
    """One server for as long as the generator runs, whatever adapters come and go on it.

    Attributes:
        url: of its API, without `/v1`.
        up: whether it answered when it was last watched.
        times_back: how often it was back after it was away. It may have been started anew, with another base.
    """

    def __init__(self, settings: VllmSettings) -> None:
        self.url = str(settings.url).rstrip("/")
        self._concurrency = settings.max_concurrency
        with contextlib.suppress(OSError):  # whoever loads an adapter says what is wrong
            settings.adapters.mkdir(parents=True, exist_ok=True)  # a vLLM server does not start without
        self.adapters = AdapterFolder(settings.adapters)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            limits=httpx.Limits(max_connections=None),  # turns bound them
            trust_env=False,  # a proxy is for the world outside
        )
        self._turns = asyncio.Semaphore(self._concurrency)
        self._waiting = self._small_writes = 0
        self._waiting_there = 0.0
        self._small_write_s = 0.0
        self._timed_at = self._renewed_at = float("-inf")
        self._missed = self.times_back = 0
        self.up = True

    @property
    def expected_s(self) -> float:
        """How long a small write asked for now would take; nothing where nobody knows, so that somebody finds out."""
        if not self.up:
            return float("inf")
        if time.monotonic() - self._timed_at > FORGET_S and not self._small_writes:
            return 0.0
        queue = self._waiting + self._waiting_there / SMALL_WRITE
        return self._small_write_s * (1.0 + queue / self._concurrency)

    @asynccontextmanager
    async def turn(self, count: int) -> AsyncIterator[None]:
        """Waits for a turn to have `count` texts written, and times it."""
        small = count <= SMALL_WRITE
        self._small_writes += small
        try:
            self._waiting += 1
            try:
                await self._turns.acquire()
            finally:
                self._waiting -= 1
            started = time.monotonic()
            finished = False
            try:
                yield
                finished = True
            finally:
                self._turns.release()
                if small:
                    self._note_time(time.monotonic() - started, finished=finished)
        finally:
            self._small_writes -= small

    def _note_time(self, took_s: float, *, finished: bool) -> None:
        """A write that was given up, or went wrong, took at least as long."""
        self._small_write_s = took_s if finished else max(self._small_write_s, took_s)
        self._timed_at = time.monotonic()

    async def ask(
        self, answer: type[Answer], method: str, path: str, body: Any = None, *, timeout_s: float | None = None
    ) -> Answer:
        """The server's answer, as `answer` says it looks; EngineFailed where it is another, or none in time."""
        said = await self._send(method, path, body, timeout_s or SILENCE_S)
        try:
            return answer.model_validate_json(said)
        except ValidationError as error:
            raise EngineFailed("garbage", f"{self.url}{path}: {error.error_count()} faults in the answer") from None

    async def _send(self, method: str, path: str, body: Any, timeout_s: float) -> bytes:
        try:
            status, said = await self._said(method, path, body, timeout_s)
        except (httpx.TimeoutException, TimeoutError) as error:
            reason = AWAY if isinstance(error, httpx.ConnectTimeout) else "late"
            raise EngineFailed(reason, f"{self.url}{path}: {type(error).__name__}") from None
        except httpx.DecodingError as error:
            raise EngineFailed("garbage", f"{self.url}{path}: {error}") from None
        except httpx.HTTPError as error:
            raise EngineFailed(AWAY, f"{self.url}{path}: {error!r}") from None
        if httpx.codes.is_success(status):
            return said
        url, excerpt = self.url + path, said[:200].decode(errors="replace")
        if status not in BUSY and not httpx.codes.is_server_error(status):
            raise Refused(url, status, excerpt)
        raise EngineFailed("busy" if status in BUSY else "broken", f"{url}: {status} {excerpt}")

    async def _said(
        self, method: str, path: str, body: Any, timeout_s: float, most_bytes: int = MOST_BYTES
    ) -> tuple[int, bytes]:
        """Status and body of an answer that is whole within `timeout_s`: httpx's own timeouts begin anew each byte."""
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
        async with (
            asyncio.timeout(timeout_s),
            self._client.stream(method, path, json=body, timeout=timeout) as answer,
        ):
            said = bytearray()
            async for some in answer.aiter_bytes():
                said += some
                if len(said) > most_bytes:
                    raise httpx.DecodingError(f"the answer is longer than {most_bytes:,} bytes")
            return answer.status_code, bytes(said)

    async def base(self) -> Model:
        """The model that it was started with."""
        found = await self.ask(Models, "GET", "/v1/models", timeout_s=ANSWER_S)
        if not found.data:
            raise EngineFailed("garbage", f"{self.url}: has no model")
        return found.data[0]

    # -- adapters --------------------------------------------------------------------------------------

    async def let_go(self, adapter: str) -> None:
        """Takes the adapter away once nobody uses it."""
        if await asyncio.to_thread(self.adapters.let_go, adapter):
            await self._take_away(adapter)

    async def _take_away(self, adapter: str) -> None:
        try:
            # Not by `ask`: a server that never loaded it, or that is away, has nothing to unload.
            await self._said("POST", "/v1/unload_lora_adapter", {"lora_name": adapter}, UNLOAD_S)
        except (
            httpx.HTTPError,
            TimeoutError,
            RuntimeError,
        ) as error:  # the last: this process ends, and the client has
            log.warning("vllm.not_unloaded", adapter=adapter, reason=repr(error))
        await asyncio.to_thread(self.adapters.remove, adapter)

    async def _tidy(self) -> None:
        """Renews the marks of what is used here, and takes away what nobody uses."""
        if time.monotonic() - self._renewed_at < RENEW_S:
            return
        self._renewed_at = time.monotonic()
        await asyncio.to_thread(self.adapters.renew)
        for adapter in await asyncio.to_thread(self.adapters.unused):
            log.info("vllm.adapter_left_behind", adapter=adapter)
            await self._take_away(adapter)

    # -- watching --------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Reads the server's metrics every WATCH_S seconds, until it is cancelled."""
        while True:
            for step in (self.look, self._tidy):
                try:
                    await step()
                except OSError as error:
                    log.warning("vllm.adapters_not_seen", folder=str(self.adapters.path), reason=str(error))
                except Exception:
                    log.exception("vllm.step_failed", step=step.__name__)  # nobody would start this task again
            await asyncio.sleep(WATCH_S)

    async def look(self) -> None:
        """Whether it is there, how much waits in its queue and how full its cache is, as gauges of our own."""
        try:
            status, said = await self._said("GET", "/metrics", None, ANSWER_S, MOST_METRICS_BYTES)
            if not httpx.codes.is_success(status):
                raise ValueError(f"status {status}")  # noqa: TRY301 - as bad as what cannot be read
            found = _values(said)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            # Nobody listens: it is away. It is late, or broken: it may be busy, unless that goes on.
            self._missed = MISSES if isinstance(error, httpx.ConnectError) else self._missed + 1
            if self._missed < MISSES:
                return
            if self.up:
                log.warning("vllm.away", url=self.url, reason=repr(error))
            self.up, self._waiting_there = False, 0.0
            metrics.ENGINE_RUNNING.labels(self.url).set(0.0)
            metrics.ENGINE_CACHE_USE.labels(self.url).set(0.0)
        else:
            if not self.up:
                log.info("vllm.back", url=self.url)
                self.times_back += 1
            self._missed = 0
            self.up, self._waiting_there = True, sum(found[WAITING])
            metrics.ENGINE_RUNNING.labels(self.url).set(sum(found[RUNNING]))
            metrics.ENGINE_CACHE_USE.labels(self.url).set(max(found[CACHE_USE], default=0.0))
        metrics.ENGINE_UP.labels(self.url).set(self.up)
        metrics.ENGINE_WAITING.labels(self.url).set(self._waiting_there)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _values(exposition: bytes) -> dict[str, list[float]]:
    """Of the three metrics that we read, each series' value: a server of several engines has several."""
    # Parsing every line would hold up requests: vLLM's 800 take 30 ms.
    ours = b"\n".join(line for line in exposition.split(b"\n") if line.startswith(OURS)).decode()
    found: dict[str, list[float]] = {RUNNING: [], WAITING: [], CACHE_USE: []}
    for family in text_string_to_metric_families(ours):
        if family.name in found:
            found[family.name] = [sample.value for sample in family.samples]
    return found
