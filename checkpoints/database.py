"""One database, SQLite or Postgres: short transactions, committed in groups, each caller told when its own is durable.

A caller hands over a `work`: a function of a SQLAlchemy `Connection` that reads and writes through it, and returns a
value. It must not commit, and must not wait for anything but the database: while it runs nobody else can write.

Writes of one process go through one writer thread. What waits while a commit is on its way is committed together
by the next one, each work inside a savepoint of its own, so that one that fails takes no other with it. SQLite is run
in WAL mode with `synchronous=FULL`: what was acknowledged survives a kill and a power cut. Writers take the lock at
the start of their transaction (`BEGIN IMMEDIATE`), because a lock that is taken in the middle of one cannot be waited
for (https://www.sqlite.org/lang_transaction.html). On Postgres they take one of its advisory locks there, so that a
work that reads before it writes is as right on the one as on the other.

A server may go away and come back. A connection that died while it was idle is replaced without a word, and a read is
begun again; a write that was under way is an error for its caller, who alone can know what to do.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, MetaData, Text, Transaction, TypeDecorator
from sqlalchemy.exc import TimeoutError as PoolEmpty

from agents.clock import SystemClock, monotonic
from agents.errors import HoldfastError, InvalidValue, StorageError
from checkpoints.backup import back_up
from checkpoints.engine import READERS, dialect_of, file_of, is_dead, make_engine, make_file, name_of, url_of
from checkpoints.jobs import Job, tell
from checkpoints.migrations import HISTORY, migrate, steps
from checkpoints.sqlite import WatchedFile
from checkpoints.trouble import LOCKED_S_MAX, Kind, Trouble

__all__ = ["Database", "Prose", "mended", "metadata"]

T = TypeVar("T")

metadata = MetaData(info={HISTORY: steps})
"""The tables of this package. Each module declares its own on it, beside the SQL that uses them."""


class Prose(TypeDecorator[str]):
    """A column of text for people, from wherever: what some database cannot keep is replaced when it is written.

    An error, a broker's or an operator's words must not keep the fact from being written down that they come with.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002 (SQLAlchemy's)
        """Without NUL, which Postgres lacks, and lone surrogates, which both do."""
        return value and mended(value)


def mended(text: str) -> str:
    """The text as a column of `Prose` keeps it."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


_WAITING_MAX = 10_000
"""Works that may wait for the writer; who comes later waits outside."""
_BATCH_MAX = 256
"""Works in one commit: bounds how long the lock is held, and how much one failed commit takes with it."""
_AWAY_S_MAX = 10.0
"""How long a transaction waits for a server that was there before and is not now."""
_OVERFULL_PAUSE_S = 0.001
_AWAY_PAUSE_S = 0.02
_NOT_READ = "nothing was read"
_NOT_WRITTEN = "nothing was written"
_UNSURE = "what was not acknowledged may have been kept or not"


class Database:
    """See the module's text. Make one with `Database.open`; use it from any thread and any event loop."""

    def __init__(self, url: URL, *, inline: bool = False) -> None:
        self._name = name_of(url)
        self._dialect = dialect_of(url)
        file = file_of(url)
        self._file = None if file is None else WatchedFile(file)
        in_memory = url.get_backend_name() == "sqlite" and file is None
        self._writing = make_engine(self._dialect, url, reads=False, shared=in_memory)
        self._reading = None if in_memory else make_engine(self._dialect, url, reads=True)
        self._connection: Connection | None = None
        self._reader: Connection | None = None  # where all is done in one thread
        self._was_there = False  # who was never there is not waited for
        self._inline = inline
        self._queue: SimpleQueue[list[Job[Any]] | None] = SimpleQueue()
        self._gate = threading.Lock()  # guards the next four; nothing is queued behind the None that ends the queue
        self._closed = False
        self.damaged = False  # whether damage was met, which a check of the whole file would find
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._gathered: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Job[Any]]] = WeakKeyDictionary()
        self._committing = threading.Lock()
        self._committer = 0  # ident of the thread that is inside a write transaction
        self._readers = ThreadPoolExecutor(READERS, "holdfast-read")

    @classmethod
    def open(cls, target: str | Path, tables: MetaData = metadata, *, inline: bool = False) -> Self:
        """Open or create a database, bring its tables to the present version, and create those that it lacks.

        `target`: the path of an SQLite file, `:memory:`, or a URL (`postgresql://user:password@host/name`). A new file
        gets mode 0600 and its missing folders 0700. With `inline` every work runs at once in the thread that calls,
        also in `awrite` and `aread`: for simulations, whose clock cannot see other threads. A file of an older version
        is backed up before it is changed (see `checkpoints.backup`).

        Raises:
            StorageError: it is a folder, no database, read-only, full, out of reach, of a newer version than this
                program knows, or was locked for too long.
            ConfigError: the URL is not one, or its driver is not installed.
        """
        url = url_of(target)
        make_file(url)
        database = cls(url, inline=inline)
        try:
            database._alone(lambda connection: migrate(connection, tables, database._name, _save(file_of(url))))
        except BaseException:
            database.close()
            raise
        return database

    def __repr__(self) -> str:
        return f"Database({self._name!r})"

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction; return its value when that is committed and durable.

        An exception from `work` undoes what it did, nothing else, and is raised here; one of the database itself as a
        StorageError. If the caller is interrupted while it waits, the work may still be committed.

        Raises:
            StorageError: the database is closed, away, full, read-only, damaged, was locked for too long, or refused a
                statement; or this was called from inside another write, which would wait for itself.
            InvalidValue: a text cannot be kept by this database.
        """
        if self._inline:
            return self._alone(work)
        self._refuse_nesting()
        done = threading.Lock()
        done.acquire()
        job = Job(work, done)
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
        job = Job(work, durable)
        with self._gate:
            gathered = self._gathered.setdefault(loop, [])
            gathered.append(job)
        if len(gathered) == 1:  # what other tasks ask for in this turn of the loop goes into the same commit
            loop.call_soon(self._submit_gathered, loop)
        await durable
        return job.outcome()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a snapshot: all its queries see the database at one moment. It must not write.

        It may be begun again, when the connection is lost.

        Raises:
            StorageError: the database is closed, damaged or unreachable, or refused a statement.
            InvalidValue: a text cannot be in this database.
        """
        if self._reading is None:
            return self.write(work)  # a database in memory has one connection
        if self._closed:
            raise StorageError(self._closed_message())
        reading = self._reading

        def snapshot() -> T:
            self._check_file()
            if self._inline:  # to take a connection from the pool costs more than most reads
                self._reader = self._reader or reading.connect()
                if not self._reader.in_transaction():
                    with self._reader.begin():
                        return work(self._reader)
            with reading.begin() as connection:
                return work(connection)

        job = Job(work, None)
        try:
            job.result = self._patiently(snapshot)
        except BaseException as error:  # noqa: BLE001 (it is raised two lines on, in words)
            job.error = self._explained(error, _NOT_READ)
            self._forget_reader()
        return job.outcome()

    def _forget_reader(self) -> None:
        """After an error the next read begins on a fresh connection."""
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(Exception):  # whatever is wrong with it, it is not used again
                reader.close()

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

    def room(self) -> tuple[int, int]:
        """Bytes of the file, and how many of them hold nothing and wait for later writes; (0, 0) of a server."""
        return self.read(self._dialect.room)

    def compact(self) -> None:
        """Give the room that holds nothing back to the disk; a server does so by itself.

        Nobody else can write meanwhile: about a second for each 80 MB that stay. The disk must have room for those.

        Raises:
            StorageError: it could not be done; nothing is lost.
        """
        self._refuse_nesting()
        job: Job[None] = Job(self._dialect.compact, None)
        with self._committing:
            if self._closed:
                raise StorageError(self._closed_message())
            try:
                self._patiently(lambda: job.work(self._connect()))
            except BaseException as error:  # noqa: BLE001 (it is raised two lines on, in words)
                job.error = self._explained(error, "nothing was changed")
        job.outcome()

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
        self._forget_reader()
        self._writing.dispose()
        if self._reading is not None:
            self._reading.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # The writer.

    def _submit(self, jobs: list[Job[Any]]) -> None:
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
            tell(jobs)

    def _serve(self) -> None:
        last = False
        while not last and (jobs := self._queue.get()) is not None:
            batch = list(jobs)
            last = self._take_waiting(batch)
            with self._gate:
                self._waiting -= len(batch)
            with self._committing:
                self._commit(batch)
            tell(batch)
            del jobs, batch  # an idle writer must not keep the last caller's values alive

    def _take_waiting(self, batch: list[Job[Any]]) -> bool:
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
        job = Job(work, None)
        with self._committing:
            if self._closed:
                raise StorageError(self._closed_message())
            self._commit([job])
        return job.outcome()

    def _commit(self, batch: list[Job[Any]]) -> None:
        """Run the works in one transaction. Every job has its result or its error afterwards; nothing is raised."""
        self._committer = threading.get_ident()
        left = _NOT_WRITTEN
        try:
            connection, transaction = self._patiently(self._begin)
            self._run_all(batch, connection)
            if any(job.error is None for job in batch):
                left = _UNSURE
                transaction.commit()
                self._check_file()
            else:
                transaction.rollback()
        except BaseException as error:  # noqa: BLE001 (it is handed to the callers; a writer that died would hang them)
            reason = next((job.error for job in batch if job.error and self._dialect.trouble(job.error)), error)
            self._disconnect()  # rolls back; the next batch starts with a fresh connection
            for job in batch:
                job.error = job.error or self._explained(reason, left, undone=True)
        finally:
            self._committer = 0
        for job in batch:
            if job.error is not None:
                job.result, job.error = None, self._explained(job.error, _NOT_WRITTEN)

    def _begin(self) -> tuple[Connection, Transaction]:
        """A transaction that holds the lock, on the writer's connection or, where that has died, on a new one."""
        self._check_file()
        connection = self._connect()
        try:
            transaction = connection.begin()
        except BaseException:
            if is_dead(connection):
                self._disconnect()
            raise
        self._was_there = True
        return connection, transaction

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._writing.connect()
        return self._connection

    def _run_all(self, batch: list[Job[Any]], connection: Connection) -> None:
        if len(batch) == 1:
            self._run(batch[0], connection)
            return
        with self._dialect.batch(connection) as execute:
            for job in batch:
                self._run_apart(job, connection, execute)

    def _run(self, job: Job[Any], connection: Connection) -> None:
        try:
            job.result = job.work(connection)
        except BaseException as error:  # noqa: BLE001 (it belongs to the caller, who gets it)
            job.error = error
        if job.error is not None and self._dialect.trouble(job.error) is not None:
            return  # the database may have undone the transaction by itself
        if not (connection.in_transaction() and self._dialect.open(connection)):
            job.error = StorageError("a work ended its own transaction; what it did may be kept; take its commit out")
        elif job.error is None and self._dialect.failed(connection):
            job.error = StorageError("a work hid an error of its statement; nothing of it was kept; let the error out")

    def _run_apart(self, job: Job[Any], connection: Connection, execute: Callable[[str], Any]) -> None:
        """Run one work of several inside a savepoint, which is undone alone when the work fails.

        SQLAlchemy's own savepoints cost 60 us more, on every work.
        """
        execute("SAVEPOINT work")
        self._run(job, connection)
        if job.error is not None:
            execute("ROLLBACK TO SAVEPOINT work")
        execute("RELEASE SAVEPOINT work")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with suppress(Exception):  # whatever is wrong with it, it is not used again
            connection.close()
        if self._file is not None:
            self._file.forget_log()

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()

    def _patiently(self, step: Callable[[], T]) -> T:
        """Try again while another process holds the lock, or the server is away: for so long and no longer.

        SQLite's own waiting is not enough: when it recovers a log or changes the journal mode it says "locked" at
        once (https://www.sqlite.org/rescode.html#busy_recovery).
        """
        began = monotonic()
        while True:
            try:
                return step()
            except Exception as error:
                trouble = self._dialect.trouble(error)
                if trouble is None or monotonic() - began >= self._patience(trouble.kind):
                    raise
                pause = _OVERFULL_PAUSE_S if trouble.kind is Kind.LOCKED else _AWAY_PAUSE_S
            time.sleep(pause)

    def _patience(self, kind: Kind) -> float:
        """Seconds for which it is worth to wait."""
        waits = {Kind.LOCKED: LOCKED_S_MAX, Kind.STARTING: _AWAY_S_MAX, Kind.AWAY: _AWAY_S_MAX}
        return 0.0 if kind is Kind.AWAY and not self._was_there else waits.get(kind, 0.0)

    def _refuse_nesting(self) -> None:
        if self._committer == threading.get_ident():
            raise StorageError(
                f"{self._name}: a write was asked for from inside a write, and would wait for itself; "
                "nothing was written; use the connection that the outer one was given"
            )

    # Errors.

    def _closed_message(self) -> str:
        return f"{self._name} is closed; nothing was read or written; open it again"

    def _explained(self, error: BaseException, left: str, *, undone: bool = False) -> BaseException:
        """A storage error in words, where the fault is the database's; else the error itself.

        `left`: what became of the work. `undone`: the error is another's, or the commit's, and took this work with it.
        """
        trouble = self._dialect.trouble(error)
        if trouble is not None:
            return self._in_words(trouble, error, left)
        if isinstance(error, PoolEmpty):
            return StorageError(f"{self._name} is read by too many threads at once; {left}; read with less of them")
        if not undone:
            return error
        again: HoldfastError = StorageError(f"{self._name} could not commit ({error}); {left}; try again")
        if isinstance(error, HoldfastError):
            again = type(error)(str(error))
        again.__cause__ = error
        return again

    def _in_words(self, trouble: Trouble, error: BaseException, left: str) -> HoldfastError:
        self.damaged = self.damaged or trouble.kind is Kind.DAMAGED
        if left == _UNSURE and trouble.kind not in {Kind.AWAY, Kind.UNSURE}:
            left = _NOT_WRITTEN
        kind = InvalidValue if trouble.kind is Kind.VALUE else StorageError
        explained = kind(f"{self._name} {trouble.fact}; {left}; {trouble.remedy}")
        if trouble.kind not in {Kind.AWAY, Kind.STARTING}:  # the driver's errors of a connection hold the password
            explained.__cause__ = error
        return explained


def _save(file: Path | None) -> Callable[[int], None]:
    """What is done before the tables of a version are changed: a file is backed up, a server backs up by itself."""

    def save(version: int) -> None:
        if file is not None:
            back_up(file, SystemClock().now_ns(), label=f"schema-{version}")

    return save
