"""Checkpoints as rows: what LangGraph's saver keeps, with a checksum on each row, and nothing stored twice.

A checkpoint is one row without its channels' values. A value is one row for each version of a channel, so a channel
that did not change costs nothing. A large value is stored as its difference to an earlier version, in chains with an
end. Writes are the outputs of finished tasks that no checkpoint holds yet. The newest checkpoint is the one that was
saved last, not the one with the greatest id: ids are made from the wall clock, which may be set back. Every text that
comes from outside (thread and run ids, channels, versions) is a bound parameter; none becomes SQL or a path.
"""

import importlib
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from itertools import count, islice
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
    bindparam,
    column,
    delete,
    func,
    literal,
    select,
    text,
    tuple_,
)

from agents.errors import CheckpointDamaged
from checkpoints.database import metadata
from checkpoints.patch import apply_patches

__all__ = [
    "CHAIN_MAX",
    "CheckpointRow",
    "Page",
    "ValueRow",
    "WriteRow",
    "copy_thread",
    "delete_checkpoints",
    "delete_thread",
    "find_ancestors",
    "find_checkpoint",
    "find_ids",
    "find_namespaces",
    "find_page",
    "find_rows",
    "find_runs",
    "has_value",
    "load_values",
    "load_writes",
    "save_checkpoint",
    "save_values",
    "save_writes",
    "sweep_values",
]

T = TypeVar("T")

CHAIN_MAX = 200
"""Values that may follow a full copy as differences: bounds what one read costs, and what one damaged row takes."""
_CHUNK = 500
"""Rows or parameters in one statement."""

# Ids are compared and sorted as the bytes they are, on every database and under every locale.
_Id = Text().with_variant(Text(collation="C"), "postgresql")

_NEXT_NUMBER = (
    select(func.coalesce(func.max(column("number")), 0) + 1).select_from(text("saved_checkpoints")).scalar_subquery()
)

checkpoints = Table(
    "saved_checkpoints",
    metadata,
    Column("thread_id", _Id, primary_key=True),
    Column("ns", _Id, primary_key=True),
    Column("checkpoint_id", _Id, primary_key=True),
    Column("parent_id", _Id),
    Column("run_id", _Id),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False, default=_NEXT_NUMBER),  # the order in which they were saved
)
# In turn: the newest of a namespace and its pages; the next number and the pages of all; a checkpoint by its id alone.
Index("saved_checkpoints_of_thread", *(checkpoints.c[name] for name in ("thread_id", "ns", "number", "checkpoint_id")))
Index("saved_checkpoints_by_number", checkpoints.c.number)
Index("saved_checkpoints_by_id", checkpoints.c.checkpoint_id)
_FIELDS = tuple(column for column in checkpoints.c if column.name != "number")
_LAST_FIRST = (checkpoints.c.number.desc(), checkpoints.c.checkpoint_id.desc())
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
)


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
    """A channel's value at one version. With `base`, `body` is a patch of that version, `depth` patches from a copy."""

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


@dataclass(frozen=True, slots=True)
class Page:
    """Which checkpoints to list, last saved first: those that fit every given field, `size` of them, after `after`.

    `before`: saved before the one with this id, or, where there is none, with a smaller id. `after`: (number,
    checkpoint id, thread id, namespace) of the last one already seen.
    """

    thread_id: str | None = None
    ns: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    after: tuple[int, str, str, str] | None = None
    size: int = 50


_Record = CheckpointRow | ValueRow | WriteRow
_R = TypeVar("_R", CheckpointRow, ValueRow, WriteRow)


# Saving.


def save_checkpoint(connection: Connection, row: CheckpointRow) -> None:
    """Insert the checkpoint as the newest, or replace the one with the same id, which keeps its place in the order."""
    connection.execute(_inserts(connection.dialect.name)["checkpoint"], _sealed(row))


def save_values(connection: Connection, rows: Sequence[ValueRow]) -> None:
    """Insert the values. A version that is there already stays: later ones may be differences to it."""
    if rows:
        connection.execute(_inserts(connection.dialect.name)["value"], [_sealed(row) for row in rows])


def save_writes(connection: Connection, rows: Sequence[WriteRow]) -> None:
    """Insert the writes. One that is there already stays, but a special one (`idx` below 0) is replaced."""
    inserts = _inserts(connection.dialect.name)
    for name, part in (
        ("write", [row for row in rows if row.idx >= 0]),
        ("special", [row for row in rows if row.idx < 0]),
    ):
        if part:
            connection.execute(inserts[name], [_sealed(row) for row in part])


def has_value(connection: Connection, thread_id: str, ns: str, channel: str, version: str) -> bool:
    """Whether this version is stored."""
    key = {"thread_id": thread_id, "ns": ns, "channel": channel, "version": version}
    return connection.execute(_HAS_VALUE, key).first() is not None


