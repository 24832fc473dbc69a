"""The exchange behind real sockets, in real time: short, and on loopback."""

import asyncio
import json

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agents.clock import SystemClock
from graph.exchange import server
from graph.exchange.gateway import Exchange
from graph.exchange.menu import ExchangeFault, FaultMenu
from graph.exchange.openings import opening_of
from graph.exchange.server import serve


def served(*faults, steps=50.0):
    clock = SystemClock()
    menu = FaultMenu([ExchangeFault(**each) for each in faults])
    return serve(Exchange(opening_of(7, clock.now_ns(), steps=steps), clock, menu), clock)


async def get(port, path):
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/api/v3/{path}") as reply:
        return reply.status, dict(reply.headers), await reply.json()


async def test_rest_and_streams_on_one_port():
    async with served() as port:
        status, headers, book = await get(port, "depth?symbol=BTCUSDT&limit=5")
        assert (status, headers["X-MBX-USED-WEIGHT-1M"], len(book["asks"])) == (200, "5", 5)
        async with connect(f"ws://127.0.0.1:{port}/stream?streams=btcusdt@trade") as link:
            assert json.loads(await link.recv())["stream"] == "btcusdt@trade"
            await link.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
            while "result" not in (answer := json.loads(await link.recv())):
                pass
            assert answer["result"] == ["btcusdt@trade"]
            await (await link.ping())


@pytest.mark.parametrize(("kind", "code"), [("close", 1001), ("reset", None)])
async def test_connections_that_end(kind, code):
    async with served({"kind": kind, "nth": 3}) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws/btcusdt@trade") as link:
            await link.recv()
            await link.recv()
            with pytest.raises(ConnectionClosed) as closed:
                await link.recv()
        assert (closed.value.rcvd and closed.value.rcvd.code) == code


async def test_what_is_refused_and_what_breaks_off():
    async with served({"kind": "refuse", "on": "/ws"}, {"kind": "drop_ack", "on": "time"}) as port:
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{port}/ws")
        with pytest.raises(aiohttp.ClientError):
            await get(port, "time")
        assert (await get(port, "ping"))[0] == 200


async def test_a_frame_that_is_too_large_ends_the_connection_and_nothing_else():
    async with served() as port:
        async with connect(f"ws://127.0.0.1:{port}/ws") as link:
            await link.send("x" * 100_000)
            with pytest.raises(ConnectionClosed):
                await link.recv()
        assert (await get(port, "ping"))[0] == 200


async def test_everybody_is_told_when_it_ends():
    async with served() as port:
        link = await connect(f"ws://127.0.0.1:{port}/ws")
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(link.recv(), 5)
    assert closed.value.rcvd.code == 1001


async def test_a_port_that_is_taken():
    async with served() as port:
        clock = SystemClock()
        with pytest.raises(OSError):
            async with serve(Exchange(opening_of(7, clock.now_ns()), clock), clock, port=port):
                pass


def test_who_reads_too_little_is_cut_off_and_nothing_piles_up(monkeypatch):
    monkeypatch.setattr(server, "_BACKLOG_MAX", 5)

    class Transport:
        aborted = 0

        def abort(self):
            self.aborted += 1

    transport = Transport()
    wire = server._Wire(transport)
    for number in range(5):
        wire.send(b"%d" % number)
    assert (wire.cut, transport.aborted) == (False, 0)
    for _ in range(100):
        wire.send(b"x")
        wire.ping()
    assert (wire.cut, transport.aborted) == (True, 1)
    assert wire._waiting.qsize() <= 6
