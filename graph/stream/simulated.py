"""The seeded market of the simulated exchange as a stream, without an exchange around it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from agents.clock import Clock
from agents.domain import Bar, Quote, Side, Trade, check_symbol
from agents.errors import ConfigError
from graph.exchange.candles import Candle
from graph.exchange.crowd import Crowd
from graph.exchange.engine import Engine
from graph.exchange.fixed import SCALE
from graph.exchange.orders import Execution, Order
from graph.exchange.orders import Trade as Meeting
from graph.exchange.scripts import seeded
from graph.exchange.symbols import SYMBOLS, SymbolRules
from graph.stream.events import MarketEvent, StreamHealth

__all__ = ["SimulatedStream"]

_MS = 1_000_000
_MINUTE_MS = 60_000


class SimulatedStream:
    """Trades, best prices and bars of a minute of some symbols; `steps` moments of trading a second.

    Same seed and same beginning, same events; they begin at the next moment after the stream was made, by `clock`. A
    symbol that the simulated exchange does not trade follows the rules of the first that it does. `history`: bars
    before the first event, 600 of each symbol.

    Raises:
        ConfigError: there are no symbols, or no steps.
        InvalidValue: one of the symbols is none.
    """

    def __init__(self, symbols: Sequence[str], seed: int, clock: Clock, *, steps: float = 10.0) -> None:
        if not symbols or not 0 < steps <= 1_000:
            given = f"{len(symbols)} symbols and {steps} steps a second"
            raise ConfigError(f"a simulated stream has {given}; none was made; give one and 1 to 1000 of them at least")
        self.health = StreamHealth()
        self._clock = clock
        self._period_ns = round(1e9 / steps)
        now_ns = clock.now_ns()
        self._next_ns = now_ns - now_ns % self._period_ns + self._period_ns
        self._markets = [_Market(check_symbol(symbol), seed, now_ns // _MS) for symbol in symbols]
        self.history = tuple(bar for market in self._markets for bar in market.history())

    def skip(self, until_ns: int) -> list[MarketEvent]:
        """What there was until then, at once; `events` goes on after it."""
        events: list[MarketEvent] = []
        while self._next_ns <= until_ns:
            for market in self._markets:
                events += market.step(self._next_ns // _MS)
            self._next_ns += self._period_ns
        return events

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        """See `MarketStream`. Never ends; a reader that is late gets all that it has missed."""
        while True:
            await asyncio.sleep(max(0.0, (self._next_ns - self._clock.now_ns()) / 1e9))
            now_ns, self._next_ns = self._next_ns, self._next_ns + self._period_ns
            for market in self._markets:
                for event in market.step(now_ns // _MS):
                    self.health.received += 1
                    self.health.delivered += 1
                    self.health.last_ns[market.symbol] = now_ns
                    yield event


class _Market:
    """One symbol."""

    def __init__(self, symbol: str, seed: int, now_ms: int) -> None:
        self.symbol = symbol
        script = seeded(_rules(symbol), seed, now_ms)
        self._events: list[MarketEvent] = []
        self._engine = Engine(_rules(symbol), {}, self, script.history)
        self._crowd = Crowd(self._engine, script.path, seed)
        self._crowd.step(now_ms)
        self._top = self._engine.book.top

    def history(self) -> Iterator[Bar]:
        return map(self._bar, self._engine.candles.minutes.candles[:-1])

    def step(self, now_ms: int) -> list[MarketEvent]:
        """What happens in the moment at `now_ms`."""
        events: list[MarketEvent] = [*self._closed(now_ms)]
        self._events = events
        self._crowd.step(now_ms)
        if self._engine.book.top != self._top:
            self._top = self._engine.book.top
            bid, bid_size, ask, ask_size = map(_decimal, self._top)
            events.append(Quote(self.symbol, now_ms * _MS, bid, ask, bid_size, ask_size))
        return events

    def _closed(self, now_ms: int) -> Iterator[Bar]:
        minutes = self._engine.candles.minutes
        known = minutes.candles[-1].open_ms
        self._engine.candles.roll(now_ms)
        return (self._bar(candle) for candle in minutes.since(known)[:-1])

    def _bar(self, candle: Candle) -> Bar:
        prices = map(_decimal, (candle.open, candle.high, candle.low, candle.close, candle.volume))
        return Bar(self.symbol, (candle.open_ms + _MINUTE_MS) * _MS, *prices)

    # What the engine tells

    def traded(self, engine: Engine, trade: Meeting) -> None:
        del engine
        side = Side.SELL if trade.down else Side.BUY
        price, quantity = _decimal(trade.price), _decimal(trade.quantity)
        self._events.append(Trade(self.symbol, trade.time_ms * _MS, price, quantity, side))

    def taken(self, engine: Engine, trades: list[Meeting]) -> None:
        """Trades are told one by one."""

    def reported(self, order: Order, what: str, execution: Execution | None) -> None:
        """Nobody has orders here."""


def _rules(symbol: str) -> SymbolRules:
    known = {rules.name: rules for rules in SYMBOLS}
    return known.get(symbol) or replace(SYMBOLS[0], base=symbol, quote="")


def _decimal(value: int) -> Decimal:
    return Decimal(value).scaleb(-8).normalize() if value % SCALE else Decimal(value // SCALE)
