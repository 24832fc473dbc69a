"""What the exchange keeps in a file of its own: clients' orders, what was executed of them, balances, last prices."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, Text, delete, insert, select

from checkpoints.database import Database
from checkpoints.migrations import HISTORY
from graph.exchange.accounts import Account, Balance
from graph.exchange.orders import Execution, Order
from graph.exchange.venue import Past

__all__ = ["FileJournal"]

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
        """What was kept: to be gone on with."""
        return self._database.read(_past)


def _row(order: Order) -> dict[str, Any]:
    body = asdict(order) | {"executions": [list(each) for each in order.executions]}
    text = msgspec.json.encode(body).decode()
    return {"symbol": order.symbol, "number": str(order.number), "placed": order.time_ms // 1_000, "body": text}


def _past(connection: Connection) -> Past:
    bodies = connection.execute(select(_orders.c.body)).scalars()
    orders = sorted(map(_order, bodies), key=lambda order: (order.time_ms, order.number))
    accounts: dict[str, Account] = {}
    for owner, asset, free, locked in connection.execute(select(_balances)):
        account = accounts.setdefault(owner, Account(owner, ""))
        account.balances[asset] = Balance(int(free), int(locked))
    prices = {order.symbol: each.price for order in orders for each in order.executions}
    return Past(orders, accounts, prices)


def _order(text: str) -> Order:
    body = msgspec.json.decode(text)
    return Order(**body | {"executions": [Execution(*each) for each in body["executions"]]})
