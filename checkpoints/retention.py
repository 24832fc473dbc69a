"""Old runs are pruned: what was saved of them goes, and what was traded stays.

Of a run that ended long enough ago go its checkpoints, values and writes, its timeline, and its folder with the report.
Its row stays in the registry as PRUNED, so that nobody gets its id again, and with that its orders. Orders, fills and
accounts are never deleted: positions are a fold over fills.

A run stays whole that has not ended, that somebody works on, that has an order whose fate is open, or that a run was
forked from which stays. An imported run has ended here; it is as old as its import.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, select, update

from agents.clock import Clock
from agents.errors import StorageError
from checkpoints import events, imported, sessions, upkeep
from checkpoints.database import Database
from checkpoints.leases import Leases, runs
from checkpoints.orders import live_runs, orders_of
from checkpoints.registry import RunStatus
from checkpoints.store import chunks

__all__ = ["Pruned", "Retention"]

_ENDED = (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.IMPORTED)
_AT_ONCE = 32
"""Runs that are deleted in one commit, for which everybody else waits."""
_FREE_BYTES_MIN = 2**20
_FREE_SHARE = 4
_LEFT_BYTES_MAX = 256 * 2**20
"""The file is written anew when a quarter of it and at least 1 MB are free, nobody works on a run, and what stays is
not more than this: nobody can write meanwhile, about a second for each 80 MB (measured), nor renew a lease of 10 s."""

_UNFINISHED = "unfinished"
_HELD = "being worked on"
_OPEN = "with an order whose fate is open"
_ORIGIN = "that a fork which stays came from"

_Rows: TypeAlias = Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was pruned, or would be: bytes by run id, and how many runs of that age stay, by the reason.

    `file_bytes` and `free_bytes`: of the database's file, afterwards; 0 of a server. `compacted`: by how many bytes the
    file is shorter than it was.
    """

    runs: Mapping[str, int]
    kept: Mapping[str, int]
    file_bytes: int
    free_bytes: int
    compacted: int = 0


