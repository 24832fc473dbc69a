"""From an address to an engine: the file with its permissions, the driver, and how each connection is set up."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock

from sqlalchemy import URL, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from agents.errors import ConfigError, StorageError

__all__ = ["READERS", "file_of", "make_engine", "make_file", "name_of", "sqlite_code", "url_of"]

READERS = 4
"""Reading connections that are kept open."""
_BUSY_MS = 1_000
"""How long SQLite itself waits for a lock before it asks again."""
_MAKING = Lock()


def url_of(target: str | Path) -> URL:
    """The URL of a path, or of a URL's text.

    Raises:
        ConfigError: it cannot be read.
    """
    text = str(target)
    if isinstance(target, Path) or "://" not in text:
        return URL.create("sqlite+pysqlite", database=text)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError("the database's URL cannot be read; nothing was opened; write driver://host/name") from error
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url


def file_of(url: URL) -> Path | None:
    """The file of an SQLite URL; None for a database in memory or on a server."""
    name = url.database
    return Path(name) if url.get_backend_name() == "sqlite" and name and name != ":memory:" else None


def name_of(url: URL) -> str:
    """What messages call the database: its path, or its URL without the password."""
    return str(file_of(url) or url.render_as_string(hide_password=True))


def make_file(url: URL) -> None:
    """Make the file, so that it is never readable by others, not even for a moment.

    One that is there is not touched: who opens and closes it beside SQLite takes away the locks that this process
    holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    path = file_of(url)
    if path is None:
        return
    if path.is_dir():
        raise StorageError(f"{path} is a folder; nothing was opened; give the path of a file in it")
    try:
        for folder in reversed([parent for parent in path.parents if not parent.exists()]):
            folder.mkdir(mode=0o700, exist_ok=True)
        with _MAKING, suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path} cannot be made or opened ({error.strerror}); check its path and permissions") from (
            error
        )


def make_engine(url: URL, begin: str, *, shared: bool) -> Engine:
    """An engine whose transactions start with `begin` on SQLite; on a server, a read is one snapshot."""
    try:
        if url.get_backend_name() != "sqlite":
            isolation = "REPEATABLE READ" if begin == "BEGIN" else "READ COMMITTED"
            return create_engine(url, pool_size=READERS, pool_pre_ping=begin == "BEGIN", isolation_level=isolation)
        pool = {"poolclass": StaticPool} if shared else {"pool_size": READERS, "max_overflow": 4 * READERS}
        arguments = {"check_same_thread": False, "timeout": _BUSY_MS / 1000, "isolation_level": None}
        engine = create_engine(url, connect_args=arguments, **pool)
    except (ImportError, NoSuchModuleError) as error:
        raise ConfigError(
            f"{name_of(url)} needs a driver that is not installed ({error}); nothing was opened"
        ) from error
    reads = begin == "BEGIN"
    event.listen(engine, "connect", lambda raw, _record: _set_up(raw, reads=reads))
    event.listen(engine, "begin", lambda connection: connection.connection.cursor().execute(begin))
    return engine


def _set_up(raw: sqlite3.Connection, *, reads: bool) -> None:
    if reads:
        raw.execute("PRAGMA query_only=ON")
        return
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute("PRAGMA foreign_keys=ON")


def sqlite_code(error: BaseException) -> int | None:
    """SQLite's primary result code (https://www.sqlite.org/rescode.html); None where it is not SQLite's error."""
    code = getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
