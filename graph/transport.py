"""What carries messages to a venue and back: protocols, so that sockets and a simulation in memory are the same to all.

`sockets` is the real one; `graph.exchange.memory` leads to an exchange in the same process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Connector", "Http", "HttpReply", "Link"]


class Link(Protocol):
    """One open WebSocket connection. Pings of the other side are answered by whoever implements this."""

    async def recv(self) -> bytes:
        """The next text or binary frame.

        Raises:
            LinkLost: the connection is over, or a frame was larger than allowed.
        """
        ...

    async def send(self, frame: bytes) -> None:
        """Send a text frame.

        Raises:
            LinkLost: the connection is over.
        """
        ...

    async def close(self) -> None:
        """End the connection; never raises, and does not wait for the other side for long."""
        ...


class Connector(Protocol):
    """Opens WebSocket connections."""

    async def connect(self, url: str) -> Link:
        """Connect.

        Raises:
            LinkLost: nobody is there, or the connection was refused.
        """
        ...


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer by HTTP. The names of headers are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Http(Protocol):
    """Sends requests by HTTP, each of them once."""

    async def request(self, method: str, url: str, headers: Mapping[str, str]) -> HttpReply:
        """Send a request, whose parameters are in the URL.

        Raises:
            LinkLost: there was no answer, or not all of it; the request may have been carried out.
        """
        ...
