"""Orders on their way to the desk: a bounded queue and its workers, so that market data never waits for a broker.

What a decision wants goes behind what was wanted before it; an exit has a worker of its own, and waits for no entry. A
queue that is full refuses: an order that cannot go now is better not sent than sent late.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agents.clock import Clock
from agents.domain import MarketView, Order, OrderIntent, OrderStatus, Quote, Side
from agents.errors import LeaseLost
from checkpoints.trading_state import Tell, in_words
from graph.desk import Mark, OrderDesk, Ticket
from graph.resilience.timeout import give_way

__all__ = ["OrderQueue", "Scenery"]


@dataclass(frozen=True, slots=True)
class Scenery:
    """The market as it is when an order leaves the queue."""

    view: MarketView
    quote: Quote | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    leg: str
    run_id: str
    decision: int
    order: Mapping[str, Any]
    is_exit: bool = False

    @property
    def name(self) -> tuple[int, str]:
        """Which order of the run it is."""
        return self.decision, self.leg

    def __str__(self) -> str:
        return f"{self.order['side']} {self.order['quantity']:f} ({self.leg} of decision {self.decision})"


class OrderQueue:
    """The desk, as the fast lane sees it, and the way of exits. `size`: orders that wait, entries and exits together.

    `scenery` gives the market when an order leaves; `allowed` says whether a decision may still open anything;
    `settled` is told every order that the desk has answered for. `counts`: queued, dropped, sent, failed, withdrawn.
    """

    def __init__(
        self,
        desk: OrderDesk,
        size: int,
        clock: Clock,
        *,
        scenery: Callable[[], Scenery],
        allowed: Callable[[int], bool],
        settled: Callable[[Order], Awaitable[None]],
        tell: Tell,
    ) -> None:
        self._desk = desk
        self._size = size
        self._clock = clock
        self._scenery = scenery
        self._allowed = allowed
        self._settled = settled
        self._tell = tell
        self._entries: deque[_Wanted] = deque()
        self._exits: deque[_Wanted] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._leaving: set[tuple[int, str]] = set()
        self._busy = 0
        self.open = True
        self.counts: Counter[str] = Counter()

    # Who wants an order. Neither waits for anything.

    async def submit(
        self,
        *,
        run_id: str,
        account: str,
        side: Side,
        quantity: Decimal,
        view: MarketView,
        decision: int,
        leg: str,
        quote: Quote | None,
        now_ns: int | None,
        marks: Mapping[str, Mark] | None,
    ) -> Ticket:
        """Queue what a decision wants: `Desk.submit`, without its answer, which comes by `settled`.

        View, quote and time are those of when it leaves the queue.
        """
        del view, quote, now_ns
        order = {"account": account, "side": side, "quantity": quantity, "marks": marks}
        wanted = _Wanted(leg, run_id, decision, order)
        if not self.open:
            return Ticket(None, ("the session ends, and takes no new risk",))
        return Ticket(None, ("it waits to be sent",) if self._put(self._entries, wanted) else ("the queue is full",))

    def leave(self, intent: OrderIntent) -> bool:
        """Queue an exit. False where it waits or is on its way already, or the queue is full: whoever watches the stop
        asks again, until there is news of it.
        """  # noqa: D205 (one sentence)
        order = {"account": intent.account, "side": intent.side, "quantity": intent.quantity, "marks": None}
        wanted = _Wanted(intent.leg, intent.run_id, intent.decision, order, is_exit=True)
        if wanted.name in self._leaving or not self._put(self._exits, wanted):
            return False
        self._leaving.add(wanted.name)
        return True

    @property
    def depth(self) -> int:
        """How many orders wait."""
        return len(self._entries) + len(self._exits)

    @property
    def busy(self) -> bool:
        """Whether an order waits, or is on its way."""
        return bool(self.depth or self._busy)

    def _put(self, waiting: "deque[_Wanted]", wanted: _Wanted) -> bool:
        if self.depth >= self._size:
            self.counts["dropped"] += 1
            self._tell("OrderDropped", {"order": str(wanted), "waiting": self.depth, "exit": wanted.is_exit})
            return False
        self.counts["queued"] += 1
        waiting.append(wanted)
        self._wake()
        return True

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    # Who sends.

    async def run(self) -> None:
        """Send what waits until cancelled, exits and entries side by side. What fails is told, and left.

        Raises:
            LeaseLost: another process may send the orders of this run.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(self._entries), name="entries")
            group.create_task(self._work(self._exits), name="exits")

    async def _work(self, waiting: "deque[_Wanted]") -> None:
        while True:
            while not waiting:
                await self._wait()
            wanted = waiting.popleft()
            self._busy += 1
            try:
                await self._send(wanted)
            finally:
                self._busy -= 1
                self._leaving.discard(wanted.name)

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def _send(self, wanted: _Wanted) -> None:
        if not wanted.is_exit and not (self.open and self._allowed(wanted.decision)):
            self.counts["withdrawn"] += 1
            self._tell("OrderWithdrawn", {"order": str(wanted)})
            return
        now = self._scenery()
        try:
            ticket = await self._desk.submit(
                run_id=wanted.run_id,
                decision=wanted.decision,
                leg=wanted.leg,
                view=now.view,
                quote=now.quote,
                now_ns=self._clock.now_ns(),
                **wanted.order,
            )
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - one order must not end the session; what became of it is asked
            give_way(error)
            self.counts["failed"] += 1
            self._tell("OrderFailed", {"order": str(wanted), "error": in_words(error)})
            return
        if ticket.order is None:
            self.counts["nothing"] += 1
            self._tell("NothingOrdered", {"order": str(wanted), "why": "; ".join(ticket.reasons)})
            return
        denied = ticket.order.status is OrderStatus.DENIED
        self.counts["denied" if denied else "sent"] += 1
        if denied:
            self._tell("OrderDenied", {"order": str(wanted), "why": ticket.order.reason})
        await self._settled(ticket.order)
