"""What an exchange has executed for an account, and what the account holds: read in pages, and on from where it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from agents.errors import BrokerUnavailable
from graph.spot.answers import AccountAnswer, OrderAnswer, Refused, TradeAnswer, decimal
from graph.spot.rest import Rest
from graph.spot.rules import Market
from graph.spot.trades import PAGE, Trades, side_of
from graph.spot.watch import is_ours

__all__ = ["ExchangeBooks"]

_NONE = Decimal(0)
_TRIES = 3
_ACCOUNT_WEIGHT = _ORDERS_WEIGHT = 20


@dataclass(slots=True)
class _Traded:
    """All trades of one symbol so far: the quantity that they come to, and what they did to each currency."""

    next: int = 0
    quantity: Decimal = _NONE
    flows: dict[str, Decimal] = field(default_factory=dict)

    def add(self, row: TradeAnswer, market: Market) -> None:
        sign = 1 if row.is_buyer else -1
        quantity = decimal(row.qty) * sign
        self.quantity += quantity
        moves = (
            (market.base, quantity),
            (market.quote, -decimal(row.quote_qty) * sign),
            (row.commission_asset, -decimal(row.commission)),
        )
        for asset, amount in moves:
            self.flows[asset] = self.flows.get(asset, _NONE) + amount
        self.next = row.id + 1


@dataclass(slots=True)
class _Orders:
    """The orders of one symbol: what was executed of each number; those before `next` are over."""

    next: int = 0
    done: dict[int, tuple[str, Decimal]] = field(default_factory=dict)


class ExchangeBooks:
    """The account's own books in `markets`. Not for two readers at once: see `ExchangeBroker`."""

    def __init__(self, rest: Rest, trades: Trades, markets: Mapping[str, Market]) -> None:
        self._rest = rest
        self._trades = trades
        self._markets = markets
        self._traded = {symbol: _Traded() for symbol in markets}
        self._orders = {symbol: _Orders() for symbol in markets}
        self._elsewhere: dict[str, Decimal] | None = None

    async def executed(self) -> Mapping[str, tuple[str, Decimal]]:
        """See `Broker`; orders that have no id of ours are left out. Raises BrokerUnavailable."""
        sums: dict[str, tuple[str, Decimal]] = {}
        for symbol, known in self._orders.items():
            await self._read_orders(symbol, known)
            for name, quantity in known.done.values():
                if quantity:
                    sums[name] = (symbol, sums.get(name, (symbol, _NONE))[1] + quantity)
        return sums

    def moved(self, order: OrderAnswer) -> None:
        """An order that was looked up: one that was over may have been filled all the same."""
        known = self._orders.get(order.symbol)
        if known is not None and order.order_id in known.done:
            known.done[order.order_id] = (order.name, order.executed * side_of(order.side).sign)

    async def _read_orders(self, symbol: str, known: _Orders) -> None:
        first, over = known.next, True
        while True:
            page = await self._page(symbol, first)
            for order in page:
                over = over and order.stands.final
                if is_ours(order.name):
                    known.done[order.order_id] = (order.name, order.executed * side_of(order.side).sign)
                if over:
                    known.next = order.order_id + 1
            if len(page) < PAGE:
                return
            first = page[-1].order_id + 1

    async def _page(self, symbol: str, first: int) -> list[OrderAnswer]:
        try:
            page = await self._rest.ask(
                "allOrders", list[OrderAnswer], _ORDERS_WEIGHT, symbol=symbol, orderId=first, limit=PAGE
            )
        except Refused as no:
            raise BrokerUnavailable(f"the exchange did not tell orders in {symbol} ({no}); ask later") from None
        numbers = [first - 1, *(order.order_id for order in page)]
        if any(order.symbol != symbol for order in page) or numbers != sorted(set(numbers)):
            raise BrokerUnavailable(f"the exchange told orders in {symbol} that cannot be; ask again")
        return page

    async def holdings(self) -> Mapping[str, Decimal] | None:
        """See `Broker`: what all trades come to, and whatever else has come or gone since this was first asked.

        A spot account has balances, and no positions: what was in it before, nobody can tell apart. None where it is
        traded in too fast to be counted. Raises BrokerUnavailable.
        """
        for _ in range(_TRIES):
            await self._read_trades()
            balances = await self._balances()
            if not await self._read_trades():
                return self._counted(balances)
        return None

    def _counted(self, balances: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
        flows: dict[str, Decimal] = {}
        for traded in self._traded.values():
            for asset, amount in traded.flows.items():
                flows[asset] = flows.get(asset, _NONE) + amount
        elsewhere = {asset: amount - flows.get(asset, _NONE) for asset, amount in balances.items()}
        if self._elsewhere is None:
            self._elsewhere = elsewhere
        held: dict[str, Decimal] = {}
        bases = set[str]()
        for symbol, market in self._markets.items():
            held[symbol] = self._traded[symbol].quantity
            if market.base not in bases:  # what came or went otherwise is told of one symbol
                bases.add(market.base)
                held[symbol] += elsewhere.get(market.base, _NONE) - self._elsewhere.get(market.base, _NONE)
        return held

    async def _read_trades(self) -> bool:
        """Whether there were new ones."""
        new = False
        for symbol, traded in self._traded.items():
            for row in await self._trades.since(symbol, traded.next):
                traded.add(row, self._markets[symbol])
                new = True
        return new

    async def _balances(self) -> Mapping[str, Decimal]:
        try:
            account = await self._rest.ask("account", AccountAnswer, _ACCOUNT_WEIGHT, omitZeroBalances="false")
        except Refused as no:
            raise BrokerUnavailable(f"the exchange did not tell what the account holds ({no}); ask later") from None
        return {each.asset: decimal(each.free) + decimal(each.locked) for each in account.balances}