class Retention:
    """Prunes the runs of one database. `home`: the folder that holds `runs/RUN_ID/`.

    `marks`: a run's folder says that the run was of this home, which is needed where several share a database; that of
    a run with orders is then only emptied.
    """

    def __init__(self, database: Database, leases: Leases, home: Path, clock: Clock, *, marks: bool = False) -> None:
        self._database = database
        self._leases = leases
        self._folders = home / "runs"
        self._clock = clock
        self._marks = marks

    async def prune(self, age_ns: int, *, dry_run: bool = False) -> Pruned:
        """Prune what ended at least so long ago. What somebody begins to work on meanwhile stays.

        `dry_run`: nothing is deleted.
        """
        until_ns = self._clock.now_ns() - age_ns
        doomed, kept = await self._database.aread(lambda connection: self._plan(connection, until_ns))
        if dry_run:
            gone = await self._database.aread(lambda connection: {row.run_id: _size(connection, row) for row in doomed})
            gone = {run_id: size + _folder_size(self._folders / run_id) for run_id, size in gone.items()}
            return Pruned(gone, kept, *await asyncio.to_thread(self._database.room))
        gone = await self._drop_all(doomed)
        for run_id, size in (await self._database.aread(self._clear_folders)).items():
            gone[run_id] = gone.get(run_id, 0) + size
        compacted = await self._compact()
        return Pruned(gone, kept, *await asyncio.to_thread(self._database.room), compacted)

    def _plan(self, connection: Connection, until_ns: int) -> tuple[_Rows, dict[str, int]]:
        """The rows to prune, forks before what they came from, and why others of that age stay."""
        rows = connection.execute(select(runs).where(runs.c.status != RunStatus.PRUNED).order_by(runs.c.number.desc()))
        by_id = {row.run_id: row for row in rows}
        reasons = self._reasons(connection, [row for row in by_id.values() if _is_old(row, until_ns)])
        doomed = {run_id for run_id, reason in reasons.items() if not reason}
        for row in by_id.values():
            origin = None if row.run_id in doomed else row.forked_from
            while origin in doomed:
                doomed.remove(origin)
                reasons[origin] = _ORIGIN
                origin = by_id[origin].forked_from
        kept: dict[str, int] = {}
        for reason in filter(None, reasons.values()):
            kept[reason] = kept.get(reason, 0) + 1
        return [row for run_id, row in by_id.items() if run_id in doomed], kept

    def _reasons(self, connection: Connection, rows: _Rows) -> dict[str, str]:
        """Why each of these has to stay, or ""."""
        live, now_ns = live_runs(connection), self._leases.now_ns(connection)
        reasons = {}
        for row in rows:
            held = _HELD if self._leases.is_held(row, now_ns) else ""
            ended = "" if row.status in _ENDED else _UNFINISHED
            reasons[row.run_id] = held or ended or (_OPEN if row.run_id in live else "")
        return reasons

    async def _drop_all(self, doomed: _Rows) -> dict[str, int]:
        gone: dict[str, int] = {}
        for start in range(0, len(doomed), _AT_ONCE):
            some = doomed[start : start + _AT_ONCE]
            drops = [self._database.awrite(partial(self._drop, planned=row)) for row in some]
            for row, size in zip(some, await asyncio.gather(*drops), strict=True):
                if size is not None:
                    gone[row.run_id] = size
        return gone

    def _drop(self, connection: Connection, planned: Row[Any]) -> int | None:
        """Prune one run, if all is still as it was planned; gives the bytes that it took.

        A claim and this are transactions of which one comes first: either the run is held, or it is gone.
        """
        row = connection.execute(select(runs).where(runs.c.run_id == planned.run_id)).first()
        fork = select(runs.c.run_id).where(runs.c.forked_from == planned.run_id, runs.c.status != RunStatus.PRUNED)
        if row is None or (row.updated_ns, row.status) != (planned.updated_ns, planned.status):
            return None
        if any(self._reasons(connection, [row]).values()) or connection.execute(fork).first() is not None:
            return None
        size = _size(connection, planned)
        upkeep.delete_thread(connection, planned.run_id)
        events.forget(connection, planned.run_id)
        imported.forget(connection, planned.run_id)
        sessions.forget(connection, planned.run_id)
        left = {"status": RunStatus.PRUNED, "fingerprint": "{}", "parameters": "{}", "error": ""}
        gone = update(runs).where(runs.c.run_id == planned.run_id)
        connection.execute(gone.values(**left, token=runs.c.token + 1, updated_ns=self._clock.now_ns()))
        return size

    def _clear_folders(self, connection: Connection) -> dict[str, int]:
        """Remove the folders of pruned runs, also those that a prune left which was killed; gives their bytes."""
        try:
            names = [each.name for each in self._folders.iterdir() if each.is_dir() and not each.is_symlink()]
        except OSError:
            return {}
        pruned = select(runs.c.run_id).where(runs.c.status == RunStatus.PRUNED)
        cleared = {}
        for some in chunks(names):
            for run_id in connection.execute(pruned.where(runs.c.run_id.in_(some))).scalars():
                folder = self._folders / run_id
                cleared[run_id] = _folder_size(folder)
                shutil.rmtree(folder, ignore_errors=True)
                if self._marks and orders_of(connection, run_id):
                    folder.mkdir(mode=0o700, exist_ok=True)
        return {run_id: size for run_id, size in cleared.items() if size}

    async def _compact(self) -> int:
        """Give free room back to the disk where that is worth it and hurts nobody; gives by how much."""
        size, free = await asyncio.to_thread(self._database.room)
        worth_it = free >= _FREE_BYTES_MIN and free * _FREE_SHARE >= size and size - free <= _LEFT_BYTES_MAX
        if not worth_it or await self._leases.held_runs():
            return 0
        with suppress(StorageError):  # then the room is used by later runs
            await asyncio.to_thread(self._database.compact)
        return size - (await asyncio.to_thread(self._database.room))[0]


def _is_old(row: Row[Any], until_ns: int) -> bool:
    """Of a damaged row nobody can tell."""
    return isinstance(row.updated_ns, int) and row.updated_ns <= until_ns


def _size(connection: Connection, row: Row[Any]) -> int:
    return upkeep.size_of(connection, row.run_id)[1] + events.size_of(connection, row.run_id)


def _folder_size(folder: Path) -> int:
    size = 0
    with suppress(OSError):
        for each in folder.iterdir():
            size += each.stat(follow_symlinks=False).st_size
    return size
