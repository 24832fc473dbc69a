"""What a price file has to say before its replay begins; and bars for a stream that has quotes alone."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from agents.bars import read_bars
from agents.domain import Bar, Quote
from agents.errors import BadBars
from agents.quotes import are_quotes, read_quotes
from graph.config import Settings
from graph.feed import FileFeed
from graph.stream import MarketEvent, MarketStream, StreamHealth
from graph.stream.replay import bars_of

__all__ = ["FileHistory", "QuoteBars", "WithBars"]

_BEFORE_MAX = 600
_BARS_MIN = 100
_NS = 1_000_000_000


class QuoteBars:
    """Bars of the middle of bid and ask, each closed by the first quote after its end; none without quotes."""

    def __init__(self, symbol: str, period_ns: int) -> None:
        self._symbol = symbol
        self._period_ns = period_ns
        self._close_ns = 0
        self._prices: list[Decimal] = []

    def take(self, quote: Quote) -> Bar | None:
        """Take a quote; gives the bar that it closes."""
        close_ns = quote.time_ns - quote.time_ns % self._period_ns + self._period_ns
        closed = self._closed() if self._prices and close_ns > self._close_ns else None
        if closed is not None:
            self._prices = []
        self._close_ns = close_ns
        middle = (quote.bid + quote.ask) / 2
        if self._prices:
            first, high, low, _ = self._prices
            self._prices = [first, max(high, middle), min(low, middle), middle]
        else:
            self._prices = [middle] * 4
        return closed

    def _closed(self) -> Bar:
        return Bar(self._symbol, self._close_ns, *self._prices)


class WithBars:
    """A stream of quotes, and the bars that they make; `passed`: quotes of before, with which the first bar begins."""

    def __init__(self, stream: MarketStream, symbol: str, period_ns: int, passed: Iterable[MarketEvent] = ()) -> None:
        self._stream = stream
        self._bars = QuoteBars(symbol, period_ns)
        for event in passed:
            if isinstance(event, Quote):
                self._bars.take(event)

    @property
    def health(self) -> StreamHealth:
        return self._stream.health

    async def events(self) -> AsyncGenerator[MarketEvent, None]:
        """See `MarketStream`; a bar comes before the quote that closes it."""
        async with aclosing(self._stream.events()) as events:
            async for event in events:
                if isinstance(event, Quote) and (bar := self._bars.take(event)) is not None:
                    yield bar
                yield event


@dataclass(frozen=True, slots=True)
class FileHistory:
    """A price file's bars, or those of its quotes; the first of them, `_BEFORE_MAX` or half, are before `begins_ns`."""

    bars: tuple[Bar, ...]
    period_ns: int
    begins_ns: int
    calendar: str
    of_quotes: bool

    @classmethod
    def read(cls, path: Path, symbol: str, settings: Settings) -> "FileHistory":
        """Read it; raises BadBars where it is too short, or no history."""
        of_quotes = are_quotes(path)
        if of_quotes:
            period_ns, calendar = (
                round(settings.bar_period * _NS),
                "24/5" if settings.calendar == "auto" else settings.calendar,
            )
            bars = tuple(_from_quotes(read_quotes(path).quotes(symbol), symbol, period_ns))
        else:
            view = FileFeed({symbol: path}, window=settings.window, calendar=settings.calendar).view(symbol)
            period_ns, calendar = view.period_ns, view.calendar
            bars = tuple(bars_of(symbol, read_bars(path, 1)))
        count = min(_BEFORE_MAX, len(bars) // 2)
        if count < _BARS_MIN:
            raise BadBars(
                f"{path} has {len(bars)} bars; nothing was run; a replay needs {2 * _BARS_MIN}, half of them as history"
            )
        return cls(bars, period_ns, bars[count - 1].close_ns, calendar, of_quotes)


def _from_quotes(quotes: Iterable[Quote], symbol: str, period_ns: int) -> Iterator[Bar]:
    made = QuoteBars(symbol, period_ns)
    return (bar for quote in quotes if (bar := made.take(quote)) is not None)
