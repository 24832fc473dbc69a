"""Funding: what a position pays, or is paid, at fixed times, however long it is held. Each payment once.

A payment is a row of its own beside the fills: a portfolio is a fold over both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import index
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, String, Table, bindparam, func, insert, select

from checkpoints.database import metadata
from checkpoints.statement import Statement
from checkpoints.trading_state import digits
from checkpoints.trouble import legible

__all__ = ["Payment", "pay", "payments_after", "payments_within"]

_payments = Table(
    "funding",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("symbol", String(32), primary_key=True),
    Column("time_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False, unique=True),
    Column("amount", String(64), nullable=False),
)
Index("funding_by_number", _payments.c.account, _payments.c.number)

_ROW = tuple(_payments.c[name] for name in ("number", "symbol", "time_ns", "amount"))
_mine = _payments.c.account == bindparam("account")
_AFTER = Statement(select(*_ROW).where(_mine & (_payments.c.number > bindparam("number"))).order_by(_payments.c.number))
_WITHIN = Statement(
    select(*_ROW)
    .where(_mine & (_payments.c.time_ns >= bindparam("since_ns")) & (_payments.c.time_ns < bindparam("until_ns")))
    .where(_payments.c.number <= bindparam("number"))
)


@dataclass(frozen=True, slots=True)
class Payment:
    """What came into an account, or went out of it with a minus, at the funding time of a symbol."""

    number: int
    symbol: str
    time_ns: int
    amount: Decimal


def pay(connection: Connection, account: str, symbol: str, time_ns: int, amount: Decimal) -> bool:
    """Write a payment down, in the transaction of `connection`; False where that time was paid already."""
    mine = (_payments.c.account == account) & (_payments.c.symbol == symbol) & (_payments.c.time_ns == time_ns)
    if connection.execute(select(_payments.c.number).where(mine)).first() is not None:
        return False
    newest = connection.execute(select(func.coalesce(func.max(_payments.c.number), 0))).scalar_one()
    values = {"account": account, "symbol": symbol, "time_ns": time_ns, "number": newest + 1, "amount": digits(amount)}
    connection.execute(insert(_payments).values(**values))
    return True


def payments_after(connection: Connection, account: str, number: int) -> Sequence[Payment]:
    """Those of an account behind that number, in their order."""
    return [_payment(row) for row in _AFTER.rows(connection, account=account, number=number)]


def payments_within(connection: Connection, account: str, since_ns: int, until_ns: int, number: int) -> Decimal:
    """The sum of an account's payments of that time, up to that number."""
    rows = _WITHIN.rows(connection, account=account, since_ns=since_ns, until_ns=until_ns, number=number)
    return sum((_payment(row).amount for row in rows), Decimal(0))


@legible("funding payment", lambda row: row[0])
def _payment(row: Sequence[Any]) -> Payment:
    number, symbol, time_ns, amount = row
    return Payment(index(number), symbol, index(time_ns), Decimal(amount))