# Loading.


def find_checkpoint(connection: Connection, thread_id: str, ns: str, checkpoint_id: str | None) -> CheckpointRow | None:
    """The checkpoint with this id, or the last saved; None where there is none."""
    statement = _NEWEST if checkpoint_id is None else _BY_ID
    key = {"thread_id": thread_id, "ns": ns, "checkpoint_id": checkpoint_id}
    row = connection.execute(statement, key).first()
    return None if row is None else _checked(CheckpointRow, row)


def find_page(connection: Connection, page: Page) -> tuple[list[CheckpointRow], Page | None]:
    """The checkpoints of one page, last saved first, and the page that follows, if any."""
    key = checkpoints.c
    order = (key.number, key.checkpoint_id, key.thread_id, key.ns)
    place = _given(thread_id=page.thread_id, ns=page.ns)
    conditions = [*place, *_given(checkpoint_id=page.checkpoint_id)]
    if page.before is not None and page.after is None:
        number = _number(connection, page.before, place)
        if number is not None:  # no text sorts below an empty one, so what follows has a smaller number
            page = replace(page, before=None, after=(number, "", "", ""))
    if page.before is not None:
        conditions.append(key.checkpoint_id < page.before)
    if page.after is not None:
        conditions.append(tuple_(*order) < tuple_(*(literal(part) for part in page.after)))
    # Keys are sorted in the index alone; only the rows of this page are then read whole.
    keys = select(*order).where(*conditions).order_by(*(column.desc() for column in order)).limit(page.size).subquery()
    same = and_(key.thread_id == keys.c.thread_id, key.ns == keys.c.ns, key.checkpoint_id == keys.c.checkpoint_id)
    query = select(key.number, *_FIELDS).join_from(keys, checkpoints, same).order_by(*(each.desc() for each in order))
    numbered = connection.execute(query).all()
    rows = [_checked(CheckpointRow, row[1:]) for row in numbered]
    if len(rows) < page.size:
        return rows, None
    return rows, replace(page, after=(numbered[-1][0], rows[-1].checkpoint_id, rows[-1].thread_id, rows[-1].ns))


def find_rows(connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str]) -> list[CheckpointRow]:
    """The checkpoints with these ids, in no order."""
    query = select(*_FIELDS).where(*_bound(checkpoints, "thread_id", "ns"))
    found: list[CheckpointRow] = []
    for some in _chunks(checkpoint_ids):
        rows = connection.execute(
            query.where(checkpoints.c.checkpoint_id.in_(some)), {"thread_id": thread_id, "ns": ns}
        )
        found += [_checked(CheckpointRow, row) for row in rows]
    return found


def find_ids(connection: Connection, thread_id: str, ns: str, before: str | None = None) -> list[str]:
    """All checkpoint ids of a namespace, last saved first; `before` is that of a page. Damaged rows are named too."""
    key = checkpoints.c
    place = _given(thread_id=thread_id, ns=ns)
    query = select(key.checkpoint_id).where(*place)
    if before is not None:
        number = _number(connection, before, place)
        query = query.where(key.checkpoint_id < before if number is None else key.number < number)
    return list(connection.execute(query.order_by(*_LAST_FIRST)).scalars())


def _given(**fields: str | None) -> list[ColumnElement[bool]]:
    return [checkpoints.c[name] == value for name, value in fields.items() if value is not None]


def _number(connection: Connection, checkpoint_id: str, place: Collection[ColumnElement[bool]]) -> int | None:
    """The number of the checkpoint with this id; of several threads that have one, as copies do, the first saved."""
    query = select(func.min(checkpoints.c.number)).where(checkpoints.c.checkpoint_id == checkpoint_id, *place)
    number: int | None = connection.execute(query).scalar()
    return number


def find_namespaces(connection: Connection, thread_id: str) -> list[str]:
    """The namespaces of a thread: its own ("") and those of its subgraphs."""
    query = select(checkpoints.c.ns).where(checkpoints.c.thread_id == thread_id).distinct()
    return list(connection.execute(query).scalars())


