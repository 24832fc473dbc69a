"""What came with an imported run and must have no effect here: its orders, as text, and how it stood where it was."""

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, String, Table, Text, delete, insert, select

from checkpoints.database import metadata

__all__ = ["Origin", "forget", "keep", "origin_of"]

_imported = Table(
    "imported_runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("imported_ns", BigInteger, nullable=False),
    Column("orders", Text, nullable=False),
)


class Origin(NamedTuple):
    """`status`: the run's, when it was exported; `imported_ns`: when that came here; `orders`: JSON."""

    status: str
    imported_ns: int
    orders: str


def keep(connection: Connection, run_id: str, origin: Origin) -> None:
    """Write it down."""
    connection.execute(insert(_imported).values(run_id=run_id, **origin._asdict()))


def origin_of(connection: Connection, run_id: str) -> Origin | None:
    """What came with the run; None for one of this home's own."""
    query = select(_imported.c.status, _imported.c.imported_ns, _imported.c.orders)
    row = connection.execute(query.where(_imported.c.run_id == run_id)).first()
    return None if row is None else Origin(*row)


def forget(connection: Connection, run_id: str) -> None:
    """Delete it."""
    connection.execute(delete(_imported).where(_imported.c.run_id == run_id))
