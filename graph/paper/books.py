"""The paper broker's books: every order that it was ever sent, what was executed of it, and the newest prices used.

They have SQL of their own and a file of their own, apart from the ledger's: between the two there is a real gap, in
which a real crash can happen, as there is with a real venue.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    update,
)

from agents.domain import Fill, OrderIntent, OrderStatus, Side
from agents.errors import StorageError
from checkpoints.ledger import BrokerReport
from checkpoints.migrations import HISTORY
from checkpoints.statement import Statement
from graph.paper.matching import Met, Resting

__all__ = [
    "Marks",
    "ask_out",
    "end",
    "enter",
    "executed",
    "find",
    "holdings",
    "in_book",
    "intent_of",
    "is_over",
    "keep",
    "marks_of",
    "orders",
    "resting",
    "set_marks",
    "symbol_of",
    "tables",
]


def _let_orders_rest(connection: Connection) -> None:
    """2: orders that rest in the book, and several executions of one."""
    for statement in _PAPER_2.split(";"):
        connection.exec_driver_sql(statement)


_PAPER_2 = """
ALTER TABLE paper_orders RENAME TO old_paper_orders;
CREATE TABLE paper_orders (
    client_order_id VARCHAR(32) NOT NULL, number INTEGER NOT NULL, symbol VARCHAR(32) NOT NULL,
    side VARCHAR(4) NOT NULL, quantity VARCHAR(64) NOT NULL, limit_price VARCHAR(64), stop_price VARCHAR(64),
    status VARCHAR(16) NOT NULL, reason TEXT NOT NULL, after_ns BIGINT NOT NULL, live_ns BIGINT NOT NULL,
    ends_ns BIGINT NOT NULL, filled VARCHAR(64) NOT NULL, triggered BOOLEAN NOT NULL, rested BOOLEAN NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (client_order_id), UNIQUE (number)
);
CREATE INDEX paper_orders_in_book ON paper_orders (symbol, status);
INSERT INTO paper_orders SELECT client_order_id, number, symbol, side, quantity,
    CASE WHEN json_valid(detail) THEN json_extract(detail, '$.limit_price') END, NULL, 'filled', '',
    CAST(time_ns AS INTEGER), CAST(time_ns AS INTEGER), 0, quantity, 0, 0, detail FROM old_paper_orders;
CREATE TABLE paper_fills (
    trade_id VARCHAR(64) NOT NULL, number INTEGER NOT NULL, client_order_id VARCHAR(32) NOT NULL,
    quantity VARCHAR(64) NOT NULL, price VARCHAR(64) NOT NULL, fee VARCHAR(64) NOT NULL, time_ns BIGINT NOT NULL,
    PRIMARY KEY (trade_id), UNIQUE (number)
);
CREATE INDEX paper_fills_of_order ON paper_fills (client_order_id);
INSERT INTO paper_fills SELECT 'paper-' || client_order_id || '-1', number, client_order_id, quantity, price, fee,
    CAST(time_ns AS INTEGER) FROM old_paper_orders;
