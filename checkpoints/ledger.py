"""The order journal: an order is on disk before it is sent, and what became of it is on disk before anyone is told.

    reserve        -> PENDING    checked and reserved; or DENIED, with every check
    mark_sending   -> SENDING    committed before the one send: from here on the broker may know it
    record         -> OPEN | FILLED | REJECTED, with fills; or UNKNOWN, when the broker's answer was lost

The client order id is a pure function of the decision, so a decision that is made again after a crash finds its own
order here and reads it. A decision that comes out differently than what it has already sent is refused.
`portfolio()` is a fold over fills: nobody edits a position.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

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
    insert,
    select,
    update,
)

from agents.domain import Check, Fill, Order, OrderIntent, OrderStatus, OrderType, Portfolio, Side
from agents.errors import OrderConflict, OrderError
from checkpoints.database import Database, metadata

__all__ = ["Account", "BrokerReport", "OrderLedger"]

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
    Column("type", String(8), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("limit_price", String(64)),
    Column("reference_price", String(64), nullable=False),
    Column("reference_ns", BigInteger, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("broker_order_id", String(64), nullable=False, default=""),
    Column("reason", Text, nullable=False, default=""),
    Column("checks", Text, nullable=False, default="[]"),
    UniqueConstraint("run_id", "decision", "leg"),
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

_LIVE = (OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.OPEN, OrderStatus.UNKNOWN)
_UNSETTLED = (OrderStatus.SENDING, OrderStatus.UNKNOWN)
_NEVER_SENT = (OrderStatus.PENDING, OrderStatus.DENIED)
_LEADS_TO: Mapping[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.SENDING: (OrderStatus.PENDING,),
    OrderStatus.OPEN: _UNSETTLED,
    OrderStatus.FILLED: (*_UNSETTLED, OrderStatus.OPEN),
    OrderStatus.REJECTED: (*_UNSETTLED, OrderStatus.OPEN),
    OrderStatus.UNKNOWN: (OrderStatus.SENDING,),
}
_OUTDATES: Mapping[OrderStatus, tuple[OrderStatus, ...]] = {
    OrderStatus.OPEN: (OrderStatus.FILLED,),
    OrderStatus.UNKNOWN: (OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.REJECTED),
}
"""Reports that come late and say less than is known: they change nothing."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a review of an order sees, read inside the reserving transaction.

    `opening`: the portfolio as the decision's UTC day began; `live`: signed quantity by symbol of orders that are
    reserved or at the broker and not yet filled.
    """

    portfolio: Portfolio
    opening: Portfolio
    live: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class BrokerReport:
    """What a broker says of one order: OPEN, FILLED, REJECTED, or UNKNOWN when it said nothing that can be trusted."""

    status: OrderStatus
    broker_order_id: str = ""
    fills: tuple[Fill, ...] = ()
    reason: str = ""


class OrderLedger:
    """The journal in one database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_account(self, account: str, opening_cash: Decimal) -> None:
        """Make the account with its cash, if it is not there; an account that is there keeps what it has."""

        def work(connection: Connection) -> None:
            if connection.execute(select(_accounts.c.account).where(_accounts.c.account == account)).first() is None:
                connection.execute(insert(_accounts).values(account=account, opening_cash=str(opening_cash)))

        await self._database.awrite(work)

    async def reserve(self, intent: OrderIntent, review: Callable[[Account], Sequence[Check]]) -> Order:
        """Write the intent down, PENDING or DENIED by `review`; if it is there already, return what became of it.

        Raises:
            OrderConflict: this decision has already sent another order.
        """
        return await self._database.awrite(lambda connection: _reserve(connection, intent, review))

    async def mark_sending(self, intent_id: str) -> bool:
        """PENDING -> SENDING, durable when this returns. True for the one caller who made the step, and may send."""

        def work(connection: Connection) -> bool:
            row = _found(connection, intent_id)
            if row.status != OrderStatus.PENDING:
                return False
            _move(connection, intent_id, BrokerReport(OrderStatus.SENDING))
            return True

        return await self._database.awrite(work)

    async def record(self, intent_id: str, report: BrokerReport) -> Order:
        """Write down what the broker said; a trade id that is there already changes nothing."""
        return await self._database.awrite(lambda connection: _move(connection, intent_id, report))

    async def orders(self, run_id: str) -> tuple[Order, ...]:
        """The orders of one run, in the order in which they were reserved."""
        query = select(_orders).where(_orders.c.run_id == run_id).order_by(_orders.c.number)
        return await self._database.aread(lambda connection: _orders_of(connection, query))

    async def unsettled(self) -> tuple[Order, ...]:
        """Orders whose fate only the broker knows: those that were being sent, and those whose answer was lost."""
        query = select(_orders).where(_orders.c.status.in_(_UNSETTLED)).order_by(_orders.c.number)
        return await self._database.aread(lambda connection: _orders_of(connection, query))

    async def portfolio(self, account: str) -> Portfolio:
        """The account as its fills made it."""
        return await self._database.aread(lambda connection: _portfolio(connection, account))


def _reserve(connection: Connection, intent: OrderIntent, review: Callable[[Account], Sequence[Check]]) -> Order:
    same_leg = (
        (_orders.c.run_id == intent.run_id) & (_orders.c.decision == intent.decision) & (_orders.c.leg == intent.leg)
    )
    row = connection.execute(select(_orders).where(same_leg)).first()
    if row is not None:
        known = _order(connection, row)
        if known.client_order_id == intent.intent_id:
            return known
        _refuse_other(known, intent)
        connection.execute(_orders.delete().where(_orders.c.intent_id == known.client_order_id))
    checks = tuple(review(_account(connection, intent)))
    denied = [check.reason or check.name for check in checks if not check.passed]
    status = OrderStatus.DENIED if denied else OrderStatus.PENDING
    order = Order(intent, status, reason="; ".join(denied), checks=checks)
    count = connection.execute(select(_orders.c.number).order_by(_orders.c.number.desc()).limit(1)).scalar()
    connection.execute(insert(_orders).values(**_to_row(order), number=(count or 0) + 1))
    return order


def _refuse_other(known: Order, intent: OrderIntent) -> None:
    """An order that never left may give way to another one of the same decision; one that left may not."""
    if known.status in _NEVER_SENT:
        return
    sent = known.intent
    raise OrderConflict(
        f"run {intent.run_id} has sent {sent.side} {sent.quantity} {sent.symbol} ({sent.intent_id}, {known.status}) and"
        f" its decision now wants {intent.side} {intent.quantity}; nothing was sent; start a new run to decide anew"
    )


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


def _account(connection: Connection, intent: OrderIntent) -> Account:
    day_start_ns = intent.reference_ns - intent.reference_ns % _DAY_NS
    live: dict[str, Decimal] = {}
    rows = connection.execute(
        select(_orders).where((_orders.c.account == intent.account) & _orders.c.status.in_(_LIVE))
    ).all()
    for order in (_order(connection, row) for row in rows):
        left = max(order.intent.quantity - order.filled, Decimal(0)) * order.intent.side.sign
        live[order.intent.symbol] = live.get(order.intent.symbol, Decimal(0)) + left
    portfolio = _portfolio(connection, intent.account)
    return Account(portfolio, _portfolio(connection, intent.account, before_ns=day_start_ns), live)


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
    fills = [
        _fill(each)
        for each in connection.execute(
            select(_fills).where(_fills.c.intent_id == row.intent_id).order_by(_fills.c.number)
        )
    ]
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
