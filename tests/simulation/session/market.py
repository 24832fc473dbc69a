"""Where the price goes, the exchange that has it, and the stream that a session reads it from."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random

from agents.domain import MarketView
from graph.exchange.accounts import Account
from graph.exchange.candles import Candle
from graph.exchange.fixed import SCALE
from graph.exchange.gateway import Exchange
from graph.exchange.memory import MemoryTransport
from graph.exchange.menu import FaultMenu
from graph.exchange.openings import client_of, opening_of
from graph.exchange.scripts import Script, seeded
from graph.exchange.symbols import SYMBOLS
from graph.resilience.virtual import VirtualClock
from graph.stream import MarketEvent, MarketStream, StreamHealth
from graph.stream.history import BarHistory
from tests.simulation.session.day import Day

__all__ = ["BEGIN_NS", "SYMBOL", "LoopTime", "Weather", "World", "open_world", "view_of"]

BEGIN_NS = 1_790_000_040 * 10**9  # the end of a minute
RULES = SYMBOLS[0]
SYMBOL = RULES.name
PERIOD_NS = 60 * 10**9
_STEPS = 1.0  # of the crowd, a second
_HISTORY = 200  # minutes before the session
_LATELY = 60  # of them: over which the market rose or fell
_VOLATILITY = 1.1e-4  # of a second's return
_JUMP_S = 4.0


class LoopTime:
    """The wall clock of a simulation is its loop's, and begins with the session."""

    def __init__(self, clock: VirtualClock, began: float, ahead_s: float = 0.0) -> None:
        self._clock = clock
        self._offset_ns = BEGIN_NS + round((ahead_s - began) * 1e9)

    def now_ns(self) -> int:
        return self._offset_ns + round(self._clock.now * 1e9)


class Weather:
    """A seeded walk with jumps, each of which takes a few seconds."""

    def __init__(self, day: Day, price: int, now_ms: int) -> None:
        self._dice = Random(f"{day.seed}/weather")  # noqa: S311 - no secret
        self._began_ms = self._at_ms = now_ms
        self._price = float(price)
        self._volatility = _VOLATILITY * day.volatility
        self._jumps = day.jumps

    def price(self, now_ms: int) -> int:
        seconds = (now_ms - self._at_ms) / 1_000
        if seconds > 0:
            begin, end = (self._at_ms - self._began_ms) / 1_000, (now_ms - self._began_ms) / 1_000
            moved = self._volatility * math.sqrt(seconds) * self._dice.gauss(0.0, 1.0)
            for at, share in self._jumps:
                moved += share * max(0.0, min(end, at + _JUMP_S) - max(begin, at)) / _JUMP_S
            self._price *= math.exp(moved)
            self._at_ms = now_ms
        return int(self._price)


@dataclass(slots=True)
class World:
    """What is there whether a process lives or not."""

    day: Day
    clock: VirtualClock
    time: LoopTime
    exchange: Exchange
    menu: FaultMenu
    transport: MemoryTransport
    client: Account
    began: float

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self.clock.now - self.began

    def executions(self) -> Iterator[tuple[str, Decimal, Decimal, Decimal]]:
        """The exchange's own books: of each execution for the client the order's name, signed quantity, price and fee.

        The fee is in the currency of prices, at the price of the execution.
        """
        for order in self.exchange.venue.registry(self.client.key, SYMBOL):
            for done in order.executions:
                price, fee = Decimal(done.price) / SCALE, Decimal(done.fee) / SCALE
                signed = Decimal(done.quantity if order.buy else -done.quantity) / SCALE
                yield order.client_id, signed, price, fee if done.fee_asset == RULES.quote else fee * price

    def executed_twice(self) -> list[str]:
        """Names under which more than one order was executed."""
        orders = self.exchange.venue.registry(self.client.key, SYMBOL)
        names = Counter(order.client_id for order in orders if order.executed)
        return [name for name, count in names.items() if count > 1]


def _history(day: Day, now_ms: int) -> list[Candle]:
    """The hours before: as they are drawn, or turned over, so that the swarm has something to buy where it must not
    sell short.
    """  # noqa: D205 (one sentence)
    candles = seeded(RULES, day.seed, now_ms, minutes=_HISTORY).history
    last, before = candles[-1].close, candles[-_LATELY].close
    if not day.allow_short and last < before:
        for candle in candles:
            low, high = candle.low, candle.high
            candle.open, candle.close = _over(last, candle.open), _over(last, candle.close)
            candle.low, candle.high = _over(last, high), _over(last, low)
    return candles


def _over(last: int, price: int) -> int:
    return max(1, last * last // price // RULES.tick) * RULES.tick


def open_world(day: Day, clock: VirtualClock) -> World:
    """The exchange of a day, just opened."""
    time = LoopTime(clock, clock.now)
    now_ms = time.now_ns() // 1_000_000
    menu = FaultMenu(day.exchange, seed=day.seed)
    client = client_of(day.seed)
    history = _history(day, now_ms)
    opening = replace(
        opening_of(day.seed, time.now_ns(), symbols=(), steps=_STEPS),
        scripts={RULES: Script(history, Weather(day, history[-1].close, now_ms))},
        accounts=[client],
    )
    exchange = Exchange(opening, time, menu)
    return World(day, clock, time, exchange, menu, MemoryTransport(exchange), client, clock.now)


async def view_of(history: BarHistory, window: int, now_ns: int) -> MarketView:
    """The bars before a session; raises LinkLost where the exchange does not give them."""
    bars = await history.newest(SYMBOL, "1m", window, now_ns)
    columns = {name: tuple(float(getattr(bar, name)) for bar in bars) for name in ("open", "high", "low", "close")}
    times, volume = tuple(bar.close_ns for bar in bars), tuple(float(bar.volume or 0) for bar in bars)
    return MarketView(SYMBOL, PERIOD_NS, times, volume=volume, calendar="24/7", source="exchange", **columns)


class WatchedStream:
    """A stream whose every event is shown to somebody: when it is delivered, and when it has been dealt with."""

    def __init__(
        self,
        stream: MarketStream,
        delivered: Callable[[MarketEvent], None],
        done: Callable[[MarketEvent, float], None],
    ) -> None:
        self._stream = stream
        self._delivered = delivered
        self._done = done

    @property
    def health(self) -> StreamHealth:
        return self._stream.health

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        now = asyncio.get_running_loop().time
        async with aclosing(self._stream.events()) as events:
            async for event in events:
                self._delivered(event)
                began = now()
                yield event
                self._done(event, now() - began)
