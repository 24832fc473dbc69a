"""Rows: what is stored is what comes back, and what is not what was stored is damage, and never anything else."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.schema import CreateIndex, CreateTable

from agents.errors import CheckpointDamaged
from checkpoints import loading, store, upkeep
from checkpoints.database import Database
from checkpoints.loading import Page
from checkpoints.store import CheckpointRow, ValueRow, WriteRow
from tests.checkpoints.rows import CHECKPOINT, VALUE, WRITE, count, load_all, save_all

_HOSTILE = "'; DROP TABLE saved_checkpoints; -- \" \\ % ? :x %(x)s ../../\N{SNOWMAN}"
_LONG = b"the same words over and over, " * 100


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with Database.open(address) as opened:
        yield opened


def test_rows_come_back_as_they_were_saved(database: Database) -> None:
    database.write(save_all)

    assert database.read(load_all) == (CHECKPOINT, {("items", "1"): ("msgpack", b"value body")}, {"c1": [WRITE]})


def test_ids_are_data_whatever_they_look_like(database: Database) -> None:
    row = CheckpointRow(_HOSTILE, _HOSTILE, _HOSTILE, _HOSTILE, _HOSTILE, "msgpack", b"")
    database.write(lambda connection: store.save_checkpoint(connection, row))
    database.write(save_all)

    assert database.read(lambda connection: loading.find_checkpoint(connection, _HOSTILE, _HOSTILE, None)) == row
    page = Page(_HOSTILE, _HOSTILE, before=_HOSTILE + "z")
    assert database.read(lambda connection: loading.find_page(connection, page)) == ([row], None)
    assert not database.read(lambda connection: store.stored_digests(connection, _HOSTILE, _HOSTILE, {_HOSTILE}))
    database.write(lambda connection: upkeep.delete_thread(connection, _HOSTILE))
    assert count(database, store.checkpoints) == 1


def test_sqlite_keeps_a_nul_too(tmp_path: Path) -> None:
    row = CheckpointRow("t\x00\n", "", "c", None, None, "k", b"\x00")
    with Database.open(tmp_path / "nul.db") as database:
        database.write(lambda connection: store.save_checkpoint(connection, row))
        assert database.read(lambda connection: loading.find_checkpoint(connection, "t\x00\n", "", None)) == row
        assert database.read(lambda connection: loading.find_checkpoint(connection, "t", "", None)) is None


def test_saving_a_checkpoint_again_replaces_it(database: Database) -> None:
    again = replace(CHECKPOINT, body=b"second", parent_id="c0")
    database.write(lambda connection: [store.save_checkpoint(connection, row) for row in (CHECKPOINT, again)])

    assert database.read(lambda connection: loading.find_checkpoint(connection, "t", "", "c1")) == again


def test_a_write_stays_as_it_was_and_a_special_one_is_replaced(database: Database) -> None:
    special = replace(WRITE, idx=-1, channel="__error__")
    for body in (b"first", b"second"):
        rows = [replace(WRITE, body=body), replace(special, body=body)]
        database.write(lambda connection, rows=rows: store.save_writes(connection, rows))

    found = database.read(lambda connection: loading.load_writes(connection, "t", "", ["c1"]))["c1"]
    assert {row.idx: row.body for row in found} == {0: b"first", -1: b"second"}


def test_a_whole_value_replaces_and_a_difference_does_not(database: Database) -> None:
    whole, other = VALUE, replace(VALUE, body=b"other")
    difference = replace(VALUE, base="0", depth=1, body=b"patch")
    for rows in ([whole], [difference], [other]):
        database.write(lambda connection, rows=rows: store.save_values(connection, rows))
        found = database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "1")]))
        assert found["items", "1"][1] == (b"other" if rows == [other] else b"value body")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 600])
def test_what_is_stored_is_known_by_its_digest(database: Database, length: int) -> None:
    rows = [replace(VALUE, channel=store.BY_CONTENT, version=f"{number:032}") for number in range(0, 600, 2)]
    database.write(lambda connection: store.save_values(connection, [*rows, replace(VALUE, version="x" * 32)]))
    asked = {f"{number:032}" for number in range(length)} | {"x" * 32}

    found = database.read(lambda connection: store.stored_digests(connection, "t", "", asked))
    assert found == {f"{number:032}" for number in range(0, length, 2)}
    assert not database.read(lambda connection: store.stored_digests(connection, "t", "other", asked))


# Compression.


def _raw(database: Database, table: Any) -> Any:
    fields = [each for each in table.c if each.name != "number"]
    return database.read(lambda connection: connection.execute(select(*fields)).one())


def test_long_bodies_are_compressed_and_marked_so_where_that_helps(database: Database) -> None:
    noise = random.Random(7).randbytes(2_000)  # noqa: S311 (test data)
    for body, kind, size_max in (
        (_LONG, "zstd:msgpack", 100),
        (noise, "msgpack", 2_000),
        (b"x" * 1_023, "msgpack", 1_023),
    ):
        row = replace(CHECKPOINT, body=body)
        database.write(lambda connection, row=row: store.save_checkpoint(connection, row))
        stored = _raw(database, store.checkpoints)

        assert stored.kind == kind
        assert len(stored.body) <= size_max
        assert database.read(lambda connection: loading.find_checkpoint(connection, "t", "", "c1")) == row


def test_rows_of_the_first_version_bear_no_mark_and_are_read(database: Database) -> None:
    row = replace(CHECKPOINT, body=_LONG)
    fields = [getattr(row, name) for name in row.__slots__]
    stored = dict(zip((*row.__slots__, "checksum"), (*fields, store._checksum(fields)), strict=True))
    database.write(lambda connection: connection.execute(store.checkpoints.insert().values(stored)))

    assert _raw(database, store.checkpoints).kind == "msgpack"
    assert database.read(lambda connection: loading.find_checkpoint(connection, "t", "", "c1")) == row


# Damage.


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (table.name, column.name)
        for table in (store.checkpoints, store.values, store.writes)
        for column in table.columns
        if column is not store.checkpoints.c.number  # the order of the rows is no part of any
    ],
)
def test_a_change_of_any_column_is_found_and_named(database: Database, table: str, column: str) -> None:
    database.write(save_all)
    chosen = store.metadata.tables[table]
    changed = {"body": b"checkpoint b0dy", "idx": 7, "depth": 7, "checksum": 7}.get(column, "other")
    database.write(lambda connection: connection.execute(update(chosen).values({column: changed})))
    kind: Any = {"saved_checkpoints": CheckpointRow, "saved_values": ValueRow, "saved_writes": WriteRow}[table]

    with pytest.raises(
        CheckpointDamaged, match=r"a stored (checkpoint|value|write) is damaged \(thread_id '.*checksum"
    ):
        store.checked(kind, _raw(database, chosen))


_ROWS: list[Any] = [replace(row, body=body) for row in (CHECKPOINT, VALUE, WRITE) for body in (_LONG, b"short")]


@given(st.sampled_from(_ROWS), st.data())
def test_a_body_that_was_cut_or_changed_is_damage_and_nothing_else(row: Any, data: st.DataObject) -> None:
    *names, body, checksum = store._sealed(row)
    at = data.draw(st.integers(0, len(body) - 1))
    flipped = body[:at] + bytes([body[at] ^ (1 << data.draw(st.integers(0, 7)))]) + body[at + 1 :]

    assert store.checked(type(row), (*names, body, checksum)) == row
    for spoilt in (body[:at], flipped, body + b"\x00", "text", None, 7):
        with pytest.raises(CheckpointDamaged):
            store.checked(type(row), (*names, spoilt, checksum))


@pytest.mark.parametrize("body", [b"", b"no frame at all", zstandard.compress(_LONG)[:-1], b"\x28\xb5\x2f\xfd" * 9])
def test_what_cannot_be_decompressed_is_damage_even_with_the_right_checksum(body: bytes) -> None:
    fields = [*("t", "", "c1", None, None), "zstd:msgpack", body]

    with pytest.raises(CheckpointDamaged, match="cannot be decompressed"):
        store.checked(CheckpointRow, (*fields, store._checksum(fields)))


# Statements.


@pytest.mark.parametrize("dialect", [sqlite.dialect(), psycopg.dialect()], ids=["sqlite", "postgres"])
def test_every_prepared_statement_takes_its_parameters_in_the_order_of_the_rows(dialect: Any) -> None:
    for name, (table, replaced) in store._INSERTS.items():
        statement = store._inserting(dialect, name)
        columns = [each.name for each in table.c if name == "copied checkpoint" or each.name != "number"]
        assert list(statement.names) == columns
        assert statement.sql.startswith(f"INSERT INTO {table.name} ({', '.join(each.name for each in table.c)}) VALUES")
        assert ("DO UPDATE" in statement.sql) == bool(replaced)
        assert "number = excluded" not in statement.sql  # a checkpoint that is saved again keeps its place
        assert statement.positional == (dialect.name == "sqlite")
        assert statement.sql.count("?") == (len(columns) if statement.positional else 0)
    assert "(SELECT coalesce(max(number), 0) + 1" in store._inserting(dialect, "checkpoint").sql


def test_postgres_sorts_ids_as_the_bytes_they_are() -> None:
    dialect = psycopg.dialect()
    tables = [store.checkpoints, store.values, store.writes]
    made = [str(CreateTable(table).compile(dialect=dialect)) for table in tables]

    assert all('COLLATE "C"' in table and "BYTEA" in table for table in made)
    assert [str(CreateIndex(index).compile(dialect=dialect)) for index in store.checkpoints.indexes]


def test_postgres_does_not_compress_what_is_compressed(server: Any) -> None:
    address = server.fresh()
    Database.open(address).close()
    schema = address.rsplit("%3D", 1)[1]
    query = "SELECT attstorage FROM pg_attribute WHERE attname = 'body' AND attrelid = '{}.{}'::regclass"
    tables = ("saved_checkpoints", "saved_values", "saved_writes")

    assert [server.run(query.format(schema, table)) for table in tables] == [[("e",)]] * 3
