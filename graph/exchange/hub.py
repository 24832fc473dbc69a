"""The market streams: who has subscribed to what, and what they are sent, made once for all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from graph.exchange import messages
from graph.exchange.book import Changes, Top
from graph.exchange.candles import INTERVALS
from graph.exchange.connection import Connection
from graph.exchange.engine import Engine
from graph.exchange.orders import Trade

__all__ = ["STREAMS_MAX", "Hub", "encode"]

STREAMS_MAX = 1_024
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode

_LEVELS = (5, 10, 20)
_KLINE_MS = 2_000


class _Names:
    """The stream names of one symbol, by what they are, so that none is put together for a message."""

    __slots__ = ("agg", "best", "day", "diffs", "klines", "mini", "partial", "trade")

    def __init__(self, symbol: str) -> None:
        name = symbol.lower()
        self.trade, self.agg, self.best = f"{name}@trade", f"{name}@aggTrade", f"{name}@bookTicker"
        self.day, self.mini = f"{name}@ticker", f"{name}@miniTicker"
        self.klines = {f"{name}@kline_{interval}": interval for interval in INTERVALS}
        self.diffs = {True: (f"{name}@depth@100ms",), False: (f"{name}@depth", f"{name}@depth@1000ms")}
        self.partial = {
            True: {f"{name}@depth{count}@100ms": count for count in _LEVELS},
            False: {f"{name}@depth{count}{pace}": count for count in _LEVELS for pace in ("", "@1000ms")},
        }

    def all_diffs(self) -> tuple[str, ...]:
        return self.diffs[True] + self.diffs[False]


class Hub:
    """Subscriptions by stream. A name that is no stream can be subscribed to, as at Binance, and brings nothing."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines
        self._names = {symbol: _Names(symbol) for symbol in engines}
        self._heard: dict[str, dict[Connection, bool]] = {}  # and whether it wants the stream's name around it
        self._diffs: dict[str, Changes] = {}
        self._tops: dict[str, Top] = {symbol: engine.book.top for symbol, engine in engines.items()}
        self.quick = False
        """Whether anybody wants to hear something every 100 ms."""
        self.on_quick: Callable[[], None] = lambda: None
        """Called when somebody begins to."""

    def subscribe(self, connection: Connection, stream: str, *, wrapped: bool) -> None:
        self._heard.setdefault(stream, {})[connection] = wrapped
        for symbol, names in self._names.items():
            if stream in names.all_diffs() and stream not in self._diffs:
                self._diffs[stream] = self._engines[symbol].book.watch()
        self._look()

    def unsubscribe(self, connection: Connection, stream: str) -> None:
        heard = self._heard.get(stream, {})
        heard.pop(connection, None)
        if not heard:
            self._heard.pop(stream, None)
            changes = self._diffs.pop(stream, None)
            for engine in self._engines.values():
                if changes in engine.book.watchers:
                    engine.book.watchers.remove(changes)
        self._look()

    # What the engines tell

    def traded(self, engine: Engine, trade: Trade) -> None:
        stream = self._names[engine.rules.name].trade
        if stream in self._heard:
            self._publish(stream, messages.trade_event(engine.rules.name, trade))

    def taken(self, engine: Engine, trades: list[Trade]) -> None:
        stream = self._names[engine.rules.name].agg
        number = engine.takings()
        if stream in self._heard:
            self._publish(stream, messages.agg_trade_event(engine.rules.name, number, trades))

    def moved(self) -> None:
        """Something may have changed in the books: tell of the best prices, where they have."""
        for symbol, engine in self._engines.items():
            top = engine.book.top
            if top != self._tops[symbol]:
                self._tops[symbol] = top
                stream = self._names[symbol].best
                if stream in self._heard:
                    self._publish(stream, messages.best_event(engine))

    # What goes out by the clock

    def pulse(self, now_ms: int) -> None:
        """Every 100 ms."""
        for engine in self._engines.values():
            self._depths(engine, now_ms, quick=True)

    def second(self, now_ms: int) -> None:
        """At each full second."""
        if not self._heard:
            return
        for symbol, engine in self._engines.items():
            names = self._names[symbol]
            self._depths(engine, now_ms, quick=False)
            self._klines(engine, names, now_ms)
            if names.day in self._heard:
                self._publish(names.day, messages.day_event(engine, now_ms))
            if names.mini in self._heard:
                self._publish(names.mini, messages.mini_event(engine, now_ms))

    def _look(self) -> None:
        before, self.quick = self.quick, any(stream.endswith("@100ms") for stream in self._heard)
        if self.quick and not before:
            self.on_quick()

    def _depths(self, engine: Engine, now_ms: int, *, quick: bool) -> None:
        names = self._names[engine.rules.name]
        for stream in names.diffs[quick]:
            changes = self._diffs.get(stream)
            if changes is not None and engine.book.update >= changes.first:
                self._publish(stream, messages.depth_event(engine, changes, now_ms))
                changes.begin_anew(engine.book.update + 1)
        for stream, count in names.partial[quick].items():
            if stream in self._heard:
                self._publish(stream, messages.depth(engine, count))

    def _klines(self, engine: Engine, names: _Names, now_ms: int) -> None:
        wanted = {stream: interval for stream, interval in names.klines.items() if stream in self._heard}
        if not wanted:
            return
        engine.candles.roll(now_ms)
        for stream, interval in wanted.items():
            if now_ms % INTERVALS[interval] == 0:
                closed = engine.candles.at(interval, now_ms - 1)
                self._publish(stream, messages.kline_event(engine.rules.name, interval, closed, now_ms))
            elif now_ms % _KLINE_MS == 0:
                present = engine.candles.at(interval, now_ms)
                self._publish(stream, messages.kline_event(engine.rules.name, interval, present, now_ms))

    def _publish(self, stream: str, event: Any) -> None:
        raw = encode(event)
        wrapped = b""
        for connection, wants_name in list(self._heard[stream].items()):
            if wants_name and not wrapped:
                wrapped = b'{"stream":"%s","data":%s}' % (stream.encode(), raw)
            connection.send(stream, wrapped if wants_name else raw)
