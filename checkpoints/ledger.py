"""The order journal: an order is on disk before it is sent, and what became of it is on disk before anyone is told.

    reserve        -> PENDING    checked and reserved; or DENIED, with every check
    mark_sending   -> SENDING    committed before the one send: from here on the broker may know it
    record         -> OPEN | FILLED | CANCELLED | REJECTED, with fills; UNKNOWN, when the broker's answer was lost;
                      NOT_PLACED, when it is certain that the order never reached the broker

The client order id is a pure function of the decision, so a decision that is made again after a crash finds its own
order here and reads it. A decision that comes out differently than what it has already sent is refused. An order that
is NOT_PLACED is tried again as the next attempt, a row of its own: the newest attempt answers for those before it.
`portfolio()` is a fold over fills: nobody edits a position. The trading state is read in the transaction of each step
towards sending; an order that was reserved before trading was stopped is DENIED.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, select

from agents.clock import Clock, SystemClock
from agents.domain import Check, Fill, Order, OrderIntent, OrderStatus, Portfolio, Side, TradingState
from agents.errors import OrderConflict, OrderError
from checkpoints.books import DAY_NS, Account, Books, Fold, Look, account_of, begin_anew
from checkpoints.database import Database
from checkpoints.funding import pay
from checkpoints.leases import is_dry
from checkpoints.orders import (
    UNSETTLED,
    OrderRow,
    accounts,
    add_fill,
    change,
    checks_as_json,
    fills,
    fills_in,
    found,
    insert_order,
    intent_of,
    of_leg,
    order_of,
    orders,
    orders_of,
    orders_that_are,
    status_in,
)
from checkpoints.statement import Statement
from checkpoints.trading_state import Trading, digits, read_trading
from checkpoints.trouble import legible

__all__ = ["Account", "BrokerReport", "Executed", "Look", "OrderLedger"]

T = TypeVar("T")

_NEVER_SENT = (OrderStatus.PENDING, OrderStatus.DENIED)
_LEADS_TO: Mapping[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.SENDING: (OrderStatus.PENDING,),
    OrderStatus.OPEN: (*UNSETTLED, OrderStatus.NOT_PLACED),
    OrderStatus.FILLED: (*UNSETTLED, OrderStatus.NOT_PLACED, OrderStatus.OPEN, OrderStatus.CANCELLED),
    OrderStatus.REJECTED: (*UNSETTLED, OrderStatus.OPEN),
    OrderStatus.CANCELLED: (*UNSETTLED, OrderStatus.NOT_PLACED, OrderStatus.OPEN),
    OrderStatus.UNKNOWN: (OrderStatus.SENDING,),
    OrderStatus.NOT_PLACED: UNSETTLED,
}
"""What the broker did is a fact, even where the order was taken for one that had not reached it."""
_OUTDATES: Mapping[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.OPEN: (OrderStatus.FILLED, OrderStatus.CANCELLED),
    OrderStatus.CANCELLED: (OrderStatus.FILLED,),
    OrderStatus.REJECTED: (OrderStatus.NOT_PLACED,),
    OrderStatus.NOT_PLACED: (OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.CANCELLED),
    OrderStatus.UNKNOWN: (OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.REJECTED, OrderStatus.CANCELLED),
}
"""Reports that come late and say less than is known: they change nothing."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What the ledger has of one order: whose it is, how it stands, and its signed filled quantity."""

    run_id: str
    account: str
    symbol: str
    status: OrderStatus
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What a broker says of one order: OPEN, FILLED, CANCELLED or REJECTED; UNKNOWN when it said nothing to be trusted.

    NOT_PLACED: it was certainly not placed, and may be tried again. An order that was CANCELLED may have been filled in
    part before.
    """

    status: OrderStatus
    broker_order_id: str = ""
    fills: tuple[Fill, ...] = ()
    reason: str = ""


Review: TypeAlias = Callable[[Account], Sequence[Check]]
"""Judges a new order."""
SecondReview: TypeAlias = Callable[[OrderIntent, Account], Check]
"""Judges an order that was reserved, where trading is not ACTIVE any more."""


class OrderLedger:
    """The journal in one database. Every method is one transaction.

    `fence` is called in the transaction of each step towards sending an order, with the run's id, and raises where that
    step must not be made (see `Leases.check`). What a broker has answered is a fact, whoever brings it: `record` is
    never fenced. `trading` reads there whether orders may go (see `TradingSwitch.now`). `clock` tells when an order was
    sent.
    """

    def __init__(
        self,
        database: Database,
        fence: Callable[[Connection, str], None] | None = None,
        trading: Callable[[Connection], Trading] = read_trading,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._fence = fence or (lambda _connection, _run_id: None)
        self._trading = trading
        self._clock = clock or SystemClock()
        self._books = Books()

    async def open_account(self, account: str, opening_cash: Decimal) -> None:
        """Make the account with its cash, if it is not there; an account that is there keeps what it has."""
        await self._database.awrite(lambda connection: _open_account(connection, account, opening_cash))

    async def accounts(self) -> frozenset[str]:
        """The names of all accounts that were opened."""
        found = await self._database.aread(lambda connection: connection.scalars(select(accounts.c.account)).all())
        return frozenset(found)

    async def fund(self, account: str, symbol: str, time_ns: int, amount: Decimal) -> bool:
        """Write down what a position was paid at a funding time, or has paid with a minus; False if it was already."""
        return await self._database.awrite(lambda connection: pay(connection, account, symbol, time_ns, amount))

    # Towards the broker.

    async def reserve(
        self, intent: OrderIntent, review: Review, *, asked: Decimal | None = None, look: Look | None = None
    ) -> Order:
        """Write the intent down, PENDING or DENIED by `review`; if it is there already, return what became of it.

        `asked`: the quantity before anything reduced it. An order of the same decision and leg for which the same was
        asked is the same order, however much was left of it then. `look`: what `review` sees; without, the day is that
        of UTC, and nothing was sent lately. An order of a dry run comes back DENIED, with what `review` says of it, and
        is written down nowhere. One that is NOT_PLACED comes back as it is: its `next_attempt` may be reserved.

        Raises:
            OrderConflict: this decision has already sent another order.
            LeaseLost: this process does not hold the run; nothing was written.
        """

        def work(connection: Connection) -> tuple[Order, Fold | None]:
            self._fence(connection, intent.run_id)
            trading = self._trading(connection)
            dry = is_dry(connection, intent.run_id)
            known = None if dry else _of_same_leg(connection, intent, asked)
            if known is not None:
                return known, None
            account, fold = account_of(connection, self._books, intent, trading, look or _usual(intent))
            checks = tuple(review(account))
            return (_unsent if dry else _inserted(connection, asked))(intent, checks), fold

        return self._kept(await self._database.awrite(work))

    async def mark_sending(self, intent_id: str, review: SecondReview | None = None) -> bool:
        """PENDING -> SENDING, durable when this returns. True for the one caller who made the step, and may send.

        When trading is not ACTIVE, the order has to pass `review` again, or is DENIED; without one, nothing passes.

        Raises:
            LeaseLost: this process does not hold the order's run; nothing was written, and nothing may be sent.
        """

        def work(connection: Connection) -> bool:
            row = found(connection, intent_id)
            self._fence(connection, row.run_id)
            if row.status != OrderStatus.PENDING:
                return False
            refusal = self._refusal(connection, row, review)
            if refusal is None:
                change(connection, row, status=OrderStatus.SENDING, sent_ns=self._clock.now_ns())
            else:
                _deny(connection, row, refusal)
            return refusal is None

        return await self._database.awrite(work)

    async def withdraw(self, intent_id: str, why: str) -> Order:
        """PENDING -> DENIED: an order that was reserved and never sent will not be; others stay as they are."""

        def work(connection: Connection) -> Order:
            row = found(connection, intent_id)
            if row.status == OrderStatus.PENDING:
                row = change(connection, row, status=OrderStatus.DENIED, reason=why)
            return order_of(connection, row)

        return await self._database.awrite(work)

    async def refusal(self, intent_id: str, review: SecondReview) -> Check | None:
        """Why an order that was being sent may not be sent again now; None: it may."""
        return await self._database.aread(
            lambda connection: self._refusal(connection, found(connection, intent_id), review)
        )

    def _refusal(self, connection: Connection, row: OrderRow, review: SecondReview | None) -> Check | None:
        """Why an order that was reserved may not be sent now, if trading is not ACTIVE any more."""
        trading = self._trading(connection)
        if trading.state is TradingState.ACTIVE:
            return None
        if review is None:
            return Check("trading_state", passed=False, value=str(trading.state), limit="active", reason=trading.why)
        intent = intent_of(row)
        check = review(intent, account_of(connection, self._books, intent, trading, _usual(intent))[0])
        return None if check.passed else check

    # From the broker.

    async def record(self, intent_id: str, report: BrokerReport) -> Order:
        """Write down what the broker said; a trade id that is there already changes nothing."""
        return await self._database.awrite(lambda connection: _move(connection, intent_id, report))

    async def adopt(self, intent: OrderIntent, report: BrokerReport, cash: Decimal) -> Order:
        """Write down an order that the broker executed, and of which the ledger knows less or nothing.

        So it is when an older copy of the ledger took its place. An account that is not there is opened with `cash`.

        Raises:
            OrderError: what the ledger has cannot be true together with it; nothing was recorded.
        """
        now_ns = self._clock.now_ns()
        return await self._database.awrite(lambda connection: _adopt(connection, intent, report, cash, now_ns))

    async def sent_ns(self, intent_id: str) -> int:
        """When the order was sent. What was sent by a version that did not write it down is dated when it is asked."""

        def work(connection: Connection) -> int:
            row = found(connection, intent_id)
            if row.sent_ns is None:
                row = change(connection, row, sent_ns=self._clock.now_ns())
            return row.sent_ns or 0

        return await self._database.awrite(work)

    async def begin_anew(self) -> None:
        """What was lost from a peak, and rejected, before now has been looked at: it is counted no more."""
        await self._database.awrite(begin_anew)

    # What there is.

    async def executed(self) -> Mapping[str, Executed]:
        """What the ledger has of each order, by its id."""
        return await self._database.aread(_executed)

    async def order(self, intent_id: str) -> Order:
        """One order; raises OrderError where the ledger does not have it."""
        return await self._database.aread(lambda connection: order_of(connection, found(connection, intent_id)))

    async def orders(self, run_id: str, decision: int | None = None) -> tuple[Order, ...]:
        """The orders of one run, or of one of its decisions, in the order in which they were reserved."""
        return await self._database.aread(lambda connection: orders_of(connection, run_id, decision))

    async def fills(self, account: str) -> tuple[Fill, ...]:
        """Every fill of an account, in the order in which they were written down."""
        return await self._database.aread(lambda connection: fills_in(connection, account))

    async def unsettled(self) -> tuple[Order, ...]:
        """Orders whose fate only the broker knows: those that were being sent, and those whose answer was lost."""
        return await self._that_are(UNSETTLED)

    async def at_broker(self) -> tuple[Order, ...]:
        """Orders that rest at the broker, or may: those that are open, and those whose fate only it knows."""
        return await self._that_are((*UNSETTLED, OrderStatus.OPEN))

    async def names_at_broker(self) -> tuple[str, ...]:
        """The ids of those, also where something else of one is damaged."""
        query = select(orders.c.intent_id).where(status_in((*UNSETTLED, OrderStatus.OPEN))).order_by(orders.c.number)
        return await self._database.aread(lambda connection: tuple(connection.execute(query).scalars()))

    async def that_are(self, status: OrderStatus, since_ns: int) -> tuple[Order, ...]:
        """Orders with this status that were sent since then."""
        return await self._that_are((status,), since_ns)

    async def _that_are(self, statuses: Sequence[OrderStatus], since_ns: int | None = None) -> tuple[Order, ...]:
        return await self._database.aread(lambda connection: orders_that_are(connection, statuses, since_ns))

    async def account(self, intent: OrderIntent, look: Look | None = None) -> Account:
        """What a review of this order would see now."""

        def work(connection: Connection) -> tuple[Account, Fold]:
            trading = self._trading(connection)
            return account_of(connection, self._books, intent, trading, look or _usual(intent))

        return self._kept(await self._database.aread(work))

    async def portfolio(self, account: str) -> Portfolio:
        """The account as its fills made it."""

        def work(connection: Connection) -> tuple[Portfolio, Fold]:
            fold = self._books.read(connection, account)
            return fold.portfolio, fold

        return self._kept(await self._database.aread(work))

    def _kept(self, read: tuple[T, Fold | None]) -> T:
        """What was read and is committed by now."""
        value, fold = read
        if fold is not None:
            self._books.keep(fold)
        return value


_ACCOUNT = Statement(select(accounts.c.account).where(accounts.c.account == bindparam("account")))


def _open_account(connection: Connection, account: str, opening_cash: Decimal) -> None:
    if _ACCOUNT.row(connection, account=account) is None:
        connection.execute(insert(accounts).values(account=account, opening_cash=str(opening_cash)))


def _usual(intent: OrderIntent) -> Look:
    return Look(intent.reference_ns - intent.reference_ns % DAY_NS)


def _inserted(connection: Connection, asked: Decimal | None) -> Callable[[OrderIntent, tuple[Check, ...]], Order]:
    def work(intent: OrderIntent, checks: tuple[Check, ...]) -> Order:
        denied = [check.reason or check.name for check in checks if not check.passed]
        status = OrderStatus.DENIED if denied else OrderStatus.PENDING
        order = Order(intent, status, reason="; ".join(denied), checks=checks)
        insert_order(connection, order, None if asked is None else digits(asked))
        return order

    return work


def _unsent(intent: OrderIntent, checks: tuple[Check, ...]) -> Order:
    """The order of a dry run is refused here, below every node and desk: whoever wants to send one comes by."""
    denied = "; ".join(check.reason or check.name for check in checks if not check.passed)
    more = f", and would have been denied: {denied}" if denied else ""
    return Order(intent, OrderStatus.DENIED, reason=f"dry fork: {_words(intent)} was not sent{more}", checks=checks)


def _of_same_leg(connection: Connection, intent: OrderIntent, asked: Decimal | None = None) -> Order | None:
    """What answers for the order: its newest attempt, unless this is the next one. Another of the leg gives way."""
    known = of_leg(connection, intent)
    if not known:
        return None
    newest = known[0]
    if intent_of(newest).first_id == intent.first_id or _is_same_wish(newest, intent, asked):
        return None if _tried_in_vain(newest, intent) else order_of(connection, newest)
    for other in known:
        _refuse_other(other, intent)
    for other in known:
        connection.execute(delete(orders).where(orders.c.intent_id == other.intent_id))
    return None


def _is_same_wish(row: OrderRow, intent: OrderIntent, asked: Decimal | None) -> bool:
    """What the market took of it may be another quantity when it is asked again, after a crash."""
    wish = (intent.symbol, intent.side, intent.type, intent.limit_price, intent.stop_price)
    known = intent_of(row)
    same = (known.symbol, known.side, known.type, known.limit_price, known.stop_price) == wish
    return same and asked is not None and row.asked == digits(asked)


def _tried_in_vain(newest: OrderRow, intent: OrderIntent) -> bool:
    """Whether the intent is the next attempt after one that never reached the broker."""
    return newest.status == OrderStatus.NOT_PLACED and intent.attempt == newest.attempt + 1


def _deny(connection: Connection, row: OrderRow, refusal: Check) -> None:
    checks = [Check(**check) for check in json.loads(row.checks) if check["name"] != refusal.name]
    told = checks_as_json([*checks, refusal])
    change(connection, row, status=OrderStatus.DENIED, reason=refusal.reason, checks=told)


def _adopt(connection: Connection, intent: OrderIntent, report: BrokerReport, cash: Decimal, now_ns: int) -> Order:
    known = _of_same_leg(connection, intent)
    if known is not None and known.intent.attempt <= intent.attempt and known.status is OrderStatus.PENDING:
        _move(connection, known.client_order_id, BrokerReport(OrderStatus.SENDING))
    if known is None or _tried_again(connection, known, intent):
        _open_account(connection, intent.account, cash)
        insert_order(connection, Order(intent, OrderStatus.SENDING), sent_ns=now_ns)
        report = replace(report, reason="adopted: the broker had executed it, and the ledger did not have it")
    return _move(connection, intent.intent_id, report)


def _tried_again(connection: Connection, known: Order, intent: OrderIntent) -> bool:
    """Whether the intent is a later attempt: then the one that is known was found not to have been placed."""
    if intent.attempt <= known.intent.attempt:
        return False
    if _move(connection, known.client_order_id, BrokerReport(OrderStatus.NOT_PLACED)).status is OrderStatus.NOT_PLACED:
        return True
    raise OrderConflict(
        f"order {known.client_order_id} is {known.status}, and the broker has executed {intent.intent_id} as another"
        " attempt at it; nothing was recorded; compare the broker's books with the ledger"
    )


def _executed(connection: Connection) -> dict[str, Executed]:
    filled: dict[str, Decimal] = {}
    for row in connection.execute(select(fills.c.intent_id, fills.c.side, fills.c.quantity)):
        filled[row[0]] = filled.get(row[0], _NONE) + _signed(row)
    columns = ("intent_id", "run_id", "account", "symbol", "status")
    rows = connection.execute(select(*(orders.c[each] for each in columns)))
    return {row[0]: _as_executed(row, filled.get(row[0], _NONE)) for row in rows}


@legible("fill", lambda row: row[0])
def _signed(row: Any) -> Decimal:
    _, side, quantity = row
    return Decimal(quantity) * Side(side).sign


@legible("order", lambda row: row[0])
def _as_executed(row: Any, filled: Decimal) -> Executed:
    _, run_id, account, symbol, status = row
    return Executed(run_id, account, symbol, OrderStatus(status), filled)


_NONE = Decimal(0)


def _refuse_other(known: OrderRow, intent: OrderIntent) -> None:
    """An order that never left may give way to another one of the same decision; one that left may not.

    One that is NOT_PLACED has left: should it turn up after all, its row must be there.
    """
    if known.status in _NEVER_SENT:
        return
    raise OrderConflict(
        f"run {intent.run_id} has sent {_words(intent_of(known))} ({known.intent_id}, {known.status}), and its decision"
        f" now wants {_words(intent)}; nothing more was sent, and what was sent stays; to see where the new decision"
        " leads, go on from the same checkpoint in a run of its own, by --fork"
    )


def _words(intent: OrderIntent) -> str:
    limit = "" if intent.limit_price is None else f" at {digits(intent.limit_price)} or better"
    stop = "" if intent.stop_price is None else f" from {digits(intent.stop_price)} on"
    return f"{intent.side} {digits(intent.quantity)} {intent.symbol}{stop}{limit}"


def _move(connection: Connection, intent_id: str, report: BrokerReport) -> Order:
    """One step of an order's life, taken only from a state that leads there; fills are added by trade id."""
    row = found(connection, intent_id)
    for fill in report.fills:
        add_fill(connection, row, fill)
    now = OrderStatus(row.status)
    if now is not report.status and now in _LEADS_TO.get(report.status, ()):
        name = report.broker_order_id or row.broker_order_id
        row = change(connection, row, status=report.status, reason=report.reason, broker_order_id=name)
    elif now is not report.status and now not in _OUTDATES.get(report.status, ()):
        raise OrderError(
            f"order {intent_id} is {now} and cannot become {report.status}; nothing was recorded;"
            " compare the broker's books with the ledger"
        )
    return order_of(connection, row)
