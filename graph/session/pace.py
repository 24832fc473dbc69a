"""Session time: an event loop that runs faster than the wall clock, and the clock that shows its time.

All that waits in a session waits on its loop. On a loop that is 60 times as fast a minute takes a second, for every
timer alike, so that what happens is what would have happened, only that thinking takes 60 times as long.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from agents.errors import ConfigError

__all__ = ["SPEED_MAX", "LoopClock", "PacedLoop", "loop_factory"]

SPEED_MAX = 1_000.0


class PacedLoop(asyncio.SelectorEventLoop):
    """`time()` goes `speed` times as fast as the machine's, in seconds."""

    _selector: Any  # what asyncio's loops have, and its type stubs do not tell

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began = 0.0
        super().__init__(selectors.DefaultSelector())
        self._began = super().time()
        self._poll = self._selector.select
        self._selector.select = self._select

    def time(self) -> float:
        now = super().time()
        return self._began + (now - self._began) * self._speed

    def _select(self, timeout: float | None) -> list[Any]:
        found: list[Any] = self._poll(None if timeout is None else timeout / self._speed)
        return found


def loop_factory(speed: float) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop of a session; None for asyncio's own.

    Raises:
        ConfigError: the speed is not above 0, or above `SPEED_MAX`.
    """
    if not 0 < speed <= SPEED_MAX:
        raise ConfigError(
            f"--speed is {speed:g}; nothing was run; give a number above 0, at most {SPEED_MAX:g}; with 60, a minute"
            " takes a second"
        )
    return None if speed == 1 else lambda: PacedLoop(speed)


class LoopClock:
    """Nanoseconds that go as the running loop's time does, from `origin_ns` on. May be read from any thread."""

    __slots__ = ("_began", "_loop", "_origin_ns")

    def __init__(self, origin_ns: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._origin_ns = origin_ns

    def now_ns(self) -> int:
        return self._origin_ns + round((self._loop.time() - self._began) * 1e9)

    def advance_to(self, now_ns: int) -> None:
        """Put it forward; a time that is over changes nothing."""
        self._origin_ns += max(0, now_ns - self.now_ns())
