"""From an address to engines: the file with its permissions, the kind of database, and how a transaction begins."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError

from agents.errors import ConfigError, StorageError
from checkpoints.sqlite import Sqlite
from checkpoints.trouble import Trouble

__all__ = [
    "READERS",
    "Dialect",
    "dialect_of",
    "file_of",
    "is_dead",
    "make_engine",
    "make_file",
    "make_folders",
    "name_of",
    "open_url",
    "url_of",
]

READERS = 4
"""Reading connections that are kept open."""
_MAKING = Lock()
_SHOWN = frozenset({"host", "port", "user", "dbname", "service"})
"""Parts of a URL's query that are shown; others may be secrets."""


class Dialect(Protocol):
    """What the kinds of databases do differently. A raw error is the driver's, or SQLAlchemy's around it."""

    @property
    def begin_write(self) -> str: ...

    @property
    def begin_read(self) -> str: ...

    def engine(self, url: URL, readers: int, *, reads: bool, shared: bool) -> Engine: ...

    def batch(self, connection: Connection) -> AbstractContextManager[Callable[[str], Any]]: ...

    def failed(self, connection: Connection) -> bool: ...

    def open(self, connection: Connection) -> bool: ...

    def room(self, connection: Connection) -> tuple[int, int]: ...

    def compact(self, connection: Connection) -> None: ...

    def trouble(self, error: BaseException) -> Trouble | None: ...


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
    except (ArgumentError, ValueError):  # the error may quote a piece of the password
        url = None
    if url is None or "@" in (url.host or ""):  # what follows an @ in a password would be taken for the host, and shown
        raise ConfigError(
            "the database's URL cannot be read; nothing was opened; write driver://user:password@host/name, and @ in a"
            " password as %40"
        )
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgresql", "postgres"} else url


def file_of(url: URL) -> Path | None:
    """The file of an SQLite URL; None for a database in memory or on a server."""
    name = url.database
    return Path(name) if url.get_backend_name() == "sqlite" and name and name != ":memory:" else None


def name_of(url: URL) -> str:
    """What messages call the database: its path, or its URL without what may be secret."""
    return str(file_of(url) or open_url(url))


def open_url(url: URL) -> str:
    """The URL without what may be secret, which whoever uses it has to put in."""
    query = {key: value for key, value in url.query.items() if key in _SHOWN}
    shown = url.set(drivername=url.get_backend_name(), query=query)
    return shown.render_as_string(hide_password=True)


def make_file(url: URL) -> None:
    """Make the file, so that it is never readable by others, not even for a moment.

    One that is there is not touched: who opens and closes it beside SQLite takes away the locks that this process
    holds on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    path = file_of(url)
    if path is None:
        return
    try:
        if path.is_dir():
            raise StorageError(f"{path} is a folder; nothing was opened; give the path of a file in it")
        make_folders(path)
        with _MAKING, suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"{path} cannot be made or opened ({error.strerror}); check its path and permissions") from (
            error
        )


def make_folders(path: Path) -> None:
    """Make the folders that are missing above a file, for their owner alone."""
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)


def dialect_of(url: URL) -> Dialect:
    """The kind of database that a URL names.

    Raises:
        ConfigError: it is another than SQLite and Postgres, or its driver is not installed.
    """
    if url.drivername in {"sqlite", "sqlite+pysqlite"}:
        return Sqlite()
    if url.drivername != "postgresql+psycopg":
        raise ConfigError(
            f"{name_of(url)} is no database for Holdfast; nothing was opened;"
            " give the path of an SQLite file, or postgresql://user:password@host/name"
        )
    try:
        from checkpoints.postgres import Postgres  # noqa: PLC0415 (its driver is an extra)
    except ImportError as error:
        raise ConfigError(
            f"{name_of(url)} needs a driver that is not installed ({error}); nothing was opened;"
            " install it with: pip install 'holdfast[postgres]'"
        ) from error
    return Postgres()


def make_engine(dialect: Dialect, url: URL, *, reads: bool, shared: bool = False) -> Engine:
    """An engine whose transactions begin as the dialect has it: those of a writer hold the lock, reads are a snapshot.

    `shared`: one connection for all threads.
    """
    engine = dialect.engine(url, READERS, reads=reads, shared=shared)
    statement = dialect.begin_read if reads else dialect.begin_write
    event.listen(engine, "begin", lambda connection: _begin(connection, statement))
    return engine


def _begin(connection: Connection, statement: str) -> None:
    try:
        connection.connection.cursor().execute(statement)
    except BaseException:
        if is_dead(connection):
            connection.invalidate()
        raise


def is_dead(connection: Connection) -> bool:
    """Whether the connection was lost; an SQLite connection cannot be."""
    return connection.invalidated or bool(getattr(connection.connection.driver_connection, "closed", False))
