"""The run registry, and the CheckpointManager: which runs there are, where they stand, and how each goes on.

Whether a run is finished is decided here and nowhere else: a checkpoint cannot tell, since after a kill between two
writes a graph can show no next node and still have work to do.
"""

import fcntl
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TextIO

from sqlalchemy import BigInteger, Column, Connection, Integer, Row, String, Table, Text, insert, select, update

from agents.clock import Clock, format_ns
from agents.errors import CheckpointNotFound, FingerprintMismatch, RunLeased, StorageError
from checkpoints.database import Database, metadata
from checkpoints.saver import SqlSaver
from checkpoints.store import checkpoints as _saved

__all__ = ["CheckpointManager", "CheckpointRow", "ResumePoint", "Run", "RunStatus", "StateHistory", "check_fingerprint"]

_runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("workflow", String(32), nullable=False),
    Column("symbol", String(32), nullable=False),
    Column("as_of_ns", BigInteger, nullable=False),
    Column("account", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("error", Text, nullable=False, default=""),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RunStatus(StrEnum):
    """INTERRUPTED is never stored: it is a RUNNING run that no living process holds."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FAILED = "failed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the registry. `parameters` is what the run was started with, enough to set it up again."""

    run_id: str
    workflow: str
    symbol: str
    as_of_ns: int
    account: str
    status: RunStatus
    fingerprint: Mapping[str, Any]
    parameters: Mapping[str, Any]
    error: str
    created_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where to go on: at the run's head (`checkpoint_id` None), or rewound to an older checkpoint."""

    run: Run
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A saved state: its id, when it was saved, and the nodes it stands before (`end` when there are none)."""

    checkpoint_id: str
    saved_at: str
    before: str


class StateHistory(Protocol):
    """The one thing that is asked of a compiled graph here."""

    def aget_state_history(self, config: Any) -> AsyncIterator[Any]: ...


class CheckpointManager:
    """Registry, checkpoints and locks of one home folder.

    `home`: the folder that holds `runs/RUN_ID/`; a run that is being worked on holds a lock on a file there, which
    the operating system lets go when the process dies, however it dies.
    """

    def __init__(self, database: Database, saver: SqlSaver, home: Path, clock: Clock) -> None:
        self._database = database
        self._saver = saver
        self._home = home
        self._clock = clock

    async def begin(
        self,
        *,
        workflow: str,
        symbol: str,
        as_of_ns: int,
        fingerprint: Mapping[str, Any],
        parameters: Mapping[str, Any],
        account: str | None = None,
    ) -> Run:
        """Register a new run. Its id is `WORKFLOW-SYMBOL-TIME-N`, N counting the runs of the same decision.

        `account` None gives the run an account of its own, named like the run.
        """
        stem = f"{workflow}-{_slug(symbol)}-{format_ns(as_of_ns)}-"
        now_ns = self._clock.now_ns()

        def work(connection: Connection) -> Run:
            run_id = stem + str(_next_count(connection, stem))
            newest = connection.execute(select(_runs.c.number).order_by(_runs.c.number.desc()).limit(1)).scalar()
            connection.execute(
                insert(_runs).values(
                    run_id=run_id,
                    number=(newest or 0) + 1,
                    workflow=workflow,
                    symbol=symbol,
                    as_of_ns=as_of_ns,
                    account=account or run_id,
                    status=RunStatus.RUNNING,
                    fingerprint=json.dumps(dict(fingerprint), sort_keys=True),
                    parameters=json.dumps(dict(parameters), sort_keys=True),
                    error="",
                    created_ns=now_ns,
                    updated_ns=now_ns,
                )
            )
            return self._run(_row(connection, run_id))

        return await self._database.awrite(work)

    async def mark(self, run_id: str, status: RunStatus, error: str = "") -> Run:
        """Set the run's status, and the error that it ended with."""
        now_ns = self._clock.now_ns()

        def work(connection: Connection) -> Run:
            values = {"status": status, "error": error, "updated_ns": now_ns}
            connection.execute(update(_runs).where(_runs.c.run_id == run_id).values(**values))
            return self._run(_row(connection, run_id))

        return await self._database.awrite(work)

    async def run(self, run_id: str) -> Run:
        """One run; raises CheckpointNotFound."""
        _check_id(run_id)
        return await self._database.aread(lambda connection: self._run(_row(connection, run_id)))

    async def runs(self) -> tuple[Run, ...]:
        """All runs, oldest first."""

        def work(connection: Connection) -> tuple[Run, ...]:
            return tuple(self._run(row) for row in connection.execute(select(_runs).order_by(_runs.c.number)))

        return await self._database.aread(work)

    async def locate(self, identifier: str) -> ResumePoint:
        """Find where a run id or a checkpoint id leads.

        The head of a run is resumed as the run, since only so are finished siblings of an unfinished step kept; an
        older checkpoint is a rewind.

        Raises:
            CheckpointNotFound: neither a run nor a checkpoint of a run has this id.
        """
        _check_id(identifier)
        run_id = await self._database.aread(lambda connection: _run_of_checkpoint(connection, identifier))
        if run_id is None:
            return ResumePoint(await self.run(identifier))
        run = await self.run(run_id)
        head = await self._saver.aget_tuple({"configurable": {"thread_id": run_id}})
        is_head = head is not None and head.checkpoint["id"] == identifier
        return ResumePoint(run, None if is_head else identifier)

    async def checkpoints(self, run_id: str, graph: StateHistory) -> tuple[CheckpointRow, ...]:
        """The run's saved states, oldest first. `graph`: the compiled workflow, which knows what comes next."""
        await self.run(run_id)
        rows = [
            CheckpointRow(
                checkpoint_id=state.config["configurable"]["checkpoint_id"],
                saved_at=state.created_at or "",
                before=", ".join(dict.fromkeys(node.strip("_") for node in state.next)) or "end",
            )
            async for state in graph.aget_state_history({"configurable": {"thread_id": run_id}})
        ]
        return tuple(reversed(rows))

    async def has_checkpoint(self, run_id: str) -> bool:
        """Whether anything was saved yet; a run that was killed before that starts from its parameters."""
        return await self._saver.aget_tuple({"configurable": {"thread_id": run_id}}) is not None

    @contextmanager
    def claim(self, run_id: str) -> Iterator[Path]:
        """Hold the run while working on it; gives the run's folder.

        Raises:
            RunLeased: another process holds it.
            StorageError: the run's folder cannot be used.
        """
        _check_id(run_id)
        folder = self._home / "runs" / run_id
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise StorageError(
                f"the folder {folder} cannot be used ({error}); nothing was started; mend its rights, or give --home"
            ) from error
        with lock:
            if not _hold(lock):
                raise RunLeased(
                    f"run {run_id} is being worked on by another process; nothing was started;"
                    " wait for it, or stop that process, and resume again"
                )
            _held.add(lock)
            try:
                yield folder
            finally:
                _held.discard(lock)

    def _run(self, row: Row[Any]) -> Run:
        status = RunStatus(row.status)
        if status is RunStatus.RUNNING and not self.is_held(row.run_id):
            status = RunStatus.INTERRUPTED
        return Run(
            run_id=row.run_id,
            workflow=row.workflow,
            symbol=row.symbol,
            as_of_ns=row.as_of_ns,
            account=row.account,
            status=status,
            fingerprint=json.loads(row.fingerprint),
            parameters=json.loads(row.parameters),
            error=row.error,
            created_ns=row.created_ns,
            updated_ns=row.updated_ns,
        )

    def is_held(self, run_id: str) -> bool:
        """Whether a living process is working on the run."""
        try:
            with (self._home / "runs" / run_id / "lock").open() as lock:
                return not _locked(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        except OSError:  # who may not look must not take it for free
            return True


_held: set[TextIO] = set()


def _let_go_in_child() -> None:
    """A forked child shares its parent's locks, and would keep a run from being resumed after the parent's death."""
    for lock in _held:
        os.close(lock.fileno())
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)

_LOOKS_MAX = 1000


def _hold(lock: TextIO) -> bool:
    """Lock for good. Who only looks whether a run is held shares a lock for a moment: that one is waited for."""
    for _ in range(_LOOKS_MAX):
        if _locked(lock, fcntl.LOCK_EX):
            return True
        if not _locked(lock, fcntl.LOCK_SH):
            return False
        fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def _locked(lock: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def _check_id(identifier: str) -> None:
    if not _ID.fullmatch(identifier):
        raise CheckpointNotFound(
            f"{identifier!r:.80} is no id of a run or checkpoint; nothing was done;"
            " ids are 1 to 64 letters, digits, _ and -; list them with --runs"
        )


def _row(connection: Connection, run_id: str) -> Row[Any]:
    row = connection.execute(select(_runs).where(_runs.c.run_id == run_id)).first()
    if row is None:
        raise CheckpointNotFound(
            f"there is no run or checkpoint {run_id!r} here; nothing was done; list what there is with --runs,"
            " and mind --home"
        )
    return row


def _run_of_checkpoint(connection: Connection, checkpoint_id: str) -> str | None:
    saved = (_saved.c.checkpoint_id == checkpoint_id) & (_saved.c.ns == "")
    run_id: str | None = connection.execute(select(_saved.c.thread_id).where(saved)).scalar()
    return run_id


def _next_count(connection: Connection, stem: str) -> int:
    ids = connection.execute(select(_runs.c.run_id).where(_runs.c.run_id.startswith(stem, autoescape=True))).scalars()
    ends = [run_id[len(stem) :] for run_id in ids]  # another symbol's ids may begin with this stem and go on
    return 1 + max((int(end) for end in ends if end.isdecimal()), default=0)


def _slug(symbol: str) -> str:
    """The symbol in the alphabet of ids; two symbols with one slug still get ids of their own, by the count."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", symbol).strip("-") or "x"
