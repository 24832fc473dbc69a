"""Time is injected. This module is the only reader of the wall clock."""

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "ReplayClock", "SystemClock", "format_ns", "monotonic"]

NANOSECONDS = 1_000_000_000

monotonic = time.monotonic
"""Seconds on a clock that never goes back: for durations, never for dates."""


class Clock(Protocol):
    """What time it is, as integer nanoseconds since the epoch, UTC."""

    def now_ns(self) -> int: ...


class SystemClock:
    """The machine's wall clock."""

    __slots__ = ()

    def now_ns(self) -> int:
        return time.time_ns()


class ReplayClock:
    """A clock that stands where it was put: the close of the bar that is being decided."""

    __slots__ = ("_now_ns",)

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move forward.

        Raises:
            ValueError: the new time is before the present one; a replay never goes back.
        """
        if now_ns < self._now_ns:
            raise ValueError(f"a replay clock cannot go back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns


def format_ns(time_ns: int) -> str:
    """`20130301T000000Z`: the compact form that run ids carry (whole seconds, UTC)."""
    return datetime.fromtimestamp(time_ns // NANOSECONDS, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
