"""What time it is at the exchange: our clock, and by how much it is off."""

from agents.clock import Clock

__all__ = ["ServerTime"]

_MS = 1_000_000


class ServerTime:
    """`doubtful`: nobody has measured yet, or the exchange has said that a time was wrong since."""

    __slots__ = ("_clock", "doubtful", "offset_ns")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset_ns = 0
        self.doubtful = True

    def now_ms(self) -> int:
        """Milliseconds since the epoch, at the exchange."""
        return (self._clock.now_ns() + self.offset_ns) // _MS

    def here_ns(self) -> int:
        """Our own clock's time."""
        return self._clock.now_ns()

    def measured(self, asked_ns: int, server_ms: int) -> None:
        """The exchange has said what time it is, asked at `asked_ns`: half way from then to now."""
        now_ns = self._clock.now_ns()
        self.offset_ns = server_ms * _MS - (asked_ns + now_ns) // 2
        self.doubtful = False
