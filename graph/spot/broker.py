"""The desk's broker at a spot exchange: orders by REST, each sent once; what becomes of them by REST and user stream.

    broker = ExchangeBroker(http, WebSocketConnector(), terms, clock, symbol_of=of_ledger(ledger))
    await broker.begin()
    ... TaskGroup: follow(broker, ledger, tell), and the desk beside it

Where an answer is missing or cannot be trusted, the order's fate is unknown, and nothing is sent again from here:
docs/exchange.md has every code and what becomes of it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from random import Random
from typing import Any

from agents.clock import Clock
from agents.domain import OrderIntent, OrderStatus, OrderType
from agents.errors import BrokerUnavailable, ConfigError, OrderError, OrderRefused
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Tell
from graph.broker import Broker
from graph.grid import Grid
from graph.spot.answers import InfoAnswer, OrderAnswer, Refused
from graph.spot.books import ExchangeBooks
from graph.spot.budget import RateBudget
from graph.spot.rest import Rest
from graph.spot.rules import Market, markets
from graph.spot.server_time import ServerTime
from graph.spot.signing import Signer
from graph.spot.terms import ExchangeTerms
from graph.spot.trades import Trades
from graph.spot.user_stream import Update, UserLimits, UserStream
from graph.spot.watch import Watch, is_ours
from graph.stream.connections import Connections
from graph.stream.events import StreamHealth, StreamNotice
from graph.transport import Connector, Http

__all__ = ["ExchangeBroker", "follow", "of_ledger"]

_TYPES: Mapping[OrderType, str] = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "STOP_LOSS",
    OrderType.STOP_LIMIT: "STOP_LOSS_LIMIT",
}
_INFO_WEIGHT, _FIND_WEIGHT, _OPEN_WEIGHT = 20, 4, 6
_NO_SUCH_ORDER, _NOT_IN_BOOK, _REJECTED, _NO_SUCH_SYMBOL = -2013, -2011, -2010, -1121
_DUPLICATE = "Duplicate order"
_REFUSED_MAX = 10_000


class ExchangeBroker(Broker):
    """Trades the account of `terms`. Not idempotent: the exchange compares an id with orders that are open alone.

    `symbol_of` gives the symbol of an order of ours, by its id, from before this process; None where nobody knows.
    Whatever is asked for before `begin` was awaited, begins; the grid is known from then on. `health` counts what the
    user stream brings, `observer` hears every notice of it, and must not raise.
    """

    idempotent: bool = False

    def __init__(
        self,
        http: Http,
        connector: Connector,
        terms: ExchangeTerms,
        clock: Clock,
        *,
        symbol_of: Callable[[str], Awaitable[str | None]],
        limits: UserLimits | None = None,
        dice: Random | None = None,
        observer: Callable[[StreamNotice], None] = lambda _: None,
    ) -> None:
        self.health = StreamHealth()
        self._symbols = terms.symbols
        self._symbol_of = symbol_of
        self._markets: dict[str, Market] = {}
        self._time = ServerTime(clock)
        self._budget = RateBudget(self._time.now_ms)
        signer = Signer(terms.key, terms.secret)
        self._rest = Rest(http, terms.rest, signer=signer, time=self._time, budget=self._budget)
        self._trades = Trades(self._rest)
        self._watch = Watch(self._markets)
        self._books: ExchangeBooks | None = None
        self._reading, self._beginning = asyncio.Lock(), asyncio.Lock()
        self._refused: OrderedDict[str, None] = OrderedDict()  # ids that were certainly not placed
        limits = limits or UserLimits()
        connections = Connections[Update](
            connector,
            terms.api,
            "the user stream",
            clock,
            self.health,
            connect=limits.connect,
            retry=limits.retry,
            dice=dice,
            observer=observer,
        )
        self._stream = UserStream(
            connections=connections,
            ready=self._ready,
            signer=signer,
            time=self._time,
            watch=self._watch,
            clock=clock,
            health=self.health,
            find=self.find,
            resting=self.resting,
            limits=limits,
            observer=observer,
        )

    async def begin(self) -> None:
        """Ask what time it is there, and by which rules is traded. May be awaited again, to ask anew.

        Raises:
            BrokerUnavailable: the exchange did not say.
            ConfigError: one of the symbols is not traded there.
        """
        self._time.doubtful = True
        try:
            await self._rest.measure()
            for symbol in self._symbols:
                await self._learn(symbol)
        except Refused as no:
            raise BrokerUnavailable(
                f"the exchange did not tell its rules ({no}); nothing was begun; try later"
            ) from None
        if self._books is None:
            mine = {symbol: self._markets[symbol] for symbol in self._symbols}
            self._books = ExchangeBooks(self._rest, self._trades, mine)

    @property
    def offset_ns(self) -> int:
        """By how much the exchange's clock is ahead of ours."""
        return self._time.offset_ns

    @property
    def used_weight(self) -> int:
        """Request weight in the present minute."""
        return self._budget.used_weight

    # What every broker offers.

    def grid(self, symbol: str) -> Grid:
        """The exchange's filters for a symbol. Raises OrderError where there are none."""
        return self._market(symbol).grid

    async def send(self, intent: OrderIntent) -> BrokerReport:
        """Place an order, by one request.

        A report of NOT_PLACED: the limits on requests are used up, or a clock was off; the next attempt may be made.

        Raises:
            OrderRefused: the exchange refused it, or it is not on its grid.
            BrokerUnavailable: its fate is unknown.
        """
        name, symbol = intent.intent_id, intent.symbol
        if why := self._market(symbol).grid.complaint(intent):
            raise OrderRefused(f"order {name} was not sent: {why}; order what {symbol} is traded in")
        if why := await self._not_now():
            return self._not_placed(name, why)
        self._watch.sent(name, symbol)
        try:
            answer = await self._rest.place("order", OrderAnswer, **_params(intent))
        except Refused as no:
            return self._refusal(name, no)
        return await self._placed(intent, answer)

    async def find(self, client_order_id: str) -> BrokerReport | None:
        """How an order stands, with all of its fills. Raises BrokerUnavailable."""
        if client_order_id in self._refused:
            return None
        for symbol in await self._where(client_order_id):
            try:
                answer = await self._rest.ask(
                    "order", OrderAnswer, _FIND_WEIGHT, symbol=symbol, origClientOrderId=client_order_id
                )
            except Refused as no:
                if no.code == _NO_SUCH_ORDER:
                    continue
                raise BrokerUnavailable(
                    f"the exchange did not tell of order {client_order_id} ({no}); ask later"
                ) from None
            return await self._report(client_order_id, answer, symbol)
        return None

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        """Take an order out of the book; it may have been filled before. Raises BrokerUnavailable."""
        for symbol in await self._where(client_order_id):
            try:
                answer = await self._rest.withdraw(
                    "order", OrderAnswer, symbol=symbol, origClientOrderId=client_order_id
                )
            except Refused as no:
                if no.code in {_NOT_IN_BOOK, _NO_SUCH_ORDER}:
                    continue
                raise BrokerUnavailable(
                    f"the exchange did not cancel order {client_order_id} ({no}); it may be filled yet; cancel again"
                ) from None
            return await self._report(client_order_id, answer, symbol)
        return await self.find(client_order_id)

    async def executed(self) -> Mapping[str, tuple[str, Decimal]]:
        """Of orders of ours, in the symbols of the terms. Raises BrokerUnavailable."""
        async with self._reading:
            return await (await self._book()).executed()

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        """The exchange does not know whose an order is."""
        del client_order_id
        return None

    async def resting(self) -> Mapping[str, str]:
        """All orders in the book, in the symbols of the terms, whoever has sent them. Raises BrokerUnavailable."""
        found: dict[str, str] = {}
        await self._ready()
        for symbol in self._symbols:
            try:
                answers = await self._rest.ask("openOrders", list[OrderAnswer], _OPEN_WEIGHT, symbol=symbol)
            except Refused as no:
                raise BrokerUnavailable(f"the exchange did not tell what is in its book ({no}); ask later") from None
            for answer in answers:
                found[answer.name] = symbol
                if is_ours(answer.name):
                    self._watch.sent(answer.name, symbol)
        return found

    async def holdings(self) -> Mapping[str, Decimal] | None:
        """What all trades of the account come to, and what else has come or gone since this was first asked.

        Raises:
            BrokerUnavailable: the exchange did not say.
        """
        async with self._reading:
            return await (await self._book()).holdings()

    def updates(self) -> AsyncGenerator[Update, None]:
        """What the user stream tells of orders of ours; see `UserStream.updates`. One reader at a time."""
        return self._stream.updates()

    # Parts of these.

    def _market(self, symbol: str) -> Market:
        if not self._markets:
            raise BrokerUnavailable("the exchange's rules are not known; nothing was ordered; await `begin` first")
        if symbol not in self._symbols or symbol not in self._markets:
            raise OrderRefused(f"{symbol} is not traded here; nothing was ordered; the account trades"
                               f" {', '.join(self._symbols)}")  # fmt: skip
        return self._markets[symbol]

    async def _ready(self) -> None:
        """Make sure that time and rules are known. Raises BrokerUnavailable."""
        if self._books is None:
            async with self._beginning:
                if self._books is None:
                    await self.begin()
        try:
            await self._rest.measure()
        except Refused as no:
            raise BrokerUnavailable(f"the exchange did not say what time it is there ({no}); ask later") from None

    async def _book(self) -> ExchangeBooks:
        await self._ready()
        assert self._books is not None  # noqa: S101 - or it would not be ready
        return self._books

    async def _learn_late(self, symbol: str) -> None:
        try:
            await self._learn(symbol)
        except Refused as no:
            raise BrokerUnavailable(f"the exchange did not tell the rules of {symbol} ({no}); ask later") from None

    async def _learn(self, symbol: str) -> None:
        """Ask for a symbol's rules. Raises Refused, BrokerUnavailable, and ConfigError where it is not traded."""
        try:
            info = await self._rest.look("exchangeInfo", InfoAnswer, _INFO_WEIGHT, symbol=symbol)
        except Refused as no:
            if no.code != _NO_SUCH_SYMBOL:
                raise
            raise ConfigError(f"{symbol} is not traded at the exchange; nothing was begun; name what is") from None
        self._budget.limits(info.rate_limits)
        known = markets(info)
        if symbol not in known:
            raise BrokerUnavailable(f"the exchange did not tell the rules of {symbol}, which were asked for; ask again")
        self._markets[symbol] = known[symbol]

    async def _where(self, name: str) -> Sequence[str]:
        """The symbols that an order may be of: its own, where that is known."""
        symbol = self._watch.symbol(name) or await self._symbol_of(name)
        return self._symbols if symbol is None else (symbol,)

    async def _not_now(self) -> str:
        """Why no order may be sent at this moment; "" where one may."""
        if why := self._budget.order():
            return why
        try:
            await self._rest.measure()
        except (BrokerUnavailable, Refused) as error:
            return f"it is not known what time it is at the exchange ({error})"
        return ""

    def _not_placed(self, name: str, why: str) -> BrokerReport:
        self._watch.not_placed(name)
        self._refused[name] = None
        if len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)
        return BrokerReport(OrderStatus.NOT_PLACED, reason=f"{why}; it was not placed, and may be tried again")

    def _refusal(self, name: str, no: Refused) -> BrokerReport:
        if no.code == _REJECTED and no.text.startswith(_DUPLICATE):
            raise BrokerUnavailable(f"the exchange has order {name} already ({no}); it was not sent again; ask for it")
        report = self._not_placed(name, f"the exchange answered {no}")
        if no.later:
            return report
        raise OrderRefused(f"the exchange refused order {name} ({no}); nothing was placed; correct what it names")

    async def _placed(self, intent: OrderIntent, answer: OrderAnswer) -> BrokerReport:
        told = (answer.name, answer.symbol, answer.side)
        if told != (intent.intent_id, intent.symbol, intent.side.upper()):
            raise BrokerUnavailable(
                f"the exchange answered order {intent.intent_id} with another; its fate is unknown; ask for it"
            )
        fills = await self._trades.of_answer(answer, self._market(intent.symbol))
        return self._told(answer, BrokerReport(answer.stands, str(answer.order_id), fills))

    async def _report(self, name: str, answer: OrderAnswer, symbol: str) -> BrokerReport:
        if answer.name != name or answer.symbol != symbol:
            raise BrokerUnavailable(f"the exchange told of another order than {name}, which was asked for; ask again")
        if answer.symbol not in self._markets:  # of a time when it was traded here
            await self._learn_late(answer.symbol)
        market = self._markets[answer.symbol]
        fills = self._watch.fills(name)
        if sum((fill.quantity for fill in fills), Decimal(0)) != answer.executed:
            fills = await self._trades.of_order(answer, market)
        if self._books is not None:
            self._books.moved(answer)
        return self._told(answer, BrokerReport(answer.stands, str(answer.order_id), fills))

    def _told(self, answer: OrderAnswer, report: BrokerReport) -> BrokerReport:
        now = asyncio.get_running_loop().time()
        self._watch.answered(answer.name, answer.symbol, report, answer.moved_ms, now)
        return report


