"""What waits for the fast lane: bars in their order, and of each symbol the newest quote. Nobody waits to put it in."""

import asyncio
from collections import deque

from agents.domain import Bar, Quote

__all__ = ["Inbox"]

_BARS_MAX = 50


class Inbox:
    """The lane's end is that of an `asyncio.Queue`; the other end is `put`, which takes no time and never fails.

    A quote takes the place of the one of its symbol that waits: only the newest counts for a decision; stops have seen
    each by then. Of bars at most 50 wait; of more the oldest goes: the lane decides on the newest alone. `conflated`
    and `dropped_bars` count both.
    """

    def __init__(self) -> None:
        self.conflated = 0
        self.dropped_bars = 0
        self._bars: deque[Bar] = deque()
        self._quotes: dict[str, Quote] = {}
        self._there = asyncio.Event()

    def put(self, item: Bar | Quote) -> None:
        """Add a bar or a quote."""
        if isinstance(item, Quote):
            self.conflated += item.symbol in self._quotes
            self._quotes[item.symbol] = item
        else:
            if len(self._bars) >= _BARS_MAX:
                self._bars.popleft()
                self.dropped_bars += 1
            self._bars.append(item)
        self._there.set()

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._quotes or self._bars)

    async def get(self) -> Bar | Quote:
        """What is next: quotes first, so that a bar is decided on with the newest; waits until there is something."""
        while self.empty():
            self._there.clear()
            await self._there.wait()
        return self.get_nowait()

    def get_nowait(self) -> Bar | Quote:
        """The same without waiting; raises IndexError where nothing is there."""
        if self._quotes:
            return self._quotes.pop(next(iter(self._quotes)))
        return self._bars.popleft()

    def task_done(self) -> None:
        """Nobody waits for that."""
