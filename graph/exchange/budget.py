"""Rate limits: how much may be asked for in a while, 429 for who asks for more, 418 for who does not stop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graph.exchange.refusal import Refusal

__all__ = ["Budget", "RateLimits", "limits_info"]

_BAN_SECONDS = 120
_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Of one address: request weight a minute, orders in ten seconds and a day."""

    weight: int = 6_000
    orders_10s: int = 100
    orders_day: int = 200_000


class _Window:
    """Counts in a span of time that begins anew at each multiple of itself."""

    __slots__ = ("_begin", "_limit", "_period_ms", "used")

    def __init__(self, limit: int, period_ms: int) -> None:
        self._limit = limit
        self._period_ms = period_ms
        self._begin = 0
        self.used = 0

    def add(self, count: int, now_ms: int) -> bool:
        """Whether it still fits; what does not fit is not counted."""
        begin = now_ms - now_ms % self._period_ms
        if begin != self._begin:
            self._begin, self.used = begin, 0
        if self.used + count > self._limit:
            return False
        self.used += count
        return True

    def at(self, now_ms: int) -> int:
        """What is used of the span that `now_ms` is in."""
        return self.used if now_ms - now_ms % self._period_ms == self._begin else 0

    def seconds_left(self, now_ms: int) -> int:
        return -(-(self._begin + self._period_ms - now_ms) // 1_000)


class Budget:
    """What one address has used."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._weight = _Window(limits.weight, 60_000)
        self._orders = (_Window(limits.orders_10s, 10_000), _Window(limits.orders_day, 86_400_000))
        self._banned_until_ms = 0
        self._warnings = 0

    def used(self, now_ms: int) -> Mapping[str, int]:
        """Weight in this minute, orders in these ten seconds, and in this day (`weight`, `orders`, `day`)."""
        orders, day = (window.at(now_ms) for window in self._orders)
        return {"weight": self._weight.at(now_ms), "orders": orders, "day": day}

    def charge(self, weight: int, now_ms: int) -> None:
        """Raises Refusal where it is too much."""
        if now_ms < self._banned_until_ms:
            self._refuse_banned(now_ms)
        if self._weight.add(weight, now_ms):
            self._warnings = 0
            return
        self._warnings += 1
        if self._warnings > _WARNINGS:
            self._warnings = 0
            self._banned_until_ms = now_ms + _BAN_SECONDS * 1_000
            self._refuse_banned(now_ms)
        text = f"Too much request weight used; current limit is {self._limits.weight} request weight per 1 MINUTE."
        raise Refusal(-1003, text, 429, self._weight.seconds_left(now_ms))

    def charge_order(self, now_ms: int) -> None:
        """Raises Refusal where it is one order too many."""
        for window, limit, span in zip(
            self._orders, (self._limits.orders_10s, self._limits.orders_day), ("10 SECOND", "1 DAY"), strict=True
        ):
            if not window.add(1, now_ms):
                text = f"Too many new orders; current limit is {limit} orders per {span}."
                raise Refusal(-1015, text, 429, window.seconds_left(now_ms))

    def _refuse_banned(self, now_ms: int) -> None:
        until = self._banned_until_ms
        text = f"Way too much request weight used; IP banned until {until}."
        raise Refusal(-1003, text, 418, -(-(until - now_ms) // 1_000))


def limits_info(limits: RateLimits) -> list[dict[str, Any]]:
    """The limits as `exchangeInfo` tells them."""
    return [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limits.weight},
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": limits.orders_10s},
        {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": limits.orders_day},
    ]
