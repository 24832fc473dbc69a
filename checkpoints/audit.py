"""The audit log: rows that are only ever added, each with a hash over itself and the hash of the row before it.

Whoever changes, removes, adds or moves a row breaks the chain at that place. What a chain alone does not show, a tail
that was cut off, shows the head: number and hash of the newest entry, kept in a table of its own and set in the same
transaction. Somebody who may write the whole database can make up a whole log with its head, and a restored backup is
an older log with an older head: for those, each entry's number and hash also go to `failures.log`, which a log shipper
carries to where they cannot be changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, Row, String, Table, Text, event, insert, select, update

from agents.errors import StorageError
from checkpoints.database import Database, Prose, metadata
from checkpoints.trouble import legible

__all__ = ["Audit", "AuditEntry", "Verification", "append", "newest", "rows"]

_BEFORE_THE_FIRST = "0" * 64
_PAGE = 1_000
"""Rows that are read at once."""

rows = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("who", Prose, nullable=False),
    Column("why", Prose, nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that was done: which kind, when, by whom and why, and its particulars.

    Numbers begin at 1 and leave none out. `hash` covers all the rest; `previous` is the hash of the entry before.
    """

    number: int
    time_ns: int
    kind: str
    who: str
    why: str
    detail: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a look at the whole log. `wrong`: the first thing that is, "" where all is right.

    `at`: the number of the first entry that is not what was written, None where all are; `count` of the entries that
    were found good before it; `hash` of the last of these.
    """

    count: int
    hash: str
    at: int | None = None
    wrong: str = ""


class Audit:
    """The log in one database, for reading. Entries are added in the transaction of what they tell of: see `append`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self) -> tuple[AuditEntry, ...]:
        """All entries, oldest first, whether they are what was written or not."""
        return await self._database.aread(lambda connection: tuple(map(_entry, _pages(connection))))

    async def verify(self) -> Verification:
        """Look at every entry."""
        return await self._database.aread(_verify)


def append(
    connection: Connection, *, time_ns: int, kind: str, who: str, why: str, detail: Mapping[str, Any]
) -> AuditEntry:
    """Add an entry, in the transaction of `connection`, which must be a write.

    Writers take turns from the beginning of their transactions on, also those of other processes: two cannot follow
    the same entry.

    Raises:
        StorageError: the log has lost its head, or that is damaged; nothing was added.
    """
    heads = connection.execute(select(_head.c.number, _head.c.hash)).all()
    if len(heads) != 1:
        raise StorageError(
            f"the audit log has {len(heads)} heads, and must have one; nothing was added; restore the database from a"
            " backup"
        )
    row = {
        "number": _number_of(heads[0]) + 1,
        "time_ns": time_ns,
        "kind": kind,
        "who": _clean(who),
        "why": _clean(why),
        "detail": json.dumps(dict(detail), sort_keys=True, separators=(",", ":"), default=str),
        "previous": heads[0].hash,
    }
    row["hash"] = _hash(row)
    connection.execute(insert(rows).values(**row))
    connection.execute(update(_head).values(number=row["number"], hash=row["hash"]))
    return AuditEntry(**{**row, "detail": dict(detail)})


def newest(connection: Connection, kind: str) -> AuditEntry | None:
    """The last entry of a kind; None where there is none."""
    of_kind = select(rows).where(rows.c.kind == kind).order_by(rows.c.number.desc()).limit(1)
    row = connection.execute(of_kind).first()
    return None if row is None else _entry(row)


def _clean(text: str) -> str:
    """As it is kept: the hash must be that of what is read again."""
    return Prose().process_bind_param(text, None) or ""


_HASHED = ("number", "time_ns", "kind", "who", "why", "detail", "previous")


def _hash(row: Mapping[str, Any]) -> str:
    """Of a JSON array: it says where each value ends, and tells a number from its digits as text."""
    told = json.dumps([row[name] for name in _HASHED], separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def _pages(connection: Connection) -> Iterator[Row[Any]]:
    """All rows in the order of their numbers, a page at a time."""
    query = select(rows).order_by(rows.c.number).limit(_PAGE)
    page = connection.execute(query).all()
    while page:
        yield from page
        page = connection.execute(query.where(rows.c.number > page[-1].number)).all()


def _entry(row: Row[Any]) -> AuditEntry:
    try:
        detail = dict(json.loads(row.detail))
    except (TypeError, ValueError):  # not what was written
        detail = {"unreadable": str(row.detail)}
    return AuditEntry(**{**row._asdict(), "detail": detail})


@legible("head of the audit log", lambda row: row.number)
def _number_of(head: Any) -> int:
    return index(head.number)


def _verify(connection: Connection) -> Verification:
    number, last = 0, _BEFORE_THE_FIRST
    for row in _pages(connection):
        if wrong := _wrong_with(row, number + 1, last):
            at = row.number if isinstance(row.number, int) else number + 1
            return Verification(number, last, min(at, number + 1), wrong)
        number, last = row.number, row.hash
    heads = connection.execute(select(_head.c.number, _head.c.hash)).all()
    if [tuple(each) for each in heads] == [(number, last)]:
        return Verification(number, last)
    at, wrong = _wrong_with_head(heads, number)
    return Verification(number, last, at, wrong)


def _wrong_with(row: Row[Any], number: int, last: str) -> str:
    if not isinstance(row.number, int):  # as the next, bytes are there only if somebody went past this program
        return f"entry {number} was changed: it has no number"
    if row.number < number:
        return f"entry {row.number} was added: no number is below 1"
    if row.number > number:
        return f"entry {number} is missing: entry {row.number} comes in its place"
    try:
        is_own = _hash(row._asdict()) == row.hash
    except (TypeError, ValueError):
        is_own = False
    if not is_own:
        return f"entry {number} was changed: its hash is not that of what it says"
    if row.previous != last:
        return f"entry {number} was changed: it does not follow the entry before it"
    return ""


def _wrong_with_head(heads: Sequence[Any], number: int) -> tuple[int, str]:
    if len(heads) != 1:
        return number + 1, f"there are {len(heads)} heads, and must be one: where the log ends is not known"
    head = heads[0].number
    if not isinstance(head, int):
        return number + 1, f"its head has no number: whether the log ends with entry {number} is not known"
    if head == number:
        return number, f"the hash of entry {number} is not the one that the head has: one of them was changed"
    what = "removed" if head > number else "added"
    return min(
        head, number
    ) + 1, f"the log ends with entry {number}, and its head is {head}: some were {what} at the end"


def _begin(table: Table, connection: Connection, **_: Any) -> None:
    """A new log is empty, and says so: a head that is missing is damage."""
    connection.execute(insert(table).values(id=1, number=0, hash=_BEFORE_THE_FIRST))


event.listen(_head, "after_create", _begin)
