"""Brackets on disk: each that is watched, as it stands, so that a stop outlives the process that watches it."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Connection, Integer, Row, String, Table, Text, delete, insert, select

from agents.bracket import Bracket, Part
from agents.domain import OrderIntent, OrderType, Side
from agents.errors import StorageError
from checkpoints.database import Database, metadata

__all__ = ["BracketBook"]

_brackets = Table(
    "brackets",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("decision", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)


class BracketBook:
    """The brackets of one database. Every method is one transaction."""

    def __init__(self, database: Database, fence: Callable[[Connection, str], None] | None = None) -> None:
        """`fence` is called in the transaction of each write, with the run's id: see `Leases.check`."""
        self._database = database
        self._fence = fence or (lambda _connection, _run_id: None)

    async def save(self, brackets: Iterable[Bracket]) -> None:
        """Write down how brackets stand, durable when this returns. Raises LeaseLost where another process has them."""
        rows = tuple(brackets)

        def work(connection: Connection) -> None:
            for run_id in {each.run_id for each in rows}:
                self._fence(connection, run_id)
            _save(connection, rows)

        await self._database.awrite(work)

    async def forget(self, run_id: str, decision: int) -> None:
        """Remember it no more, whatever it covers."""
        await self._database.awrite(
            lambda connection: connection.execute(delete(_brackets).where(_of(run_id, decision)))
        )

    async def load(self) -> tuple[Bracket, ...]:
        """The brackets that were not forgotten, closed ones among them.

        Raises:
            StorageError: one of them cannot be read; none is given, since a stop that is silently missing is none.
        """
        query = select(_brackets).order_by(_brackets.c.run_id, _brackets.c.decision)
        rows = await self._database.aread(lambda connection: connection.execute(query).all())
        return tuple(_read(row) for row in rows)


def _of(run_id: str, decision: int) -> Any:
    return (_brackets.c.run_id == run_id) & (_brackets.c.decision == decision)


def _save(connection: Connection, brackets: tuple[Bracket, ...]) -> None:
    for each in brackets:
        connection.execute(delete(_brackets).where(_of(each.run_id, each.decision)))
        values = {"run_id": each.run_id, "decision": each.decision, "body": json.dumps(_plain(each))}
        connection.execute(insert(_brackets).values(**values))


def _read(row: Row[Any]) -> Bracket:
    try:
        return _bracket(json.loads(row.body))
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise StorageError(
            f"the bracket of run {row.run_id}, decision {row.decision}, cannot be read ({type(error).__name__}:"
            f" {error}); no bracket is watched; close its position by hand, and delete its row"
        ) from None


# As JSON: decimals as text, since a number would lose digits.

_DECIMALS = frozenset(
    {"stop", "target", "trail", "best", "filled", "quantity", "reference_price", "limit_price", "stop_price"}
)


def _plain(value: Any) -> dict[str, Any]:
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    for name, item in found.items():
        if isinstance(item, Decimal):
            found[name] = str(item)
    if isinstance(value, Bracket):
        found["parts"] = [_plain(part) for part in value.parts]
        found["exit"] = None if value.exit is None else _plain(value.exit)
    return found


def _exact(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Decimal(item) if name in _DECIMALS and item is not None else item for name, item in found.items()}


def _bracket(found: Mapping[str, Any]) -> Bracket:
    parts = tuple(Part(**_exact(part)) for part in found["parts"])
    leaving = None if found["exit"] is None else _intent(found["exit"])
    return Bracket(**_exact(found) | {"parts": parts, "exit": leaving, "side": Side(found["side"])})


def _intent(found: Mapping[str, Any]) -> OrderIntent:
    return OrderIntent(**_exact(found) | {"side": Side(found["side"]), "type": OrderType(found["type"])})
