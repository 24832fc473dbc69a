"""Real sockets for venues: WebSocket by `websockets`, HTTP by `aiohttp`; of the extra `exchange`, loaded when used."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agents.errors import ConfigError, LinkLost
from graph.transport import HttpReply

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from websockets.asyncio.client import ClientConnection

__all__ = ["HttpClient", "WebSocketConnector"]

_DOUBT = "it may have been carried out; ask what became of it"

_PING_SECONDS = 20.0
_CLOSE_SECONDS = 2.0
_READ_BYTES = 65_536


def _missing(what: str) -> ConfigError:
    return ConfigError(f"{what} is not installed; nothing was connected; run: pip install 'holdfast[exchange]'")


class _Socket:
    """A link on a `websockets` connection, which answers pings, and sends its own to find out who is gone."""

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection

    async def recv(self) -> bytes:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as error:
            raise LinkLost(f"the connection is over ({_why(error)}); nothing more comes; connect again") from None

    async def send(self, frame: bytes) -> None:
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

        try:
            await self._connection.send(frame, text=True)
        except ConnectionClosed as error:
            raise LinkLost(f"the connection is over ({_why(error)}); nothing was sent; connect again") from None

    async def close(self) -> None:
        await self._connection.close()


class WebSocketConnector:
    """Frames of more than `frame_bytes_max` end the connection. What is not read waits in the socket, not in memory."""

    def __init__(self, frame_bytes_max: int = 65_536) -> None:
        self._frame_bytes_max = frame_bytes_max

    async def connect(self, url: str) -> _Socket:
        try:
            from websockets.asyncio.client import connect  # noqa: PLC0415
            from websockets.exceptions import InvalidURI, WebSocketException  # noqa: PLC0415
        except ImportError:
            raise _missing("websockets") from None
        try:
            connection = await connect(
                url,
                max_size=self._frame_bytes_max,
                compression=None,
                ping_interval=_PING_SECONDS,
                ping_timeout=_PING_SECONDS,
                close_timeout=_CLOSE_SECONDS,
            )
        except (InvalidURI, ValueError):  # a port that is none, a host that cannot be written
            raise ConfigError(f"{url!r:.120} is no address of a WebSocket; nothing was connected; correct it") from None
        except (OSError, WebSocketException, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise LinkLost(f"{url:.120} could not be reached ({reason:.120}); try again") from None
        return _Socket(connection)


class HttpClient:
    """Requests of at most `seconds`, and answers of at most `bytes_max`. A context manager, or `close` it."""

    def __init__(self, seconds: float = 10.0, bytes_max: int = 8_000_000) -> None:
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._session: ClientSession | None = None

    async def request(self, method: str, url: str, headers: Mapping[str, str]) -> HttpReply:
        try:
            import aiohttp  # noqa: PLC0415
            from yarl import URL  # noqa: PLC0415
        except ImportError:
            raise _missing("aiohttp") from None
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._seconds))
        try:
            # What was signed is sent as it was written: no other way to write the same address will do.
            target = URL(url, encoded=True)
            async with self._session.request(method, target, headers=headers, allow_redirects=False) as reply:
                body = await self._body(reply.content)
                return HttpReply(reply.status, body, {name.lower(): value for name, value in reply.headers.items()})
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError):
            address = url.partition("?")[0]  # behind it is what is signed
            raise ConfigError(f"{address!r:.120} is no address of HTTP; nothing was sent; correct it") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = type(error).__name__
            after = "nothing was read; ask again" if method == "GET" else _DOUBT
            raise LinkLost(f"{method} broke off ({reason}); {after}") from None

    async def _body(self, content: Any) -> bytes:
        body = bytearray()
        async for chunk in content.iter_chunked(_READ_BYTES):
            body += chunk
            if len(body) > self._bytes_max:
                raise LinkLost(f"an answer is longer than {self._bytes_max} bytes; it was not read; ask for less")
        return bytes(body)

    async def close(self) -> None:
        """End all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _why(error: Any) -> str:
    """How the other side ended it, in a few words."""
    received = error.rcvd
    return f"{received.code} {received.reason:.80}".strip() if received is not None else "it broke"
