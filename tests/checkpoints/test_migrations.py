"""A database of any version of before is brought to the present one, whole or not at all."""

import hashlib
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, String, Table, Text, UniqueConstraint, inspect

from agents.clock import ReplayClock
from agents.domain import OrderStatus, TradingState
from agents.errors import StorageError
from checkpoints import migrations
from checkpoints.database import Database, metadata
from checkpoints.events import Timeline
from checkpoints.leases import Leases
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.migrations import HISTORY
from checkpoints.runs import CheckpointManager, RunStatus
from checkpoints.saver import SqlSaver
from checkpoints.trading_state import TradingSwitch
from tests.checkpoints.test_ledger import allow, intent

ROOT = Path(__file__).parents[2]
SCHEMA_1 = Path(__file__).with_name("schema_1.sql")
FINISHED, INTERRUPTED = "trade-SIM-20260101T000000Z-1", "trade-SIM-20260101T000000Z-2"
NEWEST = 1 + len(migrations.steps)


@pytest.fixture
def first(tmp_path):
    """A database as the first version left it: a run that finished with an order, and one that was interrupted."""
    path = tmp_path / "holdfast.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(SCHEMA_1.read_text())
    return path


def contents(path, columns=None):
    """All rows by table; of each table the given columns, or all."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        wanted = {
            name: ", ".join((columns or {}).get(name, ["*"])) for name in tables if columns is None or name in columns
        }
        return {name: sorted(connection.execute(f"SELECT {what} FROM {name}")) for name, what in wanted.items()}  # noqa: S608


def columns_of(path):
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in tables}


def shape(database):
    """What a database's tables look like; what a column gets by itself is no part of it."""

    def work(connection):
        there = inspect(connection)
        return {
            name: (
                {each["name"]: (str(each["type"]), each["nullable"]) for each in there.get_columns(name)},
                there.get_pk_constraint(name)["constrained_columns"],
                sorted(map(str, there.get_foreign_keys(name))),
                sorted(str(each["column_names"]) for each in there.get_unique_constraints(name)),
                sorted((each["name"], str(each["column_names"]), each["unique"]) for each in there.get_indexes(name)),
            )
            for name in there.get_table_names()
        }

    return database.read(work)


def version(database):
    return database.read(lambda connection: connection.exec_driver_sql("SELECT version FROM holdfast_schema").scalar())


class TestFirstSchema:
    def test_it_becomes_what_a_new_one_is_and_keeps_every_row(self, first, tmp_path):
        before, columns = contents(first), columns_of(first)
        with Database.open(first) as database, Database.open(tmp_path / "new.db") as new:
            assert shape(database) == shape(new)
            assert version(database) == version(new) == NEWEST
        assert contents(first, columns) == before

    def test_the_file_as_it_was_is_kept_and_opening_it_again_does_nothing(self, first):
        before = contents(first)
        for _ in range(2):
            Database.open(first).close()
            (kept,) = [each for each in (first.parent / "backups").iterdir() if each.name != "lock"]
            assert kept.name.startswith("holdfast.db.000001.")
            assert kept.name.endswith(".schema-1")
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
            assert contents(kept) == before

    async def test_its_orders_can_be_tried_again_and_their_fills_belong_to_them(self, first):
        with Database.open(first) as database:
            ledger = OrderLedger(database)
            (old,) = await ledger.orders(FINISHED)
            assert (old.intent.attempt, old.intent.stop_price) == (1, None)
            await ledger.open_account("paper", Decimal(1_000))
            wanted = intent("again", stop_price=Decimal(101), limit_price=Decimal(102))
            await ledger.reserve(wanted, allow)
            await ledger.mark_sending(wanted.intent_id)
            await ledger.record(wanted.intent_id, BrokerReport(OrderStatus.NOT_PLACED))
            second = intent("again", stop_price=Decimal(101), limit_price=Decimal(102), attempt=2)
            assert (await ledger.reserve(second, allow)).intent == second
            broken = "UPDATE fills SET intent_id = 'nobody'"
            with pytest.raises(StorageError, match="FOREIGN KEY"):
                database.write(lambda connection: connection.exec_driver_sql(broken))

    async def test_all_of_it_can_be_read(self, first):
        with Database.open(first) as database:
            saver, ledger, clock = SqlSaver(database), OrderLedger(database), ReplayClock(0)
            manager = CheckpointManager(database, saver, Leases(database, first.parent, clock), first.parent, clock)
            runs = await manager.runs()
            assert [(run.run_id, run.status) for run in runs] == [
                (FINISHED, RunStatus.FINISHED),
                (INTERRUPTED, RunStatus.INTERRUPTED),
            ]
            assert [(run.forked_from, run.dry) for run in runs] == [(None, False)] * 2
            (order,) = await ledger.orders(FINISHED)
            assert (order.status, order.client_order_id) == (OrderStatus.FILLED, "hfet54gteny2nperwwxtt5hg2joj")
            assert (await ledger.portfolio(FINISHED)).position("SIM").quantity == order.filled > 0
            saved = {run.run_id: [each async for each in saver.alist(_config(run.run_id))] for run in runs}
            assert {run_id: len(states) for run_id, states in saved.items()} == {FINISHED: 8, INTERRUPTED: 5}
            assert saved[FINISHED][0].checkpoint["channel_values"]["orders"] == [order]
            assert saved[INTERRUPTED][0].checkpoint["channel_values"]["synthesis"].missing == ()
            entries = await Timeline(database).entries(FINISHED)
            assert [entry.kind for entry in entries][:1] == ["RunStarted"]
            assert (await TradingSwitch(database).read()).state is TradingState.ACTIVE

    def test_who_has_only_the_saver_gets_the_rest_with_the_rest(self, first):
        with closing(sqlite3.connect(first)) as connection:
            for name in ("runs", "orders", "fills", "accounts", "timeline"):
                connection.execute(f"DROP TABLE {name}")
        with Database.open(first) as database:
            assert version(database) == NEWEST
            assert "token" in shape(database)["runs"][0]