def find_runs(connection: Connection, run_ids: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """Which checkpoints these runs made: (thread id, namespace) -> checkpoint ids."""
    key = checkpoints.c
    found: dict[tuple[str, str], set[str]] = {}
    for some in _chunks(run_ids):
        query = select(key.thread_id, key.ns, key.checkpoint_id).where(key.run_id.in_(some))
        for thread_id, ns, checkpoint_id in connection.execute(query):
            found.setdefault((thread_id, ns), set()).add(checkpoint_id)
    return found


def find_ancestors(connection: Connection, row: CheckpointRow, count: int) -> list[CheckpointRow]:
    """The parent, its parent and so on, nearest first, at most `count`."""
    if row.parent_id is None:
        return []
    key = checkpoints.c
    mine = (key.thread_id == row.thread_id, key.ns == row.ns)
    chain = (
        select(key.checkpoint_id, key.parent_id, literal(1).label("distance"))
        .where(*mine, key.checkpoint_id == row.parent_id)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(key.checkpoint_id, key.parent_id, chain.c.distance + 1).where(
            *mine, key.checkpoint_id == chain.c.parent_id, chain.c.distance < count
        )
    )
    rows = (
        select(*_FIELDS)
        .join_from(chain, checkpoints, and_(*mine, key.checkpoint_id == chain.c.checkpoint_id))
        .order_by(chain.c.distance)
    )
    return [_checked(CheckpointRow, row) for row in connection.execute(rows)]


def load_values(
    connection: Connection, thread_id: str, ns: str, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, bytes]]:
    """The serializer's kind and bytes of each wanted (channel, version) that is stored, differences resolved.

    Raises:
        CheckpointDamaged: a row, or one that it is a difference to, is missing or not what was written.
    """
    rows: dict[tuple[str, str], ValueRow] = {}
    for some in _chunks(wanted):
        for row in connection.execute(_VALUES_WITH_BASES, {"thread_id": thread_id, "ns": ns, "wanted": some}):
            value = _checked(ValueRow, row)
            rows[value.channel, value.version] = value
    whole: dict[tuple[str, str], bytes] = {}
    stored = sorted((rows[key].depth, key) for key in wanted if key in rows)  # what others build on comes first
    return {key: (rows[key].kind, _resolved(rows, whole, key)) for _, key in stored}


def load_writes(
    connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str], channels: Collection[str] = ()
) -> dict[str, list[WriteRow]]:
    """The writes of these checkpoints (of these channels only, where some are given) in LangGraph's order."""
    found: dict[str, list[WriteRow]] = {each: [] for each in checkpoint_ids}
    for some in _chunks(checkpoint_ids):
        query = select(writes).where(
            writes.c.thread_id == thread_id, writes.c.ns == ns, writes.c.checkpoint_id.in_(some)
        )
        if channels:
            query = query.where(writes.c.channel.in_(list(channels)))
        for row in connection.execute(query):
            write = _checked(WriteRow, row)
            found[write.checkpoint_id].append(write)
    for each in found.values():
        each.sort(key=lambda write: write.order)
    return found


def _resolved(
    rows: dict[tuple[str, str], ValueRow], whole: dict[tuple[str, str], bytes], key: tuple[str, str]
) -> bytes:
    """Follow the chain down to bytes that are whole, then patch them; `whole` keeps what was resolved for the next."""
    chain: list[ValueRow] = []
    link = key
    while link not in whole:
        if link not in rows or len(chain) > CHAIN_MAX:
            raise _damaged(chain[-1], f"version {link[1]!r}, which it is a difference to, is missing")
        row = rows[link]
        if row.base is None:
            whole[link] = row.body
        else:
            chain.append(row)
            link = (row.channel, row.base)
    if chain:
        try:
            whole[key] = apply_patches(whole[link], [row.body for row in reversed(chain)])
        except ValueError as error:
            raise _damaged(chain[0], str(error)) from error
    return whole[key]


# Deleting and copying.


def delete_thread(connection: Connection, thread_id: str) -> None:
    """Delete all that is stored of the thread."""
    for table in (checkpoints, values, writes):
        connection.execute(delete(table).where(table.c.thread_id == thread_id))


def delete_checkpoints(connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str]) -> None:
    """Delete these checkpoints and their writes; their values stay until they are swept."""
    for some in _chunks(checkpoint_ids):
        for table in (checkpoints, writes):
            mine = (table.c.thread_id == thread_id, table.c.ns == ns, table.c.checkpoint_id.in_(some))
            connection.execute(delete(table).where(*mine))


def sweep_values(connection: Connection, thread_id: str, ns: str, used: Collection[tuple[str, str]]) -> None:
    """Delete every value that is not used, nor the base of one that is."""
    mine = (values.c.thread_id == thread_id, values.c.ns == ns)
    query = select(values.c.channel, values.c.version, values.c.base).where(*mine)
    bases = {(channel, version): base for channel, version, base in connection.execute(query)}
    kept: set[tuple[str, str]] = set()
    for channel, version in used:
        link: str | None = version
        while link is not None and (channel, link) not in kept:
            kept.add((channel, link))
            link = bases.get((channel, link))
    for some in _chunks(bases.keys() - kept):
        connection.execute(delete(values).where(*mine, tuple_(values.c.channel, values.c.version).in_(some)))


