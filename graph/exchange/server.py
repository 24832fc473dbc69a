"""The exchange behind sockets: HTTP and WebSocket on one port of this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from agents.clock import Clock
from graph.exchange.connection import Connection
from graph.exchange.driver import drive
from graph.exchange.gateway import Exchange, Reply, Request

__all__ = ["serve"]

_BACKLOG_MAX = 100_000  # frames that wait for one client
_FRAME_BYTES_MAX = 65_536


class _Wire:
    """Frames wait in a queue, from which one task writes them to the socket. Who reads too little is cut off."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.cut = False

    def send(self, frame: bytes) -> None:
        self._put("text", frame)

    def ping(self) -> None:
        self._put("ping", b"")

    def pong(self, payload: bytes) -> None:
        self._put("pong", payload)

    def close(self, code: int) -> None:
        self._put("close", str(code).encode())

    def reset(self) -> None:
        self.cut = True
        self._transport.abort()  # whoever writes, or waits until he can, ends with it
        self._waiting.put_nowait(("reset", b""))

    def _put(self, what: str, data: bytes) -> None:
        if self.cut:
            return
        if self._waiting.qsize() < _BACKLOG_MAX:
            self._waiting.put_nowait((what, data))
        else:
            self.reset()

    async def write(self, socket: web.WebSocketResponse) -> None:
        """Write until the connection is over."""
        while not self.cut:
            what, data = await self._waiting.get()
            if what == "text":
                await socket.send_frame(data, WSMsgType.TEXT)
            elif what == "ping":
                await socket.ping(data)
            elif what == "pong":
                await socket.pong(data)
            elif what == "close":
                await socket.close(code=int(data))
                return


class _Door:
    """Leads HTTP requests and WebSocket connections to the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._converse(request)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Reply | None] = loop.create_future()

        def answer(reply: Reply | None) -> None:
            if not answered.done():
                answered.set_result(reply)

        body = (await request.read()).decode("utf-8", "replace")
        key = request.headers.get("X-MBX-APIKEY", "")
        query = request.rel_url.raw_query_string
        asked = Request(request.method, request.path, query, body, key, request.remote or "")
        self._exchange.request(asked, answer)
        reply = await answered
        if reply is None:
            _transport(request).abort()
            return web.Response(status=500)
        return web.Response(
            status=reply.status, body=reply.body, headers=dict(reply.headers), content_type="application/json"
        )

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        wire = _Wire(_transport(request))
        connection = self._exchange.connect(request.path, request.rel_url.raw_query_string, wire, request.remote or "")
        if isinstance(connection, int):
            return web.Response(status=connection)
        socket = web.WebSocketResponse(autoping=False, max_msg_size=_FRAME_BYTES_MAX, compress=False)
        try:
            await socket.prepare(request)
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(wire.write(socket))
                await self._read(socket, connection)
                writing.cancel()
        except* (ConnectionError, RuntimeError):  # the client is gone, or the connection was cut in the middle
            pass
        finally:
            connection.lost()
        return socket

    async def _read(self, socket: web.WebSocketResponse, connection: Connection) -> None:
        async for message in socket:
            if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                data = message.data.encode() if isinstance(message.data, str) else message.data
                self._exchange.receive(connection, data)
            elif message.type is WSMsgType.PING:
                connection.ping(message.data)
            elif message.type is WSMsgType.PONG:
                connection.pong()


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return transport


@asynccontextmanager
async def serve(exchange: Exchange, clock: Clock, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve an exchange for the length of the block; gives the port.

    Raises:
        OSError: the port cannot be had.
    """
    door = _Door(exchange)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", door.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        try:
            async with asyncio.TaskGroup() as group:
                driving = group.create_task(drive(exchange, clock), name="exchange")
                yield runner.addresses[0][1]
                exchange.close()
                driving.cancel()
        except BaseExceptionGroup as several:  # the exchange's error, or the block's: who has one wants no group
            raise several.exceptions[0] from None
    finally:
        await runner.cleanup()