DROP TABLE old_paper_orders
"""

tables = MetaData(info={HISTORY: (_let_orders_rest,)})
"""The broker's tables, and how to come to them from those of before."""
_orders = Table(
    "paper_orders",
    tables,
    Column("client_order_id", String(32), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("symbol", String(32), nullable=False),
    Column("side", String(4), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("limit_price", String(64)),
    Column("stop_price", String(64)),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("after_ns", BigInteger, nullable=False),
    Column("live_ns", BigInteger, nullable=False),
    Column("ends_ns", BigInteger, nullable=False),
    Column("filled", String(64), nullable=False, default="0"),
    Column("triggered", Boolean, nullable=False, default=False),
    Column("rested", Boolean, nullable=False, default=False),
    Column("detail", Text, nullable=False),
    Index("paper_orders_in_book", "symbol", "status"),
)
_fills = Table(
    "paper_fills",
    tables,
    Column("trade_id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("client_order_id", String(32), nullable=False),
    Column("quantity", String(64), nullable=False),
    Column("price", String(64), nullable=False),
    Column("fee", String(64), nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Index("paper_fills_of_order", "client_order_id"),
)
_markets = Table(
    "paper_markets",
    tables,
    Column("symbol", String(32), primary_key=True),
    Column("quote_ns", BigInteger),
    Column("bar_ns", BigInteger),
)


class Marks(NamedTuple):
    """The times of the newest quote and of the newest bar of a symbol that had an effect; 0 for none."""

    quote_ns: int = 0
    bar_ns: int = 0


def find(connection: Connection, client_order_id: str) -> BrokerReport | None:
    """What is known of an order, with all that was executed of it; None where it was never sent."""
    row = _row(connection, client_order_id)
    if row is None:
        return None
    query = select(_fills).where(_fills.c.client_order_id == client_order_id).order_by(_fills.c.number)
    fills = tuple(_fill(row, each) for each in connection.execute(query))
    reason = row.reason if row.status == OrderStatus.CANCELLED else ""
    return BrokerReport(OrderStatus(row.status), f"paper-{row.number}", fills, reason)


def enter(connection: Connection, order: Resting) -> None:
    """Write down an order that has come, after all that are there."""
    intent = order.intent
    connection.execute(
        insert(_orders).values(
            client_order_id=intent.intent_id,
            number=_next(connection, _orders),
            symbol=intent.symbol,
            side=intent.side,
            quantity=str(intent.quantity),
            limit_price=None if intent.limit_price is None else str(intent.limit_price),
            stop_price=None if intent.stop_price is None else str(intent.stop_price),
            status=OrderStatus.OPEN,
            after_ns=order.after_ns,
            live_ns=order.live_ns,
            ends_ns=order.ends_ns,
            detail=json.dumps(_detail(intent)),
        )
    )


def keep(connection: Connection, met: Met, time_ns: int) -> bool:
    """Write down what prices of `time_ns` did to an order; whether anybody but these books has to know of it."""
    order, name = met.order, met.order.intent.intent_id
    if met.ended:
        return end(connection, name)
    if met.quantity:
        _execute(connection, met, time_ns)
    values: dict[str, Any] = {"filled": str(order.filled), "triggered": order.triggered, "rested": order.rested}
    if order.left <= 0:
        values |= {"status": OrderStatus.FILLED}
    connection.execute(update(_orders).where(_orders.c.client_order_id == name).values(**values))
    return met.quantity > 0


def _execute(connection: Connection, met: Met, time_ns: int) -> None:
    name = met.order.intent.intent_id
    before = select(func.count()).select_from(_fills).where(_fills.c.client_order_id == name)
    connection.execute(
        insert(_fills).values(
            trade_id=f"paper-{name}-{connection.execute(before).scalar_one() + 1}",
            number=_next(connection, _fills),
            client_order_id=name,
            quantity=str(met.quantity),
            price=str(met.price),
            fee=str(met.fee),
            time_ns=time_ns,
        )
    )


def ask_out(connection: Connection, client_order_id: str, ends_ns: int) -> None:
    """Have an order leave the book at a time, if it does not leave before, and is in it at all."""
    mine = (_orders.c.client_order_id == client_order_id) & (_orders.c.status == OrderStatus.OPEN)
    earlier = mine & (_orders.c.ends_ns > ends_ns)
    connection.execute(update(_orders).where(earlier).values(ends_ns=ends_ns, reason="cancelled"))


def end(connection: Connection, client_order_id: str, *, by_ns: int | None = None, for_good: bool = False) -> bool:
    """Take an order out of the book, where it was to leave it by that time; whether it was taken out.

    A price from before its end that comes later may fill it still; not if it leaves `for_good`.
    """
    mine = (_orders.c.client_order_id == client_order_id) & (_orders.c.status == OrderStatus.OPEN)
    row = connection.execute(select(_orders).where(mine)).first()
    if row is None or (by_ns is not None and row.ends_ns > by_ns):
        return False
    reason = row.reason or f"expired after {(row.ends_ns - row.live_ns) / 3.6e12:g} h in the book"
    values: dict[str, Any] = {"status": OrderStatus.CANCELLED, "reason": reason}
    connection.execute(update(_orders).where(mine).values(**values, **({"ends_ns": 0} if for_good else {})))
    return True


def is_over(connection: Connection, client_order_id: str, now_ns: int) -> bool:
    """Whether an order was to leave the book by now, and is in it still."""
    row = _row(connection, client_order_id)
    return row is not None and row.status == OrderStatus.OPEN and row.ends_ns <= now_ns


def in_book(
    connection: Connection, symbol: str, since_ns: int, sent: Mapping[str, OrderIntent] = MappingProxyType({})
) -> list[Resting]:
    """The orders that prices after `since_ns` may do something to, in the order of arrival.

    `sent`: orders as they were sent, by id, of which that need not be read again: to make one of its row takes longer
    than all else that a price does to it.

    Raises:
        StorageError: the row of one has been changed by somebody else.
    """
    return [
        Resting(
            sent.get(name) or _sent(connection, name),
            number,
            after,
            live,
            ends,
            Decimal(filled),
            bool(triggered),
            bool(rested),
        )
        for name, number, after, live, ends, filled, triggered, rested in _IN_BOOK.rows(
            connection, its_symbol=symbol, since_ns=since_ns
        )
    ]


_STANDING = tuple(
    _orders.c[name]
    for name in ("client_order_id", "number", "after_ns", "live_ns", "ends_ns", "filled", "triggered", "rested")
)
_late = (_orders.c.status == OrderStatus.CANCELLED) & (_orders.c.ends_ns > bindparam("since_ns"))
_IN_BOOK = Statement(  # asked every second of a session
    select(*_STANDING)
    .where(_orders.c.symbol == bindparam("its_symbol"))
    .where((_orders.c.status == OrderStatus.OPEN) | _late)
    .order_by(_orders.c.number)
)


def _sent(connection: Connection, client_order_id: str) -> OrderIntent:
    row = connection.execute(select(_orders).where(_orders.c.client_order_id == client_order_id)).one()
    intent = _intent(row)
    if intent is None:
        raise StorageError(
            f"order {row.client_order_id} in the paper broker's books is not as it was sent; no price was used for"
            f" {row.symbol}; put a backup of the books in their place"
        )
    return intent


def marks_of(connection: Connection, symbol: str) -> Marks:
    """Up to which prices of a symbol have been used."""
    row = connection.execute(select(_markets).where(_markets.c.symbol == symbol)).first()
    return Marks() if row is None else Marks(row.quote_ns or 0, row.bar_ns or 0)


def set_marks(connection: Connection, symbol: str, marks: Marks) -> None:
    """Write down up to which prices of a symbol have been used."""
    values = marks._asdict()
    if connection.execute(update(_markets).where(_markets.c.symbol == symbol).values(**values)).rowcount == 0:
        connection.execute(insert(_markets).values(symbol=symbol, **values))


def executed(connection: Connection) -> dict[str, tuple[str, Decimal]]:
    """Symbol and signed quantity of all that was executed, by order; those in the book with what they have."""
    names = ("client_order_id", "symbol", "side", "filled", "status")
    rows = connection.execute(select(*(_orders.c[name] for name in names)).order_by(_orders.c.number))
    return {
        name: (symbol, Decimal(filled) if side == Side.BUY else -Decimal(filled))
        for name, symbol, side, filled, status in rows
        if status == OrderStatus.OPEN or Decimal(filled)
    }


def holdings(connection: Connection) -> dict[str, Decimal]:
    """Signed quantities by symbol, as all that was executed made them."""
    its_order = _orders.c.client_order_id == _fills.c.client_order_id
    rows = connection.execute(select(_orders.c.symbol, _orders.c.side, _fills.c.quantity).join(_fills, its_order))
    held: dict[str, Decimal] = {}
    for symbol, side, quantity in rows:
        held[symbol] = held.get(symbol, Decimal(0)) + Decimal(quantity) * Side(side).sign
    return held


def resting(connection: Connection) -> dict[str, str]:
    """The symbols of the orders that are in the book, by order."""
    there = _orders.c.status == OrderStatus.OPEN
    rows = connection.execute(select(_orders.c.client_order_id, _orders.c.symbol).where(there))
    return {name: symbol for name, symbol in rows}  # noqa: C416 - a row is no pair to the type checker


def orders(connection: Connection) -> list[Mapping[str, Any]]:
    """Every order that was ever sent, oldest first."""
    return [dict(row) for row in connection.execute(select(_orders).order_by(_orders.c.number)).mappings()]


def intent_of(connection: Connection, client_order_id: str) -> OrderIntent | None:
    """The order as it was sent; None for one of before all of it was kept, or whose id does not follow from it."""
    row = _row(connection, client_order_id)
    return None if row is None else _intent(row)


def symbol_of(connection: Connection, client_order_id: str) -> str:
    """The symbol of an order; "" where it was never sent."""
    row = _row(connection, client_order_id)
    return "" if row is None else row.symbol


def _row(connection: Connection, client_order_id: str) -> Row[Any] | None:
    return connection.execute(select(_orders).where(_orders.c.client_order_id == client_order_id)).first()


def _next(connection: Connection, table: Table) -> int:
    return (connection.execute(select(func.max(table.c.number))).scalar() or 0) + 1


def _detail(intent: OrderIntent) -> dict[str, Any]:
    """What the columns lack of the order as it was sent."""
    return {
        "run_id": intent.run_id,
        "leg": intent.leg,
        "account": intent.account,
        "decision": intent.decision,
        "attempt": intent.attempt,
        "reference_price": str(intent.reference_price),
        "reference_ns": intent.reference_ns,
    }


def _intent(row: Row[Any]) -> OrderIntent | None:
    try:
        detail = json.loads(row.detail)
        intent = OrderIntent.derive(
            run_id=detail["run_id"],
            account=detail["account"],
            symbol=row.symbol,
            side=Side(row.side),
            quantity=Decimal(row.quantity),
            reference_price=Decimal(detail["reference_price"]),
            reference_ns=detail.get("reference_ns", row.after_ns),
            decision=detail["decision"],
            leg=detail["leg"],
            limit_price=None if row.limit_price is None else Decimal(row.limit_price),
            stop_price=None if row.stop_price is None else Decimal(row.stop_price),
            attempt=detail.get("attempt", 1),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        return None
    return intent if intent.intent_id == row.client_order_id else None


def _fill(order: Row[Any], row: Row[Any]) -> Fill:
    return Fill(
        trade_id=row.trade_id,
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=Side(order.side),
        quantity=Decimal(row.quantity),
        price=Decimal(row.price),
        fee=Decimal(row.fee),
        time_ns=row.time_ns,
    )
