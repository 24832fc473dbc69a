"""Orders and fills as rows: the tables of the order journal, and the way from a row to an order and back."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from agents.domain import Check, Fill, Order, OrderIntent, OrderStatus, OrderType, Side
from agents.errors import OrderError
from checkpoints.database import Prose, mended, metadata
from checkpoints.statement import Statement
from checkpoints.trouble import legible

__all__ = [
    "LIVE",
    "UNSETTLED",
    "OrderRow",
    "accounts",
    "add_fill",
    "change",
    "checks_as_json",
    "fill_of",
    "fills",
    "fills_in",
    "fills_of",
    "found",
    "insert_order",
    "intent_of",
    "live_runs",
    "of_leg",
    "order_of",
    "orders",
    "orders_of",
    "orders_that_are",
    "status_in",
]

accounts = Table(
    "accounts",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("opening_cash", String(64), nullable=False),
)

orders = Table(
    "orders",
    metadata,
    Column("intent_id", String(32), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),  # the order in which orders were reserved
    Column("run_id", String(64), nullable=False),
    Column("decision", Integer, nullable=False),
    Column("leg", String(32), nullable=False),
    Column("account", String(64), nullable=False),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("type", String(16), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("limit_price", String(64)),
    Column("reference_price", String(64), nullable=False),
    Column("reference_ns", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("broker_order_id", String(64), nullable=False, default=""),
    Column("reason", Prose, nullable=False, default=""),
    Column("checks", Text, nullable=False, default="[]"),
    Column("stop_price", String(64)),
    Column("attempt", Integer, nullable=False),
    Column("asked", String(64)),  # before the throttle; NULL where that was not told
    Column("sent_ns", BigInteger),  # when it was marked as being sent, on the clock of who sent it
    UniqueConstraint("run_id", "decision", "leg", "attempt"),
)
Index("orders_by_status", orders.c.status, orders.c.account, orders.c.number)
Index("orders_by_time", orders.c.account, orders.c.reference_ns)

fills = Table(
    "fills",
    metadata,
    Column("trade_id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("intent_id", String(32), ForeignKey("orders.intent_id"), nullable=False, index=True),
    Column("account", String(64), nullable=False),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("price", String(64), nullable=False),
    Column("fee", String(64), nullable=False),
    Column("time_ns", BigInteger, nullable=False),
)
Index("fills_by_number", fills.c.account, fills.c.number)
Index("fills_by_time", fills.c.account, fills.c.time_ns)

LIVE = (OrderStatus.PENDING, OrderStatus.SENDING, OrderStatus.OPEN, OrderStatus.UNKNOWN)
"""Orders that may still fill."""
UNSETTLED = (OrderStatus.SENDING, OrderStatus.UNKNOWN)
"""Orders whose fate only the broker knows."""


def status_in(statuses: Iterable[OrderStatus]) -> ColumnElement[bool]:
    """As a part of the statement's text: the same statement each time, which can be prepared."""
    return orders.c.status.in_([literal_column(f"'{status}'") for status in statuses])


class OrderRow(NamedTuple):
    """A row of `orders`; numbers as text, as they were given."""

    intent_id: str
    run_id: str
    decision: int
    leg: str
    account: str
    symbol: str
    side: str
    type: str
    quantity: str
    limit_price: str | None
    reference_price: str
    reference_ns: int
    status: str
    broker_order_id: str
    reason: str
    checks: str
    stop_price: str | None
    attempt: int
    asked: str | None
    sent_ns: int | None


_ROW = tuple(orders.c[name] for name in OrderRow._fields)
_FILL = tuple(
    fills.c[name] for name in ("trade_id", "intent_id", "symbol", "side", "quantity", "price", "fee", "time_ns")
)

