"""Postgres: how its connections are set up, how works of one batch travel together, and what its errors mean.

Imported with the first Postgres URL: the driver is an extra.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, StatementError

from agents.errors import ConfigError
from checkpoints.trouble import LOCKED_S_MAX, Kind, Trouble

__all__ = ["Postgres"]

_CONNECT_S_MAX = 10
"""How long one attempt to connect may take."""
_IDLE_S_MAX = 20
"""How long a writer that was stopped may keep all others waiting: less than they wait."""
_DRAINS_MAX = 100
"""Errors behind the first that are taken in before the connection is given up."""


class Postgres:
    """Postgres as a `checkpoints.engine.Dialect`.

    Writers take turns, by a lock that belongs to the transaction: what is read in one is as it is until it commits,
    whatever other processes do, just as on SQLite. Numbers, limits and leases need no locks of their own.
    """

    begin_write = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock(4861646673)"
    begin_read = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def engine(self, url: URL, readers: int, *, reads: bool, shared: bool) -> Engine:  # noqa: ARG002 (SQLite's)
        """Connections in the driver's autocommit mode: one statement of ours begins the transaction and locks."""
        usual = {
            "connect_timeout": _CONNECT_S_MAX,
            "fallback_application_name": "holdfast",
            "keepalives_idle": 10,  # a peer that vanished without a word is noticed
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
        arguments = {name: value for name, value in usual.items() if name not in url.query}
        engine = create_engine(
            url,
            pool_size=readers,
            max_overflow=readers,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            use_native_hstore=False,
            connect_args=arguments | {"cursor_factory": _Cursor},
        )
        event.listen(engine, "connect", lambda raw, _record: _set_up(raw, reads=reads), insert=True)
        return engine

    @contextmanager
    def batch(self, connection: Connection) -> Iterator[Callable[[str], Any]]:
        """Gives what executes the savepoints of a batch: each travels with the statement that follows it."""
        raw = _raw(connection)
        with _pipelined(raw):
            yield psycopg.Cursor(raw).execute

    def failed(self, connection: Connection) -> bool:
        """Whether the transaction can only be undone; a COMMIT would undo it, too, and say nothing."""
        return bool(_raw(connection).info.transaction_status == TransactionStatus.INERROR)

    def open(self, connection: Connection) -> bool:
        """Whether there is a transaction."""
        return bool(_raw(connection).info.transaction_status != TransactionStatus.IDLE)

    def room(self, connection: Connection) -> tuple[int, int]:  # noqa: ARG002 (SQLite's)
        """Nothing that a client need know: the server uses its files' room again."""
        return 0, 0

    def compact(self, connection: Connection) -> None:
        """Its autovacuum does that."""

    def trouble(self, error: BaseException) -> Trouble | None:
        """What an error of the driver means; None for any other error."""
        cause = error.orig if isinstance(error, StatementError) else error
        if isinstance(cause, UnicodeEncodeError) or (isinstance(cause, psycopg.DataError) and _is_text(cause)):
            return Trouble(Kind.VALUE, "cannot keep a text that has NUL or a lone surrogate in it", "take it out")
        if not isinstance(cause, psycopg.Error):
            return None
        if _is_away(cause):
            return _away(cause, connecting=isinstance(error, DBAPIError) and not error.connection_invalidated)
        said = " ".join((cause.diag.message_primary or str(cause)).split())
        known = _TROUBLES.get(cause.sqlstate or "")
        return known or Trouble(Kind.OTHER, f"refused a statement ({said:.300})", _MISTAKE)


class _Cursor(psycopg.Cursor[Any]):
    """SQLAlchemy asks for the outcome at once, which in a pipeline is there only after it was waited for."""

    def execute(self, *arguments: Any, **options: Any) -> Any:
        with self._waiting():
            return super().execute(*arguments, **options)

    def executemany(self, *arguments: Any, **options: Any) -> None:
        alone = getattr(self.connection, "holdfast_pipeline", None) is None
        with _pipelined(self.connection) if alone else nullcontext(), self._waiting():
            super().executemany(*arguments, **options)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        pipeline = getattr(self.connection, "holdfast_pipeline", None)
        if pipeline is None:
            yield
            return
        try:
            yield
            pipeline.sync()
        except BaseException:
            _drain(self.connection, pipeline)
            raise


@contextmanager
def _pipelined(connection: Any) -> Iterator[None]:
    """A pipeline of the driver, which would log the errors that the body raises, beside raising them."""
    failure: BaseException | None = None
    with connection.pipeline() as pipeline:
        connection.holdfast_pipeline = pipeline
        try:
            yield
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            failure = error
        finally:
            connection.holdfast_pipeline = None
    if failure is not None:
        raise failure


def _drain(connection: "psycopg.Connection[Any]", pipeline: psycopg.Pipeline) -> None:
    """Take in what is left to say about a statement that failed: it must not be said of the next one."""
    for _ in range(_DRAINS_MAX):
        with suppress(psycopg.Error):
            pipeline.sync()
            return
        if connection.closed:
            return
    connection.close()


def _raw(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _set_up(raw: "psycopg.Connection[Any]", *, reads: bool) -> None:
    encoding = raw.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raw.close()
        raise ConfigError(
            f"the Postgres database is encoded as {encoding}, which cannot keep every text; nothing was opened;"
            " make one with ENCODING 'UTF8'"
        )
    raw.autocommit = True
    if not reads:
        raw.execute(
            f"SET lock_timeout = '{LOCKED_S_MAX * 1_000:.0f}ms';"
            f" SET idle_in_transaction_session_timeout = '{_IDLE_S_MAX * 1_000:.0f}ms';"
            # What was acknowledged is on disk, whatever the server's default is; a stricter one stays.
            " SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )


def _is_text(cause: psycopg.DataError) -> bool:
    """NUL is found by the driver, whose errors have no code; what the encoding lacks by the server."""
    return cause.sqlstate in {None, "22021", "22P05"} and ("NUL" in str(cause) or cause.sqlstate is not None)


def _is_away(cause: psycopg.Error) -> bool:
    """Class 08 are connections that fail; the others end one: a server that stops or crashes, and time-outs."""
    if cause.sqlstate is None:
        return isinstance(cause, psycopg.OperationalError)
    return cause.sqlstate[:2] == "08" or cause.sqlstate in {"57P01", "57P02", "57P03", "57P05", "25P03"}


def _away(cause: psycopg.Error, *, connecting: bool) -> Trouble:
    said = " ".join(str(cause).split())
    if not connecting:
        return Trouble(Kind.AWAY, f"went away ({said:.300})", "try again when it is back")
    kind = Kind.STARTING if "FATAL: the database system is" in said else Kind.AWAY
    return Trouble(kind, f"cannot be reached ({said:.300})", "check that it runs, its address, the user and password")


_MISTAKE = "try again, and if it stays so, use the version of the program that made the database"
_TROUBLES = {
    sqlstate: Trouble(Kind.OTHER, fact, remedy)
    for sqlstate, fact, remedy in (
        ("53100", "has no room left on its disk", "free some space and try again"),
        ("25006", "is read-only", "give the address of the server that may be written to"),
        ("55P03", f"was locked by another process for {LOCKED_S_MAX:.0f} s", "end that one"),
        ("3F000", "has no schema that this user may use", "give the user the right to use it"),
        ("42501", "does not allow this user to do that", "give the user the right to make tables and use them"),
        ("58030", "cannot be read or written by its disk", "check the server's disk"),
        ("XX001", "is damaged", "restore it from a backup"),
        ("XX002", "is damaged", "restore it from a backup"),
    )
}
