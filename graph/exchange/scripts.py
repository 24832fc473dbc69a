"""What the market does: a history before the exchange opens, and where the fair price goes from then on.

Seeded, or read from a price file: each bar of the file, however long it was, is played in one minute.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from agents.bars import Bars
from agents.market import simulate
from graph.exchange.candles import Candle
from graph.exchange.fixed import SCALE, notional
from graph.exchange.symbols import SymbolRules

__all__ = ["Path", "Script", "recorded", "seeded"]

_MINUTE_MS = 60_000
_MINUTE_NS = 60_000_000_000
_VOLATILITY = 1.1e-4  # of a second's return: sixty percent a year


class Path(Protocol):
    """Where the fair price goes. Asked with times that never go back."""

    def price(self, now_ms: int) -> int:
        """The fair price now, in hundred-millionths; need not be on the grid of ticks."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """`history`: minutes that are over, oldest first, at least one; `path`: what comes then."""

    history: list[Candle]
    path: Path


class _Walk:
    """A random walk whose steps do not depend on how it is told of time, only on the times at which it is asked."""

    def __init__(self, dice: Random, price: int, now_ms: int) -> None:
        self._dice = dice
        self._price = float(price)
        self._range = price / 20, price * 20.0
        self._at_ms = now_ms

    def price(self, now_ms: int) -> int:
        seconds = (now_ms - self._at_ms) / 1_000
        if seconds > 0:
            self._at_ms = now_ms
            moved = self._price * math.exp(_VOLATILITY * math.sqrt(seconds) * self._dice.gauss(0.0, 1.0))
            self._price = min(max(moved, self._range[0]), self._range[1])
        return int(self._price)


class _Recorded:
    """From knot to knot in a straight line; after the last one, a walk."""

    def __init__(self, times: list[int], prices: list[int], dice: Random) -> None:
        self._times = times
        self._prices = prices
        self._after = _Walk(dice, prices[-1], times[-1])

    def price(self, now_ms: int) -> int:
        at = bisect_right(self._times, now_ms)
        if at == len(self._times):
            return self._after.price(now_ms)
        if at == 0:
            return self._prices[0]
        begin, end = self._times[at - 1], self._times[at]
        low, high = self._prices[at - 1], self._prices[at]
        return low + (high - low) * (now_ms - begin) // (end - begin)


def seeded(rules: SymbolRules, seed: int, now_ms: int, *, minutes: int = 600, price: int = 0) -> Script:
    """A history of the simulated market that ends at the symbol's reference price, or at `price`, and a walk."""
    bars = simulate(rules.name, seed, minutes, _MINUTE_NS)
    begin = now_ms - now_ms % _MINUTE_MS
    dice = Random(f"{seed}/{rules.name}/walk")  # noqa: S311 - no secret
    last = price or rules.reference
    scale = last / SCALE / float(bars.close[-1])
    return Script(_minutes(bars, minutes, begin, scale, rules), _Walk(dice, last, now_ms))


def recorded(bars: Bars, rules: SymbolRules, seed: int, now_ms: int, *, minutes: int = 600) -> Script:
    """The first bars of a file as history (`minutes`, and half of the file at most), and the others as what comes."""
    begin = now_ms - now_ms % _MINUTE_MS
    over = max(1, min(minutes, len(bars) // 2))
    dice = Random(f"{seed}/{rules.name}/walk")  # noqa: S311 - no secret
    times, prices = _knots(bars, over, begin)
    return Script(_minutes(bars, over, begin, 1.0, rules), _Recorded(times, prices, dice))


def _minutes(bars: Bars, count: int, end_ms: int, scale: float, rules: SymbolRules) -> list[Candle]:
    """The first `count` bars as the minutes before `end_ms`, their prices on the grid of ticks."""
    tick = rules.tick
    columns = [[_on_grid(price * scale, tick) for price in column[:count].tolist()] for column in _prices(bars)]
    lots = [1.0] * count if bars.volume is None else bars.volume[:count].tolist()
    usual = sorted(lots)[count // 2] or 1.0
    made = []
    for at, (opened, high, low, close) in enumerate(zip(*columns, strict=True)):
        volume = max(1, int(lots[at] / usual * 30 * rules.lot) // rules.step) * rules.step
        quote = notional(close, volume)
        candle = Candle(end_ms - (count - at) * _MINUTE_MS, opened, high, low, close, volume, quote)
        candle.trades, candle.taken, candle.taken_quote = 1, volume // 2, quote // 2
        candle.first = candle.last = 0
        made.append(candle)
    return made


def _prices(bars: Bars) -> tuple[Any, ...]:
    return bars.open, bars.high, bars.low, bars.close


def _on_grid(price: float, tick: int) -> int:
    return max(1, round(price * SCALE / tick)) * tick


def _knots(bars: Bars, first: int, begin_ms: int) -> tuple[list[int], list[int]]:
    """Open, both extremes (the nearer to the open comes first) and close of each bar from `first` on."""
    times, prices = [], []
    columns = (column[first:].tolist() for column in _prices(bars))
    for at, (opened, high, low, close) in enumerate(zip(*columns, strict=True)):
        extremes = (low, high) if opened - low < high - opened else (high, low)
        for part, price in enumerate((opened, *extremes, close)):
            times.append(begin_ms + at * _MINUTE_MS + part * (_MINUTE_MS // 4))
            prices.append(round(price * SCALE))
    return times, prices
