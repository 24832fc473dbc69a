"""Finding and loading what is stored: checkpoints in the order of their saving, values put together, writes in order.

The newest checkpoint is the one that was saved last, not the one with the greatest id: ids are made from the wall
clock, which may be set back.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal, select, tuple_

from checkpoints.patch import apply_patches
from checkpoints.store import (
    BY_CONTENT,
    CHAIN_MAX,
    CheckpointRow,
    ValueRow,
    WriteRow,
    bound,
    checked,
    checkpoint_fields,
    checkpoints,
    chunks,
    damaged,
    digest_of,
    values,
    writes,
)

__all__ = [
    "Page",
    "find_ancestors",
    "find_checkpoint",
    "find_ids",
    "find_namespaces",
    "find_page",
    "find_rows",
    "find_runs",
    "find_until",
    "load_values",
    "load_writes",
]


@dataclass(frozen=True, slots=True)
class Page:
    """Which checkpoints to list, last saved first: those that fit every given field, `size` of them, after `after`.

    `before`: saved before the one with this id, or, where there is none, with a smaller id. `after`: the number of the
    last one already seen.
    """

    thread_id: str | None = None
    ns: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    after: int | None = None
    size: int = 50


def find_checkpoint(connection: Connection, thread_id: str, ns: str, checkpoint_id: str | None) -> CheckpointRow | None:
    """The checkpoint with this id, or the last saved; None where there is none."""
    statement = _NEWEST if checkpoint_id is None else _BY_ID
    key = {"thread_id": thread_id, "ns": ns, "checkpoint_id": checkpoint_id}
    row = connection.execute(statement, key).first()
    return None if row is None else checked(CheckpointRow, row)


def find_page(connection: Connection, page: Page) -> tuple[list[CheckpointRow], Page | None]:
    """The checkpoints of one page, last saved first, and the page that follows, if any."""
    key = checkpoints.c
    place = _given(thread_id=page.thread_id, ns=page.ns)
    conditions = [*place, *_given(checkpoint_id=page.checkpoint_id)]
    if page.before is not None and page.after is None:
        number = _number(connection, page.before, place)
        if number is not None:
            page = replace(page, before=None, after=number)
    if page.before is not None:
        conditions.append(key.checkpoint_id < page.before)
    if page.after is not None:
        conditions.append(key.number < page.after)
    # Numbers alone are sorted; only the rows of this page are then read whole.
    numbers = select(key.number).where(*conditions).order_by(key.number.desc()).limit(page.size).subquery()
    same = key.number == numbers.c.number
    query = select(key.number, *checkpoint_fields).join_from(numbers, checkpoints, same).order_by(key.number.desc())
    numbered = connection.execute(query).all()
    rows = [checked(CheckpointRow, row[1:]) for row in numbered]
    return rows, None if len(rows) < page.size else replace(page, after=numbered[-1][0])


def find_rows(connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str]) -> list[CheckpointRow]:
    """The checkpoints with these ids, in no order."""
    query = select(*checkpoint_fields).where(*bound(checkpoints, "thread_id", "ns"))
    found: list[CheckpointRow] = []
    for some in chunks(checkpoint_ids):
        rows = connection.execute(
            query.where(checkpoints.c.checkpoint_id.in_(some)), {"thread_id": thread_id, "ns": ns}
        )
        found += [checked(CheckpointRow, row) for row in rows]
    return found


def find_until(connection: Connection, thread_id: str, checkpoint_id: str | None = None) -> list[CheckpointRow]:
    """The thread's checkpoints of all namespaces, first saved first, up to this one of its own namespace, or all."""
    query = select(*checkpoint_fields).where(checkpoints.c.thread_id == thread_id).order_by(checkpoints.c.number)
    if checkpoint_id is not None:
        last = _number(connection, checkpoint_id, _given(thread_id=thread_id, ns=""))
        query = query.where(checkpoints.c.number <= last)
    return [checked(CheckpointRow, row) for row in connection.execute(query)]


def find_ids(connection: Connection, thread_id: str, ns: str, before: str | None = None) -> list[str]:
    """All checkpoint ids of a namespace, last saved first; `before` is that of a page. Damaged rows are named too."""
    key = checkpoints.c
    place = _given(thread_id=thread_id, ns=ns)
    query = select(key.checkpoint_id).where(*place)
    if before is not None:
        number = _number(connection, before, place)
        query = query.where(key.checkpoint_id < before if number is None else key.number < number)
    return list(connection.execute(query.order_by(key.number.desc())).scalars())


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
    for some in chunks(run_ids):
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
        select(*checkpoint_fields)
        .join_from(chain, checkpoints, and_(*mine, key.checkpoint_id == chain.c.checkpoint_id))
        .order_by(chain.c.distance)
    )
    return [checked(CheckpointRow, row) for row in connection.execute(rows)]


