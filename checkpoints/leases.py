"""Who works on a run: a lease in the run's row, with a fencing token that stops whoever had the run before.

A claim raises the row's token by one and says who holds the run and until when; a task renews it while the work goes
on. A process that was paused, or cut off from the database, cannot know that its lease has run out and that another
works on the run now. So time alone is never trusted: each write that must not come from two reads the token in its own
transaction, and is refused when that is not the one that this process was given.

How long a lease lasts decides only when another may take over. An owner on this machine need not be waited for when it
is dead: each owner locks a file for as long as it lives, and the operating system lets go of that however it dies. The
lock proves death and nothing else: one that is held does not keep a run whose lease has run out.
"""

import asyncio
import fcntl
import os
import platform
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from operator import index
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakSet

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    Row,
    String,
    Table,
    Text,
    bindparam,
    false,
    select,
    update,
)

from agents.clock import NANOSECONDS, Clock
from agents.errors import LeaseLost, RunLeased, StorageError
from checkpoints.database import Database, Prose, metadata
from checkpoints.statement import Statement
from checkpoints.trouble import legible

__all__ = ["GIVEN_BACK", "LEASE_S", "RENEW_S", "Lease", "Leases", "is_dry", "runs"]

T = TypeVar("T")

LEASE_S = 10.0
"""How long a lease lasts from its claim or its last renewal: what others wait for an owner they cannot see die."""
RENEW_S = 3.0
"""Pause between renewals: three may fail before the lease runs out."""
_LITTER_NS = 86_400 * NANOSECONDS
"""Age from which the lock file of a process that was killed is removed: nobody asks about that one any more."""

runs = Table(
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
    Column("error", Prose, nullable=False, default=""),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),  # HOST:PID
    Column("owner_lock", Text, nullable=False, server_default=""),  # the file that the owner locks while it lives
    Column("token", Integer, nullable=False, server_default="0"),  # +1 at each claim
    Column("leased_until_ns", BigInteger, nullable=False, server_default="0"),
    Column("forked_from", String(64)),
    Column("forked_at", Text),
    Column("dry", Boolean, nullable=False, server_default=false()),
)
"""The run registry. It is declared here because a claim, a fence and a status change are all about one row of it."""

GIVEN_BACK: Mapping[str, Any] = MappingProxyType({"owner": "", "owner_lock": "", "leased_until_ns": 0})
"""The columns of a run that nobody holds."""

# Shared with other fences, but not with a claim: on a server, a claim waits for the transaction of this write, or this
# waits for the claim's and reads the new token. SQLite has one writer at a time, and needs and knows no such lock.
_TOKEN = select(runs.c.token).where(runs.c.run_id == bindparam("run_id")).with_for_update(read=True)
_SQLITE_READ = "SELECT token FROM runs WHERE run_id = ?"
_RENEW = Statement(  # every few seconds, for each run; the terms are those of `Leases.update`
    update(runs)
    .where(runs.c.run_id == bindparam("its_id"))
    .where(runs.c.token == bindparam("its_token"))
    .where(runs.c.leased_until_ns > 0)
    .values(leased_until_ns=bindparam("until_ns"))
)
_DRY = Statement(select(runs.c.dry).where(runs.c.run_id == bindparam("run_id")))
_TERMS = select(*(runs.c[name] for name in ("run_id", "owner", "owner_lock", "token", "leased_until_ns")))
_SERVER_NS = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000 AS BIGINT)"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a run: whose writes carry another token than the run's row are refused."""

    run_id: str
    token: int


