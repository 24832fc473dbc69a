"""The version of a database's tables, kept in the database, and the steps from each version to the next.

A set of tables (a SQLAlchemy `MetaData`) that has a history names it, as `MetaData(info={HISTORY: (...)})`: one
function for each step, the first from version 1 to 2, and so on. A function gets the connection and changes tables that
are there; new tables need none, they are made afterwards. Everything happens in the one transaction that opens the
database, so a crash in the middle leaves the old version whole. It runs on SQLite and on Postgres.

Version 1 was released without a version in it: a database that has some of the tables and none is of that version.
"""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, inspect, select, update

from agents.errors import StorageError
from checkpoints.trouble import legible

__all__ = ["HISTORY", "Migration", "migrate", "steps"]

Migration = Callable[[Connection], None]

HISTORY = "migrations"
"""The key of `MetaData.info` under which the steps of its tables stand."""

_versions = Table("holdfast_schema", MetaData(), Column("version", Integer, nullable=False))


def migrate(connection: Connection, tables: MetaData, name: str, before: Callable[[int], None]) -> None:
    """Take the tables to the newest version, and make those that are missing, in the transaction of `connection`.

    `name`: what messages call the database. `before` is called with the version that is there, before anything is
    changed, and may refuse; it is not called where there is nothing to lose.

    Raises:
        StorageError: the database is of a version that this program does not know; nothing was changed.
    """
    history: Sequence[Migration] | None = tables.info.get(HISTORY)
    if history is None:
        tables.create_all(connection)
        return
    newest = len(history) + 1
    found = _version(connection, tables)
    if found is not None and not 1 <= found <= newest:
        raise StorageError(
            f"{name} is of version {found}, and this program knows versions 1 to {newest}; nothing was changed; use the"
            " program that made it, or a newer one"
        )
    if found is not None and found < newest:
        before(found)
        for step in history[found - 1 :]:
            step(connection)
    tables.create_all(connection)
    if found != newest:
        _set_version(connection, newest)


def _version(connection: Connection, tables: MetaData) -> int | None:
    """The version of the tables that are there; None where there are none."""
    there = inspect(connection)
    if there.has_table(_versions.name):
        row = connection.execute(select(_versions.c.version)).first()
        if row is not None:
            return _number_in(row)
    return 1 if any(there.has_table(table) for table in tables.tables) else None


@legible("version of the tables", lambda row: row.version)
def _number_in(row: Any) -> int:
    return index(row.version)


def _set_version(connection: Connection, version: int) -> None:
    _versions.create(connection, checkfirst=True)
    if connection.execute(update(_versions).values(version=version)).rowcount == 0:
        connection.execute(insert(_versions).values(version=version))


# The steps of Holdfast's own tables.


def _lease_runs(connection: Connection) -> None:
    """2: who works on a run, where a fork comes from, and whether a run may place orders."""
    _add_columns(
        connection,
        "runs",
        "owner TEXT DEFAULT '' NOT NULL",
        "owner_lock TEXT DEFAULT '' NOT NULL",
        "token INTEGER DEFAULT 0 NOT NULL",
        "leased_until_ns BIGINT DEFAULT 0 NOT NULL",
        "forked_from VARCHAR(64)",
        "forked_at TEXT",
        "dry BOOLEAN DEFAULT false NOT NULL",
    )


def _lay_out_saved(connection: Connection) -> None:
    """3: checkpoints stand in the order of their saving, under fewer indexes, and on SQLite all rows in their keys."""
    if not inspect(connection).has_table("saved_checkpoints"):
        return
    changes = _SAVED_3_POSTGRES if connection.dialect.name == "postgresql" else _SAVED_3_SQLITE
    for statement in changes.split(";"):
        connection.exec_driver_sql(statement)


_SAVED_3_POSTGRES = """
DROP INDEX saved_checkpoints_of_thread, saved_checkpoints_by_number, saved_checkpoints_by_id;
ALTER TABLE saved_checkpoints DROP CONSTRAINT saved_checkpoints_pkey,
    ADD PRIMARY KEY (number), ADD UNIQUE (checkpoint_id, thread_id, ns);
CREATE INDEX saved_checkpoints_of_thread ON saved_checkpoints (thread_id, ns, number);
ALTER TABLE saved_checkpoints ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE saved_values ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE saved_writes ALTER COLUMN body SET STORAGE EXTERNAL
"""
_SAVED_3_SQLITE = """
ALTER TABLE saved_checkpoints RENAME TO old_checkpoints;
DROP INDEX saved_checkpoints_of_thread;
DROP INDEX saved_checkpoints_by_number;
DROP INDEX saved_checkpoints_by_id;
CREATE TABLE saved_checkpoints (
    thread_id TEXT NOT NULL, ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL, parent_id TEXT, run_id TEXT,
    kind TEXT NOT NULL, body BLOB NOT NULL, checksum BIGINT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (number), UNIQUE (checkpoint_id, thread_id, ns)
);
INSERT INTO saved_checkpoints SELECT thread_id, ns, checkpoint_id, parent_id, run_id, kind, body, checksum, number
    FROM old_checkpoints;
DROP TABLE old_checkpoints;
CREATE INDEX saved_checkpoints_of_thread ON saved_checkpoints (thread_id, ns, number);
ALTER TABLE saved_values RENAME TO old_values;
CREATE TABLE saved_values (
    thread_id TEXT NOT NULL, ns TEXT NOT NULL, channel TEXT NOT NULL, version TEXT NOT NULL, base TEXT,
    depth INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, checksum BIGINT NOT NULL,
    PRIMARY KEY (thread_id, ns, channel, version)
) WITHOUT ROWID;
INSERT INTO saved_values SELECT thread_id, ns, channel, version, base, depth, kind, body, checksum FROM old_values;
DROP TABLE old_values;
ALTER TABLE saved_writes RENAME TO old_writes;
CREATE TABLE saved_writes (
    thread_id TEXT NOT NULL, ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL, task_id TEXT NOT NULL,
    idx INTEGER NOT NULL, task_path TEXT NOT NULL, channel TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL,
    checksum BIGINT NOT NULL, PRIMARY KEY (thread_id, ns, checkpoint_id, task_id, idx)
) WITHOUT ROWID;
INSERT INTO saved_writes SELECT thread_id, ns, checkpoint_id, task_id, idx, task_path, channel, kind, body, checksum
    FROM old_writes;
DROP TABLE old_writes
"""