_BY_ID = Statement(select(*_ROW).where(orders.c.intent_id == bindparam("intent_id")))
_OF_RUN = Statement(select(*_ROW).where(orders.c.run_id == bindparam("run_id")).order_by(orders.c.number))
_OF_DECISION = Statement(
    select(*_ROW)
    .where(orders.c.run_id == bindparam("run_id"))
    .where(orders.c.decision == bindparam("decision"))
    .order_by(orders.c.number)
)
_OF_LEG = Statement(
    select(*_ROW)
    .where(orders.c.run_id == bindparam("run_id"))
    .where(orders.c.decision == bindparam("decision"))
    .where(orders.c.leg == bindparam("leg"))
    .order_by(orders.c.attempt.desc())
)
_FILLS_OF = Statement(select(*_FILL).where(fills.c.intent_id == bindparam("intent_id")).order_by(fills.c.number))


def _next(table: Table) -> Any:
    known = table.alias("known")
    return select(func.coalesce(func.max(known.c.number), literal_column("0")) + literal_column("1")).scalar_subquery()


_INSERT = Statement(insert(orders).inline().values(number=_next(orders)), OrderRow._fields)
_CHANGE = Statement(
    update(orders)
    .where(orders.c.intent_id == bindparam("its_id"))
    .values(
        status=bindparam("now"),
        reason=bindparam("why"),
        broker_order_id=bindparam("its_name"),
        checks=bindparam("checked"),
        sent_ns=bindparam("sent"),
    )
)
_OWNER = Statement(select(fills.c.intent_id).where(fills.c.trade_id == bindparam("trade_id")))
_FILL_COLUMNS = ("trade_id", "intent_id", "account", "symbol", "side", "quantity", "price", "fee", "time_ns")
_ADD_FILL = Statement(insert(fills).inline().values(number=_next(fills)), _FILL_COLUMNS)


# Reading.


def found(connection: Connection, intent_id: str) -> OrderRow:
    """One row; raises OrderError where the ledger does not have it."""
    row = _BY_ID.row(connection, intent_id=intent_id)
    if row is None:
        raise OrderError(f"the ledger has no order {intent_id}; nothing was recorded; reserve it first")
    return OrderRow._make(row)


def of_leg(connection: Connection, intent: OrderIntent) -> list[OrderRow]:
    """The rows of the intent's decision and leg, the newest attempt first."""
    rows = _OF_LEG.rows(connection, run_id=intent.run_id, decision=intent.decision, leg=intent.leg)
    return [OrderRow._make(row) for row in rows]


def orders_of(connection: Connection, run_id: str, decision: int | None = None) -> tuple[Order, ...]:
    """The orders of one run, or of one of its decisions, as they were reserved, in the transaction of `connection`."""
    if decision is None:
        rows = _OF_RUN.rows(connection, run_id=run_id)
    else:
        rows = _OF_DECISION.rows(connection, run_id=run_id, decision=decision)
    return tuple(order_of(connection, OrderRow._make(row)) for row in rows)


def orders_that_are(
    connection: Connection, statuses: Sequence[OrderStatus], since_ns: int | None = None
) -> tuple[Order, ...]:
    """The orders of all runs with one of these statuses, the oldest first; those that were sent since then."""
    asked = {} if since_ns is None else {"since_ns": since_ns}
    rows = _that_are(tuple(statuses), since=since_ns is not None).rows(connection, **asked)
    return tuple(order_of(connection, OrderRow._make(row)) for row in rows)


@cache
def _that_are(statuses: tuple[OrderStatus, ...], *, since: bool) -> Statement:
    """Asked every few seconds of a session, with the same few statuses."""
    query = select(*_ROW).where(status_in(statuses)).order_by(orders.c.number)
    return Statement(query.where(orders.c.sent_ns >= bindparam("since_ns")) if since else query)


def fills_of(connection: Connection, intent_id: str) -> tuple[Fill, ...]:
    """The fills of one order, oldest first."""
    return tuple(map(fill_of, _FILLS_OF.rows(connection, intent_id=intent_id)))


def fills_in(connection: Connection, account: str) -> tuple[Fill, ...]:
    """All fills of an account, oldest first."""
    query = select(*_FILL).where(fills.c.account == account).order_by(fills.c.number)
    return tuple(map(fill_of, connection.execute(query).all()))


@legible("fill", lambda row: row[0])
def fill_of(row: Sequence[Any]) -> Fill:
    """A fill. The row: trade id, order id, symbol, side, quantity, price, fee and time."""
    trade_id, name, symbol, side, quantity, price, fee, time_ns = row
    return Fill(trade_id, name, symbol, Side(side), Decimal(quantity), Decimal(price), Decimal(fee), time_ns)


