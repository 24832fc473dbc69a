"""The paper broker: it plays somebody else's venue, with books of its own, and fills by the prices that it is told."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from agents.clock import NANOSECONDS, Clock, SystemClock
from agents.domain import Bar, OrderIntent, OrderType, Quote
from agents.errors import OrderRefused, StorageError
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport
from graph.broker import Broker
from graph.paper import books
from graph.paper.books import Marks
from graph.paper.matching import Interest, Met, Prices, Resting, fee_of, match, slipped
from graph.paper.terms import PaperTerms

__all__ = ["PaperBroker"]

_LOOK_NS = NANOSECONDS
"""How long it may take until an order is seen that another process has put into the books."""
_DIGITS_MAX, _MAGNITUDE_MAX = 40, 18
_NO_MARKS, _NO_INTEREST = Marks(), Interest()


@dataclass(slots=True)
class _Market:
    """One symbol, as far as it was told here.

    `floor`: the prices that had been used when this process first looked into the books for it, at `looked_ns` the last
    time, None before. `recent`: orders that were sent since somebody began to look, and may not have been found;
    `known`: those that were found then.
    """

    floor: Marks = _NO_MARKS
    newest: Marks = _NO_MARKS
    interest: Interest = _NO_INTEREST
    recent: list[Resting] = field(default_factory=list)
    known: dict[str, OrderIntent] = field(default_factory=dict)
    looked_ns: int | None = None

    def sent(self, order: Resting) -> None:
        self.recent.append(order)
        self.interest = self.interest.also(order)

    def found(self, waiting: list[Resting]) -> None:
        self.interest = Interest.of([*waiting, *self.recent])
        self.known = {order.intent.intent_id: order.intent for order in waiting}


class PaperBroker(Broker):
    """Executes orders by the prices that `on_quote` and `on_bar` bring, on the given terms.

    Its answers are durable before they are given, and an id that it knows is answered from its books, for ever. With
    `at_once`, as a decision on history has it, a market order is filled when it comes, at the price that the decision
    saw, worse by the slippage, and a cancellation is there at once. All other orders rest until prices come, or their
    time is over.
    """

    idempotent: bool = True

    def __init__(
        self,
        database: Database,
        clock: Clock | None = None,
        terms: PaperTerms | None = None,
        *,
        at_once: bool = True,
    ) -> None:
        self.database = database
        self.at_once = at_once
        self._clock = clock or SystemClock()
        self._terms = terms or PaperTerms()
        self._markets: dict[str, _Market] = {}
        self._feeding = asyncio.Lock()  # prices are used in the order in which they came

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock | None = None,
        terms: PaperTerms | None = None,
        *,
        at_once: bool = True,
        inline: bool = False,
    ) -> "PaperBroker":
        """Open or create the broker's books; raises StorageError where the file cannot be used."""
        return cls(Database.open(path, books.tables, inline=inline), clock, terms, at_once=at_once)

    # What every broker offers.

    async def send(self, intent: OrderIntent) -> BrokerReport:
        """Take an order, or say again what became of it.

        Raises:
            OrderRefused: a number of it is beyond all measure; nothing was kept of it.
        """
        _check(intent)
        order = self._on_its_way(intent)
        try:
            return await self.database.awrite(lambda connection: self._take(connection, order))
        finally:  # who is not waited for any more may be in the books all the same
            if (market := self._markets.get(intent.symbol)) is not None:
                market.sent(order)

    async def find(self, client_order_id: str) -> BrokerReport | None:
        now_ns = self._clock.now_ns()
        report, over = await self.database.aread(lambda connection: _look(connection, client_order_id, now_ns))
        if not over:
            return report
        return await self.database.awrite(lambda connection: _end(connection, client_order_id, now_ns, for_good=True))

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        """Take an order out of the book, which takes as long as a message does; it may be filled until then.

        A price of before that time which is told afterwards fills it still: a late fill, of which the report of those
        prices tells.
        """
        report = await self.find(client_order_id)
        if report is None or report.status.final:
            return report
        delay_ns = 0 if self.at_once else self._terms.latency_ns("cancel", client_order_id)
        ends_ns = await self.database.awrite(lambda connection: self._ask_out(connection, client_order_id, delay_ns))
        if delay_ns:
            await asyncio.sleep(delay_ns / NANOSECONDS)
        return await self.database.awrite(
            lambda connection: _end(connection, client_order_id, ends_ns, for_good=self.at_once)
        )

    async def executed(self) -> Mapping[str, tuple[str, Decimal]] | None:
        return await self.database.aread(books.executed)

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        return await self.database.aread(lambda connection: books.intent_of(connection, client_order_id))

    async def resting(self) -> Mapping[str, str] | None:
        return await self.database.aread(books.resting)

    async def holdings(self) -> Mapping[str, Decimal] | None:
        return await self.database.aread(books.holdings)

    async def orders(self) -> list[Mapping[str, Any]]:
        """Every order ever sent here, oldest first."""
        return await self.database.aread(books.orders)

    # The market.

    async def on_quote(self, quote: Quote) -> Mapping[str, BrokerReport]:
        """Let the orders of a symbol meet a quote; gives the orders that were filled or left the book, by their ids.

        A quote that is older than the newest of the symbol is not used, nor one that was used before a restart.
        """
        async with self._feeding:
            market = await self._market(quote.symbol)
            if quote.time_ns < max(market.newest) or quote.time_ns <= max(market.floor):
                return {}
            before, market.newest = market.newest, market.newest._replace(quote_ns=quote.time_ns)
            if not market.interest.wakes(quote.time_ns, quote.bid, quote.ask):
                return {}
            return await self._meet(market, Prices.of_quote(quote), before)

    async def on_bar(self, bar: Bar, begin_ns: int | None = None) -> Mapping[str, BrokerReport]:
        """Let the orders of a symbol meet a bar; gives the orders that were filled or left the book, by their ids.

        `begin_ns`: when the bar began, if not at the close of the bar before it. Of a bar of which that is not known,
        and of one in which quotes have come as well, the close counts alone. A bar that is not newer than the newest of
        its symbol is not used.
        """
        async with self._feeding:
            market = await self._market(bar.symbol)
            newest = market.newest
            if bar.close_ns <= newest.bar_ns or bar.close_ns < newest.quote_ns:
                return {}
            began = newest.bar_ns or None if begin_ns is None else begin_ns
            whole = began is not None and newest.quote_ns <= began
            market.newest = newest._replace(bar_ns=bar.close_ns)
            prices = Prices.of_bar(bar, began if whole else None, self._terms)
            if market.interest.due_ns is None:
                return {}
            return await self._meet(market, prices, newest, bar=True)

    async def _market(self, symbol: str) -> _Market:
        """What is known of a symbol; orders that others have put into the books are looked for now and then."""
        market, now_ns = self._markets.setdefault(symbol, _Market()), self._clock.now_ns()
        if market.looked_ns is not None and 0 <= now_ns - market.looked_ns < _LOOK_NS:
            return market
        market.recent.clear()
        marks, waiting = await self.database.aread(lambda connection: _look_for(connection, symbol, market))
        if market.looked_ns is None:
            market.floor = market.newest = marks
        market.found(waiting)
        market.looked_ns = now_ns
        return market

    async def _meet(
        self, market: _Market, prices: Prices, before: Marks, *, bar: bool = False
    ) -> Mapping[str, BrokerReport]:
        """`before`: the newest prices before these, which are used again if these could not be."""
        marks = market.newest

        def work(connection: Connection) -> tuple[dict[str, BrokerReport], list[Resting]]:
            waiting = books.in_book(connection, prices.symbol, prices.time_ns, market.known)
            met = match(waiting, prices, self._terms)
            told = [each.order.intent.intent_id for each in met if books.keep(connection, each, prices.time_ns)]
            if met or bar:  # where a bar ended the next one begins, also after a restart
                books.set_marks(connection, prices.symbol, marks)
            return {name: _found(connection, name) for name in told}, _left(waiting, met)

        market.recent.clear()
        try:
            told, waiting = await self.database.awrite(work)
        except StorageError:
            market.newest = before
            raise
        market.found(waiting)
        return told

    # What happens inside one transaction of the books.

    def _take(self, connection: Connection, order: Resting) -> BrokerReport:
        intent = order.intent
        known = books.find(connection, intent.intent_id)
        if known is not None:
            return known
        books.enter(connection, order)
        market = self._markets.get(intent.symbol)
        if market is not None and market.looked_ns is not None:
            books.set_marks(connection, intent.symbol, market.newest)
        if self.at_once and intent.type is OrderType.MARKET:
            price = slipped(intent.reference_price, intent.side, self._terms)
            fee = fee_of(intent.quantity, price, self._terms.taker_fee_bps)
            filled = replace(order, filled=intent.quantity)
            books.keep(connection, Met(filled, intent.quantity, price, fee), intent.reference_ns)
        return _found(connection, intent.intent_id)

    def _on_its_way(self, intent: OrderIntent) -> Resting:
        after_ns = max(intent.reference_ns, self._newest_ns(intent.symbol))
        live_ns = max(self._clock.now_ns(), after_ns)
        if not self.at_once:
            live_ns += self._terms.latency_ns("order", intent.intent_id)
        return Resting(intent, 0, after_ns, live_ns, live_ns + self._terms.expiry_ns)

    def _ask_out(self, connection: Connection, client_order_id: str, delay_ns: int) -> int:
        symbol = books.symbol_of(connection, client_order_id)
        ends_ns = max(self._clock.now_ns(), self._newest_ns(symbol)) + delay_ns
        books.ask_out(connection, client_order_id, ends_ns)
        return ends_ns

    def _newest_ns(self, symbol: str) -> int:
        market = self._markets.get(symbol)
        return 0 if market is None else max(market.newest)


