"""A run is exported to a file, and imported from one: see `archive_file` for what stands in it.

An import changes nothing that is there. The imported run can be looked at and forked, and not resumed: whoever it came
from may go on with it, and its lease is there. Its orders are kept as text, outside of the ledger, where they would be
positions and might be sent. It is dry, and a fork of it has an account of its own, with fresh cash.

The settings that shape a decision go along. They hold no secret: the address of a database, which may, is none of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from sqlalchemy import Connection, insert, select

from agents.clock import Clock
from agents.domain import Order
from agents.errors import BadArchive, CheckpointDamaged, CheckpointNotFound, StorageError
from checkpoints import archive_content, archive_file, events, imported, loading, store
from checkpoints.archive_content import Import
from checkpoints.archive_records import Item, OrderRecord, Records, ReportName, ReportRecord, order_records
from checkpoints.contents import Content, Contents
from checkpoints.database import Database
from checkpoints.history import History
from checkpoints.imported import Origin
from checkpoints.leases import runs
from checkpoints.orders import fills_of, orders_of
from checkpoints.registry import Run, RunStatus, next_number
from checkpoints.runs import CheckpointManager
from checkpoints.saver import SqlSaver
from checkpoints.store import CheckpointRow, ValueRow, WriteRow

__all__ = ["Archive", "Exported", "origin_of"]

_LOADED = 20
"""Values that are in memory at once."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A run that was written to a file of so many bytes."""

    run: Run
    path: Path
    size: int


class Archive:
    """The runs of one home, as files. `home`: the folder that holds `runs/RUN_ID/`."""

    def __init__(
        self, database: Database, saver: SqlSaver, manager: CheckpointManager, home: Path, clock: Clock
    ) -> None:
        self._database = database
        self._history = History(saver.serde)
        self._manager = manager
        self._home = home
        self._clock = clock

    async def export(self, run_id: str, path: Path) -> Exported:
        """Write all there is of a run to a new file, as it stands at one moment; it may be running.

        Raises:
            CheckpointNotFound: there is no such run, or it was pruned.
            CheckpointDamaged: a part of it is not what was saved; nothing was written.
            StorageError: the file cannot be written, or is there already, or the run is too large for one.
        """
        run = await self._manager.run(run_id)
        if run.status is RunStatus.PRUNED:
            raise CheckpointNotFound(f"run {run_id} was pruned: nothing is left to export; nothing was written")
        reports = list(_reports(self._folder(run_id)))
        try:
            data = await self._database.aread(
                lambda connection: archive_file.pack(self._items(connection, run_id, reports))
            )
        except ValueError as error:  # a text that is longer than others of its kind, or none
            what = " ".join(str(error).split())
            raise StorageError(f"run {run_id} does not fit into a file ({what:.300}); nothing was exported") from error
        archive_file.write_file(path, data)
        return Exported(run, path, len(data))

    async def take(self, path: Path) -> Run:
        """Import the run of a file, in one transaction.

        Raises:
            BadArchive: it is no such file, or damaged, or a run of this name is here already; nothing was imported.
        """
        try:
            content = Import.of(Records.of(archive_file.unpack(archive_file.read_file(path))))
        except BadArchive as error:
            raise _refused(path, str(error)) from error
        run = await self._database.awrite(lambda connection: self._insert(connection, content, path))
        with suppress(OSError):  # what the report says is in the database: it must not undo the run
            self._folder(run.run_id).mkdir(parents=True, exist_ok=True, mode=0o700)
            for report, body in content.records.reports:
                (self._folder(run.run_id) / report.name).write_bytes(body)
        return run

    def _folder(self, run_id: str) -> Path:
        return self._home / "runs" / run_id

    def _items(self, connection: Connection, run_id: str, reports: Sequence[Item]) -> Iterator[Item]:
        run = self._manager.seen(connection, run_id)
        origin = imported.origin_of(connection, run_id)
        yield archive_content.run_record(run, origin), b""
        yield from _saved(connection, self._history, run_id)
        for entry in events.entries_of(connection, run_id):
            yield archive_content.entry_record(entry), b""
        for record in _order_records(connection, run_id, origin):
            yield record, b""
        yield from reports

    def _insert(self, connection: Connection, content: Import, path: Path) -> Run:
        run_id = str(content.row["run_id"])
        columns = (runs.c.run_id, *(table.c.thread_id for table in (store.checkpoints, store.values, store.writes)))
        for column in columns:
            if connection.execute(select(column).where(column == run_id).limit(1)).first() is not None:
                raise BadArchive(
                    f"{path} holds run {run_id}, and a run of that name is here already; nothing was imported;"
                    " import it into another home: --home FOLDER"
                )
        now_ns = self._clock.now_ns()
        row = {**content.row, "number": next_number(connection), "updated_ns": now_ns}
        connection.execute(insert(runs).values(**row))
        imported.keep(connection, run_id, Origin(content.records.run.status, now_ns, content.orders))
        _save(connection, content.records)
        events.append(connection, content.entries)
        try:
            self._history.verify(connection, run_id)
        except Exception as error:
            if isinstance(error, StorageError) and not isinstance(error, CheckpointDamaged):
                raise
            what = f"has states that cannot be read ({type(error).__name__}: {error!s:.300})"
            raise _refused(path, what) from error
        return self._manager.seen(connection, run_id)


