"""SQLite: how its connections are set up, what its errors mean, and whether its file is still the one that is open."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event
from sqlalchemy.exc import StatementError

from agents.errors import StorageError
from checkpoints.trouble import LOCKED_S_MAX, Kind, Trouble

__all__ = ["Sqlite", "WatchedFile", "sqlite_code"]

_BUSY_MS = 1_000
"""How long SQLite itself waits for a lock before it asks again."""
_ROOM = ("page_size", "page_count", "freelist_count")


class Sqlite:
    """SQLite as a `checkpoints.engine.Dialect`."""

    begin_write = "BEGIN IMMEDIATE"
    begin_read = "BEGIN"

    def engine(self, url: URL, readers: int, *, reads: bool, shared: bool) -> Engine:
        """`shared`: one connection for all threads, as a database in memory needs it."""
        pool = {"poolclass": StaticPool} if shared else {"pool_size": readers, "max_overflow": 4 * readers}
        arguments = {"check_same_thread": False, "timeout": _BUSY_MS / 1000, "isolation_level": None}
        engine = create_engine(url, connect_args=arguments, hide_parameters=True, **pool)
        event.listen(engine, "connect", lambda raw, _record: _set_up(raw, reads=reads))
        return engine

    @contextmanager
    def batch(self, connection: Connection) -> Iterator[Callable[[str], Any]]:
        """Gives what executes the savepoints of a batch."""
        yield _raw(connection).execute

    def failed(self, connection: Connection) -> bool:  # noqa: ARG002 (Postgres's)
        """Whether the transaction can only be undone: never, a statement that fails takes no other with it."""
        return False

    def open(self, connection: Connection) -> bool:
        """Whether there is a transaction."""
        return bool(_raw(connection).in_transaction)

    def room(self, connection: Connection) -> tuple[int, int]:
        """Bytes of the file, and those that hold nothing."""
        raw = _raw(connection)
        size, pages, free = (raw.execute(f"PRAGMA {name}").fetchone()[0] for name in _ROOM)
        return size * pages, size * free

    def compact(self, connection: Connection) -> None:
        """Write the file anew, without what holds nothing; not in a transaction."""
        raw = _raw(connection)
        raw.execute("VACUUM")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def trouble(self, error: BaseException) -> Trouble | None:
        """What an error of the driver means; None for any other error."""
        cause = error.orig if isinstance(error, StatementError) else error
        if isinstance(cause, UnicodeEncodeError):
            return Trouble(Kind.VALUE, "cannot keep a text that has a lone surrogate in it", "take it out")
        if not isinstance(cause, sqlite3.Error):
            return None
        code = sqlite_code(cause)
        return _TROUBLES.get(code) or Trouble(Kind.OTHER, f"refused a statement ({cause})", _MISTAKE)


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _set_up(raw: sqlite3.Connection, *, reads: bool) -> None:
    if reads:
        raw.execute("PRAGMA query_only=ON")
        return
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute("PRAGMA foreign_keys=ON")


def sqlite_code(error: BaseException | None) -> int | None:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html); None where it is not SQLite's error."""
    code = getattr(error.orig if isinstance(error, StatementError) else error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


_MISTAKE = "try again, and if it stays so, use the version of the program that made the database"
_TROUBLES: dict[int | None, Trouble] = {
    code: Trouble(kind, fact, remedy)
    for code, kind, fact, remedy in (
        (sqlite3.SQLITE_FULL, Kind.OTHER, "has no room left on its disk", "free some space and try again"),
        (sqlite3.SQLITE_READONLY, Kind.OTHER, "is read-only", "make the file and its folder writable"),
        (sqlite3.SQLITE_NOTADB, Kind.DAMAGED, "is not an SQLite database", "give another path"),
        (sqlite3.SQLITE_CORRUPT, Kind.DAMAGED, "is damaged", "restore it from a backup"),
        (sqlite3.SQLITE_CANTOPEN, Kind.OTHER, "cannot be opened", "check its path and permissions"),
        (sqlite3.SQLITE_PERM, Kind.OTHER, "cannot be opened", "check its permissions"),
        (sqlite3.SQLITE_IOERR, Kind.UNSURE, "cannot be read or written by the disk", "check the disk and its room"),
        (sqlite3.SQLITE_BUSY, Kind.LOCKED, f"was locked by another process for {LOCKED_S_MAX:.0f} s", "end that one"),
        (sqlite3.SQLITE_LOCKED, Kind.OTHER, "is locked by another use in this process", "end that one"),
    )
}


class WatchedFile:
    """An SQLite file and its log, which must stay those that were opened.

    A file that is deleted while it is open stays writable, and takes all that is written to it along when it is
    closed; SQLite itself does not say so. What was noticed once is told for good: another file that came meanwhile
    is another story, and a log that came is read beside the old one by whoever has that open.
    """

    def __init__(self, path: Path) -> None:
        self._paths = (str(path), f"{path}-wal")
        self._files: dict[str, tuple[int, int]] = {}
        self._lost = ""

    def check(self) -> None:
        """Raise StorageError when the files are no longer those that were there the first time."""
        for path in self._paths:
            known = self._files.get(path)
            now = _identity(path)
            if known is None and now is not None:
                self._files.setdefault(path, now)
            elif now != known:
                self._lost = self._lost or path
        if self._lost:
            raise StorageError(
                f"{self._lost} was deleted or replaced while it was open; what was written since is not in the file"
                " that is there now; stop, put the right file in its place, and start again"
            )

    def forget_log(self) -> None:
        """The writer connects again; if it was the last connection, the log will be another."""
        self._files.pop(self._paths[1], None)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (this runs with every transaction)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