def load_values(
    connection: Connection, thread_id: str, ns: str, wanted: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[str, bytes]]:
    """The serializer's kind and bytes of each wanted (channel, version) that is stored, differences resolved.

    Raises:
        CheckpointDamaged: a row, or one that it is a difference to, is missing or not what was written.
    """
    rows: dict[tuple[str, str], ValueRow] = {}
    for some in chunks(wanted):
        for row in connection.execute(_VALUES_WITH_BASES, {"thread_id": thread_id, "ns": ns, "wanted": some}):
            value = checked(ValueRow, row)
            rows[value.channel, value.version] = value
    whole: dict[tuple[str, str], bytes] = {}
    stored = sorted((rows[key].depth, key) for key in wanted if key in rows)  # what others build on comes first
    return {key: (rows[key].kind, _resolved(rows, whole, key)) for _, key in stored}


def load_writes(
    connection: Connection, thread_id: str, ns: str, checkpoint_ids: Collection[str], channels: Collection[str] = ()
) -> dict[str, list[WriteRow]]:
    """The writes of these checkpoints (of these channels only, where some are given) in LangGraph's order.

    Raises:
        CheckpointDamaged: a row, or the value that has its content, is missing or not what was written.
    """
    rows: list[WriteRow] = []
    for some in chunks(checkpoint_ids):
        mine = (writes.c.thread_id == thread_id, writes.c.ns == ns, writes.c.checkpoint_id.in_(some))
        query = select(writes).where(*mine, *([writes.c.channel.in_(list(channels))] if channels else ()))
        rows += [checked(WriteRow, row) for row in connection.execute(query)]
    names = {(BY_CONTENT, row.digest) for row in rows if row.digest is not None}
    contents = load_values(connection, thread_id, ns, names) if names else {}
    found: dict[str, list[WriteRow]] = {each: [] for each in checkpoint_ids}
    for row in sorted(rows, key=lambda row: row.order):
        found[row.checkpoint_id].append(row if row.digest is None else _whole_write(row, row.digest, contents))
    return found


def _whole_write(row: WriteRow, digest: str, contents: Mapping[tuple[str, str], tuple[str, bytes]]) -> WriteRow:
    if (BY_CONTENT, digest) not in contents:
        raise damaged(row, f"the value {digest!r}, which has its content, is missing")
    return row.holding(contents[BY_CONTENT, digest][1])


def _resolved(
    rows: dict[tuple[str, str], ValueRow], whole: dict[tuple[str, str], bytes], key: tuple[str, str]
) -> bytes:
    """Follow the chain down to bytes that are whole, then patch them; `whole` keeps what was resolved for the next."""
    chain: list[ValueRow] = []
    link = key
    while link not in whole:
        if link not in rows or len(chain) > CHAIN_MAX:
            raise damaged(chain[-1], f"version {link[1]!r}, which it is a difference to, is missing")
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
            raise damaged(chain[0], str(error)) from error
    if key[0] == BY_CONTENT and digest_of(rows[key].kind, whole[key]) != key[1]:
        raise damaged(rows[key], "its content is not what its name says")
    return whole[key]


def _with_bases() -> Any:
    """The wanted values and all that they are differences to; keys first, so that no body is carried along."""
    key = values.c
    mine = bound(values, "thread_id", "ns")
    wanted = tuple_(key.channel, key.version).in_(bindparam("wanted", expanding=True))
    chain = select(key.channel, key.version, key.base).where(*mine, wanted).cte("chain", recursive=True)
    bases = (key.channel == chain.c.channel, key.version == chain.c.base)
    chain = chain.union(select(key.channel, key.version, key.base).where(*mine, *bases))
    same = and_(*mine, key.channel == chain.c.channel, key.version == chain.c.version)
    return select(values).join_from(chain, values, same)


_BY_ID = select(*checkpoint_fields).where(*bound(checkpoints, "thread_id", "ns", "checkpoint_id"))
_NEWEST = (
    select(*checkpoint_fields)
    .where(*bound(checkpoints, "thread_id", "ns"))
    .order_by(checkpoints.c.number.desc())
    .limit(1)
)
_VALUES_WITH_BASES = _with_bases()
