"""The venue's side: what a broker must offer."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

from agents.domain import OrderIntent
from checkpoints.ledger import BrokerReport
from graph.grid import Grid

__all__ = ["Broker"]


class Broker(Protocol):
    """A place where orders are executed.

    `idempotent`: sending a client order id again never executes it again, for ever. Where that is false (many venues
    only compare with orders that are open now), a lost order is never sent again under its old id.
    """

    @property
    def idempotent(self) -> bool: ...

    def grid(self, symbol: str) -> Grid | None:
        """The quantities and prices that are taken; None where any are.

        The desk brings an order onto it before the order gets its id, so that the ledger knows what is sent.

        Raises:
            OrderError: this is not traded here, or the rules are not known yet.
        """
        del symbol
        return None

    async def send(self, intent: OrderIntent) -> BrokerReport:
        """Place the order, once.

        A report of NOT_PLACED says that it is certain that nothing was placed, and that it may be tried again later.

        Raises:
            OrderRefused: it was not placed, and will not be.
            BrokerUnavailable: its fate is unknown.
        """
        ...

    async def find(self, client_order_id: str) -> BrokerReport | None:
        """What the broker knows of an order; None when it has never seen it."""
        ...

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        """Take an order out of the book, and give how it stands then; None when the broker has never seen it.

        May be asked again and again. As it stands here it is for brokers at which nothing rests.
        """
        return await self.find(client_order_id)

    async def executed(self) -> Mapping[str, tuple[str, Decimal]] | None:
        """Symbol and signed quantity of all that was ever executed, by client order id; None when it cannot tell.

        An order that rests may be among them, with what was executed of it so far.
        """
        ...

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        """The order as it was sent, with whose it was; None when the broker has not kept all of that."""
        ...

    async def resting(self) -> Mapping[str, str] | None:
        """The symbol of each order that is in the book now, by client order id; None when it cannot tell."""
        return None

    async def holdings(self) -> Mapping[str, Decimal] | None:
        """Signed quantities by symbol, as the venue itself counts them; None when it cannot tell.

        As fills made them: what the venue has taken from them for fees is put back. A symbol that is left out is at 0.
        """
        return None
