"""Deleting what is stored, and copying it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, delete, func, select, tuple_

from checkpoints.store import (
    BY_CONTENT,
    REFERENCE,
    CheckpointRow,
    ValueRow,
    WriteRow,
    checked,
    checkpoint_fields,
    checkpoints,
    chunks,
    next_number,
    save_copies,
    values,
    writes,
)

__all__ = ["copy_part", "copy_thread", "delete_checkpoints", "delete_thread", "size_of", "sweep_values"]


def delete_thread(connection: Connection, thread_id: str) -> None:
    """Delete all that is stored of the thread."""
    for table in (checkpoints, values, writes):
        connection.execute(delete(table).where(table.c.thread_id == thread_id))


def delete_checkpoints(connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str]) -> None:
    """Delete these checkpoints and their writes; their values stay until they are swept."""
    for some in chunks(checkpoint_ids):
        for table in (checkpoints, writes):
            mine = (table.c.thread_id == thread_id, table.c.ns == ns, table.c.checkpoint_id.in_(some))
            connection.execute(delete(table).where(*mine))


def sweep_values(connection: Connection, thread_id: str, ns: str, used: Collection[tuple[str, str]]) -> None:
    """Delete every value that neither is used, by one of these (channel, version) or by a write, nor is the base of
    one that is."""  # noqa: D205, D209 (one sentence)
    mine = (values.c.thread_id == thread_id, values.c.ns == ns)
    bases = _bases(connection, thread_id, ns)
    kept = _with_bases(bases, (*used, *_referred_to(connection, thread_id, ns)))
    for some in chunks(bases.keys() - kept):
        connection.execute(delete(values).where(*mine, tuple_(values.c.channel, values.c.version).in_(some)))


def _bases(connection: Connection, thread_id: str, ns: str) -> dict[tuple[str, str], str | None]:
    """All values of a namespace, by (channel, version), and the version that each is a difference to."""
    mine = (values.c.thread_id == thread_id, values.c.ns == ns)
    query = select(values.c.channel, values.c.version, values.c.base).where(*mine)
    return {(channel, version): base for channel, version, base in connection.execute(query)}


def _with_bases(bases: Mapping[tuple[str, str], str | None], used: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """What is used, and what that is put together from."""
    kept: set[tuple[str, str]] = set()
    for channel, version in used:
        link: str | None = version
        while link is not None and (channel, link) not in kept:
            kept.add((channel, link))
            link = bases.get((channel, link))
    return kept


def _referred_to(connection: Connection, thread_id: str, ns: str) -> list[tuple[str, str]]:
    """The values that have the content of writes."""
    mine = (writes.c.thread_id == thread_id, writes.c.ns == ns, writes.c.kind.startswith(REFERENCE, autoescape=True))
    return [(BY_CONTENT, body.decode()) for body in connection.execute(select(writes.c.body).where(*mine)).scalars()]


def copy_thread(connection: Connection, source: str, target: str) -> None:
    """Copy every row of one thread to another. Each is checked on the way; one that the target has already stays.

    The copies are saved now: they are the newest of the target, in the order that they have in the source.
    """
    number = connection.execute(select(next_number)).scalar_one()
    mine = checkpoints.c.thread_id == source
    query = select(*checkpoint_fields).where(mine).order_by(checkpoints.c.number)
    for some in chunks(connection.execute(query)):
        save_copies(connection, [replace(checked(CheckpointRow, row), thread_id=target) for row in some], number)
        number += len(some)
    for some in chunks(connection.execute(select(values).where(values.c.thread_id == source))):
        save_copies(connection, [replace(checked(ValueRow, row), thread_id=target) for row in some])
    for some in chunks(connection.execute(select(writes).where(writes.c.thread_id == source))):
        save_copies(connection, [replace(checked(WriteRow, row), thread_id=target) for row in some])


def copy_part(
    connection: Connection,
    source: str,
    target: str,
    rows: Sequence[CheckpointRow],
    used: Mapping[str, Collection[tuple[str, str]]],
    *,
    but_writes_of: str,
) -> None:
    """Copy these checkpoints, in this order, with their writes and with the values that are `used`, by namespace.

    The writes of one checkpoint of the thread's own namespace are left out: the step that follows it is done again.
    """
    number = connection.execute(select(next_number)).scalar_one()
    for some in chunks(replace(row, thread_id=target) for row in rows):
        save_copies(connection, some, number)
        number += len(some)
    for ns, names in used.items():
        ids = [row.checkpoint_id for row in rows if row.ns == ns and (ns, row.checkpoint_id) != ("", but_writes_of)]
        contents = _copy_writes(connection, source, target, ns, ids)
        wanted = _with_bases(_bases(connection, source, ns), {*names, *contents})
        for keys in chunks(wanted):
            mine = (values.c.thread_id == source, values.c.ns == ns)
            named = tuple_(values.c.channel, values.c.version).in_(keys)
            found = connection.execute(select(values).where(*mine, named))
            if copies := [replace(checked(ValueRow, row), thread_id=target) for row in found]:
                save_copies(connection, copies)


def _copy_writes(
    connection: Connection, source: str, target: str, ns: str, checkpoint_ids: Collection[str]
) -> set[tuple[str, str]]:
    """Copy the writes of these checkpoints; gives the names of the values that have their contents."""
    contents: set[tuple[str, str]] = set()
    for ids in chunks(checkpoint_ids):
        mine = (writes.c.thread_id == source, writes.c.ns == ns, writes.c.checkpoint_id.in_(ids))
        for some in chunks(connection.execute(select(writes).where(*mine))):
            copies = [replace(checked(WriteRow, row), thread_id=target) for row in some]
            save_copies(connection, copies)
            contents.update((BY_CONTENT, row.digest) for row in copies if row.digest is not None)
    return contents


def size_of(connection: Connection, thread_id: str) -> tuple[int, int]:
    """How many checkpoints the thread has, and the bytes that it takes: bodies alone, as they are stored."""
    tables = (checkpoints, values, writes)
    sizes = [select(func.count(), func.sum(func.length(table.c.body))) for table in tables]
    found = [
        connection.execute(size.where(table.c.thread_id == thread_id)).one()
        for size, table in zip(sizes, tables, strict=True)
    ]
    return int(found[0][0]), sum(int(size or 0) for _, size in found)
