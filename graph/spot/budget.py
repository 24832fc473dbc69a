"""How much may be asked of the exchange, and when: what it says in its headers, and what was sent since.

The exchange counts in spans that begin at each full minute, ten seconds and day of its own clock. What is counted here
is never less than what it says: requests that are on their way are not in its headers yet.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from agents.errors import BrokerUnavailable
from graph.transport import HttpReply

__all__ = ["ORDERS_10S", "ORDERS_DAY", "PATIENCE_S", "READ_SHARE", "WEIGHT", "Limit", "RateBudget"]

WEIGHT, ORDERS_10S, ORDERS_DAY = 6_000, 100, 200_000
"""Limits that hold until the exchange has told its own."""
READ_SHARE = 0.9
"""What of the weight reads may use: the rest is for orders and cancellations."""
PATIENCE_S = 60.0
"""For longer than this no read waits until it may be made."""
_PAUSE_S = 10.0  # after a 429 that does not say how long
_RETRY_AFTER_MAX_S = 7 * 86_400.0
_SPANS_MS = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}
_TOO_MANY_ORDERS = -1015


class Limit(Protocol):
    """A limit as the exchange tells it."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


@dataclass(slots=True)
class _Window:
    limit: int
    period_ms: int
    begin_ms: int = 0
    used: int = 0

    def left(self, now_ms: int, share: float = 1.0) -> int:
        self.at(now_ms)
        return int(self.limit * share) - self.used

    def at(self, now_ms: int) -> None:
        """Begin anew, if it is time to."""
        begin_ms = now_ms - now_ms % self.period_ms
        if begin_ms != self.begin_ms:
            self.begin_ms, self.used = begin_ms, 0

    def seconds(self, now_ms: int) -> float:
        """Until it begins anew."""
        return (self.period_ms - now_ms % self.period_ms) / 1e3


class RateBudget:
    """`now_ms` is the exchange's clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._weight = _Window(WEIGHT, 60_000)
        self._orders = {"10s": _Window(ORDERS_10S, 10_000), "1d": _Window(ORDERS_DAY, 86_400_000)}
        self._closed_until = 0.0  # on the loop's clock

    @property
    def used_weight(self) -> int:
        """In the present minute."""
        self._weight.at(self._now_ms())
        return self._weight.used

    def limits(self, told: Iterable[Limit]) -> None:
        """Take over what the exchange says its limits are."""
        for each in told:
            period_ms = _SPANS_MS.get(each.interval, 0) * each.interval_num
            known = (self._weight,) if each.rate_limit_type == "REQUEST_WEIGHT" else tuple(self._orders.values())
            for window in known if each.rate_limit_type in {"REQUEST_WEIGHT", "ORDERS"} else ():
                if window.period_ms == period_ms and each.limit > 0:
                    window.limit = each.limit

    async def weigh(self, what: str, weight: int, *, urgent: bool = False) -> None:
        """Wait until a request may be made, and count it; `urgent`: it may use what is kept back from reads.

        Raises:
            BrokerUnavailable: that would take longer than `PATIENCE_S`; nothing was asked.
        """
        until = asyncio.get_running_loop().time() + PATIENCE_S
        while (seconds := self._wait(weight, 1.0 if urgent else READ_SHARE)) > 0:
            if asyncio.get_running_loop().time() + seconds > until:
                raise BrokerUnavailable(
                    f"the exchange wants no requests for another {seconds:.0f} s; {what} was not asked for; ask later"
                )
            await asyncio.sleep(seconds)
        self._weight.used += weight

    def order(self, weight: int = 1) -> str:
        """Count an order that is about to be sent; or say why none may be, and count none."""
        now_ms = self._now_ms()
        if (seconds := self._wait(weight, 1.0)) > 0:
            return f"the exchange takes no requests for another {seconds:.0f} s"
        for span, window in self._orders.items():
            if window.left(now_ms) < 1:
                return f"{window.limit} orders in {span} are used up, for another {window.seconds(now_ms):.0f} s"
        for window in self._orders.values():
            window.used += 1
        self._weight.used += weight
        return ""

    def heard(self, reply: HttpReply, sent_ms: int) -> None:
        """What the exchange says in its headers is used up, answering what was sent then: of spans that go on still."""
        now_ms = self._now_ms()
        counts = {"x-mbx-used-weight-1m": self._weight}
        counts |= {f"x-mbx-order-count-{span}": window for span, window in self._orders.items()}
        for header, window in counts.items():
            told = _count(reply.headers.get(header, ""))
            window.at(now_ms)
            if told is not None and sent_ms >= window.begin_ms:
                window.used = max(window.used, told)

    def close(self, reply: HttpReply, code: int) -> None:
        """The exchange refused with `code`, for too much: nothing goes for as long as it says, or no orders."""
        seconds = _count(reply.headers.get("retry-after", ""))
        if code == _TOO_MANY_ORDERS:  # what is in the book may be asked about and cancelled all the same
            window = self._orders["10s" if seconds is None or seconds <= 10 else "1d"]
            window.at(self._now_ms())
            window.used = max(window.used, window.limit)
            return
        pause_s = _PAUSE_S if seconds is None else min(float(seconds), _RETRY_AFTER_MAX_S)
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + pause_s)

    def _wait(self, weight: int, share: float) -> float:
        closed_s = self._closed_until - asyncio.get_running_loop().time()
        now_ms = self._now_ms()
        fits = self._weight.left(now_ms, share) >= weight
        return max(0.0, closed_s, 0.0 if fits else self._weight.seconds(now_ms))


def _count(text: str) -> int | None:
    """A count in a header; None for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
