"""What became of an order whose answer was lost: only the broker knows, and it is asked until it says so for certain.

A venue that does not know an order may learn of it yet: the message may be on its way. So "never seen" counts only
after a time that is longer than any venue lets a message live, and only when it is said several times in a row. Then
the order is NOT_PLACED, and the decision may try again under another id.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from agents.clock import NANOSECONDS, Clock
from agents.domain import Order, OrderStatus
from agents.errors import BrokerUnavailable
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.orders import UNSETTLED
from graph.broker import Broker
from graph.resilience import Guard

__all__ = ["GRACE_S", "HELD_UP_S", "SPACING_S", "TRIES", "Inquiry", "grace_of", "readable"]

TRIES = 3
"""How often in a row the broker has to say that it has never seen an order."""
SPACING_S = 2.0
"""Pause between two of these: a venue may answer from a copy of its books that is behind."""
HELD_UP_S = 20.0
"""A process that was held up for so long between writing SENDING down and sending does not send any more."""
_SEND_S = 30.0
GRACE_S = 120.0
"""Age below which an order may still be on its way: what may hold it up here, the 30 s that an attempt to send may
take, and the 60 s that the venues with the longest such time let a message live."""


def grace_of(attempt_timeout: float) -> float:
    """The grace time where an attempt to send may take so many seconds."""
    return GRACE_S + max(0.0, attempt_timeout - _SEND_S)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Asks the broker through `guard`, which must not retry. `grace_s`: longer where an attempt may take longer."""

    ledger: OrderLedger
    broker: Broker
    guard: Guard
    clock: Clock
    grace_s: float = GRACE_S

    async def settle(self, order: Order) -> Order:
        """Write down what the broker says of an order; it is never sent from here.

        Raises:
            BrokerUnavailable: its fate is as open as before.
        """
        settled = await self.ask(order)
        if settled.status in UNSETTLED:
            raise BrokerUnavailable(
                f"order {order.client_order_id} is unknown to the broker; it was not sent again; ask later"
            )
        return settled

    async def ask(self, order: Order) -> Order:
        """The same, but an order that the broker may learn of yet, or that its decision may send again, comes back.

        Raises:
            BrokerUnavailable: the broker does not say anything of it.
        """
        name = order.client_order_id
        final = not self.broker.idempotent and await self.is_overdue(name)
        report = await self.find_surely(name) if final else await self.find(name)
        if report is not None:
            return await self.ledger.record(name, report)
        if final:
            why = f"the broker had never seen it after {self.grace_s:g} s, asked {TRIES} times"
            return await self.ledger.record(name, BrokerReport(OrderStatus.NOT_PLACED, reason=why))
        if self.broker.idempotent:
            return await self.ledger.order(name)
        lost = BrokerReport(OrderStatus.UNKNOWN, reason="the broker does not know it, and may learn of it yet")
        return await self.ledger.record(name, lost)

    async def is_overdue(self, client_order_id: str) -> bool:
        """Whether the broker must know of the order by now, if it ever will."""
        age_ns = self.clock.now_ns() - await self.ledger.sent_ns(client_order_id)
        return age_ns >= self.grace_s * NANOSECONDS

    async def find_surely(self, client_order_id: str) -> BrokerReport | None:
        """Like `find`, but None has to be said several times in a row."""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(SPACING_S)
            report = await self.find(client_order_id)
            if report is not None:
                return report
        return None

    async def find(self, client_order_id: str) -> BrokerReport | None:
        """What the broker knows of the order; raises BrokerUnavailable when it does not say."""
        try:
            report = await self.guard(self.broker.find, client_order_id)
            return None if report is None else readable(report)
        except Exception as error:
            raise BrokerUnavailable(
                f"the broker did not say what became of order {client_order_id} ({type(error).__name__}: {error});"
                " nothing was sent; ask later"
            ) from error


def readable(answer: Any) -> BrokerReport:
    """The answer, if it is one; raises BrokerUnavailable else."""
    if not isinstance(answer, BrokerReport):
        raise BrokerUnavailable(f"the broker answered {answer!r:.80}, which is no report; ask it again")
    return answer
