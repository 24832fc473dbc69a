"""An exchange in the same event loop: links and requests that lead to it without sockets, on whatever clock it has."""

import asyncio
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

from agents.errors import LinkLost
from graph.exchange.connection import Connection
from graph.exchange.gateway import Exchange, Reply, Request
from graph.transport import HttpReply

__all__ = ["MemoryLink", "MemoryTransport"]

_BACKLOG_MAX = 100_000


class MemoryLink:
    """A link, and the wire at its other end. Frames that are not read pile up until the exchange gives up."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._connection: Connection | None = None
        self._frames: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._over = ""

    def attach(self, connection: Connection) -> None:
        """Name the exchange's end of it."""
        self._connection = connection

    # The client's side

    async def recv(self) -> bytes:
        while not self._frames:
            if self._over:
                raise LinkLost(f"the connection is over ({self._over}); nothing more comes; connect again")
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._frames.popleft()

    async def send(self, frame: bytes) -> None:
        if self._over or self._connection is None:
            raise LinkLost(f"the connection is over ({self._over}); nothing was sent; connect again")
        self._exchange.receive(self._connection, frame)

    async def close(self) -> None:
        self._end("closed here")
        if self._connection is not None:
            self._connection.lost()

    # The exchange's side

    def deliver(self, frame: bytes) -> None:
        """A frame for the client."""
        if len(self._frames) >= _BACKLOG_MAX:
            self._frames.clear()
            self._end("too slow")
            if self._connection is not None:
                self._connection.lost()
            return
        self._frames.append(frame)
        self._wake()

    def end(self, why: str) -> None:
        """The exchange ends it."""
        self._end(why)

    def answer_ping(self) -> None:
        """The client's library answers pings."""
        if self._connection is not None:
            self._connection.pong()

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Wire:
    """The exchange's end of a link."""

    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    def send(self, frame: bytes) -> None:
        self._link.deliver(frame)

    def ping(self) -> None:
        self._link.answer_ping()

    def pong(self, payload: bytes) -> None:
        """Nobody pings through memory."""

    def close(self, code: int) -> None:
        self._link.end(f"closed with {code}")

    def reset(self) -> None:
        self._link.end("reset")


class MemoryTransport:
    """Connects to one exchange, whatever the host in a URL, and requests from it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def connect(self, url: str) -> MemoryLink:
        parts = urlsplit(url)
        link = MemoryLink(self._exchange)
        connection = self._exchange.connect(parts.path, parts.query, _Wire(link), "memory")
        if isinstance(connection, int):
            raise LinkLost(f"{parts.path} was refused with HTTP {connection}; nothing was opened; try later")
        link.attach(connection)
        await asyncio.sleep(0)
        return link

    async def request(self, method: str, url: str, headers: Mapping[str, str]) -> HttpReply:
        parts, loop = urlsplit(url), asyncio.get_running_loop()
        answered: asyncio.Future[Reply | None] = loop.create_future()

        def answer(reply: Reply | None) -> None:
            if not answered.done():
                answered.set_result(reply)

        key = headers.get("X-MBX-APIKEY", "")
        self._exchange.request(Request(method, parts.path, parts.query, "", key, "memory"), answer)
        reply = await answered
        if reply is None:
            raise LinkLost(f"{method} {parts.path} broke off; it may have been carried out; ask what became of it")
        return HttpReply(reply.status, reply.body, {name.lower(): value for name, value in reply.headers.items()})
