"""Candles, made of trades: one series of minutes and one of seconds; longer intervals are added up when asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graph.exchange.orders import Trade

__all__ = ["INTERVALS", "Candle", "Candles", "Series", "merged"]

INTERVALS = {
    "1s": 1_000,
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": 86_400_000,
}
"""Length in milliseconds by the name that requests and streams use."""

_KEPT = 20_000  # candles a series: two weeks of minutes


@dataclass(slots=True)
class Candle:
    """What was traded from `open_ms` on. Prices and amounts in hundred-millionths; `first` is -1 where nothing was."""

    open_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote: int = 0
    trades: int = 0
    taken: int = 0  # by buyers, of the volume
    taken_quote: int = 0
    first: int = -1
    last: int = -1


class Series:
    """Candles of one length, oldest first, without holes: where nothing is traded, the last price stands."""

    def __init__(self, period_ms: int, history: Iterable[Candle]) -> None:
        self.period_ms = period_ms
        self.candles = list(history)

    def roll(self, now_ms: int) -> None:
        """Go on to the candle that `now_ms` is in."""
        newest = self.candles[-1]
        while newest.open_ms + self.period_ms <= now_ms:
            price = newest.close
            newest = Candle(newest.open_ms + self.period_ms, price, price, price, price)
            self.candles.append(newest)
        if len(self.candles) > 2 * _KEPT:
            del self.candles[:-_KEPT]

    def add(self, trade: Trade, quote: int) -> None:
        """One more trade, which is never older than the newest candle."""
        candle = self.candles[-1]
        if candle.open_ms + self.period_ms <= trade.time_ms:
            self.roll(trade.time_ms)
            candle = self.candles[-1]
        price = trade.price
        if candle.trades == 0:
            candle.open = candle.high = candle.low = price
            candle.first = trade.number
        elif price > candle.high:
            candle.high = price
        elif price < candle.low:
            candle.low = price
        candle.close = price
        candle.volume += trade.quantity
        candle.quote += quote
        candle.trades += 1
        candle.last = trade.number
        if not trade.down:
            candle.taken += trade.quantity
            candle.taken_quote += quote

    def since(self, open_ms: int, count: int | None = None) -> Sequence[Candle]:
        """The candles that begin at `open_ms` or later; the first `count` of them."""
        first = max(0, (open_ms - self.candles[0].open_ms + self.period_ms - 1) // self.period_ms)
        return self.candles[first:] if count is None else self.candles[first : first + count]


class Candles:
    """All intervals of one symbol. `history`: minutes that are over before the exchange opens, oldest first."""

    def __init__(self, history: Sequence[Candle]) -> None:
        last = history[-1]
        begin = last.open_ms + 60_000
        flat = Candle(begin, *(last.close,) * 4)
        self.minutes = Series(60_000, [*history, flat])
        self.seconds = Series(1_000, [Candle(begin, *(last.close,) * 4)])

    def add(self, trade: Trade, quote: int) -> None:
        self.minutes.add(trade, quote)
        self.seconds.add(trade, quote)

    def roll(self, now_ms: int) -> None:
        self.minutes.roll(now_ms)
        self.seconds.roll(now_ms)

    def at(self, interval: str, time_ms: int) -> Candle:
        """The candle of an interval that `time_ms`, which is not far in the past, is in."""
        period = INTERVALS[interval]
        open_ms = time_ms - time_ms % period
        series = self.seconds if period == 1_000 else self.minutes
        inside = [each for each in series.since(open_ms, period // series.period_ms) if each.open_ms <= time_ms]
        return merged(open_ms, inside)

    def span(self, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[Candle]:
        """The newest `limit` candles up to `end_ms`, or the first `limit` from `start_ms` on, where that is given."""
        period = INTERVALS[interval]
        series = self.seconds if period == 1_000 else self.minutes
        newest = series.candles[-1].open_ms
        end = newest if end_ms is None else min(end_ms, newest)
        end -= end % period
        begin = end - (limit - 1) * period if start_ms is None else -(-start_ms // period) * period
        begin = max(begin, series.candles[0].open_ms // period * period)
        opens = range(begin, min(end, begin + (limit - 1) * period) + 1, period)
        return [self._whole(series, open_ms, period) for open_ms in opens]

    def day(self, now_ms: int) -> Candle:
        """The last 24 hours, or less where there is less."""
        begin = now_ms - 86_400_000
        return merged(begin, self.minutes.since(begin))

    def _whole(self, series: Series, open_ms: int, period: int) -> Candle:
        found = series.since(open_ms, period // series.period_ms)
        return merged(open_ms, [each for each in found if each.open_ms < open_ms + period])


def merged(open_ms: int, parts: Sequence[Candle]) -> Candle:
    """Several candles in a row as one."""
    traded = [each for each in parts if each.trades]
    return Candle(
        open_ms,
        parts[0].open,
        max(each.high for each in parts),
        min(each.low for each in parts),
        parts[-1].close,
        sum(each.volume for each in parts),
        sum(each.quote for each in parts),
        sum(each.trades for each in parts),
        sum(each.taken for each in parts),
        sum(each.taken_quote for each in parts),
        traded[0].first if traded else -1,
        traded[-1].last if traded else -1,
    )