def _config(run_id):
    return {"configurable": {"thread_id": run_id, "checkpoint_ns": ""}}


class TestWholeOrNotAtAll:
    def test_killed_in_the_middle_it_is_what_it_was(self, first):
        code = """
import os, signal, sys
from checkpoints import migrations
from checkpoints.database import Database
import checkpoints.runs

def half(connection, table, *columns):
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {columns[0]}")
    os.kill(os.getpid(), signal.SIGKILL)

migrations._add_columns = half
Database.open(sys.argv[1])
"""
        before = contents(first)
        died = subprocess.run([sys.executable, "-c", code, first], check=False, cwd=ROOT, timeout=60)
        assert died.returncode == -signal.SIGKILL
        assert contents(first) == before
        with Database.open(first) as database:
            assert version(database) == NEWEST

    @pytest.mark.parametrize("trouble", [KeyError("a mistake"), StorageError("no")])
    def test_a_step_that_fails_changes_nothing(self, address, trouble):
        tables, steps = _grown(address)

        def broken(connection):
            steps[0](connection)
            raise trouble

        tables.info[HISTORY] = (broken, steps[1])
        with pytest.raises(type(trouble)):
            Database.open(address, tables)
        tables.info[HISTORY] = steps
        with Database.open(address, tables) as database:
            assert _notes(database) == [(1, "old", "one", 2)]

    def test_many_at_once_migrate_once(self, first):
        with ThreadPoolExecutor(4) as threads:
            opened = list(threads.map(Database.open, [first] * 4))
        assert {version(database) for database in opened} == {NEWEST}
        for database in opened:
            database.close()
        assert len(list((first.parent / "backups").glob("*.schema-1"))) == 1

    def test_without_a_backup_nothing_is_changed(self, first):
        (first.parent / "backups").write_text("in the way")
        before = contents(first)
        with pytest.raises(StorageError, match=r"could not be backed up .*; make room and .*backups writable"):
            Database.open(first)
        assert contents(first) == before


