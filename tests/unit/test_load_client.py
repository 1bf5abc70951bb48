"""The open-loop generator against real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from churnsaver.errors import BadInput
from tests.load.client import MAX_REQUESTS, Plan, StartedRun, due_times, is_loopback, run_load

Answer = Callable[[int], float | None]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """Answers each request after `answer(its number)` seconds, or hangs up where that is None."""
    numbers = iter(range(1_000_000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                wait_s = answer(next(numbers))
                if wait_s is None:
                    break
                await asyncio.sleep(wait_s)
                content = json.dumps({"mode": "policy", "customer_id": body["id"]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/retain"


def bodies(count: int) -> list[dict[str, int]]:
    return [{"id": index} for index in range(count)]


def test_requests_are_due_at_a_constant_rate() -> None:
    """The schedule is fixed before the first answer."""
    assert due_times(4, 2.0, 10.0) == [10.0, 10.5, 11.0, 11.5]


async def test_each_answer_belongs_to_its_request() -> None:
    """Connections are shared one exchange at a time, so answers never cross."""
    async with server(lambda number: 0.02 * (number % 3)) as url:
        run = await run_load(Plan(url, 200.0, bodies(40)))
    assert [sample.status for sample in run.samples] == [200] * 40
    assert [sample.answer["customer_id"] for sample in run.samples if sample.answer] == list(range(40))
    assert not run.stopped


async def test_a_stalled_answer_does_not_hold_the_others_back() -> None:
    """Open loop: requests keep leaving on time while the first one waits."""
    async with server(lambda number: 0.5 if number == 0 else 0.0) as url:
        run = await run_load(Plan(url, 100.0, bodies(20)))
    assert run.samples[0].latency_ms >= 490.0
    assert max(sample.latency_ms for sample in run.samples[1:]) < 300.0


async def test_a_hung_up_connection_is_one_error() -> None:
    """The request whose connection died has status 0 and a reason; the others are answered."""
    async with server(lambda number: None if number == 3 else 0.0) as url:
        run = await run_load(Plan(url, 100.0, bodies(10)))
    failed = [sample for sample in run.samples if not sample.ok]
    assert len(failed) == 1
    assert failed[0].status == 0
    assert "closed before the answer" in (failed[0].error or "")


async def test_a_stopped_run_waits_for_what_is_under_way() -> None:
    """No further request leaves, and each that left has its answer."""
    asked = asyncio.Event()

    def answer(_: int) -> float:
        asked.set()
        return 0.3

    async with asyncio.timeout(30.0), server(answer) as url:
        with StartedRun(Plan(url, 50.0, bodies(5_000))) as started:
            await asked.wait()
            run = await asyncio.to_thread(started.stop)
    assert run.stopped
    assert 0 < len(run.samples) < 1_000
    assert all(sample.ok for sample in run.samples)


async def test_nobody_listening_is_an_error_per_request(unused_tcp_port: int) -> None:
    """A refused connection is counted, not raised."""
    run = await run_load(Plan(f"http://127.0.0.1:{unused_tcp_port}/", 100.0, bodies(3)))
    assert [sample.status for sample in run.samples] == [0, 0, 0]
    assert all("refused" in (sample.error or "").lower() or "Connect" in (sample.error or "") for sample in run.samples)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False),
     ("0.0.0.0", False), ("example.org", False), ("127.0.0.1.example.org", False), ("", False)],
)  # fmt: skip
def test_only_this_machine_is_a_target(host: str, local: bool) -> None:
    """Names are never resolved: what is not plainly loopback is refused."""
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (Plan("http://10.0.0.1/v1/retain", 1.0, [{}]), "url"),
        (Plan("http://127.0.0.1/", 0.0, [{}]), "rate"),
        (Plan("http://127.0.0.1/", 1.0, []), "bodies"),
        (Plan("http://127.0.0.1/", 1e9, [{}] * (MAX_REQUESTS + 1)), "bodies"),
        (Plan("http://127.0.0.1/", 0.001, [{}]), "bodies"),
    ],
)
async def test_an_unbounded_or_foreign_plan_is_refused(plan: Plan, names: str) -> None:
    """The harness cannot be pointed at somebody else's machine, nor left running."""
    with pytest.raises(BadInput, match=names):
        await run_load(plan)
