"""Everybody else in the market: they quote around the fair price, take from each other, and from whoever is there.

Their orders stand in the same book as a client's, under the same rules. A client's order therefore has a queue before
it, is filled in parts, and is traded through when the fair price goes past it, with no rule of its own for any of that.
"""

from random import Random

from graph.exchange.engine import Engine
from graph.exchange.orders import Order
from graph.exchange.scripts import Path

__all__ = ["Crowd"]

_LEVELS = 10  # a side
_GAP_PER_PRICE = 20_000  # half a basis point between two levels
_TAKES = 0.6  # of all steps
_REPLACES = 0.2


class Crowd:
    """The crowd of one symbol. Same seed and same times, same orders."""

    def __init__(self, engine: Engine, path: Path, seed: int) -> None:
        self._engine = engine
        self._path = path
        self._dice = Random(f"{seed}/{engine.rules.name}/crowd")  # noqa: S311 - no secret
        tick = engine.rules.tick
        self._gap = max(1, engine.last_price // _GAP_PER_PRICE // tick) * tick
        self._bids: dict[int, Order] = {}
        self._asks: dict[int, Order] = {}

    def step(self, now_ms: int) -> None:
        """One moment of their trading."""
        gap = self._gap
        bid = max(gap * _LEVELS, self._path.price(now_ms) // gap * gap)
        self._quote(bid, now_ms)
        chance = self._dice.random()
        if chance < _TAKES:
            self._take(now_ms)
        if chance < _REPLACES:
            self._replace(bid - gap * self._dice.randrange(_LEVELS), now_ms)

    def _quote(self, bid: int, now_ms: int) -> None:
        """Have an order on each of ten levels a side, and none elsewhere."""
        gap, reach = self._gap, self._gap * (_LEVELS - 1)
        self._clear(self._bids, bid - reach, bid)
        self._clear(self._asks, bid + gap, bid + gap + reach)
        for at in range(_LEVELS):
            if bid - at * gap not in self._bids:
                self._place(self._bids, bid - at * gap, now_ms, buy=True)
            if bid + gap + at * gap not in self._asks:
                self._place(self._asks, bid + gap + at * gap, now_ms, buy=False)

    def _clear(self, quotes: dict[int, Order], low: int, high: int) -> None:
        gone = [price for price, order in quotes.items() if not (low <= price <= high) or not order.left]
        for price in gone:
            order = quotes.pop(price)
            if order.left:
                self._engine.withdraw(order)

    def _place(self, quotes: dict[int, Order], price: int, now_ms: int, *, buy: bool) -> None:
        rules = self._engine.rules
        order = Order(self._engine.next_order(), "", rules.name, buy, price, self._size(0.2, 1.8))
        quotes[price] = order
        self._engine.take(order, now_ms)

    def _size(self, low: float, high: float) -> int:
        rules = self._engine.rules
        lots = low + (high - low) * self._dice.random() ** 2
        return max(1, int(rules.lot * lots) // rules.step) * rules.step

    def _take(self, now_ms: int) -> None:
        buy = self._dice.random() < 0.5
        rules = self._engine.rules
        size = self._size(0.0, 0.8)
        self._engine.take(Order(self._engine.next_order(), "", rules.name, buy, 0, size, tif="IOC"), now_ms)

    def _replace(self, price: int, now_ms: int) -> None:
        """Somebody gives up a place in the queue for a new one."""
        order = self._bids.get(price)
        if order is not None and order.left:
            self._engine.withdraw(order)
            self._place(self._bids, price, now_ms, buy=True)