def _left(waiting: list[Resting], met: list[Met]) -> list[Resting]:
    """The orders that go on waiting, as they are now."""
    after = {each.order.number: None if each.ended or each.order.left <= 0 else each.order for each in met}
    return [order for each in waiting if (order := after.get(each.number, each)) is not None]


def _look(connection: Connection, client_order_id: str, now_ns: int) -> tuple[BrokerReport | None, bool]:
    """An order, and whether its time is over, of which no price has told yet."""
    return books.find(connection, client_order_id), books.is_over(connection, client_order_id, now_ns)


def _end(connection: Connection, client_order_id: str, by_ns: int, *, for_good: bool) -> BrokerReport:
    books.end(connection, client_order_id, by_ns=by_ns, for_good=for_good)
    return _found(connection, client_order_id)


def _found(connection: Connection, client_order_id: str) -> BrokerReport:
    report = books.find(connection, client_order_id)
    assert report is not None  # noqa: S101 - it was read or written in this transaction
    return report


def _look_for(connection: Connection, symbol: str, market: _Market) -> tuple[Marks, list[Resting]]:
    marks = books.marks_of(connection, symbol) if market.looked_ns is None else market.newest
    return marks, books.in_book(connection, symbol, max(marks), market.known)


def _check(intent: OrderIntent) -> None:
    for name in ("quantity", "reference_price", "limit_price", "stop_price"):
        number = getattr(intent, name)
        if number is None or (
            abs(number.adjusted()) <= _MAGNITUDE_MAX and len(number.as_tuple().digits) <= _DIGITS_MAX
        ):
            continue
        raise OrderRefused(
            f"{name} of order {intent.intent_id} is {number:.3e}, which no paper broker can count; nothing was taken;"
            f" order in numbers of at most {_DIGITS_MAX} digits, from 1e-{_MAGNITUDE_MAX} to 1e{_MAGNITUDE_MAX}"
        )