class Leases:
    """The leases of one owner: this process, or one of several applications in it.

    `folder`: where owners keep the files that they lock. `clock` is read where the database has none of its own; all
    processes on one SQLite file are on one machine, and read the same. A lease lasts `lease_s` seconds and is renewed
    every `renew_s`; only tests give others than the defaults. `pace`: how many times as fast as that clock the event
    loop's time goes.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        clock: Clock,
        *,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        pace: float = 1.0,
    ) -> None:
        self._database = database
        self._folder = folder.absolute()
        self._clock = clock
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._pace = pace
        self._tokens: dict[str, int] = {}  # run id -> token, of the runs that are held
        self._owed: set[str] = set()  # runs whose rows may still say that this owner holds them
        self._lock: tuple[int, Path] | None = None  # the locked file's descriptor and path
        _OWNERS.add(self)

    def close(self) -> None:
        """Let go of the lock file, and remove it. To be called when nothing is held any more.

        Where a lease could not be given back it stays, unlocked: nobody waits for an owner that is known to be gone.
        """
        lock, self._lock = self._lock, None
        if lock is not None:
            if not self._owed:
                lock[1].unlink(missing_ok=True)
            os.close(lock[0])
        self._owed.clear()

    # The fence.

    def check(self, connection: Connection, run_id: str) -> None:
        """Refuse a write to a run that this owner does not hold, or does not hold any more.

        Called inside the write's own transaction. What no registered run is called (a thread of somebody's own graph)
        is let through.

        Raises:
            LeaseLost: the write must not be made.
        """
        if _token(connection, run_id) != self._tokens.get(run_id):
            raise self.lost(connection, run_id)

    def lost(self, connection: Connection, run_id: str) -> LeaseLost:
        """What to tell a write that is refused: who has the run now."""
        row = connection.execute(_TERMS.where(runs.c.run_id == run_id)).first()
        if row is None:
            what = f"run {run_id} is not in the registry any more"
        elif run_id not in self._tokens:
            what = f"run {run_id} is not held by this process"
        else:
            what = f"run {run_id} was taken over by {row.owner or 'another process, which is done with it'}"
        return LeaseLost(f"{what}; nothing more was written by this process; see --runs, and resume it if interrupted")

    # Taking a run and holding it.

    def terms(self, connection: Connection) -> dict[str, Any]:
        """The columns, but for the token, of a run that this owner holds from now on."""
        assert self._lock is not None  # noqa: S101 - only `held` runs what asks for this
        return {"owner": _me(), "owner_lock": str(self._lock[1]), "leased_until_ns": self._until_ns(connection)}

    def claim(self, connection: Connection, run_id: str) -> Lease:
        """Take a registered run, in the transaction of `connection`.

        Raises:
            RunLeased: somebody else has it, and lives, as far as can be known.
            StorageError: its row is damaged.
        """
        row = connection.execute(_TERMS.where(runs.c.run_id == run_id).with_for_update()).one()
        token = _token_of(row)
        if self.is_held(row, self.now_ns(connection)):
            raise RunLeased(
                f"run {run_id} is being worked on by {row.owner}, whose lease lasts until {_time(row.leased_until_ns)}"
                " and longer if it is renewed; nothing was started; wait for it, or stop that process, and resume again"
            )
        lease = Lease(run_id, token + 1)
        values = self.terms(connection) | {"token": lease.token}
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))
        return lease

    def is_held(self, row: Row[Any], now_ns: int) -> bool:
        """Whether somebody who lives, as far as can be known, holds the run of this row, which may be damaged."""
        if row.run_id in self._tokens or not isinstance(row.leased_until_ns, int):
            return True
        return bool(row.leased_until_ns > now_ns) and not _is_dead(row.owner, row.owner_lock)

    async def held_runs(self) -> frozenset[str]:
        """The runs that somebody holds, this owner's own among them."""

        def work(connection: Connection) -> frozenset[str]:
            now_ns = self.now_ns(connection)
            rows = connection.execute(_TERMS.where(runs.c.leased_until_ns > now_ns))
            return frozenset(row.run_id for row in rows if self.is_held(row, now_ns))

        return await self._database.aread(work)

    @asynccontextmanager
    async def held(self, take: Callable[[Connection], tuple[Lease, T]]) -> AsyncIterator[tuple[Lease, T]]:
        """Hold a run while the body works on it: `take` makes the claim, in one transaction with all else it does.

        The lease is renewed until the body ends, and then given back, if `end` has not done so before. When it is lost
        meanwhile, the body is cancelled. A caller that is cancelled while it claims may leave a lease that nobody
        holds, which runs out, or ends with this owner.

        Raises:
            LeaseLost: another owner has taken the run, or the lease could not be renewed before it ran out.
            StorageError: the folder of the lock file cannot be used; nothing was claimed.
        """
        if self._lock is None:
            self._lock = self._locked()
        try:
            lease, taken = await self._database.awrite(take)
        except asyncio.CancelledError:
            self._owed.add("")
            raise
        self._tokens[lease.run_id] = lease.token
        self._owed.add(lease.run_id)
        try:
            async with asyncio.TaskGroup() as group:
                renewal = group.create_task(self._renew(lease), name=f"lease of {lease.run_id}")
                try:
                    yield lease, taken
                finally:
                    renewal.cancel()
        except ExceptionGroup as errors:  # the lost lease comes first, and then what the body made of its cancellation
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        finally:
            if self._holds(lease):
                self.end(lease)
                with suppress(StorageError, TimeoutError):  # then it runs out, or ends with this owner
                    async with asyncio.timeout(self._renew_s * self._pace):
                        await self._database.awrite(lambda connection: self.update(connection, lease, GIVEN_BACK))
                        self.returned(lease)

    def end(self, lease: Lease) -> None:
        """Hold the run no longer: nothing is renewed or let through from now on."""
        if self._holds(lease):
            del self._tokens[lease.run_id]

    def returned(self, lease: Lease) -> None:
        """The lease was given back, in a transaction that is committed."""
        self._owed.discard(lease.run_id)

    def update(self, connection: Connection, lease: Lease, values: Mapping[str, Any]) -> bool:
        """Change the run's row, if it is still held by this lease, and was not given back; False if nothing was."""
        mine = (runs.c.run_id == lease.run_id) & (runs.c.token == lease.token) & (runs.c.leased_until_ns > 0)
        return connection.execute(update(runs).where(mine).values(**values)).rowcount > 0

    def _holds(self, lease: Lease) -> bool:
        return self._tokens.get(lease.run_id) == lease.token

    async def _renew(self, lease: Lease) -> None:
        """Renew until the lease ends; a database that fails is tried again for as long as the lease lasts."""
        trouble = "the database did not answer"
        while self._holds(lease):
            await asyncio.sleep(self._renew_s * self._pace)
            try:
                async with asyncio.timeout((self._lease_s - self._renew_s) * self._pace):
                    while trouble_now := await self._troubled(lease):
                        trouble = trouble_now
                        await asyncio.sleep(self._renew_s / 10 * self._pace)
            except TimeoutError:
                raise LeaseLost(
                    f"the lease of run {lease.run_id} could not be renewed for {self._lease_s:g} s ({trouble});"
                    " another process may take it over, and this one stopped; resume it when the database is back"
                ) from None

    async def _troubled(self, lease: Lease) -> str:
        """Renew once; what the database said when it failed."""

        def work(connection: Connection) -> None:
            until_ns = self._until_ns(connection)
            renewed = _RENEW.run(connection, its_id=lease.run_id, its_token=lease.token, until_ns=until_ns) > 0
            if not renewed and self._holds(lease):
                raise self.lost(connection, lease.run_id)

        try:
            await self._database.awrite(work)
        except StorageError as error:
            return str(error)
        return ""

    def _until_ns(self, connection: Connection) -> int:
        if self._lock is not None:
            os.utime(self._lock[0])  # or a process that has lived for long would leave what looks like old litter
        return self.now_ns(connection) + round(self._lease_s * NANOSECONDS)

    def now_ns(self, connection: Connection) -> int:
        """The time that leases are measured by: a server's own, which all its clients share."""
        if connection.dialect.name == "postgresql":
            return int(connection.exec_driver_sql(_SERVER_NS).scalar_one())
        return self._clock.now_ns()

    # The lock file.

    def _locked(self) -> tuple[int, Path]:
        host, _, pid = _me().rpartition(":")
        stem = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', host)}-{pid}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()
            paths = (self._folder / f"{stem}-{number}" for number in count(1))
            return next(filter(None, map(_made, paths)))
        except OSError as error:
            raise StorageError(
                f"the folder {self._folder} cannot be used ({error}); nothing was started; mend its rights, or give"
                " --home"
            ) from error

    def _sweep(self) -> None:
        """Remove what processes left that were killed."""
        old_ns = self._clock.now_ns() - _LITTER_NS
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another has removed it
                if path.stat().st_mtime_ns < old_ns and _is_free(path):
                    path.unlink()

    def forget(self) -> None:
        """In a forked child: these are the parent's. The child shares its lock, and would keep it after its death."""
        self._tokens.clear()
        self._owed.clear()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock[0])