def live_runs(connection: Connection) -> frozenset[str]:
    """The runs that have an order whose fate is open."""
    query = select(orders.c.run_id).where(status_in(LIVE)).distinct()
    return frozenset(connection.execute(query).scalars())


def order_of(connection: Connection, row: OrderRow) -> Order:
    """The order with what was filled of it."""
    return _order(row, fills_of(connection, row.intent_id))


@legible("order", lambda row: row.intent_id)
def _order(row: OrderRow, made: Sequence[Fill]) -> Order:
    filled = sum((fill.quantity for fill in made), Decimal(0))
    paid = sum((fill.quantity * fill.price for fill in made), Decimal(0))
    return Order(
        intent=intent_of(row),
        status=OrderStatus(row.status),
        filled=filled,
        price=paid / filled if filled else None,
        fee=sum((fill.fee for fill in made), Decimal(0)),
        broker_order_id=row.broker_order_id,
        reason=row.reason,
        checks=tuple(Check(**check) for check in json.loads(row.checks)),
    )


@legible("order", lambda row: row.intent_id)
def intent_of(row: OrderRow) -> OrderIntent:
    """The order as it was wanted."""
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


# Writing.


def insert_order(connection: Connection, order: Order, asked: str | None = None, sent_ns: int | None = None) -> None:
    """Write a new order down, as the newest."""
    _INSERT.run(connection, **_to_row(order), asked=asked, sent_ns=sent_ns)


def change(connection: Connection, row: OrderRow, **values: Any) -> OrderRow:
    """Change status, reason, broker_order_id, checks or sent_ns of an order; gives its row as it is now."""
    now = row._replace(**values)
    now = now._replace(reason=mended(now.reason))
    _CHANGE.run(
        connection,
        its_id=now.intent_id,
        now=str(now.status),
        why=now.reason,
        its_name=now.broker_order_id,
        checked=now.checks,
        sent=now.sent_ns,
    )
    return now


def add_fill(connection: Connection, row: OrderRow, fill: Fill) -> None:
    """Write a fill of an order down; one whose trade id is there already changes nothing.

    Raises:
        OrderError: it belongs to another order.
    """
    owner = _OWNER.row(connection, trade_id=fill.trade_id)
    if {fill.client_order_id, row.intent_id if owner is None else owner[0]} != {row.intent_id}:
        raise OrderError(
            f"trade {fill.trade_id} was reported for order {row.intent_id} and belongs to"
            f" {fill.client_order_id if owner is None else owner[0]}; nothing was recorded; compare the broker's books"
            " with the ledger"
        )
    if owner is None:
        _ADD_FILL.run(
            connection,
            trade_id=fill.trade_id,
            intent_id=row.intent_id,
            account=row.account,
            symbol=fill.symbol,
            side=str(fill.side),
            quantity=str(fill.quantity),
            price=str(fill.price),
            fee=str(fill.fee),
            time_ns=fill.time_ns,
        )


def _to_row(order: Order) -> Mapping[str, Any]:
    intent = order.intent
    return {
        "intent_id": intent.intent_id,
        "run_id": intent.run_id,
        "decision": intent.decision,
        "leg": intent.leg,
        "account": intent.account,
        "symbol": intent.symbol,
        "side": str(intent.side),
        "type": str(intent.type),
        "quantity": str(intent.quantity),
        "limit_price": None if intent.limit_price is None else str(intent.limit_price),
        "stop_price": None if intent.stop_price is None else str(intent.stop_price),
        "attempt": intent.attempt,
        "reference_price": str(intent.reference_price),
        "reference_ns": intent.reference_ns,
        "status": str(order.status),
        "broker_order_id": order.broker_order_id,
        "reason": order.reason,
        "checks": checks_as_json(order.checks),
    }


def checks_as_json(checks: Sequence[Check]) -> str:
    """As they are kept."""
    return json.dumps(
        [
            {"name": each.name, "passed": each.passed, "value": each.value, "limit": each.limit, "reason": each.reason}
            for each in checks
        ]
    )
