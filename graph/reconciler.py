"""The ledger kept true to the broker: at the start and on a timer, by one and the same pass.

A pass asks what became of each order whose fate is open, and how each order stands that rests; fills that came later
are written down by their trade ids. Now and then it compares all of both books, too. It sends nothing. What cannot be
made certain makes trading REDUCING; what differs does as `graph.comparison` has it, and is lifted by a later pass that
finds all in order.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from agents.clock import NANOSECONDS
from agents.domain import KillSwitchReason, Order, OrderIntent, OrderStatus, TradingState
from agents.errors import BrokerUnavailable, OrderError
from checkpoints.ledger import BrokerReport
from checkpoints.orders import UNSETTLED
from checkpoints.trading_state import Tell, Trading, in_words
from graph.comparison import Books, Comparison, some
from graph.inquiry import Inquiry
from graph.kill_switch import KillSwitch, Swept

__all__ = ["COMPARE_S", "LATE_S", "POLL_S", "Reconciled", "Reconciler"]

POLL_S = 5.0
"""Pause between two passes over the orders that are open."""
COMPARE_S = 300.0
"""Time after which a pass compares all of both books again."""
LATE_S = 3_600.0
"""For so long after it was sent, an order is asked about that is NOT_PLACED, since it may turn up, or CANCELLED, since
it may have been filled before: the latter only when all books are compared."""
_AT_ONCE = 8
"""Questions to the broker at the same time."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a pass has found. `moved`: orders that are no longer what they were, `late` among them those that had been
    taken for not placed, and last those that the comparison has adopted; `doubts`: what cannot be made certain, in
    words; `strangers`: orders that rest at the broker, and that the ledger does not have; `found`: how the books
    compare, None where that was not looked at; `swept`: what was cancelled, since trading is not ACTIVE.
    """  # noqa: D205 (one sentence)

    moved: tuple[Order, ...]
    late: tuple[Order, ...]
    doubts: tuple[str, ...]
    strangers: tuple[str, ...]
    found: Comparison | None
    trading: Trading
    swept: Swept


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Keeps `books`, whose ledger, broker and clock it works with; `kill` is told of what must stop trading.

    `tell` hears of each order that moved (`OrderMoved`), of one that turned up after all (`OrderTurnedUp`), of
    strangers (`StrangerOrder`), doubts (`InDoubt`), and of a pass that failed (`ReconcileFailed`).
    """

    books: Books
    kill: KillSwitch
    inquiry: Inquiry
    tell: Tell

    async def run(self) -> None:
        """Pass after pass, until it is cancelled. One that fails is told, and the next one is made all the same."""
        loop = asyncio.get_running_loop()
        compared_at = loop.time()
        while True:
            await asyncio.sleep(POLL_S)
            compare = loop.time() - compared_at >= COMPARE_S
            try:
                await self.once(compare=compare)
            except Exception as error:  # noqa: BLE001 - whatever a broker or a database does, it is looked at again
                self.tell("ReconcileFailed", {"error": in_words(error)})
            compared_at = loop.time() if compare else compared_at

    async def once(self, *, compare: bool = True) -> Reconciled:
        """One pass. It may be made at any time, beside orders that are being sent.

        Raises:
            StorageError: the ledger could not be read or written.
            OrderError: the broker tells what cannot be true together with the ledger.
        """
        orders = [order for order in await self.books.ledger.at_broker() if self.books.ours(order.intent.run_id)]
        slots = asyncio.Semaphore(_AT_ONCE)
        asked = await asyncio.gather(*(self._look_at(order, slots) for order in orders))
        late = await self._turned_up(slots)
        filled = await self._filled_late(slots) if compare else ()
        doubts = [each for each in asked if isinstance(each, str) and each]
        strangers = await self._strangers() if compare else ()
        found, now, swept = await self._conclude(doubts, compare=compare)
        adopted = () if found is None else found.adopted
        moved = (*(each for each in asked if isinstance(each, Order)), *late, *filled, *adopted)
        for order in moved:
            self.tell(
                "OrderMoved", {"order": order.client_order_id, "run": order.intent.run_id, "to": str(order.status)}
            )
        return Reconciled(moved, late, tuple(doubts), strangers, found, now, swept)

    async def _look_at(self, order: Order, slots: asyncio.Semaphore) -> Order | str:
        """The order, if it has moved; why it is in doubt; or "" where nothing need be said."""
        async with slots:
            try:
                now = await (self._ask if order.status in UNSETTLED else self._poll)(order)
            except BrokerUnavailable as error:
                return await self._silence(order, error)
            except OrderError as error:
                return str(error)
        if isinstance(now, str):
            return now
        return now if (now.status, now.filled) != (order.status, order.filled) else ""

    async def _ask(self, order: Order) -> Order:
        return await self.inquiry.ask(order)

    async def _poll(self, order: Order) -> Order | str:
        name = order.client_order_id
        report = await self.inquiry.find(name) or await self.inquiry.find_surely(name)
        if report is None:
            return f"order {name} was open, and the broker does not know it any more"
        return await self.books.ledger.record(name, report)

    async def _silence(self, order: Order, error: BrokerUnavailable) -> str:
        """That nothing is said of an order which rests is no news; one whose fate is open must not stay so for ever."""
        overdue = order.status in UNSETTLED and await self.inquiry.is_overdue(order.client_order_id)
        return str(error) if overdue else ""

    async def _turned_up(self, slots: asyncio.Semaphore) -> tuple[Order, ...]:
        """Orders that had been taken for not placed, and were executed or rest."""
        found = await self._found(OrderStatus.NOT_PLACED, slots)
        there = [(order, report) for order, report in found if report.status is not OrderStatus.REJECTED]
        return tuple([await self._book_late(order, report) for order, report in there])

    async def _filled_late(self, slots: asyncio.Semaphore) -> tuple[Order, ...]:
        """Orders that were cancelled, and of which more was filled than was heard of then."""
        found = await self._found(OrderStatus.CANCELLED, slots)
        more = [each for each in found if sum(fill.quantity for fill in each[1].fills) != each[0].filled]
        return tuple([await self.books.ledger.record(order.client_order_id, report) for order, report in more])

    async def _found(self, status: OrderStatus, slots: asyncio.Semaphore) -> list[tuple[Order, BrokerReport]]:
        """The orders with this status, sent not long ago, of which the broker knows something."""
        since_ns = self.books.clock.now_ns() - round(LATE_S * NANOSECONDS)
        known = await self.books.ledger.that_are(status, since_ns)

        async def one(order: Order) -> BrokerReport | None:
            async with slots:
                with suppress(BrokerUnavailable):
                    return await self.inquiry.find(order.client_order_id)
                return None

        asked = [order for order in known if self.books.ours(order.intent.run_id)]
        found = await asyncio.gather(*map(one, asked))
        return [(order, report) for order, report in zip(asked, found, strict=True) if report is not None]

    async def _book_late(self, order: Order, report: BrokerReport) -> Order:
        """It happened. Where its decision was tried again meanwhile, it may have been executed twice.

        Under the next attempt's id, or as another leg: who slices a plan, or closes a position, goes on with the next.
        """
        now = await self.books.ledger.record(order.client_order_id, report)
        self.tell("OrderTurnedUp", {"order": now.client_order_id, "run": now.intent.run_id, "to": str(now.status)})
        of_run = await self.books.ledger.orders(now.intent.run_id)  # in the order in which they were reserved
        later = [each for each in of_run[of_run.index(now) + 1 :] if _is_alike(each.intent, now.intent)]
        if any(each.status not in {OrderStatus.DENIED, OrderStatus.NOT_PLACED} for each in later):
            why = f"order {now.client_order_id} was taken for not placed, and turned up beside the next attempt at it"
            await self.kill.trip(
                self.kill.because(
                    TradingState.REDUCING, KillSwitchReason.BREACH, "holdfast", f"{why}; compare, and close"
                )
            )
        return now

    async def _strangers(self) -> tuple[str, ...]:
        """The broker first: what rests there by then, the ledger has heard of, if it is its own."""
        resting = await self.books.broker.resting()
        known = await self.books.ledger.executed() if resting else {}
        strange = tuple(sorted(name for name in resting or {} if name not in known))
        for name in strange:
            self.tell("StrangerOrder", {"order": name, "symbol": (resting or {})[name]})
        return strange

    async def _conclude(self, doubts: Sequence[str], *, compare: bool) -> tuple[Comparison | None, Trading, Swept]:
        """Set the trading state by what was found; cancel what rests, if it has become stricter."""
        was = await self.books.switch.read()
        if not compare and not (doubts and was.state is TradingState.ACTIVE):
            return None, was, Swept()
        for doubt in doubts:
            self.tell("InDoubt", {"error": doubt})
        told = [f"it is not known how it stands with {some(doubts, 'order')}"] if doubts else []
        found, now = await self.books.reconcile(told)
        if now.state is TradingState.ACTIVE or now == was:
            return found, now, Swept()
        return found, now, await self.kill.sweep(now.state)


def _is_alike(one: OrderIntent, other: OrderIntent) -> bool:
    """Whether both do the same for one decision."""
    return (one.decision, one.account, one.symbol, one.side) == (
        other.decision,
        other.account,
        other.symbol,
        other.side,
    )
