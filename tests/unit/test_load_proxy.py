"""The fault-injecting proxy against real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.load.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as running:
        yield running


async def connect(proxy: Proxy) -> Streams:
    host, port = proxy.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def round_trip_s(streams: Streams, content: bytes) -> float:
    reader, writer = streams
    started = time.monotonic()
    writer.write(content)
    assert await reader.readexactly(len(content)) == content
    return time.monotonic() - started


async def test_it_forwards_both_ways_in_order(proxy: Proxy) -> None:
    """A megabyte comes back byte for byte."""
    streams = await connect(proxy)
    await round_trip_s(streams, bytes(range(256)) * 4096)
    streams[1].close()


async def test_latency_is_added_in_each_direction(proxy: Proxy) -> None:
    """200 ms each way is 400 ms a round trip, and it can be taken back while connections stay open."""
    streams = await connect(proxy)
    assert await round_trip_s(streams, b"quick") < 0.4
    proxy.latency_s = 0.2
    assert 0.4 <= await round_trip_s(streams, b"slow") < 2.0
    proxy.latency_s = 0.0
    assert await round_trip_s(streams, b"quick again") < 0.4
    streams[1].close()


async def test_drop_resets_open_connections(proxy: Proxy) -> None:
    """The caller sees the connection end; a new one works."""
    reader, writer = await connect(proxy)
    await round_trip_s((reader, writer), b"before")
    assert proxy.connections == 1
    proxy.drop()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    again = await connect(proxy)
    await round_trip_s(again, b"after")
    again[1].close()


async def test_refusing_closes_new_connections_only(proxy: Proxy) -> None:
    """What was open goes on; what is new ends at once."""
    before = await connect(proxy)
    await round_trip_s(before, b"open")
    proxy.refusing = True
    reader, writer = await connect(proxy)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    await round_trip_s(before, b"still open")
    before[1].close()


async def test_a_dead_target_ends_the_connection(unused_tcp_port: int) -> None:
    """The caller is not left waiting for a service that does not listen."""
    async with Proxy("127.0.0.1", unused_tcp_port) as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_the_end_of_one_direction_is_passed_on(proxy: Proxy) -> None:
    """A caller that has no more to say still hears the rest of the answer."""
    reader, writer = await connect(proxy)
    writer.write(b"last words")
    writer.write_eof()
    assert await reader.read() == b"last words"
    writer.close()
