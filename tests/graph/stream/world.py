"""An exchange, and a stream of its market data, in one loop on virtual time."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

from agents.domain import Bar, Quote, Trade
from agents.errors import FeedDead
from graph.exchange.driver import drive
from graph.exchange.gateway import Exchange
from graph.exchange.memory import MemoryTransport
from graph.exchange.menu import ExchangeFault, FaultMenu
from graph.exchange.openings import opening_of
from graph.exchange.symbols import SYMBOLS
from graph.resilience.virtual import VirtualClock
from graph.stream.events import Disconnected, GapFound, StreamStale
from graph.stream.exchange import ExchangeStream
from graph.stream.history import BarHistory
from graph.stream.reader import StreamLimits

URL = "ws://exchange"
BEGIN_NS = 1_700_000_000 * 10**9


class LoopTime:
    """The wall clock of a simulation is its loop's."""

    def __init__(self, clock):
        self._clock = clock

    def now_ns(self):
        return BEGIN_NS + round(self._clock.now * 1e9)


@dataclass
class Told:
    """What a stream told: events with the second of their arrival, notices, and how it ended."""

    exchange: Exchange
    menu: FaultMenu
    health: object = None
    events: list = field(default_factory=list)
    notices: list = field(default_factory=list)
    dead: FeedDead | None = None
    seconds: float = 0.0

    def of(self, kind):
        return [event for _, event in self.events if isinstance(event, kind)]

    @property
    def trades(self):
        return self.of(Trade)

    @property
    def quotes(self):
        return self.of(Quote)

    @property
    def bars(self):
        return self.of(Bar)

    def noticed(self, kind):
        return [notice for notice in self.notices if isinstance(notice, kind)]

    @property
    def waits(self):
        return [notice.wait_seconds for notice in self.noticed(Disconnected)]

    @property
    def gaps(self):
        return self.noticed(GapFound)

    @property
    def stale(self):
        return [notice.stream for notice in self.noticed(StreamStale)]

    def heard_in(self, begin, end):
        """How many events came in these seconds."""
        return sum(begin <= at < end for at, _ in self.events)


def listen(seconds, *faults, seed=3, limits=None, history=True, steps=2.0, reader=None, **more):
    """Listen to an exchange with such faults for so many virtual seconds."""
    with VirtualClock(seed) as clock:
        time = LoopTime(clock)
        menu = FaultMenu([ExchangeFault(**each) for each in faults], seed=seed)
        opening = opening_of(seed, time.now_ns(), symbols=SYMBOLS[:1], steps=steps)
        exchange = Exchange(opening, time, menu)
        transport, told = MemoryTransport(exchange), Told(exchange, menu)
        stream = ExchangeStream(
            transport,
            URL,
            ["BTCUSDT"],
            time,
            history=BarHistory(transport, "http://exchange") if history else None,
            limits=limits or StreamLimits(),
            dice=Random(seed),  # noqa: S311 - no secret
            observer=told.notices.append,
            **more,
        )
        told.health = stream.health
        began = clock.now

        async def read():
            async with aclosing(stream.events()) as events:
                async for event in events:
                    told.events.append((clock.now - began, event))
                    if reader is not None:
                        await reader(told)

        async def whole():
            driving = asyncio.create_task(drive(exchange, time))
            try:
                async with asyncio.timeout(seconds):
                    await read()
            except TimeoutError:
                pass
            except FeedDead as error:
                told.dead = error
            finally:
                driving.cancel()

        clock.run(whole())
        told.seconds = clock.now - began
        return told
