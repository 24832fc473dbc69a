"""How a live session went: its marks, one every few seconds, and how far it has come, so that it can go on."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    Row,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
)

from checkpoints.database import Database, metadata
from checkpoints.statement import Statement
from checkpoints.trouble import legible

__all__ = ["SessionBook", "SessionMark", "forget", "last_mark"]

_marks = Table(
    "session_marks",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("elapsed_ns", BigInteger, nullable=False),
    Column("price", String(64), nullable=False),
    Column("equity", String(64), nullable=False),
    Column("position", String(64), nullable=False),
)

_NEWEST = Statement(select(func.coalesce(func.max(_marks.c.number), 0)).where(_marks.c.run_id == bindparam("its_run")))
_ADD = Statement(insert(_marks).inline(), tuple(_marks.c.keys()))


@dataclass(frozen=True, slots=True)
class SessionMark:
    """An account at one moment of a session: what a unit was worth, the equity at that, and the signed position.

    `elapsed_ns`: for how long the session had run by then, all of its processes together.
    """

    time_ns: int
    elapsed_ns: int
    price: Decimal
    equity: Decimal
    position: Decimal


class SessionBook:
    """The marks of the sessions of one database. Every method is one transaction."""

    def __init__(self, database: Database, fence: Callable[[Connection, str], None] | None = None) -> None:
        """`fence` is called in the transaction of each write, with the run's id: see `Leases.check`."""
        self._database = database
        self._fence = fence or (lambda _connection, _run_id: None)

    async def add(self, run_id: str, mark: SessionMark) -> None:
        """Write a mark down, durable when this returns. Raises LeaseLost where another process has the session."""

        def work(connection: Connection) -> None:
            self._fence(connection, run_id)
            _add(connection, run_id, mark)

        await self._database.awrite(work)

    async def marks(self, run_id: str) -> tuple[SessionMark, ...]:
        """All marks of a session, in their order; raises StorageError where one cannot be read."""
        query = select(_marks).where(_marks.c.run_id == run_id).order_by(_marks.c.number)
        rows = await self._database.aread(lambda connection: connection.execute(query).all())
        return tuple(map(_mark, rows))

    async def last(self, run_id: str) -> SessionMark | None:
        """The newest mark, which tells how far the session has come; None before the first."""
        return await self._database.aread(lambda connection: last_mark(connection, run_id))


def forget(connection: Connection, run_id: str) -> None:
    """Delete a session's marks, in the transaction of `connection`."""
    connection.execute(delete(_marks).where(_marks.c.run_id == run_id))


def last_mark(connection: Connection, run_id: str) -> SessionMark | None:
    """The newest mark of a session, in the transaction of `connection`; None before the first."""
    query = select(_marks).where(_marks.c.run_id == run_id).order_by(_marks.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _mark(row)


def _add(connection: Connection, run_id: str, mark: SessionMark) -> None:
    numbers: dict[str, Any] = {name: str(getattr(mark, name)) for name in ("price", "equity", "position")}
    times = {"time_ns": mark.time_ns, "elapsed_ns": mark.elapsed_ns}
    ((newest,),) = _NEWEST.rows(connection, its_run=run_id)
    _ADD.run(connection, run_id=run_id, number=newest + 1, **times, **numbers)


@legible("mark of a session", lambda row: f"{row.run_id} {row.number}")
def _mark(row: Row[Any]) -> SessionMark:
    return SessionMark(row.time_ns, row.elapsed_ns, Decimal(row.price), Decimal(row.equity), Decimal(row.position))
