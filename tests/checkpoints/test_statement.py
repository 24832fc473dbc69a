"""Prepared statements: the same on both kinds of databases, and nothing that is given becomes SQL."""

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, func, insert, literal_column, select, update

from checkpoints.database import Database, Prose
from checkpoints.statement import Statement

tables = MetaData()
notes = Table(
    "notes",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("text", Prose, nullable=False),
    Column("kind", String(40)),
)
_next = select(func.coalesce(func.max(notes.alias("known").c.id), literal_column("0")) + literal_column("1"))
ADD = Statement(insert(notes).inline().values(id=_next.scalar_subquery()), ("text", "kind"))
ALL = Statement(select(notes.c.id, notes.c.text, notes.c.kind).order_by(notes.c.id))
OF = Statement(select(notes.c.id).where((notes.c.kind == bindparam("kind")) & (notes.c.id < 100)))
CHANGE = Statement(update(notes).where(notes.c.kind == bindparam("of")).values(text=bindparam("now")))
HOSTILE = ["plain", "'; DROP TABLE notes; --", "?", ":kind %s %(kind)s", "ü\u202e"]


@pytest.fixture
def database(address):
    with Database.open(address, tables, inline=True) as opened:
        yield opened


def test_what_is_given_is_a_value_and_nothing_else(database):
    def work(connection):
        for kind in HOSTILE:
            ADD.run(connection, text=kind, kind=kind)
        return [OF.row(connection, kind=kind)[0] for kind in HOSTILE]

    assert database.write(work) == [1, 2, 3, 4, 5]
    rows = database.read(lambda connection: [tuple(row) for row in ALL.rows(connection)])
    assert rows == [(number, kind, kind) for number, kind in enumerate(HOSTILE, 1)]


def test_a_value_is_made_fit_as_its_column_has_it(database):
    database.write(lambda connection: ADD.run(connection, text="a\0\ud800", kind=None))
    assert database.write(lambda connection: CHANGE.run(connection, of="nobody", now="x")) == 0
    ((_, text, kind),) = database.read(ALL.rows)
    assert (text, kind) == ("a\N{REPLACEMENT CHARACTER}?", None)
    database.write(lambda connection: ADD.run(connection, text="b", kind="k"))
    assert database.write(lambda connection: CHANGE.run(connection, of="k", now="c\0")) == 1
    assert database.read(ALL.rows)[1][1] == "c\N{REPLACEMENT CHARACTER}"


def test_without_a_row_there_is_none(database):
    assert database.read(lambda connection: OF.row(connection, kind="nobody")) is None
    assert list(database.read(lambda connection: OF.rows(connection, kind="nobody"))) == []


def test_it_is_prepared_once(database, monkeypatch):
    statement = Statement(select(notes.c.id))
    database.read(statement.rows)
    if statement._sqlite is not None:
        monkeypatch.setattr(Statement, "_prepare", None)
    assert list(database.read(statement.rows)) == []
