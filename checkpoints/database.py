"""One database, SQLite or Postgres: short transactions, committed in groups, each caller told when its own is durable.

A caller hands over a `work`: a function of a SQLAlchemy `Connection` that reads and writes through it, and returns a
value. It must not commit, and must not wait for anything but the database: while it runs nobody else can write.

Writes of one process go through one writer thread. What waits while a commit is on its way is committed together
by the next one, each work inside a savepoint of its own, so that one that fails takes no other with it. SQLite is run
in WAL mode with `synchronous=FULL`: what was acknowledged survives a kill and a power cut. Writers take the lock at
the start of their transaction (`BEGIN IMMEDIATE`), because a lock that is taken in the middle of one cannot be waited
for (https://www.sqlite.org/lang_transaction.html).
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, MetaData, Transaction
from sqlalchemy.exc import DBAPIError

from agents.clock import monotonic
from agents.errors import StorageError
from checkpoints.engine import READERS, file_of, make_engine, make_file, name_of, sqlite_code, url_of

__all__ = ["Database", "metadata"]

T = TypeVar("T")

metadata = MetaData()
"""The tables of this package. Each module declares its own on it, beside the SQL that uses them."""

_WAITING_MAX = 10_000
"""Works that may wait for the writer; who comes later waits outside."""
_BATCH_MAX = 256
"""Works in one commit: bounds how long the lock is held, and how much one failed commit takes with it."""
_LOCKED_S_MAX = 30.0
"""How long a transaction waits for another process to let go of the file."""
_OVERFULL_PAUSE_S = 0.001


class _Job(Generic[T]):
    """One caller's work, and what became of it. `waiter`: what the caller waits on until the work is durable."""

    __slots__ = ("error", "result", "waiter", "work")

    def __init__(self, work: Callable[[Connection], T], waiter: "threading.Lock | asyncio.Future[None] | None") -> None:
        self.work = work
        self.waiter = waiter
        self.result: T | None = None
        self.error: BaseException | None = None

    def outcome(self) -> T:
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the traceback would hold this frame, which holds the error
        return self.result  # type: ignore[return-value]  # T may itself be None


