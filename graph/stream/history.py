"""Bars of the past from an exchange's REST interface: what a stream has missed, and what a window begins with."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec

from agents.domain import Bar
from agents.errors import InvalidValue, LinkLost
from graph.stream.frames import Refused, number
from graph.transport import Http

__all__ = ["INTERVALS", "BarHistory"]

INTERVALS: Mapping[str, int] = {
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
"""Length in milliseconds of the bars that an exchange has, by its name for them."""

_MS = 1_000_000
_PAGE = 1_000

_read = msgspec.json.Decoder(list[tuple[int, str, str, str, str, str, Any, Any, Any, Any, Any, Any]]).decode


class BarHistory:
    """Asks `url` (such as `https://api.binance.com`) for bars."""

    def __init__(self, http: Http, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def between(self, symbol: str, interval: str, start_ms: int, end_ms: int) -> Sequence[Bar]:
        """The bars that begin at `start_ms` or later and before `end_ms`, 1,000 at most, oldest first.

        Raises:
            LinkLost: there was no answer, or none that can be used.
        """
        return await self._ask(symbol, interval, f"startTime={start_ms}&endTime={end_ms - 1}&limit={_PAGE}")

    async def newest(self, symbol: str, interval: str, count: int, now_ns: int) -> Sequence[Bar]:
        """The last `count` bars that are closed, 999 at most, oldest first.

        Raises:
            LinkLost: there was no answer, or none that can be used.
        """
        bars = await self._ask(symbol, interval, f"limit={min(count + 1, _PAGE)}")
        return [bar for bar in bars if bar.close_ns <= now_ns][-count:]

    async def _ask(self, symbol: str, interval: str, span: str) -> Sequence[Bar]:
        url = f"{self._url}/api/v3/klines?symbol={symbol}&interval={interval}&{span}"
        reply = await self._http.request("GET", url, {})
        if reply.status != 200:
            raise LinkLost(f"the exchange answered HTTP {reply.status} for bars of {symbol}; none were read; ask later")
        try:
            bars = [_bar(symbol, INTERVALS[interval], row) for row in _read(reply.body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidValue, Refused) as error:
            reason = f"{type(error).__name__}: {error}"
            raise LinkLost(f"bars of {symbol} cannot be read ({reason:.120}); none were taken; ask later") from None
        if any(later.close_ns <= bar.close_ns for bar, later in pairwise(bars)):
            raise LinkLost(f"bars of {symbol} go back in time; none were taken; ask later")
        return bars


def _bar(symbol: str, period_ms: int, row: Sequence[Any]) -> Bar:
    prices: list[Decimal] = [number(text) for text in row[1:6]]
    return Bar(symbol, (row[0] + period_ms) * _MS, *prices)
