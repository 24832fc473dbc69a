"""Checkpoints as rows: what LangGraph's saver keeps, with a checksum on each row, and nothing stored twice.

A checkpoint is one row without its channels' larger values: it names them by a digest of their content. A value is one
row for each content of a thread and namespace, whoever refers to it: checkpoints, and writes, which are the outputs of
finished tasks that no checkpoint holds yet. A large value is stored as its difference to another one, in chains with an
end. What is long is compressed. Every text that comes from outside (thread and run ids, channels, versions) is a bound
parameter; none becomes SQL or a path.

This module has the tables, their rows, and how they are saved; `loading` reads them, `upkeep` deletes and copies them.
"""

import importlib
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import zstandard
from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    column,
    event,
    func,
    literal_column,
    select,
    text,
)

from agents.errors import CheckpointDamaged
from checkpoints.database import metadata

__all__ = [
    "BY_CONTENT",
    "CHAIN_MAX",
    "REFERENCE",
    "CheckpointRow",
    "ValueRow",
    "WriteRow",
    "bound",
    "checked",
    "checkpoint_fields",
    "checkpoints",
    "chunks",
    "damaged",
    "digest_of",
    "next_number",
    "save_checkpoint",
    "save_copies",
    "save_values",
    "save_writes",
    "stored_digests",
    "values",
    "writes",
]

T = TypeVar("T")

CHAIN_MAX = 200
"""Values that may follow a full copy as differences: bounds what one read costs, and what one damaged row takes."""
BY_CONTENT = ""
"""The channel of values that are named by their content. Others are from the first version of this store: their name
is a channel and its version, and so is that of what they are differences to."""
_CHUNK = 500
"""Rows or parameters in one statement."""
_COMPRESSED_MIN = 1_024
"""Bytes from which on a body is compressed, where that makes it smaller."""
_LEVEL = 1
REFERENCE = "ref:"
"""Before the kind of a write whose body is the name of the value that has its content."""
_ZSTD = "zstd:"
"""Before the kind of a row whose body is compressed."""

# Ids are compared and sorted as the bytes they are, on every database and under every locale.
_Id = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite keeps a table in the order of such a key, without an index beside it.
_Number = BigInteger().with_variant(Integer, "sqlite")

_highest: ColumnElement[int] = func.coalesce(func.max(column("number")), literal_column("0"))
next_number = select(_highest + literal_column("1")).select_from(text("saved_checkpoints")).scalar_subquery()
"""The number of the checkpoint that is saved next."""

