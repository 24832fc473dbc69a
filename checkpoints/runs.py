"""The run registry, and the CheckpointManager: which runs there are, where they stand, and how each goes on.

Whether a run is finished is decided here and nowhere else: a checkpoint cannot tell, since after a kill between two
writes a graph can show no next node and still have work to do.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Row, insert, select

from agents.clock import Clock
from agents.errors import CheckpointNotFound, FingerprintMismatch, StorageError
from checkpoints.database import Database
from checkpoints.history import History
from checkpoints.leases import GIVEN_BACK, Lease, Leases, runs
from checkpoints.loading import find_checkpoint
from checkpoints.registry import (
    Run,
    RunStatus,
    check_id,
    copied_to,
    id_stem,
    listed,
    next_count,
    next_number,
    refuse_imported,
    refuse_pruned,
    row_of,
    run_of,
    thread_of,
)
from checkpoints.saver import SqlSaver
from checkpoints.upkeep import copy_thread, size_of

__all__ = [
    "CheckpointManager",
    "CheckpointRow",
    "Hold",
    "ResumePoint",
    "Run",
    "RunStatus",
    "StateHistory",
    "check_fingerprint",
]


@dataclass(frozen=True, slots=True)
class Hold:
    """A run that is held: the run as it was found, the lease on it, and its folder."""

    run: Run
    lease: Lease
    folder: Path


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where to go on: at the run's head (`checkpoint_id` None), or rewound to an older checkpoint."""

    run: Run
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A saved state: its id, when it was saved, and the nodes it stands before (`end` when there are none).

    `copied`: it came with the fork. Its id is then that of the run which saved it, and leads there.
    """

    checkpoint_id: str
    saved_at: str
    before: str
    copied: bool = False


class StateHistory(Protocol):
    """The one thing that is asked of a compiled graph here."""

    def aget_state_history(self, config: Any) -> AsyncIterator[Any]: ...


class CheckpointManager:
    """Registry, checkpoints and leases of one home folder.

    `home`: the folder that holds `runs/RUN_ID/`. Who works on a run holds it (`begin`, `claim`), and only so can its
    checkpoints, orders and status be written through `leases.check`.
    """

    def __init__(self, database: Database, saver: SqlSaver, leases: Leases, home: Path, clock: Clock) -> None:
        self._database = database
        self._saver = saver
        self._leases = leases
        self._home = home
        self._clock = clock

    @asynccontextmanager
    async def begin(
        self,
        *,
        workflow: str,
        symbol: str,
        as_of_ns: int,
        fingerprint: Mapping[str, Any],
        parameters: Mapping[str, Any],
        account: str | None = None,
    ) -> AsyncIterator[Hold]:
        """Register a new run and hold it, in one transaction: nobody can take it before its work begins.

        Its id is `WORKFLOW-SYMBOL-TIME-N`, N counting the runs of the same decision. `account` None gives the run an
        account of its own, named like the run. See `claim` for how it is held.
        """
        columns = {"workflow": workflow, "symbol": symbol, "as_of_ns": as_of_ns}

        def register(connection: Connection) -> tuple[Lease, Run]:
            return self._register(connection, columns, account, fingerprint, parameters)

        async with self._leases.held(register) as (lease, run):
            yield Hold(run, lease, self._folder(run.run_id))

    @asynccontextmanager
    async def fork(
        self, point: ResumePoint, *, fingerprint: Mapping[str, Any], parameters: Mapping[str, Any], dry: bool
    ) -> AsyncIterator[Hold]:
        """Register a new run that goes on from a saved state of another one, and hold it, as `begin` does.

        All that was saved up to that state is copied in the same transaction; the other run is not touched, and may be
        running. It gets an account of its own where the other one has that. A `dry` run can place no order.

        Raises:
            CheckpointNotFound: the state is not there, or not any more.
        """
        origin = point.run
        columns = {"workflow": origin.workflow, "symbol": origin.symbol, "as_of_ns": origin.as_of_ns, "dry": dry}
        account = None if origin.account == origin.run_id else origin.account

        def register(connection: Connection) -> tuple[Lease, Run]:
            head = find_checkpoint(connection, origin.run_id, "", point.checkpoint_id)
            if head is None:
                raise CheckpointNotFound(
                    f"run {origin.run_id} has no saved state {point.checkpoint_id or 'yet'}; nothing was forked; see"
                    f" --checkpoints {origin.run_id}, or start a new run"
                )
            of = {"forked_from": origin.run_id, "forked_at": head.checkpoint_id}
            lease, run = self._register(connection, columns | of, account, fingerprint, parameters)
            if point.checkpoint_id is None:
                copy_thread(connection, origin.run_id, run.run_id)
            else:
                history = History(self._saver.serde)
                history.copy_until(connection, origin.run_id, run.run_id, point.checkpoint_id)
            return lease, run

        async with self._leases.held(register) as (lease, run):
            yield Hold(run, lease, self._folder(run.run_id))

    def _register(
        self,
        connection: Connection,
        columns: Mapping[str, Any],
        account: str | None,
        fingerprint: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> tuple[Lease, Run]:
        """Insert the row of a new run that this process holds."""
        stem = id_stem(columns["workflow"], columns["symbol"], columns["as_of_ns"])
        now_ns = self._clock.now_ns()
        lease = Lease(stem + str(next_count(connection, stem)), 1)
        connection.execute(
            insert(runs).values(
                run_id=lease.run_id,
                number=next_number(connection),
                account=account or lease.run_id,
                status=RunStatus.RUNNING,
                fingerprint=json.dumps(dict(fingerprint), sort_keys=True),
                parameters=json.dumps(dict(parameters), sort_keys=True),
                error="",
                created_ns=now_ns,
                updated_ns=now_ns,
                token=lease.token,
                **columns,
                **self._leases.terms(connection),
            )
        )
        return lease, run_of(row_of(connection, lease.run_id), held=True)

    @asynccontextmanager
    async def claim(self, run_id: str) -> AsyncIterator[Hold]:
        """Hold a run while the body works on it, and let go of it at the end, however that comes.

        Raises:
            CheckpointNotFound: there is no such run.
            RunLeased: another process holds it, and lives, as far as can be known.
            InputError: it was imported: whoever it came from goes on with it.
            LeaseLost: it was held and is not any more; the body was cancelled, and wrote nothing since.
            StorageError: the run's folder cannot be used.
        """
        check_id(run_id)

        def take(connection: Connection) -> tuple[Lease, Run]:
            found = run_of(row_of(connection, run_id), held=False)
            refuse_pruned(found)
            refuse_imported(found)
            return self._leases.claim(connection, run_id), found

        async with self._leases.held(take) as (lease, run):
            yield Hold(run, lease, self._folder(run_id))

    async def mark(self, hold: Hold, status: RunStatus, error: str = "") -> Run:
        """Set the status of a run that is held, and the error that it ended with.

        Any status but RUNNING ends the hold, in the same transaction.

        Raises:
            LeaseLost: another process has taken the run; its status was not changed.
        """
        lease, ends = hold.lease, status is not RunStatus.RUNNING
        values = {"status": status, "error": error, "updated_ns": self._clock.now_ns(), **(GIVEN_BACK if ends else {})}

        def work(connection: Connection) -> Run:
            if not self._leases.update(connection, lease, values):
                raise self._leases.lost(connection, lease.run_id)
            return run_of(row_of(connection, lease.run_id), held=not ends)

        if ends:
            self._leases.end(lease)
        run = await self._database.awrite(work)
        if ends:
            self._leases.returned(lease)
        return run

    async def held_runs(self) -> frozenset[str]:
        """The ids of the runs that somebody holds who lives, as far as can be known; this process included."""
        return await self._leases.held_runs()

    async def run(self, run_id: str) -> Run:
        """One run; raises CheckpointNotFound."""
        check_id(run_id)
        return await self._database.aread(lambda connection: self.seen(connection, run_id))

    def seen(self, connection: Connection, run_id: str) -> Run:
        """One run, in the transaction of `connection`; raises CheckpointNotFound."""
        row = row_of(connection, run_id)
        return run_of(row, held=self._leases.is_held(row, self._leases.now_ns(connection)))

    async def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first, but those that were pruned; one whose row is damaged has that status."""
        query = select(runs).where(runs.c.status != RunStatus.PRUNED).order_by(runs.c.number)
        return await self._database.aread(lambda connection: self._seen(connection, connection.execute(query).all()))

    async def locate(self, identifier: str) -> ResumePoint:
        """Find where a run id or a checkpoint id leads.

        The head of a run is resumed as the run, since only so are finished siblings of an unfinished step kept; an
        older checkpoint is a rewind. A checkpoint that forks have a copy of is that of the run which saved it.

        Raises:
            CheckpointNotFound: neither a run nor a checkpoint of a run has this id, or the run was pruned.
        """
        check_id(identifier)
        run_id = await self._database.aread(lambda connection: thread_of(connection, identifier))
        if run_id is None:
            run = await self.run(identifier)
            refuse_pruned(run)
            return ResumePoint(run)
        run = await self.run(run_id)
        head = await self._saver.aget_tuple({"configurable": {"thread_id": run_id}})
        is_head = head is not None and head.checkpoint["id"] == identifier
        return ResumePoint(run, None if is_head else identifier)

    async def checkpoints(self, run_id: str, graph: StateHistory) -> tuple[CheckpointRow, ...]:
        """The run's saved states, oldest first. `graph`: the compiled workflow, which knows what comes next."""
        await self.run(run_id)
        copied = await self._database.aread(lambda connection: copied_to(connection, run_id))
        rows = [
            CheckpointRow(
                checkpoint_id=state.config["configurable"]["checkpoint_id"],
                saved_at=state.created_at or "",
                before=", ".join(dict.fromkeys(node.strip("_") for node in state.next)) or "end",
                copied=state.config["configurable"]["checkpoint_id"] in copied,
            )
            async for state in graph.aget_state_history({"configurable": {"thread_id": run_id}})
        ]
        return tuple(reversed(rows))

    async def has_checkpoint(self, run_id: str) -> bool:
        """Whether anything was saved yet; a run that was killed before that starts from its parameters."""
        return await self._saver.aget_tuple({"configurable": {"thread_id": run_id}}) is not None

    async def size(self, run_id: str) -> tuple[int, int]:
        """How many checkpoints are stored of a run, and the bytes that its states take."""
        return await self._database.aread(lambda connection: size_of(connection, run_id))

    def _seen(self, connection: Connection, rows: Sequence[Row[Any]]) -> tuple[Run, ...]:
        now_ns = self._leases.now_ns(connection)
        return tuple(listed(row, held=self._leases.is_held(row, now_ns)) for row in rows)

    def _folder(self, run_id: str) -> Path:
        folder = self._home / "runs" / run_id
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(
                f"the folder {folder} cannot be used ({error}); the run was not gone on with; mend its rights, or give"
                " --home"
            ) from error
        return folder


def check_fingerprint(run: Run, fingerprint: Mapping[str, Any]) -> None:
    """Refuse to go on with a workflow of another shape than the run was started with.

    LangGraph itself would go on, find no task for a node that is gone, and report success.

    Raises:
        FingerprintMismatch: names every part that changed.
    """
    names = sorted({*run.fingerprint, *fingerprint})
    changed = [
        _difference(name, run.fingerprint.get(name), fingerprint.get(name))
        for name in names
        if run.fingerprint.get(name) != fingerprint.get(name)
    ]
    if changed:
        raise FingerprintMismatch(
            f"run {run.run_id} was started by another workflow: {'; '.join(changed)}; nothing was resumed;"
            " resume it with the version and settings it was started with, or start a new run"
        )


def _difference(name: str, was: Any, now: Any) -> str:
    """What changed in one part; of a list only the entries that came or went, however long it is."""
    if isinstance(was, list) and isinstance(now, list):
        gone, new = [each for each in was if each not in now], [each for each in now if each not in was]
        return f"{name} lost {gone!r:.200} and gained {new!r:.200}"
    return f"{name} was {was!r:.200} and is {now!r:.200}"
