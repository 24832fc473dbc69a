"""Real sockets, on loopback and in real time; with the exchange's stream on them."""

import asyncio
import socket
from contextlib import aclosing

import pytest

from agents.clock import SystemClock
from agents.domain import Quote, Trade
from agents.errors import ConfigError, LinkLost
from graph.resilience import Retry
from graph.sockets import HttpClient, WebSocketConnector
from graph.stream.events import Connected, Disconnected
from graph.stream.exchange import ExchangeStream
from graph.stream.history import BarHistory
from graph.stream.reader import StreamLimits
from tests.graph.exchange.test_server import served


def nobody():
    """A port at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


async def test_a_link():
    async with served() as port:
        link = await WebSocketConnector().connect(f"ws://127.0.0.1:{port}/ws")
        await link.send(b'{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert await link.recv() == b'{"result":[],"id":1}'
        await link.close()
        with pytest.raises(LinkLost, match="connection is over"):
            await link.recv()
        with pytest.raises(LinkLost, match="nothing was sent"):
            await link.send(b"{}")


async def test_a_frame_that_is_too_large_ends_the_link():
    async with served() as port:
        link = await WebSocketConnector(frame_bytes_max=10).connect(f"ws://127.0.0.1:{port}/ws/btcusdt@trade")
        with pytest.raises(LinkLost):
            await link.recv()
        await link.close()


@pytest.mark.parametrize("kind", ["close", "reset"])
async def test_the_other_side_ends_it(kind):
    async with served({"kind": kind, "nth": 2}) as port:
        link = await WebSocketConnector().connect(f"ws://127.0.0.1:{port}/ws/btcusdt@trade")
        await link.recv()
        with pytest.raises(LinkLost, match="1001" if kind == "close" else "it broke"):
            await link.recv()
        await link.close()


async def test_nobody_is_there():
    with pytest.raises(LinkLost, match="could not be reached"):
        await WebSocketConnector().connect(f"ws://127.0.0.1:{nobody()}/ws")
    async with HttpClient() as http:
        with pytest.raises(LinkLost, match=r"GET broke off .*; nothing was read; ask again"):
            await http.request("GET", f"http://127.0.0.1:{nobody()}/", {})
        with pytest.raises(LinkLost, match="may have been carried out; ask what became of it"):
            await http.request("POST", f"http://127.0.0.1:{nobody()}/", {})


@pytest.mark.parametrize(
    "url",
    ["http://x/", "no address", "ws://", "ws://h:99999/", "ws://h:x/", "ws://[::1/", "ws://..:1/", f"ws://{'a' * 70}/"],
)
async def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="no address of a WebSocket; nothing was connected") as error:
        await WebSocketConnector().connect(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["ftp://x/", "no address", "http://h:99999/", "http://h:x/", "http://[::1/", "http://..:1/"]
)
async def test_what_is_no_address_of_http(url):
    async with HttpClient() as http:
        with pytest.raises(ConfigError, match="no address of HTTP; nothing was sent") as error:
            await http.request("GET", f"{url}?signature=secret", {})
    assert "secret" not in str(error.value)


async def test_requests_are_sent_as_they_were_written():
    async with served() as port, HttpClient() as http:
        base = f"http://127.0.0.1:{port}/api/v3"
        reply = await http.request("GET", f"{base}/depth?symbol=BTCUSDT&limit=5", {})
        assert (reply.status, reply.headers["x-mbx-used-weight-1m"]) == (200, "5")
        reply = await http.request("GET", f"{base}/depth?symbol=%42TCUSDT&x=%2f", {})
        assert b"-1104" in reply.body


async def test_an_answer_that_is_too_long_and_one_that_is_late():
    slow = {"kind": "slow", "on": "time", "seconds": 30.0}
    async with served(slow) as port:
        async with HttpClient(bytes_max=100) as http:
            with pytest.raises(LinkLost, match="longer than 100 bytes"):
                await http.request("GET", f"http://127.0.0.1:{port}/api/v3/exchangeInfo", {})
        async with HttpClient(seconds=0.2) as http:
            with pytest.raises(LinkLost):
                await http.request("GET", f"http://127.0.0.1:{port}/api/v3/time", {})


async def test_the_stream_of_an_exchange_that_cuts_it_off():
    """Once in real time, with everything real: the connection breaks, and the data goes on."""
    clock, notices, events = SystemClock(), [], []
    limits = StreamLimits(retry=Retry(max_attempts=10, base_seconds=0.05, max_seconds=0.2))
    async with served({"kind": "reset", "nth": 20}, steps=100.0) as port, HttpClient() as http:
        stream = ExchangeStream(
            WebSocketConnector(), f"ws://127.0.0.1:{port}", ["BTCUSDT"], clock, limits=limits,
            history=BarHistory(http, f"http://127.0.0.1:{port}"), observer=notices.append,
        )  # fmt: skip
        async with asyncio.timeout(20), aclosing(stream.events()) as incoming:
            async for event in incoming:
                events.append(event)
                if len(events) == 120:
                    break
    assert {Trade, Quote} <= {type(event) for event in events}
    assert stream.health.connections >= 2
    assert sum(isinstance(notice, Disconnected) for notice in notices) >= 1
    assert sum(isinstance(notice, Connected) for notice in notices) >= 2
    assert stream.health.failures == 0
