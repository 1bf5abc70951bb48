"""A vLLM server, asked over its OpenAI-compatible HTTP API and watched through its metrics; never trusted.

Whatever it does wrong is an EngineFailed with a reason: it is away (nobody answers, or the connection breaks), late or
busy, it refused the request, broke on it, or answered garbage. A request that nobody waits for any more is cancelled
by closing its connection, upon which vLLM aborts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from churnsaver.settings import VllmSettings
from services.generator import metrics
from services.generator.engine import SMALL_WRITE, EngineFailed

log = structlog.get_logger()

CONNECT_S = 1.0
# For who has no deadline, such as the bank: a server that is silent for so long has lost the request.
SILENCE_S = 120.0
UNLOAD_S = 10.0
WATCH_S = 1.0
# What was measured so long ago says nothing about now: the next write may find out.
FORGET_S = 30.0
RUNNING, WAITING, CACHE_USE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)

Answer = TypeVar("Answer", bound=BaseModel)


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
    """

    def __init__(self, settings: VllmSettings) -> None:
        self.url = str(settings.url).rstrip("/")
        self._concurrency = settings.max_concurrency
        with contextlib.suppress(OSError):  # whoever loads an adapter says what is wrong
            settings.adapters.mkdir(parents=True, exist_ok=True)  # a vLLM server does not start without
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=None),  # turns bound them
            trust_env=False,  # a proxy is for the world outside
        )
        self._turns = asyncio.Semaphore(self._concurrency)
        self._waiting = 0
        self._waiting_there = 0.0
        self._small_write_s = self._quickest_s = 0.0
        self._timed_at = float("-inf")
        self._held: Counter[str] = Counter()
        self.up = True

    @property
    def expected_s(self) -> float:
        """How long a small write asked for now would take; nothing while nobody knows, so that somebody finds out."""
        if not self.up:
            return float("inf")
        known = time.monotonic() - self._timed_at < FORGET_S
        queue = self._waiting + self._waiting_there / SMALL_WRITE
        return (self._small_write_s if known else self._quickest_s) * (1.0 + queue / self._concurrency)

    @asynccontextmanager
    async def turn(self, count: int) -> AsyncIterator[None]:
        """Waits for a turn to have `count` texts written, and times it."""
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
            self._note_time(count, time.monotonic() - started, finished=finished)

    def _note_time(self, count: int, took_s: float, *, finished: bool) -> None:
        """A write that was given up, or went wrong, took at least as long."""
        if count > SMALL_WRITE:
            return
        self._small_write_s = took_s if finished else max(self._small_write_s, took_s)
        if finished:
            self._quickest_s = min(self._quickest_s or took_s, took_s)
        self._timed_at = time.monotonic()

    async def ask(self, answer: type[Answer], method: str, path: str, body: Any = None) -> Answer:
        """The server's answer, as `answer` says it looks; EngineFailed where it is another, or none."""
        said = await self._send(method, path, body)
        try:
            return answer.model_validate_json(said.content)
        except ValidationError as error:
            raise EngineFailed("garbage", f"{self.url}{path}: {error.error_count()} faults in the answer") from None

    async def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            said = await self._client.request(method, path, json=body)
        except httpx.TimeoutException as error:
            reason = "away" if isinstance(error, httpx.ConnectTimeout) else "late"
            raise EngineFailed(reason, f"{self.url}{path}: {type(error).__name__}") from None
        except httpx.DecodingError as error:
            raise EngineFailed("garbage", f"{self.url}{path}: {error}") from None
        except httpx.HTTPError as error:
            raise EngineFailed("away", f"{self.url}{path}: {error or type(error).__name__}") from None
        if said.is_success:
            return said
        reason = "busy" if said.status_code in BUSY else "broken" if said.is_server_error else "refused"
        raise EngineFailed(reason, f"{self.url}{path}: {said.status_code} {said.text[:200]}")

    async def base(self) -> Model:
        """The model that it was started with."""
        found = await self.ask(Models, "GET", "/v1/models")
        if not found.data:
            raise EngineFailed("garbage", f"{self.url}: has no model")
        return found.data[0]

    # -- adapters --------------------------------------------------------------------------------------

    def hold(self, adapter: str) -> None:
        """Somebody uses the adapter; until as many have let go of it, it stays."""
        self._held[adapter] += 1

    async def let_go(self, adapter: str) -> bool:
        """Unloads the adapter once nobody uses it; returns whether nobody does."""
        self._held[adapter] -= 1
        if self._held[adapter] > 0:
            return False
        del self._held[adapter]
        try:
            # Not by `ask`: a server that never loaded it, or that is away, has nothing to unload.
            await self._client.post("/v1/unload_lora_adapter", json={"lora_name": adapter}, timeout=UNLOAD_S)
        except httpx.HTTPError as error:
            log.warning("vllm.not_unloaded", adapter=adapter, reason=repr(error))
        return True

    # -- watching --------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Reads the server's metrics every WATCH_S seconds, until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_S)

    async def look(self) -> None:
        """Whether it is there, how much waits in its queue and how full its cache is, as gauges of our own."""
        try:
            said = await self._client.get("/metrics", timeout=CONNECT_S)
            found = _values(said.raise_for_status().text)
        except (httpx.HTTPError, ValueError) as error:
            if self.up:
                log.warning("vllm.away", url=self.url, reason=repr(error))
            self.up, self._waiting_there = False, 0.0
        else:
            if not self.up:
                log.info("vllm.back", url=self.url)
            self.up, self._waiting_there = True, sum(found[WAITING])
            metrics.ENGINE_RUNNING.labels(self.url).set(sum(found[RUNNING]))
            metrics.ENGINE_CACHE_USE.labels(self.url).set(max(found[CACHE_USE], default=0.0))
        metrics.ENGINE_UP.labels(self.url).set(self.up)
        metrics.ENGINE_WAITING.labels(self.url).set(self._waiting_there)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _values(exposition: str) -> dict[str, list[float]]:
    """Of the three metrics that we read, each series' value: a server of several engines has several."""
    found: dict[str, list[float]] = {RUNNING: [], WAITING: [], CACHE_USE: []}
    for family in text_string_to_metric_families(exposition):
        if family.name in found:
            found[family.name] = [sample.value for sample in family.samples]
    return found
