"""The rows of the run registry: what a run is, what it is called, and whose a checkpoint is."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import index
from typing import Any

from sqlalchemy import Connection, Row, false, func, select

from agents.clock import format_ns
from agents.errors import CheckpointNotFound, InputError, StorageError
from checkpoints.leases import runs
from checkpoints.store import checkpoints as _saved
from checkpoints.trouble import legible

__all__ = [
    "Run",
    "RunStatus",
    "check_id",
    "copied_to",
    "id_stem",
    "listed",
    "next_count",
    "next_number",
    "refuse_imported",
    "refuse_pruned",
    "row_of",
    "run_of",
    "thread_of",
]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RunStatus(StrEnum):
    """INTERRUPTED is never stored: it is a RUNNING run that nobody holds who lives, as far as can be known.

    IMPORTED runs are somebody else's, to be looked at and forked. Of a PRUNED one only the row is left, so that its id
    is not given to another run, whose orders would be taken for its own. DAMAGED is never stored either: it is a run
    whose row cannot be what was written.
    """

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    FAILED = "failed"
    FINISHED = "finished"
    IMPORTED = "imported"
    PRUNED = "pruned"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Run:
    """One row of the registry. `parameters` is what the run was started with, enough to set it up again.

    Of a fork, `forked_from` names the run and `forked_at` the checkpoint that it goes on from. A `dry` run can place no
    order. `owner` (`HOST:PID`) and `leased_until_ns` are those of a run that is held, and empty else.
    """

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
    forked_from: str | None = None
    forked_at: str | None = None
    dry: bool = False
    owner: str = ""
    leased_until_ns: int = 0


@legible("run", lambda row: row.run_id)
def run_of(row: Row[Any], *, held: bool) -> Run:
    """The run of a row. Whether somebody holds it says whether it is running or was interrupted.

    Raises:
        StorageError: it cannot be what was written.
    """
    status = RunStatus(row.status)
    if strange := [text for text in (row.workflow, row.symbol, row.account, row.error) if not isinstance(text, str)]:
        raise TypeError(f"{strange[0]!r:.80} is no text")
    return Run(
        run_id=row.run_id,
        workflow=row.workflow,
        symbol=row.symbol,
        as_of_ns=index(row.as_of_ns),
        account=row.account,
        status=RunStatus.INTERRUPTED if status is RunStatus.RUNNING and not held else status,
        fingerprint=_object(row.fingerprint),
        parameters=_object(row.parameters),
        error=row.error,
        created_ns=index(row.created_ns),
        updated_ns=index(row.updated_ns),
        forked_from=row.forked_from,
        forked_at=row.forked_at,
        dry=row.dry,
        owner=row.owner if held else "",
        leased_until_ns=index(row.leased_until_ns) if held else 0,
    )


def listed(row: Row[Any], *, held: bool) -> Run:
    """As `run_of`, for a list, in which one that is damaged must not hide the others; its `error` says what it is."""
    try:
        return run_of(row, held=held)
    except StorageError as error:
        return Run(str(row.run_id), "", "", 0, "", RunStatus.DAMAGED, {}, {}, str(error), 0, 0)


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(f"{text:.80} is no object")
    return found


def check_id(identifier: str) -> None:
    """Raise CheckpointNotFound for a text that can be no id of ours: it becomes part of a path."""
    if not _ID.fullmatch(identifier):
        raise CheckpointNotFound(
            f"{identifier!r:.80} is no id of a run or checkpoint; nothing was done;"
            " ids are 1 to 64 letters, digits, _ and -; list them with --runs"
        )


def row_of(connection: Connection, run_id: str) -> Row[Any]:
    """A run's row; raises CheckpointNotFound."""
    row = connection.execute(select(runs).where(runs.c.run_id == run_id)).first()
    if row is None:
        raise CheckpointNotFound(
            f"there is no run or checkpoint {run_id!r} here; nothing was done; list what there is with --runs,"
            " and mind --home"
        )
    return row


def refuse_pruned(run: Run) -> None:
    """Raise CheckpointNotFound for a run that has nothing left to go on from."""
    if run.status is RunStatus.PRUNED:
        raise CheckpointNotFound(
            f"run {run.run_id} was pruned: its saved states are gone, and its orders are kept; nothing was started;"
            " start a new run"
        )


def refuse_imported(run: Run) -> None:
    """Raise InputError for a run that is not ours to go on with."""
    if run.status is RunStatus.IMPORTED:
        raise InputError(
            f"run {run.run_id} was imported, and whoever it came from may go on with it; nothing was started;"
            f" go on from one of its states in a run of your own, by --fork"
        )


_point = _saved.alias()
_last_copied = (
    select(_point.c.number)
    .where(_point.c.thread_id == runs.c.run_id, _point.c.ns == "", _point.c.checkpoint_id == runs.c.forked_at)
    .correlate(runs)
    .scalar_subquery()
)
_is_copied = func.coalesce(_saved.c.number <= _last_copied, false())
"""Whether a checkpoint of a run came with the fork; a fork's own are saved after those."""
_with_run = _saved.outerjoin(runs, _saved.c.thread_id == runs.c.run_id)


def thread_of(connection: Connection, checkpoint_id: str) -> str | None:
    """The thread of a checkpoint; of several that have it, the run that saved it."""
    query = select(_saved.c.thread_id).select_from(_with_run)
    mine = query.where(_saved.c.checkpoint_id == checkpoint_id, _saved.c.ns == "")
    first = mine.order_by(runs.c.run_id.is_(None), _is_copied, _saved.c.number).limit(1)
    run_id: str | None = connection.execute(first).scalar()
    return run_id


def copied_to(connection: Connection, run_id: str) -> set[str]:
    """The checkpoints of a run that came with the fork."""
    query = select(_saved.c.checkpoint_id).select_from(_with_run)
    mine = query.where(_saved.c.thread_id == run_id, _saved.c.ns == "", _is_copied)
    return set(connection.execute(mine).scalars())


def next_number(connection: Connection) -> int:
    """The number of the run that is registered next: the registry's order."""
    newest = connection.execute(select(runs.c.run_id, runs.c.number).order_by(runs.c.number.desc()).limit(1)).first()
    return 1 if newest is None else _number_of(newest) + 1


@legible("run", lambda row: row.run_id)
def _number_of(row: Any) -> int:
    return index(row.number)


def next_count(connection: Connection, stem: str) -> int:
    """The count of the next run whose id begins with the stem."""
    ids = connection.execute(select(runs.c.run_id).where(runs.c.run_id.startswith(stem, autoescape=True))).scalars()
    ends = [run_id[len(stem) :] for run_id in ids]  # another symbol's ids may begin with this stem and go on
    return 1 + max((int(end) for end in ends if end.isdecimal()), default=0)


def id_stem(workflow: str, symbol: str, as_of_ns: int) -> str:
    """What the ids of all runs of one decision begin with; a count follows."""
    return f"{workflow}-{_slug(symbol)}-{format_ns(as_of_ns)}-"


def _slug(symbol: str) -> str:
    """The symbol in the alphabet of ids; two symbols with one slug still get ids of their own, by the count."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", symbol).strip("-") or "x"
