"""What is to happen, and when: the exchange's own time, which goes from one entry to the next."""

import heapq
from collections.abc import Callable

__all__ = ["Agenda"]

_LAG_NS = 1_000_000_000  # who was held up for longer than this does not make up for what was missed


class Agenda:
    """Timers in order of their time, and of their setting where that is the same. `now_ns`: of the present entry."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self._entries: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._until_ns = now_ns

    @property
    def now_ms(self) -> int:
        return self.now_ns // 1_000_000

    @property
    def next_ns(self) -> int:
        """When something is to happen next."""
        return self._entries[0][0] if self._entries else 2**63 - 1

    def at(self, due_ns: int, act: Callable[[], None]) -> None:
        """Do something then; at once, if that is over."""
        self._count += 1
        heapq.heappush(self._entries, (due_ns, self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something so much later."""
        self.at(self.now_ns + round(seconds * 1e9), act)

    def every(self, period_ns: int, act: Callable[[], bool | None]) -> None:
        """Do something at each multiple of a period, until it says False."""
        due = self.now_ns - self.now_ns % period_ns + period_ns

        def again() -> None:
            nonlocal due
            if act() is False:
                return
            due += period_ns
            if self._until_ns - due > _LAG_NS:
                due = self._until_ns - self._until_ns % period_ns
            self.at(due, again)

        self.at(due, again)

    def run(self, now_ns: int) -> int:
        """Do all that is due until now; gives when to come again."""
        self._until_ns = now_ns
        entries = self._entries
        while entries and entries[0][0] <= now_ns:
            due, _, act = heapq.heappop(entries)
            self.now_ns = max(self.now_ns, due)
            act()
        self.now_ns = max(self.now_ns, now_ns)
        return self.next_ns