def _params(intent: OrderIntent) -> dict[str, Any]:
    params = {
        "symbol": intent.symbol,
        "side": intent.side.upper(),
        "type": _TYPES[intent.type],
        "quantity": _plain(intent.quantity),
        "newClientOrderId": intent.intent_id,
        "newOrderRespType": "FULL",
    }
    if intent.limit_price is not None:
        params |= {"timeInForce": "GTC", "price": _plain(intent.limit_price)}
    if intent.stop_price is not None:
        params["stopPrice"] = _plain(intent.stop_price)
    return params


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def of_ledger(ledger: OrderLedger) -> Callable[[str], Awaitable[str | None]]:
    """Gives the symbol of an order from the ledger that has it: for `ExchangeBroker`."""

    async def symbol_of(name: str) -> str | None:
        try:
            return (await ledger.order(name)).intent.symbol
        except OrderError:
            return None

    return symbol_of


async def follow(broker: ExchangeBroker, ledger: OrderLedger, tell: Tell) -> None:
    """Write down in the ledger what the user stream tells, until cancelled.

    `tell` hears of each report that moved an order (`OrderMoved`), and of those that the ledger has no use for
    (`ReportUnused`): it does not have the order, or what it has contradicts.

    Raises:
        FeedDead: the stream failed too often in a row; reports come by the reconciler alone then.
        StorageError: the ledger could not be written.
    """
    async with aclosing(broker.updates()) as updates:
        async for name, report in updates:
            try:
                order = await ledger.record(name, report)
            except OrderError as error:
                tell("ReportUnused", {"order": name, "error": str(error)})
                continue
            tell("OrderMoved", {"order": name, "run": order.intent.run_id, "to": str(order.status)})
