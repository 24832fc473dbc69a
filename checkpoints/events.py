"""The timeline of a run: one row for an attempt, a retry, a trip, a fallback, a start, a resume, an end."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
)

from checkpoints.database import Database, metadata
from checkpoints.statement import Statement

__all__ = ["Entry", "Timeline", "append", "entries_of", "forget", "size_of"]

_SUBJECT_MAX = 64
"""Characters of an analyst's name: a longer one must not keep its run's timeline from being written."""

_timeline = Table(
    "timeline",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(_SUBJECT_MAX), nullable=False, default=""),
    Column("detail", Text, nullable=False, default="{}"),
)
_ADD = Statement(insert(_timeline).inline(), tuple(_timeline.c.keys()))
_NEWEST = Statement(select(func.max(_timeline.c.number)).where(_timeline.c.run_id == bindparam("its_run")))


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened in a run: what kind, to whom (a node, an analyst), when, and its numbers."""

    run_id: str
    time_ns: int
    kind: str
    subject: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


class Timeline:
    """The rows of all runs in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entries: Iterable[Entry]) -> None:
        """Write entries in one transaction, numbered within their run."""
        rows = list(entries)
        if rows:
            await self._database.awrite(lambda connection: append(connection, rows))

    async def entries(self, run_id: str) -> tuple[Entry, ...]:
        """All entries of one run, oldest first."""
        return await self._database.aread(lambda connection: entries_of(connection, run_id))


def entries_of(connection: Connection, run_id: str) -> tuple[Entry, ...]:
    """All entries of one run, oldest first, in the transaction of `connection`."""
    query = select(_timeline).where(_timeline.c.run_id == run_id).order_by(_timeline.c.number)
    return tuple(
        Entry(row.run_id, row.time_ns, row.kind, row.subject, _detail(row.detail)) for row in connection.execute(query)
    )


def _detail(text: Any) -> dict[str, Any]:
    """Nothing hangs on it: what cannot be what was written is shown as it is."""
    with suppress(RecursionError, TypeError, ValueError):
        return dict(json.loads(text))
    return {"unreadable": str(text)}


def size_of(connection: Connection, run_id: str) -> int:
    """Bytes that the entries of one run take."""
    size = select(func.sum(func.length(_timeline.c.detail))).where(_timeline.c.run_id == run_id)
    return int(connection.execute(size).scalar() or 0)


def forget(connection: Connection, run_id: str) -> None:
    """Delete the timeline of one run."""
    connection.execute(delete(_timeline).where(_timeline.c.run_id == run_id))


def append(connection: Connection, entries: Iterable[Entry]) -> None:
    """Write entries, numbered within their run, in the transaction of `connection`."""
    last: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for entry in entries:
        if entry.run_id not in last:
            last[entry.run_id] = _NEWEST.row(connection, its_run=entry.run_id)[0] or 0
        last[entry.run_id] += 1
        rows.append(
            {
                "run_id": entry.run_id,
                "number": last[entry.run_id],
                "time_ns": entry.time_ns,
                "kind": entry.kind,
                "subject": entry.subject[:_SUBJECT_MAX],
                "detail": json.dumps(dict(entry.detail), default=str),
            }
        )
    for row in rows:
        _ADD.run(connection, **row)
