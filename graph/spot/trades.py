"""Executions as fills: each by the exchange's own number, its fee in the currency that was paid with.

The exchange takes a fee out of what is received: a buyer's in what was bought. The ledger counts all fees in the quote
currency, and positions as fills made them, so that such a fee is worth its quantity at the fill's own price; one in a
third currency, such as the exchange's own coin, what that last traded at.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from agents.domain import Fill, Side
from agents.errors import BrokerUnavailable, InvalidValue
from graph.spot.answers import OrderAnswer, PriceAnswer, Refused, TradeAnswer, decimal
from graph.spot.rest import Rest
from graph.spot.rules import Market

__all__ = ["PAGE", "Execution", "Trades", "fill_of"]

PAGE = 1_000
"""Rows of one answer, at most."""
_WEIGHT = 20
_PRICE_S = 60.0  # a price of a third currency is that old at most


@dataclass(frozen=True, slots=True)
class Execution:
    """One trade of an order, as it is told by an answer or a frame."""

    name: str
    number: int
    side: Side
    quantity: Decimal
    price: Decimal
    commission: Decimal
    asset: str
    time_ms: int


def fill_of(done: Execution, market: Market, rate: Decimal | None = None) -> Fill | None:
    """The fill; None where its fee is in a third currency, and no `rate` is given.

    Raises:
        InvalidValue: it cannot be one.
    """
    if not done.commission or done.asset == market.quote:
        fee = done.commission
    elif done.asset == market.base:
        fee = done.commission * done.price
    elif rate is None:
        return None
    else:
        fee = done.commission * rate
    trade_id = f"{market.symbol}-{done.number}"  # the exchange counts the trades of each symbol by itself
    return Fill(trade_id, done.name, market.symbol, done.side, done.quantity, done.price, fee, done.time_ms * 1_000_000)


class Trades:
    """Reads the trades of orders. `unvalued`: fees in currencies without a price, which count as nothing."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._rates: dict[str, tuple[float, Decimal]] = {}
        self.unvalued: Counter[str] = Counter()

    async def of_answer(self, order: OrderAnswer, market: Market) -> tuple[Fill, ...]:
        """The fills that came with the answer to an order. Raises BrokerUnavailable where they are not all of it."""
        side = side_of(order.side)
        told = [
            Execution(
                order.name,
                each.trade_id,
                side,
                decimal(each.qty),
                decimal(each.price),
                decimal(each.commission),
                each.commission_asset,
                order.moved_ms,
            )
            for each in order.fills
        ]
        return await self._fills(order, told, market)

    async def of_order(self, order: OrderAnswer, market: Market) -> tuple[Fill, ...]:
        """The fills of an order, read by its number. Raises BrokerUnavailable where they are not all there yet."""
        rows: list[TradeAnswer] = []
        first = 0
        while True:
            page = await self._page(market.symbol, orderId=order.order_id, fromId=first)
            if any(row.order_id != order.order_id for row in page):
                raise BrokerUnavailable(f"the exchange told trades of others for order {order.name}; ask again")
            rows += page
            if len(page) < PAGE:
                break
            first = page[-1].id + 1
        told = [
            Execution(
                order.name,
                row.id,
                Side.BUY if row.is_buyer else Side.SELL,
                decimal(row.qty),
                decimal(row.price),
                decimal(row.commission),
                row.commission_asset,
                row.time,
            )
            for row in rows
        ]
        return await self._fills(order, told, market)

    async def since(self, symbol: str, first: int) -> Sequence[TradeAnswer]:
        """All trades of the account in a symbol, from this number on, oldest first. Raises BrokerUnavailable."""
        rows: list[TradeAnswer] = []
        while True:
            page = await self._page(symbol, fromId=first)
            rows += page
            if len(page) < PAGE:
                return rows
            first = page[-1].id + 1

    async def _page(self, symbol: str, **params: int) -> Sequence[TradeAnswer]:
        first = params.get("fromId", 0)
        try:
            page = await self._rest.ask("myTrades", list[TradeAnswer], _WEIGHT, symbol=symbol, limit=PAGE, **params)
        except Refused as no:
            raise BrokerUnavailable(f"the exchange did not tell trades in {symbol} ({no}); ask later") from None
        numbers = [first - 1, *(row.id for row in page)]
        if any(row.symbol != symbol for row in page) or numbers != sorted(set(numbers)):
            raise BrokerUnavailable(f"the exchange told trades in {symbol} that cannot be; ask again")
        return page

    async def _fills(self, order: OrderAnswer, told: Sequence[Execution], market: Market) -> tuple[Fill, ...]:
        try:
            fills = [fill_of(each, market, await self._rate(each, market)) for each in told]
        except InvalidValue as error:
            raise BrokerUnavailable(f"the exchange told a trade that cannot be ({error}); ask again") from None
        whole = tuple(each for each in fills if each is not None)
        if sum((fill.quantity for fill in whole), Decimal(0)) < order.executed:
            raise BrokerUnavailable(f"the exchange did not tell all trades of order {order.name} yet; ask again")
        return whole

    async def _rate(self, done: Execution, market: Market) -> Decimal | None:
        """What a unit of the fee's currency is worth, where it is a third one."""
        if not done.commission or done.asset in {market.base, market.quote}:
            return None
        pair, now = f"{done.asset}{market.quote}", asyncio.get_running_loop().time()
        known = self._rates.get(pair)
        if known is None or now - known[0] > _PRICE_S:
            known = self._rates[pair] = (now, await self._price(pair))
        if not known[1]:
            self.unvalued[done.asset] += 1
        return known[1]

    async def _price(self, pair: str) -> Decimal:
        try:
            told = await self._rest.look("ticker/price", PriceAnswer, 2, symbol=pair)
        except Refused:
            return Decimal(0)
        return decimal(told.price)


_SIDES: Mapping[str, Side] = {"BUY": Side.BUY, "SELL": Side.SELL}


def side_of(text: str) -> Side:
    """Raises BrokerUnavailable for what is none."""
    if text not in _SIDES:
        raise BrokerUnavailable(f"the exchange answered {text!r:.20}, which is no side; ask again")
    return _SIDES[text]
