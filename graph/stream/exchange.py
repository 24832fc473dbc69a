"""Market data of an exchange's WebSocket streams, for as long as it is wanted: lost connections are made anew.

    stream = ExchangeStream(WebSocketConnector(), "wss://stream.binance.com:9443", ["BTCUSDT"], clock)
    async with aclosing(stream.events()) as events:
        async for event in events: ...

What can go wrong, and what is done: docs/exchange.md has the table.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from random import Random

from agents.clock import Clock
from agents.domain import check_symbol
from agents.errors import ConfigError
from graph.stream.connections import Connections
from graph.stream.events import MarketEvent, StreamHealth, StreamNotice
from graph.stream.frames import BarTrack, QuoteTrack, TradeTrack
from graph.stream.history import INTERVALS, BarHistory
from graph.stream.reader import Reader, StreamLimits, Watched
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
        self._clock = clock
        self._history = history
        self._limits = limits or StreamLimits()
        self._observer = observer
        self._connections = Connections[MarketEvent](
            connector,
            f"{url.rstrip('/')}/stream",
            "market data",
            clock,
            self.health,
            connect=self._limits.connect,
            retry=self._limits.retry,
            dice=dice,
            observer=observer,
        )
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
        async with aclosing(self._connections.events(self._read)) as incoming:
            async for event in incoming:
                yield event

    def _read(self, link: Link) -> AsyncGenerator[MarketEvent, None]:
        reader = Reader(
            link,
            self._streams,
            limits=self._limits,
            clock=self._clock,
            health=self.health,
            observer=self._observer,
            history=self._history,
        )
        return reader.events()