class TestVersions:
    @pytest.mark.parametrize("theirs", [NEWEST + 1, 0])
    def test_one_that_is_not_known_is_refused_in_one_line_and_left_alone(self, tmp_path, theirs):
        path = tmp_path / "holdfast.db"
        Database.open(path).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE holdfast_schema SET version = ?", (theirs,))
            connection.execute("DROP TABLE orders")
            connection.commit()
        before = hashlib.sha256(path.read_bytes()).digest()
        with pytest.raises(StorageError) as caught:
            Database.open(path)
        assert str(caught.value) == (
            f"{path} is of version {theirs}, and this program knows versions 1 to {NEWEST}; nothing was changed;"
            " use the program that made it, or a newer one"
        )
        assert hashlib.sha256(path.read_bytes()).digest() == before
        assert not (tmp_path / "backups").exists()

    def test_only_the_steps_that_are_left_are_taken(self, address):
        tables, steps = _grown(address)
        tables.info[HISTORY] = steps[:1]
        Database.open(address, tables).close()

        def never(_):
            raise AssertionError

        tables.info[HISTORY] = (never, steps[1])
        with Database.open(address, tables) as database:
            assert (_notes(database), version(database)) == ([(1, "old", "one", 2)], 3)

    def test_tables_without_a_history_have_no_version(self, address):
        with Database.open(address, MetaData()) as database:
            assert shape(database) == {}

    def test_a_new_one_on_a_server(self, server):
        address = server.fresh()
        for _ in range(2):
            with Database.open(address) as database:
                assert version(database) == NEWEST
                assert database.read(lambda connection: inspect(connection).has_table("trading_state"))

    def test_the_first_schema_on_a_server(self, server, tmp_path):
        address, old = server.fresh(), MetaData()
        for table in metadata.sorted_tables:
            if table.name not in {"trading_state", "accepted_differences"}:
                table.to_metadata(old)
        added = ("owner", "owner_lock", "token", "leased_until_ns", "forked_from", "forked_at", "dry")
        before = Table("runs", MetaData(), *(each._copy() for each in old.tables["runs"].c if each.name not in added))
        old.remove(old.tables["runs"])
        before.to_metadata(old)
        _as_first_laid_out(old)
        _without_attempts(old)
        Database.open(address, old).close()
        with Database.open(address) as database, Database.open(server.fresh()) as new:
            assert shape(database) == shape(new)
            assert version(database) == NEWEST


def _as_first_laid_out(old):
    """Checkpoints in the order of their names, as they were before version 3."""
    columns = [(each.name, each.type, each.nullable) for each in old.tables["saved_checkpoints"].c]
    old.remove(old.tables["saved_checkpoints"])
    key = ("thread_id", "ns", "checkpoint_id")
    parts = [Column(name, kind, nullable=nullable, primary_key=name in key) for name, kind, nullable in columns]
    table = Table("saved_checkpoints", old, *parts)
    for name, of in (("of_thread", ("thread_id", "ns", "number", "checkpoint_id")), ("by_number", ("number",))):
        Index(f"saved_checkpoints_{name}", *(table.c[each] for each in of))
    Index("saved_checkpoints_by_id", table.c.checkpoint_id)


def _without_attempts(old):
    """Orders and fills as they were before version 4."""
    orders, fills = old.tables["orders"], old.tables["fills"]
    old.remove(orders)
    added = {"stop_price", "attempt", "asked", "sent_ns"}
    columns = {each.name: each._copy() for each in orders.c if each.name not in added}
    columns["type"] = Column("type", String(8), nullable=False)
    before = Table("orders", old, *columns.values(), UniqueConstraint("run_id", "decision", "leg"))
    for name in ("run_id", "account", "status"):
        Index(f"ix_orders_{name}", before.c[name])
    fills.indexes = {each for each in fills.indexes if each.name == "ix_fills_intent_id"}
    Index("ix_fills_account", fills.c.account)


def _grown(address):
    """A table of version 1 with a row, and the steps that lead to version 3."""
    old = MetaData()
    Table("notes", old, Column("id", Integer, primary_key=True), Column("text", Text))
    with Database.open(address, old) as database:
        database.write(lambda connection: connection.exec_driver_sql("INSERT INTO notes VALUES (1, 'old')"))
    steps = (
        lambda connection: connection.exec_driver_sql("ALTER TABLE notes ADD COLUMN one TEXT DEFAULT 'one' NOT NULL"),
        lambda connection: connection.exec_driver_sql("ALTER TABLE notes ADD COLUMN two INTEGER DEFAULT 2 NOT NULL"),
    )
    new = MetaData(info={HISTORY: steps})
    columns = (Column("one", Text, nullable=False), Column("two", Integer, nullable=False))
    Table("notes", new, Column("id", Integer, primary_key=True), Column("text", Text), *columns)
    return new, steps


def _notes(database):
    return [tuple(row) for row in database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM notes"))]
