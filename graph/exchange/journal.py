"""What the exchange keeps in a file of its own: clients' orders, what was executed of them, balances, last prices."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, Text, delete, insert, select

from agents.errors import StorageError
from checkpoints.database import Database
from checkpoints.migrations import HISTORY
from graph.exchange.accounts import Account, Balance
from graph.exchange.orders import Order
from graph.exchange.venue import Past

__all__ = ["FileJournal"]

_read_order = msgspec.json.Decoder(Order).decode

_books = MetaData(info={HISTORY: ()})
_orders = Table(
    "exchange_orders",
    _books,
    Column("symbol", String(32), primary_key=True),
    Column("number", String(20), primary_key=True),
    Column("placed", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
_balances = Table(
    "exchange_balances",
    _books,
    Column("owner", String(64), primary_key=True),
    Column("asset", String(16), primary_key=True),
    Column("free", String(32), nullable=False),
    Column("locked", String(32), nullable=False),
)


class FileJournal:
    """An SQLite file. What `save` was given is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Open or create it; raises StorageError where the file cannot be used."""
        self._database = Database.open(path, _books, inline=True)

    def close(self) -> None:
        self._database.close()

    def save(self, orders: Iterable[Order], accounts: Iterable[Account]) -> None:
        order_rows = [_row(order) for order in orders]
        balance_rows = [
            {"owner": account.key, "asset": asset, "free": str(each.free), "locked": str(each.locked)}
            for account in accounts
            for asset, each in account.balances.items()
        ]

        def work(connection: Connection) -> None:
            for row in order_rows:
                same = (_orders.c.symbol == row["symbol"]) & (_orders.c.number == row["number"])
                connection.execute(delete(_orders).where(same))
            connection.execute(insert(_orders), order_rows)
            for owner in {row["owner"] for row in balance_rows}:
                connection.execute(delete(_balances).where(_balances.c.owner == owner))
            connection.execute(insert(_balances), balance_rows)

        self._database.write(work)

    def past(self) -> Past:
        """What was kept: to be gone on with.

        Raises:
            StorageError: a row cannot be read; money and orders that are silently missing would be none.
        """
        return self._database.read(_past)


def _row(order: Order) -> dict[str, Any]:
    body = asdict(order) | {"executions": [list(each) for each in order.executions]}
    text = msgspec.json.encode(body).decode()
    return {"symbol": order.symbol, "number": str(order.number), "placed": order.time_ms // 1_000, "body": text}


def _past(connection: Connection) -> Past:
    rows = connection.execute(select(_orders.c.symbol, _orders.c.number, _orders.c.body))
    orders = sorted((_order(*row) for row in rows), key=lambda order: (order.time_ms, order.number))
    accounts: dict[str, Account] = {}
    for owner, asset, free, locked in connection.execute(select(_balances)):
        account = accounts.setdefault(owner, Account(owner, ""))
        account.balances[asset] = _balance(asset, free, locked)
    prices = {order.symbol: each.price for order in orders for each in order.executions}
    return Past(orders, accounts, prices)


def _order(symbol: str, number: str, body: str) -> Order:
    try:
        return _read_order(body)
    except (msgspec.MsgspecError, TypeError) as error:
        raise _damaged(f"order {number} of {symbol}", error) from error


def _balance(asset: str, free: str, locked: str) -> Balance:
    try:
        return Balance(int(free), int(locked))
    except ValueError as error:
        raise _damaged(f"the balance of {asset}", error) from error


def _damaged(what: str, error: Exception) -> StorageError:
    reason = f"{type(error).__name__}: {error!s:.200}"
    return StorageError(
        f"{what} in the exchange's books cannot be read ({reason}); nothing was started; give another file, or a copy"
    )
