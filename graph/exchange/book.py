"""The order book of one symbol: price, then time."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from graph.exchange.orders import Order

__all__ = ["Book", "Changes", "Half", "Top"]

Top = tuple[int, int, int, int]
"""Best bid, its quantity, best ask, its quantity; 0 where a side is empty."""


class _Level:
    """All orders at one price, first come, first served."""

    __slots__ = ("orders", "quantity")

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.quantity = 0


class Half:
    """One side of a book."""

    __slots__ = ("_levels", "_prices", "buy")

    def __init__(self, *, buy: bool) -> None:
        self.buy = buy
        self._levels: dict[int, _Level] = {}
        self._prices: list[int] = []  # ascending

    @property
    def best(self) -> int:
        """The best price, 0 where there is none."""
        return self._prices[-1 if self.buy else 0] if self._prices else 0

    def __contains__(self, price: int) -> bool:
        return price in self._levels

    def quantity(self, price: int) -> int:
        """What stands at a price."""
        level = self._levels.get(price)
        return level.quantity if level else 0

    def front(self, price: int) -> Order:
        """Who is next at a price that has somebody."""
        return next(iter(self._levels[price].orders.values()))

    def prices(self) -> Iterator[int]:
        """Every price, the best first."""
        return iter(self._prices[::-1] if self.buy else self._prices[:])

    def depth(self, count: int) -> list[tuple[int, int]]:
        """Price and quantity of the best `count` levels."""
        best = self._prices[: -count - 1 : -1] if self.buy else self._prices[:count]
        return [(price, self._levels[price].quantity) for price in best]

    def ahead(self, order: Order) -> int:
        """What is filled before an order that rests here, at its own price."""
        total = 0
        for other in self._levels[order.price].orders.values():
            if other is order:
                return total
            total += other.left
        raise KeyError(order.number)

    def add(self, order: Order) -> None:
        level = self._levels.get(order.price)
        if level is None:
            level = self._levels[order.price] = _Level()
            insort(self._prices, order.price)
        level.orders[order.number] = order
        level.quantity += order.left

    def remove(self, order: Order) -> None:
        level = self._levels[order.price]
        del level.orders[order.number]
        level.quantity -= order.left
        self._drop_empty(order.price, level)

    def fill(self, order: Order, quantity: int) -> None:
        """Take `quantity` off an order that rests here; one that has nothing left leaves."""
        level = self._levels[order.price]
        level.quantity -= quantity
        if order.left == quantity:
            del level.orders[order.number]
            self._drop_empty(order.price, level)

    def _drop_empty(self, price: int, level: _Level) -> None:
        if not level.orders:
            del self._levels[price]
            del self._prices[bisect_left(self._prices, price)]


class Changes:
    """The levels that have changed since it was last read: what a difference stream tells."""

    __slots__ = ("asks", "bids", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self.bids: dict[int, None] = {}
        self.asks: dict[int, None] = {}

    def begin_anew(self, first: int) -> None:
        self.first = first
        self.bids.clear()
        self.asks.clear()


class Book:
    """Both sides. `update` numbers every change of a level; `watchers` are told which one it was."""

    __slots__ = ("asks", "bids", "update", "watchers")

    def __init__(self, update: int = 1) -> None:
        self.bids = Half(buy=True)
        self.asks = Half(buy=False)
        self.update = update
        self.watchers: list[Changes] = []

    @property
    def top(self) -> Top:
        bid, ask = self.bids.best, self.asks.best
        return bid, self.bids.quantity(bid), ask, self.asks.quantity(ask)

    def own(self, buy: bool) -> Half:
        """The side that such an order rests on."""
        return self.bids if buy else self.asks

    def other(self, buy: bool) -> Half:
        """The side that such an order takes from."""
        return self.asks if buy else self.bids

    def add(self, order: Order) -> None:
        self.own(order.buy).add(order)
        self._changed(order)

    def remove(self, order: Order) -> None:
        self.own(order.buy).remove(order)
        self._changed(order)

    def fill(self, order: Order, quantity: int) -> None:
        """Before the order itself is told of the fill."""
        self.own(order.buy).fill(order, quantity)
        self._changed(order)

    def watch(self) -> Changes:
        """Begin to note which levels change."""
        changes = Changes(self.update + 1)
        self.watchers.append(changes)
        return changes

    def _changed(self, order: Order) -> None:
        self.update += 1
        for watcher in self.watchers:
            (watcher.bids if order.buy else watcher.asks)[order.price] = None
