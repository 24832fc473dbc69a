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
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)

from agents.domain import Check, Fill, Order, OrderIntent, OrderStatus, OrderType, Portfolio, Side, TradingState
from agents.errors import OrderConflict, OrderError
from checkpoints.database import Database, Prose, metadata
from checkpoints.leases import is_dry
from checkpoints.trading_state import Trading, digits, read_trading

__all__ = ["Account", "BrokerReport", "Executed", "OrderLedger", "fills_of", "live_runs", "orders_of"]

_accounts = Table(
    "accounts",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("opening_cash", String(64), nullable=False),
)

_orders = Table(
    "orders",
    metadata,
    Column("intent_id", String(32), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # the order in which orders were reserved
    Column("run_id", String(64), nullable=False, index=True),
    Column("decision", Integer, nullable=False),
    Column("leg", String(32), nullable=False),
    Column("account", String(64), nullable=False, index=True),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("type", String(16), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("limit_price", String(64)),
    Column("reference_price", String(64), nullable=False),
    Column("reference_ns", BigInteger, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("broker_order_id", String(64), nullable=False, default=""),
    Column("reason", Prose, nullable=False, default=""),
    Column("checks", Text, nullable=False, default="[]"),
    Column("stop_price", String(64)),
    Column("attempt", Integer, nullable=False),
    UniqueConstraint("run_id", "decision", "leg", "attempt"),
)

_fills = Table(
    "fills",
    metadata,
    Column("trade_id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("intent_id", String(32), ForeignKey("orders.intent_id"), nullable=False, index=True),
    Column("account", String(64), nullable=False, index=True),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("price", String(64), nullable=False),
    Column("fee", String(64), nullable=False),
    Column("time_ns", BigInteger, nullable=False),
)

_fresh_starts = Table(
    "fresh_starts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("after_order", Integer, nullable=False),
    Column("after_fill", Integer, nullable=False),
)

_ACCEPTED = (OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED)
_LIVE = (OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.OPEN, OrderStatus.UNKNOWN)
_UNSETTLED = (OrderStatus.SENDING, OrderStatus.UNKNOWN)
_NEVER_THERE = (OrderStatus.PENDING, OrderStatus.DENIED, OrderStatus.NOT_PLACED)
_LEADS_TO: Mapping[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.SENDING: (OrderStatus.PENDING,),
    OrderStatus.OPEN: (*_UNSETTLED, OrderStatus.NOT_PLACED),
    OrderStatus.FILLED: (*_UNSETTLED, OrderStatus.NOT_PLACED, OrderStatus.OPEN, OrderStatus.CANCELLED),
    OrderStatus.REJECTED: (*_UNSETTLED, OrderStatus.OPEN),
    OrderStatus.CANCELLED: (*_UNSETTLED, OrderStatus.NOT_PLACED, OrderStatus.OPEN),
    OrderStatus.UNKNOWN: (OrderStatus.SENDING,),
    OrderStatus.NOT_PLACED: _UNSETTLED,
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
class Account:
    """What a review of an order sees, read inside the reserving transaction.

    `opening`: the portfolio as the decision's UTC day began; `live`: signed quantity by symbol of orders that are
    reserved or at the broker and not yet filled; `closable`: how much of its symbol's position the order can close at
    most, whatever becomes of those others; `trading`: whether trading goes on; `peak`: the highest equity so far, at
    the prices of fills; `rejects_in_row`: of the broker, since it accepted something. Both count from `begin_anew` on.
    """

    portfolio: Portfolio
    opening: Portfolio
    live: Mapping[str, Decimal]
    closable: Decimal
    trading: Trading
    peak: Decimal = Decimal(0)
    rejects_in_row: int = 0


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

    An order that was CANCELLED may have been filled in part before.
    """

    status: OrderStatus
    broker_order_id: str = ""
    fills: tuple[Fill, ...] = ()
    reason: str = ""


class OrderLedger:
    """The journal in one database. Every method is one transaction.

    `fence` is called in the transaction of each step towards sending an order, with the run's id, and raises where that
    step must not be made (see `Leases.check`). What a broker has answered is a fact, whoever brings it: `record` is
    never fenced. `trading` reads there whether orders may go (see `TradingSwitch.now`).
    """

    def __init__(
        self,
        database: Database,
        fence: Callable[[Connection, str], None] | None = None,
        trading: Callable[[Connection], Trading] = read_trading,
    ) -> None:
        self._database = database
        self._fence = fence or (lambda _connection, _run_id: None)
        self._trading = trading

    async def open_account(self, account: str, opening_cash: Decimal) -> None:
        """Make the account with its cash, if it is not there; an account that is there keeps what it has."""
        await self._database.awrite(lambda connection: _open_account(connection, account, opening_cash))

    async def reserve(self, intent: OrderIntent, review: Callable[[Account], Sequence[Check]]) -> Order:
        """Write the intent down, PENDING or DENIED by `review`; if it is there already, return what became of it.

        An order of a dry run comes back DENIED, with what `review` says of it, and is written down nowhere.

        Raises:
            OrderConflict: this decision has already sent another order.
            LeaseLost: this process does not hold the run; nothing was written.
        """

        def work(connection: Connection) -> Order:
            self._fence(connection, intent.run_id)
            trading = self._trading(connection)
            if is_dry(connection, intent.run_id):
                return _unsent(intent, tuple(review(_account(connection, intent, trading))))
            return _reserve(connection, intent, review, trading)

        return await self._database.awrite(work)

    async def mark_sending(self, intent_id: str, review: "_Review | None" = None) -> bool:
        """PENDING -> SENDING, durable when this returns. True for the one caller who made the step, and may send.

        When trading is not ACTIVE, the order has to pass `review` again, or is DENIED; without one, nothing passes.

        Raises:
            LeaseLost: this process does not hold the order's run; nothing was written, and nothing may be sent.
        """

        def work(connection: Connection) -> bool:
            row = _found(connection, intent_id)
            self._fence(connection, row.run_id)
            if row.status != OrderStatus.PENDING:
                return False
            refusal = _refusal(connection, row, review, self._trading(connection))
            if refusal is None:
                _move(connection, intent_id, BrokerReport(OrderStatus.SENDING))
            else:
                _deny(connection, row, refusal)
            return refusal is None

        return await self._database.awrite(work)

    async def refusal(self, intent_id: str, review: "_Review") -> Check | None:
        """Why an order that was being sent may not be sent again now; None: it may."""
        return await self._database.aread(
            lambda connection: _refusal(connection, _found(connection, intent_id), review, self._trading(connection))
        )

    async def record(self, intent_id: str, report: BrokerReport) -> Order:
        """Write down what the broker said; a trade id that is there already changes nothing."""
        return await self._database.awrite(lambda connection: _move(connection, intent_id, report))

    async def adopt(self, intent: OrderIntent, report: BrokerReport, cash: Decimal) -> Order:
        """Write down an order that the broker executed, and of which the ledger knows less or nothing.

        So it is when an older copy of the ledger took its place. An account that is not there is opened with `cash`.

        Raises:
            OrderError: what the ledger has cannot be true together with it; nothing was recorded.
        """
        return await self._database.awrite(lambda connection: _adopt(connection, intent, report, cash))

    async def executed(self) -> Mapping[str, Executed]:
        """What the ledger has of each order, by its id."""
        return await self._database.aread(_executed)

    async def order(self, intent_id: str) -> Order:
        """One order; raises OrderError where the ledger does not have it."""
        return await self._database.aread(lambda connection: _order(connection, _found(connection, intent_id)))

    async def orders(self, run_id: str) -> tuple[Order, ...]:
        """The orders of one run, in the order in which they were reserved."""
        return await self._database.aread(lambda connection: orders_of(connection, run_id))

    async def unsettled(self) -> tuple[Order, ...]:
        """Orders whose fate only the broker knows: those that were being sent, and those whose answer was lost."""
        query = select(_orders).where(_orders.c.status.in_(_UNSETTLED)).order_by(_orders.c.number)
        return await self._database.aread(lambda connection: _orders_of(connection, query))

    async def account(self, intent: OrderIntent) -> Account:
        """What a review of this order would see now."""
        return await self._database.aread(lambda connection: _account(connection, intent, self._trading(connection)))

    async def begin_anew(self) -> None:
        """What was lost from a peak, and rejected, before now has been looked at: it is counted no more."""
        await self._database.awrite(_begin_anew)

    async def at_broker(self) -> tuple[Order, ...]:
        """Orders that rest at the broker, or may: those that are open, and those whose fate only it knows."""
        query = select(_orders).where(_orders.c.status.in_((*_UNSETTLED, OrderStatus.OPEN))).order_by(_orders.c.number)
        return await self._database.aread(lambda connection: _orders_of(connection, query))

    async def portfolio(self, account: str) -> Portfolio:
        """The account as its fills made it."""
        return await self._database.aread(lambda connection: _portfolio(connection, account))


def orders_of(connection: Connection, run_id: str) -> tuple[Order, ...]:
    """The orders of one run, in the order in which they were reserved, in the transaction of `connection`."""
    query = select(_orders).where(_orders.c.run_id == run_id).order_by(_orders.c.number)
    return _orders_of(connection, query)


def fills_of(connection: Connection, intent_id: str) -> tuple[Fill, ...]:
    """The fills of one order, oldest first."""
    query = select(_fills).where(_fills.c.intent_id == intent_id).order_by(_fills.c.number)
    return tuple(_fill(row) for row in connection.execute(query))


def live_runs(connection: Connection) -> frozenset[str]:
    """The runs that have an order whose fate is open."""
    query = select(_orders.c.run_id).where(_orders.c.status.in_(_LIVE)).distinct()
    return frozenset(connection.execute(query).scalars())


def _open_account(connection: Connection, account: str, opening_cash: Decimal) -> None:
    if connection.execute(select(_accounts.c.account).where(_accounts.c.account == account)).first() is None:
        connection.execute(insert(_accounts).values(account=account, opening_cash=str(opening_cash)))


def _reserve(
    connection: Connection, intent: OrderIntent, review: Callable[[Account], Sequence[Check]], trading: Trading
) -> Order:
    known = _of_same_leg(connection, intent)
    if known is not None:
        return known
    checks = tuple(review(_account(connection, intent, trading)))
    denied = [check.reason or check.name for check in checks if not check.passed]
    status = OrderStatus.DENIED if denied else OrderStatus.PENDING
    order = Order(intent, status, reason="; ".join(denied), checks=checks)
    _insert(connection, order)
    return order


def _unsent(intent: OrderIntent, checks: tuple[Check, ...]) -> Order:
    """The order of a dry run is refused here, below every node and desk: whoever wants to send one comes by."""
    denied = "; ".join(check.reason or check.name for check in checks if not check.passed)
    more = f", and would have been denied: {denied}" if denied else ""
    return Order(intent, OrderStatus.DENIED, reason=f"dry fork: {_words(intent)} was not sent{more}", checks=checks)


def _of_same_leg(connection: Connection, intent: OrderIntent) -> Order | None:
    """What answers for the order: its newest attempt, unless this is the next one. Another of the leg gives way."""
    same_leg = (
        (_orders.c.run_id == intent.run_id) & (_orders.c.decision == intent.decision) & (_orders.c.leg == intent.leg)
    )
    query = select(_orders).where(same_leg).order_by(_orders.c.attempt.desc())
    known = [_order(connection, row) for row in connection.execute(query).all()]
    if known and known[0].intent.first_id == intent.first_id:
        return None if _tried_in_vain(known[0], intent) else known[0]
    for other in known:
        _refuse_other(other, intent)
    if known:
        connection.execute(_orders.delete().where(same_leg))
    return None


def _tried_in_vain(newest: Order, intent: OrderIntent) -> bool:
    """Whether the intent is the next attempt after one that never reached the broker."""
    return newest.status is OrderStatus.NOT_PLACED and intent.attempt == newest.intent.attempt + 1


def _insert(connection: Connection, order: Order) -> None:
    count = connection.execute(select(_orders.c.number).order_by(_orders.c.number.desc()).limit(1)).scalar()
    connection.execute(insert(_orders).values(**_to_row(order), number=(count or 0) + 1))


_Review: TypeAlias = Callable[[OrderIntent, Account], Check]


def _refusal(connection: Connection, row: Row[Any], review: _Review | None, trading: Trading) -> Check | None:
    """Why an order that was reserved may not be sent now, if trading is not ACTIVE any more."""
    if trading.state is TradingState.ACTIVE:
        return None
    if review is None:
        return Check("trading_state", passed=False, value=str(trading.state), limit="active", reason=trading.why)
    check = review(_intent(row), _account(connection, _intent(row), trading))
    return None if check.passed else check


def _deny(connection: Connection, row: Row[Any], refusal: Check) -> None:
    checks = [check for check in json.loads(row.checks) if check["name"] != refusal.name]
    values = {"status": OrderStatus.DENIED, "reason": refusal.reason, "checks": json.dumps([*checks, asdict(refusal)])}
    connection.execute(update(_orders).where(_orders.c.intent_id == row.intent_id).values(**values))


def _adopt(connection: Connection, intent: OrderIntent, report: BrokerReport, cash: Decimal) -> Order:
    known = _of_same_leg(connection, intent)
    if known is not None and known.intent.attempt <= intent.attempt and known.status is OrderStatus.PENDING:
        _move(connection, known.client_order_id, BrokerReport(OrderStatus.SENDING))
    if known is None or _tried_again(connection, known, intent):
        _open_account(connection, intent.account, cash)
        _insert(connection, Order(intent, OrderStatus.SENDING))
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
    for name, side, quantity in connection.execute(select(_fills.c.intent_id, _fills.c.side, _fills.c.quantity)):
        signed = Decimal(quantity) if side == Side.BUY else -Decimal(quantity)
        filled[name] = filled[name] + signed if name in filled else signed
    columns = ("intent_id", "run_id", "account", "symbol", "status")
    rows = connection.execute(select(*(_orders.c[each] for each in columns)))
    return {
        name: Executed(run_id, account, symbol, OrderStatus(status), filled.get(name, _NONE))
        for name, run_id, account, symbol, status in rows
    }


_NONE = Decimal(0)


def _refuse_other(known: Order, intent: OrderIntent) -> None:
    """An order that never reached the broker may give way to another one of the same decision; others may not."""
    if known.status in _NEVER_THERE:
        return
    sent = known.intent
    raise OrderConflict(
        f"run {intent.run_id} has sent {_words(sent)} ({sent.intent_id}, {known.status}), and its decision now wants"
        f" {_words(intent)}; nothing more was sent, and what was sent stays; to see where the new decision leads, go on"
        " from the same checkpoint in a run of its own, by --fork"
    )


def _words(intent: OrderIntent) -> str:
    limit = "" if intent.limit_price is None else f" at {digits(intent.limit_price)} or better"
    stop = "" if intent.stop_price is None else f" from {digits(intent.stop_price)} on"
    return f"{intent.side} {digits(intent.quantity)} {intent.symbol}{stop}{limit}"


def _move(connection: Connection, intent_id: str, report: BrokerReport) -> Order:
    """One step of an order's life, taken only from a state that leads there; fills are added by trade id."""
    row = _found(connection, intent_id)
    _add_fills(connection, row, report.fills)
    now = OrderStatus(row.status)
    if now is not report.status and now in _LEADS_TO.get(report.status, ()):
        values = {"status": report.status, "reason": report.reason}
        if report.broker_order_id:
            values["broker_order_id"] = report.broker_order_id
        connection.execute(update(_orders).where(_orders.c.intent_id == intent_id).values(**values))
    elif now is not report.status and now not in _OUTDATES.get(report.status, ()):
        raise OrderError(
            f"order {intent_id} is {now} and cannot become {report.status}; nothing was recorded;"
            " compare the broker's books with the ledger"
        )
    fresh = connection.execute(select(_orders).where(_orders.c.intent_id == intent_id)).one()
    return _order(connection, fresh)


def _found(connection: Connection, intent_id: str) -> Row[Any]:
    row = connection.execute(select(_orders).where(_orders.c.intent_id == intent_id)).first()
    if row is None:
        raise OrderError(f"the ledger has no order {intent_id}; nothing was recorded; reserve it first")
    return row


def _add_fills(connection: Connection, row: Row[Any], fills: Sequence[Fill]) -> None:
    for fill in fills:
        owner = connection.execute(select(_fills.c.intent_id).where(_fills.c.trade_id == fill.trade_id)).scalar()
        if {fill.client_order_id, owner or row.intent_id} != {row.intent_id}:
            raise OrderError(
                f"trade {fill.trade_id} was reported for order {row.intent_id} and belongs to"
                f" {owner or fill.client_order_id}; nothing was recorded; compare the broker's books with the ledger"
            )
        if owner is not None:
            continue
        count = connection.execute(select(_fills.c.number).order_by(_fills.c.number.desc()).limit(1)).scalar()
        connection.execute(
            insert(_fills).values(
                trade_id=fill.trade_id,
                number=(count or 0) + 1,
                intent_id=row.intent_id,
                account=row.account,
                symbol=fill.symbol,
                side=fill.side,
                quantity=str(fill.quantity),
                price=str(fill.price),
                fee=str(fill.fee),
                time_ns=fill.time_ns,
            )
        )


_DAY_NS = 86_400_000_000_000


def _account(connection: Connection, intent: OrderIntent, trading: Trading) -> Account:
    day_start_ns = intent.reference_ns - intent.reference_ns % _DAY_NS
    live: dict[str, Decimal] = {}
    rows = connection.execute(
        select(_orders).where((_orders.c.account == intent.account) & _orders.c.status.in_(_LIVE))
    ).all()
    closing = Decimal(0)  # by others that are on the same side
    for order in (_order(connection, row) for row in rows):
        left = max(order.intent.quantity - order.filled, Decimal(0)) * order.intent.side.sign
        live[order.intent.symbol] = live.get(order.intent.symbol, Decimal(0)) + left
        if (order.intent.symbol, order.intent.side) == (
            intent.symbol,
            intent.side,
        ) and order.intent.intent_id != intent.intent_id:
            closing += abs(left)
    portfolio = _portfolio(connection, intent.account)
    against = -portfolio.position(intent.symbol).quantity * intent.side.sign
    return Account(
        portfolio=portfolio,
        opening=_portfolio(connection, intent.account, before_ns=day_start_ns),
        live=live,
        closable=max(against - closing, Decimal(0)),
        trading=trading,
        **_record_of(connection, intent.account),
    )


def _record_of(connection: Connection, account: str) -> dict[str, Any]:
    """Peak and rejections in a row, since the last fresh start."""
    start = connection.execute(select(_fresh_starts).order_by(_fresh_starts.c.number.desc()).limit(1)).first()
    after_order, after_fill = (0, 0) if start is None else (start.after_order, start.after_fill)
    counted = (_orders.c.account == account) & (_orders.c.number > after_order)
    answered = _orders.c.status.in_((*_ACCEPTED, OrderStatus.REJECTED))
    accepted = select(func.coalesce(func.max(_orders.c.number), 0)).where(counted & _orders.c.status.in_(_ACCEPTED))
    rejected = select(func.count()).where(counted & answered & (_orders.c.number > accepted.scalar_subquery()))
    return {
        "peak": _peak(connection, account, after_fill, whole=start is None),
        "rejects_in_row": int(connection.execute(rejected).scalar_one()),
    }


def _peak(connection: Connection, account: str, after_fill: int, *, whole: bool) -> Decimal:
    cash = connection.execute(select(_accounts.c.opening_cash).where(_accounts.c.account == account)).scalar_one()
    portfolio, peak = Portfolio(account, Decimal(cash)), Decimal(cash) if whole else Decimal(0)
    for row in connection.execute(select(_fills).where(_fills.c.account == account).order_by(_fills.c.number)):
        fill = _fill(row)
        portfolio = portfolio.apply(fill)
        if row.number > after_fill:
            peak = max(peak, portfolio.equity({fill.symbol: fill.price}))
    return peak


def _begin_anew(connection: Connection) -> None:
    newest = [
        connection.execute(select(func.coalesce(func.max(table.c.number), 0))).scalar_one()
        for table in (_fresh_starts, _orders, _fills)
    ]
    values = {"number": newest[0] + 1, "after_order": newest[1], "after_fill": newest[2]}
    connection.execute(insert(_fresh_starts).values(**values))


def _portfolio(connection: Connection, account: str, before_ns: int | None = None) -> Portfolio:
    cash = connection.execute(select(_accounts.c.opening_cash).where(_accounts.c.account == account)).scalar()
    if cash is None:
        raise OrderError(f"there is no account {account!r}; nothing can be traded in it; open it first")
    query = select(_fills).where(_fills.c.account == account).order_by(_fills.c.number)
    if before_ns is not None:
        query = query.where(_fills.c.time_ns < before_ns)
    portfolio = Portfolio(account, Decimal(cash))
    for row in connection.execute(query):
        portfolio = portfolio.apply(_fill(row))
    return portfolio


def _orders_of(connection: Connection, query: Any) -> tuple[Order, ...]:
    return tuple(_order(connection, row) for row in connection.execute(query).all())


def _order(connection: Connection, row: Row[Any]) -> Order:
    fills = fills_of(connection, row.intent_id)
    filled = sum((fill.quantity for fill in fills), Decimal(0))
    paid = sum((fill.quantity * fill.price for fill in fills), Decimal(0))
    return Order(
        intent=_intent(row),
        status=OrderStatus(row.status),
        filled=filled,
        price=paid / filled if filled else None,
        fee=sum((fill.fee for fill in fills), Decimal(0)),
        broker_order_id=row.broker_order_id,
        reason=row.reason,
        checks=tuple(Check(**check) for check in json.loads(row.checks)),
    )


def _intent(row: Row[Any]) -> OrderIntent:
    return OrderIntent(
        intent_id=row.intent_id,
        run_id=row.run_id,
        account=row.account,
        symbol=row.symbol,
        side=Side(row.side),
        quantity=Decimal(row.quantity),
        reference_price=Decimal(row.reference_price),
        reference_ns=row.reference_ns,
        decision=row.decision,
        leg=row.leg,
        type=OrderType(row.type),
        limit_price=None if row.limit_price is None else Decimal(row.limit_price),
        stop_price=None if row.stop_price is None else Decimal(row.stop_price),
        attempt=row.attempt,
    )


def _to_row(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "intent_id": intent.intent_id,
        "run_id": intent.run_id,
        "decision": intent.decision,
        "leg": intent.leg,
        "account": intent.account,
        "symbol": intent.symbol,
        "side": intent.side,
        "type": intent.type,
        "quantity": str(intent.quantity),
        "limit_price": None if intent.limit_price is None else str(intent.limit_price),
        "stop_price": None if intent.stop_price is None else str(intent.stop_price),
        "attempt": intent.attempt,
        "reference_price": str(intent.reference_price),
        "reference_ns": intent.reference_ns,
        "status": order.status,
        "reason": order.reason,
        "checks": json.dumps([asdict(check) for check in order.checks]),
    }


def _fill(row: Row[Any]) -> Fill:
    return Fill(
        trade_id=row.trade_id,
        client_order_id=row.intent_id,
        symbol=row.symbol,
        side=Side(row.side),
        quantity=Decimal(row.quantity),
        price=Decimal(row.price),
        fee=Decimal(row.fee),
        time_ns=row.time_ns,
    )