def copy_thread(connection: Connection, source: str, target: str) -> None:
    """Copy every row of one thread to another. Each is checked on the way; one that the target has already stays.

    The copies are saved now: they are the newest of the target, in the order that they have in the source.
    """
    inserts = _inserts(connection.dialect.name)
    numbers = count(connection.execute(select(_NEXT_NUMBER)).scalar_one())
    key = checkpoints.c
    query = select(*_FIELDS).where(key.thread_id == source).order_by(key.number, key.checkpoint_id)
    for copies in _copies(connection.execute(query), CheckpointRow, target):
        connection.execute(inserts["copied_checkpoint"], [{**copy, "number": next(numbers)} for copy in copies])
    query = select(values).where(values.c.thread_id == source)
    for copies in _copies(connection.execute(query), ValueRow, target):
        connection.execute(inserts["value"], copies)
    query = select(writes).where(writes.c.thread_id == source)
    for copies in _copies(connection.execute(query), WriteRow, target):
        connection.execute(inserts["write"], copies)


def _copies(rows: Iterable[Sequence[Any]], kind: type[_R], target: str) -> Iterator[list[dict[str, Any]]]:
    for some in _chunks(rows):
        yield [_sealed(replace(_checked(kind, row), thread_id=target)) for row in some]


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, _CHUNK)):
        yield some


# Checksums.


def _checksum(fields: tuple[Any, ...]) -> int:
    """Of the whole row: a body that was moved to another key is as wrong as one that was changed."""
    *names, body = fields
    return zlib.crc32(body, zlib.crc32(repr(names).encode(errors="surrogatepass")))


def _sealed(row: _Record) -> dict[str, Any]:
    fields = _fields(row)
    return dict(zip((*row.__slots__, "checksum"), (*fields, _checksum(fields)), strict=True))


def _fields(row: _Record) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in row.__slots__)


def _checked(kind: type[_R], row: Sequence[Any]) -> _R:
    fields: list[Any]
    *fields, checksum = row
    if fields[-1] is not None:
        fields[-1] = bytes(fields[-1])
    record = kind(*fields)
    if _checksum(tuple(fields)) != checksum:
        raise _damaged(record, "its checksum is not that of its content")
    return record


def _damaged(row: _Record, why: str) -> CheckpointDamaged:
    name = ", ".join(f"{field} {value!r}" for field, value in zip(row.__slots__, astuple(row)[:4], strict=False))
    return CheckpointDamaged(f"a stored {_NOUNS[type(row)]} is damaged ({name}): {why}; it was not used")


_NOUNS: dict[type, str] = {CheckpointRow: "checkpoint", ValueRow: "value", WriteRow: "write"}


# Statements that every run uses are built once.


def _bound(table: Table, *names: str) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(name) for name in names]


@cache
def _inserts(dialect: str) -> dict[str, Any]:
    """The inserts of one database's dialect, by name; a dialect that is not used is not imported either."""
    insert: Any = importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert

    def replacing(table: Table) -> Any:
        statement = insert(table)
        kept = {checkpoints.c.number, *table.primary_key}
        new = {column.name: statement.excluded[column.name] for column in table.c if column not in kept}
        return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=new)

    return {
        "checkpoint": replacing(checkpoints),
        "copied_checkpoint": insert(checkpoints).on_conflict_do_nothing(),
        "value": insert(values).on_conflict_do_nothing(),
        "write": insert(writes).on_conflict_do_nothing(),
        "special": replacing(writes),
    }


def _with_bases() -> Any:
    """The wanted values and all that they are differences to; keys first, so that no body is carried along."""
    key = values.c
    mine = _bound(values, "thread_id", "ns")
    wanted = tuple_(key.channel, key.version).in_(bindparam("wanted", expanding=True))
    chain = select(key.channel, key.version, key.base).where(*mine, wanted).cte("chain", recursive=True)
    bases = (key.channel == chain.c.channel, key.version == chain.c.base)
    chain = chain.union(select(key.channel, key.version, key.base).where(*mine, *bases))
    same = and_(*mine, key.channel == chain.c.channel, key.version == chain.c.version)
    return select(values).join_from(chain, values, same)


_BY_ID = select(*_FIELDS).where(*_bound(checkpoints, "thread_id", "ns", "checkpoint_id"))
_NEWEST = select(*_FIELDS).where(*_bound(checkpoints, "thread_id", "ns")).order_by(*_LAST_FIRST).limit(1)
_HAS_VALUE = select(literal(1)).where(*_bound(values, "thread_id", "ns", "channel", "version"))
_VALUES_WITH_BASES = _with_bases()