def _count_attempts(connection: Connection) -> None:
    """4: stop orders, and an order that never reached the broker beside the next attempt at it."""
    if not inspect(connection).has_table("orders"):
        return
    changes = _ORDERS_4_POSTGRES if connection.dialect.name == "postgresql" else _ORDERS_4_SQLITE
    for statement in changes.split(";"):
        connection.exec_driver_sql(statement)


_ORDERS_4_POSTGRES = """
ALTER TABLE orders ALTER COLUMN type TYPE VARCHAR(16),
    ADD COLUMN stop_price VARCHAR(64), ADD COLUMN attempt INTEGER DEFAULT 1 NOT NULL,
    DROP CONSTRAINT orders_run_id_decision_leg_key, ADD UNIQUE (run_id, decision, leg, attempt)
"""
_ORDERS_4_SQLITE = """
ALTER TABLE orders RENAME TO old_orders;
ALTER TABLE fills RENAME TO old_fills;
DROP INDEX ix_orders_run_id;
DROP INDEX ix_orders_account;
DROP INDEX ix_orders_status;
DROP INDEX ix_fills_intent_id;
DROP INDEX ix_fills_account;
CREATE TABLE orders (
    intent_id VARCHAR(32) NOT NULL, number INTEGER NOT NULL, run_id VARCHAR(64) NOT NULL, decision INTEGER NOT NULL,
    leg VARCHAR(32) NOT NULL, account VARCHAR(64) NOT NULL, symbol VARCHAR(32) NOT NULL, side VARCHAR(4) NOT NULL,
    type VARCHAR(16) NOT NULL, quantity VARCHAR(64) NOT NULL, limit_price VARCHAR(64),
    reference_price VARCHAR(64) NOT NULL, reference_ns BIGINT NOT NULL, status VARCHAR(16) NOT NULL,
    broker_order_id VARCHAR(64) NOT NULL, reason TEXT NOT NULL, checks TEXT NOT NULL, stop_price VARCHAR(64),
    attempt INTEGER NOT NULL,
    PRIMARY KEY (intent_id), UNIQUE (run_id, decision, leg, attempt), UNIQUE (number)
);
INSERT INTO orders SELECT intent_id, number, run_id, decision, leg, account, symbol, side, type, quantity, limit_price,
    reference_price, reference_ns, status, broker_order_id, reason, checks, NULL, 1 FROM old_orders;
CREATE TABLE fills (
    trade_id VARCHAR(64) NOT NULL, number INTEGER NOT NULL, intent_id VARCHAR(32) NOT NULL,
    account VARCHAR(64) NOT NULL, symbol VARCHAR(32) NOT NULL, side VARCHAR(4) NOT NULL, quantity VARCHAR(64) NOT NULL,
    price VARCHAR(64) NOT NULL, fee VARCHAR(64) NOT NULL, time_ns BIGINT NOT NULL,
    PRIMARY KEY (trade_id), UNIQUE (number), FOREIGN KEY(intent_id) REFERENCES orders (intent_id)
);
INSERT INTO fills SELECT trade_id, number, intent_id, account, symbol, side, quantity, price, fee, time_ns
    FROM old_fills;
DROP TABLE old_fills;
DROP TABLE old_orders;
CREATE INDEX ix_orders_run_id ON orders (run_id);
CREATE INDEX ix_orders_account ON orders (account);
CREATE INDEX ix_orders_status ON orders (status);
CREATE INDEX ix_fills_intent_id ON fills (intent_id);
CREATE INDEX ix_fills_account ON fills (account)
"""


def _time_orders(connection: Connection) -> None:
    """5: when an order was sent, and how much was asked for; indexes by which an order costs the same after many."""
    if not inspect(connection).has_table("orders"):
        return
    for statement in _ORDERS_5.split(";"):
        connection.exec_driver_sql(statement)


_ORDERS_5 = """
ALTER TABLE orders ADD COLUMN asked VARCHAR(64);
ALTER TABLE orders ADD COLUMN sent_ns BIGINT;
DROP INDEX ix_orders_run_id;
DROP INDEX ix_orders_account;
DROP INDEX ix_orders_status;
DROP INDEX ix_fills_account;
CREATE INDEX orders_by_status ON orders (status, account, number);
CREATE INDEX orders_by_time ON orders (account, reference_ns);
CREATE INDEX fills_by_number ON fills (account, number);
CREATE INDEX fills_by_time ON fills (account, time_ns)
"""


def _add_columns(connection: Connection, table: str, *columns: str) -> None:
    """Whoever uses the saver alone has none of the other tables: there is nothing to change in them."""
    if inspect(connection).has_table(table):
        for column in columns:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")


steps: tuple[Migration, ...] = (_lease_runs, _lay_out_saved, _count_attempts, _time_orders)
"""What leads from version 1 of Holdfast's own database to the present one."""