async def origin_of(database: Database, run_id: str) -> tuple[str, tuple[Order, ...]]:
    """How an imported run stood when it was exported, and its orders; "" and none for a run of this home's own."""
    origin = await database.aread(lambda connection: imported.origin_of(connection, run_id))
    if origin is None:
        return "", ()
    records = order_records.validate_json(origin.orders)
    return origin.status, tuple(archive_content.order_of(record, run_id) for record in records)


def _refused(path: Path, what: str) -> BadArchive:
    return BadArchive(f"{path} {what}; nothing was imported; export the run again, with the version that is used here")


def _reports(folder: Path) -> Iterator[Item]:
    """Those of a run that has come to one."""
    for name in get_args(ReportName):
        with suppress(OSError):
            body = (folder / name).read_bytes()
            yield ReportRecord(name=name, size=len(body)), body


def _saved(connection: Connection, history: History, run_id: str) -> Iterator[Item]:
    """Checkpoints in the order of their saving, the values that they and the writes name, and the writes."""
    named: dict[str, dict[tuple[str, str], str]] = {}
    for row, stored in history.contents(connection, run_id):
        named.setdefault(row.ns, {}).update({name: channel for channel, name in stored.items()})
        yield archive_content.checkpoint_record(row), row.body
    query = select(store.writes).where(store.writes.c.thread_id == run_id)
    rows = connection.execute(query.order_by(*store.writes.primary_key.columns))
    written = [store.checked(WriteRow, row) for row in rows]
    for write in written:
        if write.digest is not None:
            named.setdefault(write.ns, {}).setdefault((store.BY_CONTENT, write.digest), write.channel)
    for ns, names in named.items():
        yield from _values(connection, run_id, ns, names)
    for write in written:
        yield archive_content.write_record(write), b"" if write.digest else write.body


def _values(connection: Connection, run_id: str, ns: str, named: Mapping[tuple[str, str], str]) -> Iterator[Item]:
    """Whole, since what is put together from differences can be made to be a million times as long as those."""
    for start in range(0, len(named), _LOADED):
        names = list(named)[start : start + _LOADED]
        loaded = loading.load_values(connection, run_id, ns, names)
        for name in names:
            if name not in loaded:
                raise CheckpointDamaged(f"value {name[1]!r} of run {run_id} is missing; nothing was exported")
            kind, body = loaded[name]
            yield archive_content.value_record(ns, name, named[name], kind, body), body


def _save(connection: Connection, records: Records) -> None:
    """Insert what was saved of the run, values as differences again where that is shorter."""
    run_id = records.run.run_id
    number = connection.execute(select(store.next_number)).scalar_one()
    rows = (
        CheckpointRow(run_id, each.ns, each.checkpoint_id, each.parent_id, each.run_id, each.kind, body)
        for each, body in records.checkpoints
    )
    for some in store.chunks(rows):
        store.save_copies(connection, some, number)
        number += len(some)
    contents = Contents()
    for value, body in records.values:
        if value.channel == store.BY_CONTENT:
            content = Content(value.of, "", value.kind, body, value.version)
            contents.save(connection, (run_id, value.ns), [content])
        else:
            row = ValueRow(run_id, value.ns, value.channel, value.version, None, 0, value.kind, body)
            store.save_values(connection, [row])
    store.save_writes(connection, [archive_content.write_row(run_id, write, body) for write, body in records.writes])


def _order_records(connection: Connection, run_id: str, origin: Origin | None) -> list[OrderRecord]:
    if origin is not None:
        return order_records.validate_json(origin.orders)
    orders = orders_of(connection, run_id)
    return [archive_content.order_record(order, fills_of(connection, order.client_order_id)) for order in orders]
