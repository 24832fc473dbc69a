"""Files as a stream: bars and quotes of the past, told at the pace they had, or faster, or as fast as they are read."""

import asyncio
import heapq
import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Protocol

from agents.bars import Bars, read_bars
from agents.clock import Clock
from agents.domain import Bar, Quote, check_symbol
from agents.errors import ConfigError
from agents.quotes import are_quotes, read_quotes
from graph.stream.events import MarketEvent, StreamHealth

__all__ = ["Advancing", "ReplayStream", "bars_of"]


class Advancing(Clock, Protocol):
    """A clock that is put forward, such as `ReplayClock`."""

    def advance_to(self, now_ns: int) -> None: ...


class ReplayStream:
    """Price files (bars or quotes), one for each symbol, merged by time.

    `speed`: 1 takes as long as it took, 60 a minute for an hour, infinity no time at all; time between two events is
    spent on the event loop's clock. `clock` is put to each event's time before it is told. The files are read at once.

    Raises:
        BadBars: a file cannot be used.
        ConfigError: there are no files, or the speed is not above 0.
        InvalidValue: a symbol is none.
    """

    def __init__(self, files: Mapping[str, Path], clock: Advancing, *, speed: float = math.inf) -> None:
        if not files or not speed > 0:
            given = f"{len(files)} files and speed {speed}"
            raise ConfigError(f"a replay has {given}; nothing was replayed; give a file and a speed above 0")
        self.health = StreamHealth()
        self._clock = clock
        self._speed = speed
        sources = [_events(check_symbol(symbol), path) for symbol, path in files.items()]
        self._events: Iterator[Bar | Quote] = heapq.merge(*sources, key=time_of)

    def skip(self, until_ns: int) -> list[MarketEvent]:
        """What there was until then, at once; `events` goes on after it."""
        skipped: list[MarketEvent] = []
        for event in self._events:
            if time_of(event) > until_ns:
                self._events = chain([event], self._events)
                break
            skipped.append(event)
        return skipped

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        """See `MarketStream`. Ends with the last event; what was read once is not told again."""
        loop = asyncio.get_running_loop()
        began, first_ns = loop.time(), 0
        for event in self._events:
            at_ns = time_of(event)
            first_ns = first_ns or at_ns
            due = began + (at_ns - first_ns) / 1e9 / self._speed
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._clock.advance_to(max(at_ns, self._clock.now_ns()))
            self.health.received += 1
            self.health.delivered += 1
            self.health.last_ns[event.symbol] = at_ns
            yield event


def time_of(event: MarketEvent) -> int:
    """When an event was: for a bar, when it closed."""
    return event.close_ns if isinstance(event, Bar) else event.time_ns


def _events(symbol: str, path: Path) -> Iterable[Bar | Quote]:
    if are_quotes(path):
        return read_quotes(path).quotes(symbol)
    return bars_of(symbol, read_bars(path, 1))


def bars_of(symbol: str, bars: Bars) -> Iterator[Bar]:
    """A history's bars one by one, with prices as they were printed."""
    prices = (column.tolist() for column in (bars.open, bars.high, bars.low, bars.close))
    volumes = [None] * len(bars) if bars.volume is None else bars.volume.tolist()
    for close_ns, volume, *numbers in zip(bars.close_ns.tolist(), volumes, *prices, strict=True):
        opened, high, low, close = (Decimal(str(number)) for number in numbers)
        traded = None if volume is None else Decimal(str(volume))
        yield Bar(symbol, close_ns, opened, high, low, close, traded)
