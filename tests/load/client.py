"""An open-loop load generator: requests leave at a constant rate, whether or not answers come back.

`python -m tests.load.client` reads a plan as one JSON object on standard input and writes its samples as one
JSON object on standard output, so that the generator has a process, and a garbage collector, of its own. It
speaks HTTP/1.1 over raw asyncio protocols: at a few hundred requests a second a general client would use more
of the two shared cores than the services that it measures.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from churnsaver.errors import BadInput
from tests.load.stats import Sample

MAX_REQUESTS = 120_000
MAX_SECONDS = 600.0
REQUEST_TIMEOUT_S = 10.0
# uvicorn closes an idle connection after 5 s; one that is dropped earlier cannot be closed while we write to it.
MAX_IDLE_S = 2.0
START_DELAY_S = 0.05
LOCAL_NAMES = frozenset({"localhost"})


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: `rate` requests a second, one for each body, in order.

    Attributes:
        url: the whole URL that every body is posted to; its host must be this machine.
        rate_rps: arrivals in each second, constant.
        bodies: JSON objects to post.
    """

    url: str
    rate_rps: float
    bodies: Sequence[Mapping[str, Any]]

    def check(self) -> None:
        """BadInput where the plan leaves this machine or has no end in sight."""
        host = urlsplit(self.url).hostname or ""
        if not is_loopback(host):
            raise BadInput(f"url: {host!r} is not this machine; load is sent to loopback addresses only")
        if self.rate_rps <= 0:
            raise BadInput(f"rate: is {self.rate_rps}; give a number of requests per second above 0")
        if not 0 < len(self.bodies) <= MAX_REQUESTS:
            raise BadInput(f"bodies: {len(self.bodies)} requests; a run has 1 to {MAX_REQUESTS}")
        if len(self.bodies) / self.rate_rps > MAX_SECONDS:
            raise BadInput(f"bodies: would take more than {MAX_SECONDS:.0f} s; send fewer or raise the rate")


@dataclass(frozen=True, slots=True)
class Run:
    """What came back.

    Attributes:
        cpu_s: what the generator itself used of one core.
        stopped: whether it was stopped before the last request of the plan left.
    """

    samples: list[Sample]
    cpu_s: float
    stopped: bool


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def due_times(requests: int, rate_rps: float, start_s: float) -> list[float]:
    """When each request is due: evenly spaced from `start_s`, never moved by how long answers take."""
    return [start_s + index / rate_rps for index in range(requests)]


class StartedRun:
    """A plan that runs in a process of its own; as a context manager, it ends at the latest with the context.

    Plan and samples go through files: a pipe holds less than they need, and neither side should wait for the
    other to read. (Through a pipe, samples once came back cut off at exactly 131,072 bytes, for no cause found.)
    """

    def __init__(self, plan: Plan) -> None:
        plan.check()
        self._samples = tempfile.TemporaryFile()  # noqa: SIM115 - `finish` closes it
        with tempfile.TemporaryFile() as document:
            document.write(orjson.dumps(asdict(plan)))
            document.seek(0)
            command = [sys.executable, "-m", "tests.load.client"]
            self._process = subprocess.Popen(command, stdin=document, stdout=self._samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # nothing happens where it has ended
        self._process.wait()

    def stop(self) -> Run:
        """Sends nothing more, and waits for what is under way; BadInput where it had not begun to send."""
        self._process.terminate()
        return self.finish()

    def finish(self) -> Run:
        """Waits for the run to end; BadInput where the generator itself failed."""
        with self._samples:
            if (code := self._process.wait(MAX_SECONDS + 2 * REQUEST_TIMEOUT_S)) != 0:
                raise BadInput(f"the load generator ended with {code}; its message stands above")
            self._samples.seek(0)
            document = orjson.loads(self._samples.read())
        return Run([Sample(**sample) for sample in document["samples"]], document["cpu_s"], document["stopped"])


def run_apart(plan: Plan) -> Run:
    """Runs `plan` in a process of its own and waits for it."""
    return StartedRun(plan).finish()


async def run_load(plan: Plan, stop: asyncio.Event | None = None) -> Run:
    """Runs `plan` in this event loop; no request that is due after `stop` was set leaves."""
    plan.check()
    target = Target(plan.url)
    payloads = [target.request(orjson.dumps(body)) for body in plan.bodies]
    cpu_before_s = time.process_time()
    tasks = []
    for index, due_s in enumerate(due_times(len(payloads), plan.rate_rps, now_s() + START_DELAY_S)):
        if (wait_s := due_s - now_s()) > 0:
            await asyncio.sleep(wait_s)
        if stop is not None and stop.is_set():
            break
        tasks.append(asyncio.create_task(target.send(index, payloads[index], due_s)))
    samples = await asyncio.gather(*tasks)
    target.close()
    return Run(list(samples), time.process_time() - cpu_before_s, len(samples) < len(payloads))


def now_s() -> float:
    """The machine's monotonic clock; uvloop's own is cached and counts whole milliseconds."""
    return time.monotonic()


class Target:
    """One URL and its keep-alive connections; as many as there are requests in flight."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._idle: list[tuple[float, Connection]] = []

    def request(self, body: bytes) -> bytes:
        """The bytes of one request."""
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    async def send(self, index: int, payload: bytes, due_s: float) -> Sample:
        """Sends one request and waits for its answer; a failure becomes a sample with an error."""
        sent_s = now_s()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                connection = await self._take()
                status, body = await connection.exchange(payload)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            return Sample(index, due_s, sent_s, now_s(), 0, None, f"{type(error).__name__}: {error}")
        done_s = now_s()
        self._idle.append((done_s, connection))
        return Sample(index, due_s, sent_s, done_s, status, parse_object(body))

    def close(self) -> None:
        """Closes every idle connection."""
        for _, connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _take(self) -> Connection:
        loop = asyncio.get_running_loop()
        while self._idle:
            since_s, connection = self._idle.pop()
            if connection.open and now_s() - since_s < MAX_IDLE_S:
                return connection
            connection.abort()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._chunks: list[bytes] = []

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, payload: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to `payload`.

        Raises:
            ConnectionError: the connection ended before the whole answer came.
        """
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._chunks = []
        self._transport.write(payload)
        try:
            return await self._answer
        except BaseException:
            # An answer that nobody waits for any more must not be taken for the next request's.
            self.abort()
            raise

    def abort(self) -> None:
        """Closes at once, without waiting for anything in flight."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports follow the interface without inheriting from it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(f"closed before the answer ({exc or 'end of stream'})"))

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body came."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        assert self._parser is not None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._chunks)))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def parse_object(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None where `body` is something else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


async def run_until_stopped(plan: Plan) -> Run:
    """Runs `plan` until it ends, or somebody asks this process to end."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return await run_load(plan, stop)


def main() -> None:
    """Runs the plan on standard input."""
    plan = Plan(**json.load(sys.stdin))
    # A collection in the middle of a run would be charged to the server; the run is bounded, so memory is too.
    gc.disable()
    run = uvloop.run(run_until_stopped(plan))
    sys.stdout.buffer.write(orjson.dumps(asdict(run)))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
