"""When late calls are too many: so many in a row, or more than a share of the last 1,000."""

from collections import deque

__all__ = ["Breaches"]

_WINDOW = 1_000
"""Calls that the share of late ones is taken of."""
_RATED_MIN = 100
"""Calls before there is a share worth the name."""


class Breaches:
    """The late calls of one policy, in constant memory."""

    __slots__ = ("_calls", "_in_row", "_in_row_max", "_late", "_share_max")

    def __init__(self, in_row_max: int, share_max: float) -> None:
        self._in_row_max = in_row_max
        self._share_max = share_max
        self._in_row = self._late = 0
        self._calls: deque[bool] = deque(maxlen=_WINDOW)

    def in_time(self) -> None:
        """Count a call that was in time."""
        self._in_row = 0
        if self._late:
            self._count(late=False)
        else:  # the one that falls out was in time too
            self._calls.append(False)

    def late(self) -> str:
        """Count a call that was late. Gives why that is one too many, or "" where it is not."""
        self._in_row += 1
        self._count(late=True)
        if self._in_row >= self._in_row_max:
            return f"{self._in_row} calls in a row were late"
        if len(self._calls) >= _RATED_MIN and self._late > self._share_max * len(self._calls):
            return f"{self._late} of the last {len(self._calls)} calls were late"
        return ""

    def _count(self, *, late: bool) -> None:
        if len(self._calls) == _WINDOW:
            self._late -= self._calls[0]
        self._calls.append(late)
        self._late += late
