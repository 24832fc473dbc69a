"""Market data of an exchange's WebSocket streams, for as long as it is wanted: lost connections are made anew.

    stream = ExchangeStream(WebSocketConnector(), "wss://stream.binance.com:9443", ["BTCUSDT"], clock)
    async with aclosing(stream.events()) as events:
        async for event in events: ...

What can go wrong, and what is done: docs/exchange.md has the table.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from random import Random

from agents.clock import Clock
from agents.domain import check_symbol
from agents.errors import ConfigError, FeedDead, LinkLost
from graph.stream.events import Disconnected, MarketEvent, StreamHealth, StreamNotice
from graph.stream.frames import BarTrack, QuoteTrack, TradeTrack
from graph.stream.history import INTERVALS, BarHistory
from graph.stream.reader import Reader, Renewal, StreamLimits, Watched
from graph.transport import Connector, Link

__all__ = ["ExchangeStream"]


class ExchangeStream:
    """Trades, best prices and bars of `interval` of some symbols, each kind unless it is switched off.

    `url`: where the streams are, without a path. `history`: where bars are asked for that were missed; without it they
    are missing. `observer` hears every notice as it happens, and must not raise. One reader at a time.

    Raises:
        ConfigError: there is nothing to subscribe to, or no such interval.
        InvalidValue: one of the symbols is none.
    """

    def __init__(
        self,
        connector: Connector,
        url: str,
        symbols: Sequence[str],
        clock: Clock,
        *,
        trades: bool = True,
        quotes: bool = True,
        interval: str | None = "1m",
        history: BarHistory | None = None,
        limits: StreamLimits | None = None,
        dice: Random | None = None,
        observer: Callable[[StreamNotice], None] = lambda _: None,
    ) -> None:
        self.health = StreamHealth()
        self._connector = connector
        self._url = f"{url.rstrip('/')}/stream"
        self._clock = clock
        self._history = history
        self._limits = limits or StreamLimits()
        self._dice = dice or Random()  # noqa: S311 - jitter is no secret
        self._observer = observer
        self._interval = interval
        self._streams: dict[str, Watched] = {}
        for symbol in symbols:
            self._track(check_symbol(symbol), trades=trades, quotes=quotes)
        if not self._streams:
            raise ConfigError(
                "a market stream has nothing to subscribe to; nothing was opened; name a symbol and a kind"
            )

    def _track(self, symbol: str, *, trades: bool, quotes: bool) -> None:
        name, limits = symbol.lower(), self._limits
        if trades:
            stream = f"{name}@trade"
            self._streams[stream] = Watched(TradeTrack(symbol, stream), limits.trades_quiet)
        if quotes:
            stream = f"{name}@bookTicker"
            self._streams[stream] = Watched(QuoteTrack(symbol, stream), limits.quotes_quiet)
        if self._interval is not None:
            if self._interval not in INTERVALS:
                raise ConfigError(f"there are no bars of {self._interval!r:.20}; use one of {', '.join(INTERVALS)}")
            stream = f"{name}@kline_{self._interval}"
            track = BarTrack(symbol, stream, self._interval, INTERVALS[self._interval])
            self._streams[stream] = Watched(track, limits.bars_quiet)

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        """See `MarketStream`. Never ends by itself.

        Raises:
            FeedDead: as many tries in a row have failed as the limits allow.
        """
        while True:
            try:
                async with aclosing(self._connection()) as incoming:
                    async for event in incoming:
                        self.health.delivered += 1
                        yield event
            except Renewal as plan:
                self._observer(Disconnected(self._clock.now_ns(), str(plan), self.health.failures, 0.0))
            except LinkLost as error:
                await asyncio.sleep(self._failed(error))

    def _failed(self, error: LinkLost) -> float:
        """Seconds until the next try. Raises FeedDead."""
        self.health.failures += 1
        failures = self.health.failures
        wait = self._limits.retry.delay_seconds(failures, error, self._dice, 0.0)
        self._observer(Disconnected(self._clock.now_ns(), str(error), failures, wait or 0.0))
        if wait is None:
            raise FeedDead(
                f"market data failed {failures} times in a row ({error}); the stream is over; look at the exchange's"
                " status and at the network, and start again"
            ) from error
        return wait

    # One connection

    async def _connection(self) -> AsyncGenerator[MarketEvent, None]:
        """The events of one connection. Raises LinkLost or Renewal at its end."""
        link = await self._connect()
        try:
            reader = Reader(
                link,
                self._streams,
                limits=self._limits,
                clock=self._clock,
                health=self.health,
                observer=self._observer,
                history=self._history,
            )
            async with aclosing(reader.events()) as incoming:
                async for event in incoming:
                    yield event
        finally:
            await link.close()

    async def _connect(self) -> Link:
        try:
            async with asyncio.timeout(self._limits.connect):
                link = await self._connector.connect(self._url)
        except TimeoutError:
            raise LinkLost(f"{self._url} did not answer within {self._limits.connect:g} s; try again") from None
        self.health.connections += 1
        return link
