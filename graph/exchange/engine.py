"""The matching engine of one symbol: price-time priority, partial fills, stops, fees, and what the rules refuse."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from graph.exchange.accounts import Account
from graph.exchange.book import Book
from graph.exchange.candles import Candle, Candles
from graph.exchange.fixed import SCALE, notional
from graph.exchange.orders import Execution, Order, Trade
from graph.exchange.refusal import rejected
from graph.exchange.symbols import SymbolRules

__all__ = ["Engine", "Listener", "Numbers"]


class Listener(Protocol):
    """Who is told of all that happens."""

    def traded(self, engine: "Engine", trade: Trade) -> None:
        """Two orders have met."""
        ...

    def taken(self, engine: "Engine", trades: list[Trade]) -> None:
        """One order has taken from one price, in one or more trades."""
        ...

    def reported(self, order: Order, what: str, execution: Execution | None) -> None:
        """A client's order is `NEW`, had a `TRADE`, was `CANCELED`, or has `EXPIRED`."""
        ...


class Numbers:
    """Hands out numbers that only grow."""

    __slots__ = ("_next",)

    def __init__(self, first: int) -> None:
        self._next = first

    def __call__(self) -> int:
        number = self._next
        self._next = number + 1
        return number


class Engine:
    """One symbol's book, stops and trades. `numbers`: of orders, trades and takings."""

    def __init__(
        self,
        rules: SymbolRules,
        accounts: Mapping[str, Account],
        listener: Listener,
        history: list[Candle],
        first_number: int = 1,
    ) -> None:
        self.rules = rules
        self.book = Book(first_number)
        self.candles = Candles(history)
        self.last_price = history[-1].close
        self.recent: deque[Trade] = deque(maxlen=1_000)
        self.takings = Numbers(first_number)
        self._orders = Numbers(first_number)
        self._trades = Numbers(first_number)
        self._accounts = accounts
        self._listener = listener
        self._stops: dict[int, Order] = {}
        self._taking: list[Trade] = []

    def next_order(self) -> int:
        """A number for an order."""
        return self._orders()

    def restore(self, orders: Iterable[Order]) -> None:
        """Put orders of an earlier life, which are open, back to where they stood."""
        for order in orders:
            if order.waits:
                self._stops[order.number] = order
            else:
                self.book.add(order)

    def submit(self, order: Order, now_ms: int) -> None:
        """Take a client's order in.

        Raises:
            Refusal: it may not be; nothing has happened.
        """
        self.check(order)
        if order.budget:
            order.quantity = self._bought_with(order)
        account = self._accounts[order.owner]
        account.lock(order, self.rules, self._needed(order))
        if order.type == "MARKET":
            account.unlock(order, self.rules)  # it is over at once, and pays what it costs
        self._listener.reported(order, "NEW", None)
        if order.waits:
            self._stops[order.number] = order
        else:
            self.work(order, now_ms)
            self._trigger(now_ms)

    def work(self, order: Order, now_ms: int) -> None:
        """Let an order take what it can, and rest or end."""
        order.working_ms = now_ms
        if order.tif != "FOK" or self._fillable(order):
            self._match(order, now_ms)
        if order.left == 0:
            return
        if order.rests:
            self.book.add(order)
        elif order.owner:
            self._end(order, "EXPIRED", now_ms)

    def take(self, order: Order, now_ms: int) -> None:
        """One of the crowd's, which is not checked."""
        self.work(order, now_ms)
        self._trigger(now_ms)

    def cancel(self, order: Order, now_ms: int) -> None:
        """Take a client's open order out."""
        self._leave(order)
        self._end(order, "CANCELED", now_ms)

    def withdraw(self, order: Order) -> None:
        """Take one of the crowd's out of the book."""
        self.book.remove(order)

    def fill_late(self, order: Order, quantity: int, now_ms: int) -> None:
        """Execute a part of an order that was confirmed as cancelled, as some venues have done."""
        self._execute(order, self._crowd(order, quantity), order.price or self.last_price, quantity, now_ms)

    def fill_now(self, order: Order, now_ms: int) -> None:
        """Let somebody of the crowd take all that is left of an order that rests."""
        if order.left and not order.waits:
            taker = self._crowd(order, order.left)
            self._leave(order)
            self._execute(order, taker, order.price, order.left, now_ms)

    def _crowd(self, order: Order, quantity: int) -> Order:
        return Order(self.next_order(), "", order.symbol, not order.buy, 0, quantity, tif="IOC")

    def _execute(self, order: Order, taker: Order, price: int, quantity: int, now_ms: int) -> None:
        """Outside of the book: the order waited, the taker came."""
        self._settle(taker, order, price, quantity, now_ms)
        self._listener.taken(self, self._taking)
        self._taking = []
        self._trigger(now_ms)

    def _leave(self, order: Order) -> None:
        if self._stops.pop(order.number, None) is None:
            self.book.remove(order)

    def _end(self, order: Order, status: str, now_ms: int) -> None:
        self._accounts[order.owner].unlock(order, self.rules)
        order.status, order.update_ms = status, now_ms
        self._listener.reported(order, "EXPIRED" if status == "EXPIRED_IN_MATCH" else status, None)

    # What may not be

    def check(self, order: Order) -> None:
        """Raises Refusal where an order breaks a rule, whatever its owner has."""
        rules, last = self.rules, self.last_price
        if order.price:
            rules.check_price(order.price, last)
        if order.stop:
            rules.check_price(order.stop, last)
            if self._reached(order, last):
                raise rejected("Order would trigger immediately.")
        if order.quantity:
            rules.check_quantity(order.quantity)
            rules.check_notional(order.price or order.stop or last, order.quantity)
        else:
            rules.check_notional(order.budget, SCALE)
        if order.type == "LIMIT_MAKER" and self._crosses(order, self.book.other(order.buy).best):
            raise rejected("Order would immediately match and take.")
        if order.type == "MARKET" and not self.book.other(order.buy).best:
            raise rejected("Order book liquidity is less than symbol minimum quantity.")

    def _needed(self, order: Order) -> int:
        """What has to be there for an order: base to sell, or quote to buy."""
        if not order.buy:
            return order.quantity
        price = order.price or order.stop
        return notional(price, order.quantity) if price else self._cost(order.quantity)

    def _bought_with(self, order: Order) -> int:
        """How much a market order gets for the amount that it names, in whole steps. Raises Refusal."""
        half, total, left = self.book.other(order.buy), 0, order.budget
        for price in half.prices():
            part = left * SCALE // price // self.rules.step * self.rules.step
            part = min(part, half.quantity(price))
            total += part
            left -= notional(price, part)
            if part < half.quantity(price):
                break
        if not total:
            raise rejected("Order book liquidity is less than LOT_SIZE filter minimum quantity.")
        return total

    def _cost(self, quantity: int) -> int:
        """What buying it now costs, as far as the book goes."""
        total = 0
        for price in self.book.asks.prices():
            part = min(quantity, self.book.asks.quantity(price))
            total += notional(price, part)
            quantity -= part
            if not quantity:
                break
        return total

    def _fillable(self, order: Order) -> bool:
        half, wanted = self.book.other(order.buy), order.quantity
        for price in half.prices():
            if not self._crosses(order, price):
                break
            wanted -= half.quantity(price)
            if wanted <= 0:
                return True
        return False

    @staticmethod
    def _crosses(order: Order, price: int) -> bool:
        if not price:
            return False
        return not order.price or (order.price >= price if order.buy else order.price <= price)

    # Trading

    def _match(self, order: Order, now_ms: int) -> None:
        half = self.book.other(order.buy)
        while order.left and self._crosses(order, price := half.best):
            maker = half.front(price)
            if maker.owner and maker.owner == order.owner:
                self.book.remove(maker)
                self._end(maker, "EXPIRED_IN_MATCH", now_ms)
                continue
            if self._taking and self._taking[-1].price != price:
                self._tell_taking()
            quantity = min(order.left, maker.left)
            self.book.fill(maker, quantity)
            self._settle(order, maker, price, quantity, now_ms)
        if self._taking:
            self._tell_taking()

    def _tell_taking(self) -> None:
        taking, self._taking = self._taking, []
        self._listener.taken(self, taking)

    def _settle(self, taker: Order, maker: Order, price: int, quantity: int, now_ms: int) -> None:
        buyer, seller = (taker, maker) if taker.buy else (maker, taker)
        trade = Trade(self._trades(), price, quantity, buyer.number, seller.number, maker.buy, now_ms)
        quote = notional(price, quantity)
        for order in (maker, taker):
            order.executed += quantity
            order.spent += quote
            if order.owner:
                self._report(order, trade, quote, maker=order is maker)
        self.last_price = price
        self.recent.append(trade)
        self.candles.add(trade, quote)
        self._taking.append(trade)
        self._listener.traded(self, trade)

    def _report(self, order: Order, trade: Trade, quote: int, *, maker: bool) -> None:
        account = self._accounts[order.owner]
        fee, asset = account.settle(order, self.rules, trade.price, trade.quantity, maker=maker)
        done = order.executed == order.quantity
        if done:
            order.status = "FILLED"
            account.unlock(order, self.rules)
        elif order.open:
            order.status = "PARTIALLY_FILLED"
        order.update_ms = trade.time_ms
        execution = Execution(trade.number, trade.price, trade.quantity, quote, fee, asset, maker, trade.time_ms)
        order.executions.append(execution)
        self._listener.reported(order, "TRADE", execution)

    # Stops

    @staticmethod
    def _reached(order: Order, price: int) -> bool:
        """A stop loss sells when the price falls and buys when it rises; a take-profit does the opposite."""
        rising = order.buy == order.type.startswith("STOP_LOSS")
        return price >= order.stop if rising else price <= order.stop

    def _trigger(self, now_ms: int) -> None:
        """Start the stops that the last price has reached; what they trade may reach others."""
        while reached := [each for each in self._stops.values() if self._reached(each, self.last_price)]:
            order = reached[0]
            del self._stops[order.number]
            if order.price or self._pays_market(order):
                self.work(order, now_ms)
            else:
                self._end(order, "EXPIRED", now_ms)

    def _pays_market(self, order: Order) -> bool:
        """Whether a stop that becomes a market order can pay what that costs now: more, perhaps, than was set aside."""
        account = self._accounts[order.owner]
        account.unlock(order, self.rules)
        return not order.buy or self._cost(order.quantity) <= account.balance(self.rules.quote).free