# Rows stand in the table in the order in which they were saved; both keys grow with it, whatever their thread.
checkpoints = Table(
    "saved_checkpoints",
    metadata,
    Column("thread_id", _Id, nullable=False),
    Column("ns", _Id, nullable=False),
    Column("checkpoint_id", _Id, nullable=False),
    Column("parent_id", _Id),
    Column("run_id", _Id),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("number", _Number, primary_key=True, autoincrement=False, default=next_number),
    UniqueConstraint("checkpoint_id", "thread_id", "ns"),
)
Index("saved_checkpoints_of_thread", checkpoints.c.thread_id, checkpoints.c.ns, checkpoints.c.number)
checkpoint_fields = tuple(column for column in checkpoints.c if column.name != "number")
values = Table(
    "saved_values",
    metadata,
    Column("thread_id", _Id, primary_key=True),
    Column("ns", _Id, primary_key=True),
    Column("channel", _Id, primary_key=True),
    Column("version", _Id, primary_key=True),
    Column("base", _Id),
    Column("depth", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
writes = Table(
    "saved_writes",
    metadata,
    Column("thread_id", _Id, primary_key=True),
    Column("ns", _Id, primary_key=True),
    Column("checkpoint_id", _Id, primary_key=True),
    Column("task_id", _Id, primary_key=True),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("task_path", _Id, nullable=False),
    Column("channel", _Id, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
for _table in (checkpoints, values, writes):  # Postgres would try in vain to compress what is compressed
    _ddl = DDL("ALTER TABLE %(table)s ALTER COLUMN body SET STORAGE EXTERNAL")  # type: ignore[no-untyped-call]
    event.listen(_table, "after_create", _ddl.execute_if(dialect="postgresql"))


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint without its values. `kind` and `body` are the serializer's; `parent_id` is None for the first."""

    thread_id: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A value under its name. With `base`, `body` is a patch of that one, `depth` patches away from a whole copy."""

    thread_id: str
    ns: str
    channel: str
    version: str
    base: str | None
    depth: int
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class WriteRow:
    """One output of one task of the step that follows a checkpoint."""

    thread_id: str
    ns: str
    checkpoint_id: str
    task_id: str
    idx: int
    task_path: str
    channel: str
    kind: str
    body: bytes

    @property
    def order(self) -> tuple[str, str, int]:
        """The order in which LangGraph applies the outputs of one step."""
        return (self.task_path, self.task_id, self.idx)

    @property
    def digest(self) -> str | None:
        """The name of the value that has the content; None where the row has it."""
        return self.body.decode() if self.kind.startswith(REFERENCE) else None

    def holding(self, body: bytes) -> Self:
        """The same write with the content that it refers to."""
        return replace(self, kind=self.kind.removeprefix(REFERENCE), body=body)


_Row: TypeAlias = CheckpointRow | ValueRow | WriteRow
_R = TypeVar("_R", CheckpointRow, ValueRow, WriteRow)


class _Statement(NamedTuple):
    """A statement's text, the names of its parameters in order, and whether the driver takes them so or by name."""

    sql: str
    names: tuple[str, ...]
    positional: bool


# Saving.


def save_checkpoint(connection: Connection, row: CheckpointRow) -> None:
    """Insert the checkpoint as the newest, or replace the one with the same id, which keeps its place in the order."""
    _insert(connection, "checkpoint", [_sealed(row)])


def save_values(connection: Connection, rows: Iterable[ValueRow]) -> None:
    """Insert the values. A whole one replaces what has its name; a difference does not: its base might need that."""
    whole: list[tuple[Any, ...]] = []
    differences: list[tuple[Any, ...]] = []
    for row in rows:
        (whole if row.base is None else differences).append(_sealed(row))
    _insert(connection, "whole value", whole)
    _insert(connection, "value", differences)


def save_writes(connection: Connection, rows: Iterable[WriteRow]) -> None:
    """Insert the writes. One that is there already stays, but a special one (`idx` below 0) is replaced."""
    usual: list[tuple[Any, ...]] = []
    special: list[tuple[Any, ...]] = []
    for row in rows:
        (usual if row.idx >= 0 else special).append(_sealed(row))
    _insert(connection, "write", usual)
    _insert(connection, "special write", special)


def save_copies(connection: Connection, rows: Sequence[_R], number: int = 0) -> None:
    """Insert rows of one kind, checkpoints with numbers from this one on. One that is there already stays as it is."""
    numbered = isinstance(rows[0], CheckpointRow)
    copies = [_sealed(row) + ((number + at,) if numbered else ()) for at, row in enumerate(rows)]
    _insert(connection, _COPIES[type(rows[0])], copies)


def stored_digests(connection: Connection, thread_id: str, ns: str, digests: Collection[str]) -> set[str]:
    """Which of these contents are stored."""
    found: set[str] = set()
    for some in chunks(digests):
        count = 1 << (len(some) - 1).bit_length()  # a statement for each power of two will do
        padding = some[-1:] * (count - len(some))
        rows = _run(connection, _lookup(connection.dialect, count), [(thread_id, ns, BY_CONTENT, *some, *padding)])
        found.update(row[0] for row in rows)
    return found


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists that one statement can take."""
    rest = iter(items)
    while some := list(islice(rest, _CHUNK)):
        yield some


# Names, compression and checksums.


def digest_of(kind: str, body: bytes) -> str:
    """What a content is called. No two have the same name, not even if somebody wished it."""
    digest = sha256(kind.encode() + b"\0")
    digest.update(body)
    return digest.hexdigest()[:32]


class _Zstd(threading.local):
    """A compressor of each thread, which must not share one, and which makes the first one dear."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def _sealed(row: _Row) -> tuple[Any, ...]:
    """The row as it is stored: compressed, where that helps, and with the checksum of what is stored."""
    fields = list(_FIELDS[type(row)](row))
    if len(row.body) >= _COMPRESSED_MIN:
        short = _zstd.compress(row.body)
        if len(short) < len(row.body):
            fields[-2:] = (_ZSTD + row.kind, short)
    return (*fields, _checksum(fields))


def checked(kind: type[_R], row: Iterable[Any]) -> _R:
    """The row that was stored; raises CheckpointDamaged if this is not what was."""
    fields: list[Any]
    *fields, checksum = row
    record = kind(*fields)
    if type(record.body) is not bytes or _checksum(fields) != checksum:
        raise damaged(record, "its checksum is not that of its content")
    if not record.kind.startswith(_ZSTD):
        return record
    try:
        return replace(record, kind=record.kind.removeprefix(_ZSTD), body=_zstd.decompress(record.body))
    except (zstandard.ZstdError, MemoryError) as error:
        raise damaged(record, f"it cannot be decompressed ({error})") from error


def _checksum(fields: Sequence[Any]) -> int:
    """Of the whole row: a body that was moved to another key is as wrong as one that was changed."""
    return zlib.crc32(fields[-1], zlib.crc32(repr(fields[:-1]).encode(errors="surrogatepass")))


def damaged(row: _Row, why: str) -> CheckpointDamaged:
    """The error that names a row."""
    name = ", ".join(f"{field} {value!r}" for field, value in zip(row.__slots__, astuple(row)[:4], strict=False))
    return CheckpointDamaged(f"a stored {_NOUNS[type(row)]} is damaged ({name}): {why}; it was not used")


_FIELDS: dict[type, Any] = {kind: attrgetter(*kind.__slots__) for kind in (CheckpointRow, ValueRow, WriteRow)}
_NOUNS: dict[type, str] = {CheckpointRow: "checkpoint", ValueRow: "value", WriteRow: "write"}


# Statements, in the words of one database. They are made once: to make one takes longer than to run it.


def bound(table: Table, *names: str) -> list[ColumnElement[bool]]:
    """Conditions on these columns, with parameters of their names."""
    return [table.c[name] == bindparam(name) for name in names]


def _insert(connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        _run(connection, _inserting(connection.dialect, name), rows)


def _run(connection: Connection, statement: _Statement, rows: Sequence[tuple[Any, ...]]) -> Iterable[Any]:
    """Run a statement once for each row of parameters.

    SQLite's driver is called by itself: what SQLAlchemy does around it takes twice as long as the statement.
    """
    if statement.positional:
        raw: Any = connection.connection.driver_connection
        done: Iterable[Any] = (
            raw.execute(statement.sql, rows[0]) if len(rows) == 1 else raw.executemany(statement.sql, rows)
        )
        return done
    named = [dict(zip(statement.names, row, strict=True)) for row in rows]
    return connection.exec_driver_sql(statement.sql, named[0] if len(rows) == 1 else named)


def _prepared(dialect: Dialect, statement: Any, names: Sequence[str], columns: Sequence[str] | None) -> _Statement:
    compiled = statement.compile(dialect=dialect, column_keys=columns)
    return _Statement(str(compiled), tuple(names), compiled.positiontup is not None)


@lru_cache(maxsize=64)
def _inserting(dialect: Dialect, name: str) -> _Statement:
    """An insert of rows with a checksum; a dialect that is not used is not imported either."""
    table, key = _INSERTS[name]
    insert: Any = importlib.import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)
    columns = [column.name for column in table.c if name == "copied checkpoint" or column is not checkpoints.c.number]
    if key:
        new = {column: insert.excluded[column] for column in columns if column not in key}
        insert = insert.on_conflict_do_update(index_elements=list(key), set_=new)
    else:
        insert = insert.on_conflict_do_nothing()
    return _prepared(dialect, insert, columns, columns)


_INSERTS: dict[str, tuple[Table, tuple[str, ...]]] = {
    "checkpoint": (checkpoints, ("thread_id", "ns", "checkpoint_id")),
    "copied checkpoint": (checkpoints, ()),
    "value": (values, ()),
    "whole value": (values, tuple(values.primary_key.columns.keys())),
    "write": (writes, ()),
    "special write": (writes, tuple(writes.primary_key.columns.keys())),
}
"""Each insert: its table, and the key of the row that it replaces; without one, what is there stays."""
_COPIES: dict[type, str] = {CheckpointRow: "copied checkpoint", ValueRow: "value", WriteRow: "write"}


@lru_cache(maxsize=64)
def _lookup(dialect: Dialect, count: int) -> _Statement:
    """Which of so many contents of a place are stored."""
    names = ["thread_id", "ns", "channel", *(f"digest_{at}" for at in range(count))]
    digests: list[Any] = [bindparam(name) for name in names[3:]]
    query = select(values.c.version).where(*bound(values, *names[:3]), values.c.version.in_(digests))
    return _prepared(dialect, query, names, None)