_OWNERS: WeakSet[Leases] = WeakSet()


def _forget_in_child() -> None:
    for each in tuple(_OWNERS):
        each.forget()


os.register_at_fork(after_in_child=_forget_in_child)


def _token(connection: Connection, run_id: str) -> int | None:
    if connection.dialect.name != "sqlite":
        token: int | None = connection.execute(_TOKEN, {"run_id": run_id}).scalar()
        return token
    # Past SQLAlchemy, at a tenth of its price: this is read with every write.
    row: Any = connection.connection.cursor().execute(_SQLITE_READ, (run_id,)).fetchone()
    found: int | None = None if row is None else row[0]  # what is no number is nobody's
    return found


@legible("run", lambda row: row.run_id)
def _token_of(row: Row[Any]) -> int:
    index(row.leased_until_ns)
    return index(row.token)


def is_dry(connection: Connection, run_id: str) -> bool:
    """Whether this is a run that can place no order; what is not registered is none."""
    row = _DRY.row(connection, run_id=run_id)
    return row is not None and bool(row[0])


def _me() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _is_dead(owner: str, owner_lock: str) -> bool:
    """Whether the operating system says so. Of another machine, or of a file that is gone, nothing is known."""
    here = owner.rpartition(":")[0] == platform.node()
    return here and _is_free(owner_lock)


def _made(path: Path) -> tuple[int, Path] | None:
    """Make and lock the file; None if it is there. To lock that of a dead process would make its runs look alive."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return None
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else knows of it yet
    return file, path


def _is_free(path: str | Path) -> bool:
    with suppress(OSError, ValueError):  # who may not look must not take it for free
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        finally:
            os.close(file)
    return False


def _time(time_ns: int) -> str:
    """In whole seconds, never too early."""
    return datetime.fromtimestamp(-(-time_ns // NANOSECONDS), tz=UTC).isoformat()