class Database:
    """See the module's text. Make one with `Database.open`; use it from any thread and any event loop."""

    def __init__(self, url: URL, *, inline: bool = False) -> None:
        self._name = name_of(url)
        in_memory = url.get_backend_name() == "sqlite" and not file_of(url)
        self._writing = make_engine(url, "BEGIN IMMEDIATE", shared=in_memory)
        self._reading = None if in_memory else make_engine(url, "BEGIN", shared=False)
        self._connection: Connection | None = None
        self._inline = inline
        self._queue: SimpleQueue[list[_Job[Any]] | None] = SimpleQueue()
        self._gate = threading.Lock()  # guards the next four; nothing is queued behind the None that ends the queue
        self._closed = False
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._gathered: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Job[Any]]] = WeakKeyDictionary()
        self._committing = threading.Lock()
        self._committer = 0  # ident of the thread that is inside a write transaction
        self._readers = ThreadPoolExecutor(READERS, "holdfast-read")

    @classmethod
    def open(cls, target: str | Path, tables: MetaData = metadata, *, inline: bool = False) -> Self:
        """Open or create a database, and create the tables that it lacks.

        `target`: the path of an SQLite file, `:memory:`, or a SQLAlchemy URL (`postgresql+psycopg://...`). A new file
        gets mode 0600 and its missing folders 0700. With `inline` every work runs at once in the thread that calls,
        also in `awrite` and `aread`: for simulations, whose clock cannot see other threads.

        Raises:
            StorageError: it is a folder, not a database, read-only, full, or was locked for too long.
            ConfigError: the URL is not one, or its driver is not installed.
        """
        url = url_of(target)
        make_file(url)
        database = cls(url, inline=inline)
        try:
            database._alone(lambda connection: _create(connection, tables))
        except BaseException:
            database.close()
            raise
        return database

    def __repr__(self) -> str:
        return f"Database({self._name!r})"

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction; return its value when that is committed and durable.

        An exception from `work` undoes what it did, nothing else, and is raised here. If the caller is interrupted
        while it waits, the work may still be committed.

        Raises:
            StorageError: the database is closed, full, read-only, damaged, or was locked for too long; or this was
                called from inside another write, which would wait for itself.
        """
        if self._inline:
            return self._alone(work)
        self._refuse_nesting()
        done = threading.Lock()
        done.acquire()
        job = _Job(work, done)
        while self._waiting >= _WAITING_MAX:
            time.sleep(_OVERFULL_PAUSE_S)
        self._submit([job])
        done.acquire()
        return job.outcome()

    async def awrite(self, work: Callable[[Connection], T]) -> T:
        """Like `write`, without blocking the event loop.

        `work` runs in the writer's thread. A caller that is cancelled stops waiting; its work may still be committed,
        whole, as if the process had been killed just after the commit.
        """
        if self._inline:
            await asyncio.sleep(0)  # where the real one lets others run, and may be cancelled, so does this one
            result = self._alone(work)
            await asyncio.sleep(0)
            return result
        self._refuse_nesting()
        while self._waiting >= _WAITING_MAX:  # noqa: ASYNC110 (this is rare, and an Event belongs to one loop)
            await asyncio.sleep(_OVERFULL_PAUSE_S)
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()
        job = _Job(work, durable)
        with self._gate:
            gathered = self._gathered.setdefault(loop, [])
            gathered.append(job)
        if len(gathered) == 1:  # what other tasks ask for in this turn of the loop goes into the same commit
            loop.call_soon(self._submit_gathered, loop)
        await durable
        return job.outcome()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a snapshot: all its queries see the database at one moment. It must not write.

        Raises:
            StorageError: the database is closed, damaged or unreachable.
        """
        if self._reading is None:
            return self.write(work)  # a database in memory has one connection
        if self._closed:
            raise StorageError(self._closed_message())
        reading = self._reading

        def snapshot() -> T:
            with reading.begin() as connection:
                return work(connection)

        try:
            return self._patiently(snapshot)
        except (DBAPIError, sqlite3.Error) as error:
            explained = self._explained(error)
            if explained is error:
                raise
            raise explained from error

    async def aread(self, work: Callable[[Connection], T]) -> T:
        """Like `read`, without blocking the event loop: `work` runs in a thread."""
        if self._inline:
            await asyncio.sleep(0)
            return self.read(work)
        if self._reading is None:
            return await self.awrite(work)
        if self._closed:
            raise StorageError(self._closed_message())
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, work)

    def close(self) -> None:
        """Commit what waits, then let go of the file. May be called again."""
        if self._committer == threading.get_ident():
            raise StorageError(f"{self._name}: closed from inside a write; nothing was closed; close it elsewhere")
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
            thread = self._thread
        if thread is not None:
            thread.join()
        self._readers.shutdown()
        with self._committing:
            self._disconnect()
        self._writing.dispose()
        if self._reading is not None:
            self._reading.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # The writer.

    def _submit(self, jobs: list[_Job[Any]]) -> None:
        with self._gate:
            if self._closed:
                raise StorageError(self._closed_message())
            if self._thread is None:  # not before there is work, so that who forks first forks no thread
                self._thread = threading.Thread(target=self._serve, name="holdfast-write", daemon=True)
                self._thread.start()
            self._waiting += len(jobs)
            self._queue.put(jobs)

    def _submit_gathered(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._gate:
            jobs = self._gathered.pop(loop)
        try:
            self._submit(jobs)
        except StorageError as error:
            for job in jobs:
                job.error = StorageError(str(error))
            _tell(jobs)

    def _serve(self) -> None:
        last = False
        while not last and (jobs := self._queue.get()) is not None:
            batch = list(jobs)
            last = self._take_waiting(batch)
            with self._gate:
                self._waiting -= len(batch)
            with self._committing:
                self._commit(batch)
            _tell(batch)
            del jobs, batch  # an idle writer must not keep the last caller's values alive

    def _take_waiting(self, batch: list[_Job[Any]]) -> bool:
        """Add what waits to the batch. True: the end of the queue was reached for good."""
        with suppress(Empty):
            while len(batch) < _BATCH_MAX:
                jobs = self._queue.get_nowait()
                if jobs is None:
                    return True
                batch += jobs
        return False

    def _alone(self, work: Callable[[Connection], T]) -> T:
        """One work, one transaction, in this thread."""
        self._refuse_nesting()
        job = _Job(work, None)
        with self._committing:
            if self._closed:
                raise StorageError(self._closed_message())
            self._commit([job])
        return job.outcome()

    def _commit(self, batch: list[_Job[Any]]) -> None:
        """Run the works in one transaction. Every job has its result or its error afterwards; nothing is raised."""
        self._committer = threading.get_ident()
        try:
            connection = self._connect()
            transaction = self._begin(connection)
            if len(batch) == 1:
                _run(batch[0], connection)
            else:
                for job in batch:
                    _run_apart(job, connection)
            if any(job.error is None for job in batch):
                transaction.commit()
            else:
                transaction.rollback()
        except BaseException as error:  # noqa: BLE001 (it is handed to the callers; a writer that died would hang them)
            self._disconnect()  # rolls back; the next batch starts with a fresh connection
            reason = next((job.error for job in batch if isinstance(job.error, DBAPIError)), error)
            for job in batch:
                job.error = job.error or self._explained(reason, undone=True)
        finally:
            self._committer = 0
        for job in batch:
            if job.error is not None:
                job.result, job.error = None, self._explained(job.error)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._patiently(self._writing.connect)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()

    def _begin(self, connection: Connection) -> Transaction:
        return self._patiently(connection.begin)

    def _patiently(self, step: Callable[[], T]) -> T:
        """Try again while another process holds the lock, for so long and no longer.

        SQLite's own waiting is not enough: when it recovers a log or changes the journal mode it says "locked" at
        once (https://www.sqlite.org/rescode.html#busy_recovery).
        """
        give_up = monotonic() + _LOCKED_S_MAX
        while True:
            try:
                return step()
            except (DBAPIError, sqlite3.Error) as error:
                if sqlite_code(error) != sqlite3.SQLITE_BUSY or monotonic() >= give_up:
                    raise
                time.sleep(_OVERFULL_PAUSE_S)

    def _refuse_nesting(self) -> None:
        if self._committer == threading.get_ident():
            raise StorageError(
                f"{self._name}: a write was asked for from inside a write, and would wait for itself; "
                "nothing was written; use the connection that the outer one was given"
            )

    # Errors.

    def _closed_message(self) -> str:
        return f"{self._name} is closed; nothing was read or written; open it again"

    def _explained(self, error: BaseException, *, undone: bool = False) -> BaseException:
        """A storage error in words, where the fault is the database's; else the error itself.

        `undone`: the error is another's, or the commit's, and took this work with it.
        """
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            words: str | None = _LOST
        else:
            cause = error.orig if isinstance(error, DBAPIError) else error  # without SQL and values
            unknown = f"could not commit ({cause}); nothing of this write was kept; try again" if undone else None
            words = _SQLITE_WORDS.get(sqlite_code(error), unknown)
        if words is None:
            return error
        explained = StorageError(f"{self._name} {words}")
        explained.__cause__ = error
        return explained


_LOST = "went away; what was not acknowledged was not written; try again when it is back"
_SQLITE_WORDS: dict[int | None, str] = {
    sqlite3.SQLITE_FULL: "has no room left on its disk; nothing was written; free some space and try again",
    sqlite3.SQLITE_READONLY: "is read-only; nothing was written; make the file and its folder writable",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database; nothing was read or written; give another path",
    sqlite3.SQLITE_CORRUPT: "is damaged; nothing was written; restore it from a backup",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; nothing was read or written; check its path and permissions",
    sqlite3.SQLITE_PERM: "cannot be opened; nothing was read or written; check its permissions",
    sqlite3.SQLITE_IOERR: "cannot be read or written by the disk; what was not acknowledged is lost; check the disk",
    sqlite3.SQLITE_BUSY: f"was locked by another process for {_LOCKED_S_MAX:.0f} s; nothing was written; end that one",
    sqlite3.SQLITE_LOCKED: "is locked by another use in this process; nothing was written; end that one",
}


def _tell(batch: list[_Job[Any]]) -> None:
    """Wake every caller of the batch; an event loop is woken once for all of its own."""
    futures: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in batch:
        if isinstance(job.waiter, asyncio.Future):
            futures.setdefault(job.waiter.get_loop(), []).append(job.waiter)
        elif job.waiter is not None:
            job.waiter.release()
    for loop, some in futures.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, some)


def _wake(futures: "list[asyncio.Future[None]]") -> None:
    for durable in futures:
        if not durable.done():  # it is done when its caller was cancelled
            durable.set_result(None)


def _run(job: _Job[Any], connection: Connection) -> None:
    try:
        job.result = job.work(connection)
    except BaseException as error:  # noqa: BLE001 (it belongs to the caller, who gets it)
        job.error = error
    if not connection.in_transaction():
        job.error = StorageError("a work ended its own transaction; what it did may be kept; take its commit out")


def _run_apart(job: _Job[Any], connection: Connection) -> None:
    """Run one work of several inside a savepoint, which is undone alone when the work fails.

    SQLAlchemy's own savepoints cost 60 us more, on every work.
    """
    execute = connection.connection.cursor().execute
    execute("SAVEPOINT work")
    _run(job, connection)
    if job.error is not None:
        execute("ROLLBACK TO SAVEPOINT work")
    execute("RELEASE SAVEPOINT work")


def _create(connection: Connection, tables: MetaData) -> None:
    if connection.dialect.name == "postgresql":  # two that create the same table at once would fail, not wait
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4861646673)")
    tables.create_all(connection)
