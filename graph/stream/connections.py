"""One connection after another to the same place: how long is waited between two, and when it is over."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from random import Random
from typing import Generic, TypeVar

from agents.clock import Clock
from agents.errors import FeedDead, LinkLost
from graph.resilience import Retry
from graph.stream.events import Disconnected, StreamHealth, StreamNotice
from graph.stream.reader import Renewal
from graph.transport import Connector, Link

__all__ = ["Connections"]

T = TypeVar("T")


class Connections(Generic[T]):
    """Connects to `url`, within `connect` seconds, for as long as it is wanted; a lost connection is made anew.

    `what` comes from there, in words. `retry`: how long between two tries, and after how many failures in a row, which
    `health` counts and whoever reads puts back to 0, it is over.
    """

    def __init__(
        self,
        connector: Connector,
        url: str,
        what: str,
        clock: Clock,
        health: StreamHealth,
        *,
        connect: float,
        retry: Retry,
        dice: Random | None = None,
        observer: Callable[[StreamNotice], None] = lambda _: None,
    ) -> None:
        self._connector = connector
        self._url = url
        self._what = what
        self._clock = clock
        self._health = health
        self._connect_s = connect
        self._retry = retry
        self._dice = dice or Random()  # noqa: S311 - jitter is no secret
        self._observer = observer

    async def events(self, read: Callable[[Link], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """What `read` makes of each connection, which raises LinkLost or Renewal at its end. Never ends by itself.

        Raises:
            FeedDead: as many tries in a row have failed as `retry` allows.
        """
        while True:
            try:
                async with aclosing(self._one(read)) as incoming:
                    async for event in incoming:
                        self._health.delivered += 1
                        yield event
            except Renewal as plan:
                self._observer(Disconnected(self._clock.now_ns(), str(plan), self._health.failures, 0.0))
            except LinkLost as error:
                await asyncio.sleep(self._failed(error))

    def _failed(self, error: LinkLost) -> float:
        """Seconds until the next try. Raises FeedDead."""
        self._health.failures += 1
        failures = self._health.failures
        wait = self._retry.delay_seconds(failures, error, self._dice, 0.0)
        self._observer(Disconnected(self._clock.now_ns(), str(error), failures, wait or 0.0))
        if wait is None:
            raise FeedDead(
                f"{self._what} failed {failures} times in a row ({error}); the stream is over; look at the exchange's"
                " status and at the network, and start again"
            ) from error
        return wait

    async def _one(self, read: Callable[[Link], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """The events of one connection. Raises LinkLost or Renewal at its end."""
        link = await self._connect()
        try:
            async with aclosing(read(link)) as incoming:
                async for event in incoming:
                    yield event
        finally:
            await link.close()

    async def _connect(self) -> Link:
        try:
            async with asyncio.timeout(self._connect_s):
                link = await self._connector.connect(self._url)
        except TimeoutError:
            raise LinkLost(f"{self._url} did not answer within {self._connect_s:g} s; try again") from None
        self._health.connections += 1
        return link
