"""Clients' orders, found by number and by client order id.

A client order id is taken only as long as its order is open; asked for by such an id, the newest order that had it is
meant. That is how Binance has it, and the trap in it: an id that was sent again is executed again.
"""

from collections.abc import Iterable, Iterator

from graph.exchange.orders import Order
from graph.exchange.refusal import rejected

__all__ = ["Registry"]


class Registry:
    """The orders of one client on one symbol, oldest first."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        self._orders: dict[int, Order] = {}
        self._named: dict[str, Order] = {}
        self._open: dict[int, Order] = {}
        for order in orders:
            self.add(order)

    def __iter__(self) -> Iterator[Order]:
        return iter(self._orders.values())

    def check_name(self, client_id: str) -> None:
        """Raises Refusal where an open order has this id."""
        known = self._named.get(client_id)
        if known is not None and known.open:
            raise rejected("Duplicate order sent.")

    def add(self, order: Order) -> None:
        self._orders[order.number] = order
        self._named[order.client_id] = order
        if order.open:
            self._open[order.number] = order

    def find(self, number: int | None, client_id: str | None) -> Order | None:
        """The order with this number, and this id where both are given."""
        if number is None:
            return self._named.get(client_id or "")
        order = self._orders.get(number)
        return order if order is not None and client_id in {None, order.client_id} else None

    def open(self) -> list[Order]:
        """What something can still happen to."""
        for number in [number for number, order in self._open.items() if not order.open]:
            del self._open[number]
        return list(self._open.values())
