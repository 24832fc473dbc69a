from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from agents.errors import CheckpointDamaged
from checkpoints import store
from checkpoints.database import Database
from checkpoints.patch import make_patch
from checkpoints.store import CheckpointRow, Page, ValueRow, WriteRow

_CHECKPOINT = CheckpointRow("t", "", "c1", None, "run", "msgpack", b"checkpoint body")
_VALUE = ValueRow("t", "", "items", "1", None, 0, "msgpack", b"value body")
_WRITE = WriteRow("t", "", "c1", "task", 0, "path", "items", "msgpack", b"write body")
_HOSTILE = "'; DROP TABLE saved_checkpoints; -- \" \\ % ? :x \x00 ../../\N{SNOWMAN}"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "store.db") as opened:
        yield opened


def _save_all(connection: Connection) -> None:
    store.save_checkpoint(connection, _CHECKPOINT)
    store.save_values(connection, [_VALUE])
    store.save_writes(connection, [_WRITE])


def _load_all(connection: Connection) -> tuple[object, ...]:
    return (
        store.find_checkpoint(connection, "t", "", "c1"),
        store.load_values(connection, "t", "", [("items", "1")]),
        store.load_writes(connection, "t", "", ["c1"]),
    )


def _count(database: Database, table: str) -> int:
    return int(database.read(lambda connection: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()))  # noqa: S608


def _grown(count: int) -> list[ValueRow]:
    """Versions of one value that grows, each a difference to the one before."""
    bodies = [bytes(range(200)) * 5 + b"more" * number for number in range(count)]
    rows = [replace(_VALUE, version="0", body=bodies[0])]
    for number, (old, new) in enumerate(pairwise(bodies), start=1):
        patch = make_patch(old, new)
        assert patch is not None
        rows.append(replace(_VALUE, version=str(number), base=str(number - 1), depth=number, body=patch))
    return rows


# Rows.


def test_rows_come_back_as_they_were_saved(database: Database) -> None:
    database.write(_save_all)

    assert database.read(_load_all) == (_CHECKPOINT, {("items", "1"): ("msgpack", b"value body")}, {"c1": [_WRITE]})


def test_ids_are_data_whatever_they_look_like(database: Database) -> None:
    row = CheckpointRow(_HOSTILE, _HOSTILE, _HOSTILE, _HOSTILE, _HOSTILE, "msgpack", b"")
    database.write(lambda connection: store.save_checkpoint(connection, row))
    database.write(_save_all)

    assert database.read(lambda connection: store.find_checkpoint(connection, _HOSTILE, _HOSTILE, None)) == row
    page = Page(_HOSTILE, _HOSTILE, before=_HOSTILE + "z")
    assert database.read(lambda connection: store.find_page(connection, page)) == ([row], None)
    database.write(lambda connection: store.delete_thread(connection, _HOSTILE))
    assert _count(database, "saved_checkpoints") == 1


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
    database.write(_save_all)
    chosen = store.metadata.tables[table]
    changed = {"body": b"checkpoint b0dy", "idx": 7, "depth": 7, "checksum": 7}.get(column, "other")
    database.write(lambda connection: connection.execute(update(chosen).values({column: changed})))
    fields = [each for each in chosen.c if each.name != "number"]
    row = database.read(lambda connection: connection.execute(select(*fields)).one())
    kind = {"saved_checkpoints": CheckpointRow, "saved_values": ValueRow, "saved_writes": WriteRow}[table]

    with pytest.raises(
        CheckpointDamaged, match=r"a stored (checkpoint|value|write) is damaged \(thread_id '.*checksum"
    ):
        store._checked(kind, row)


def test_saving_a_checkpoint_again_replaces_it(database: Database) -> None:
    again = replace(_CHECKPOINT, body=b"second", parent_id="c0")
    database.write(lambda connection: [store.save_checkpoint(connection, row) for row in (_CHECKPOINT, again)])

    assert database.read(lambda connection: store.find_checkpoint(connection, "t", "", "c1")) == again


def test_a_write_stays_as_it_was_and_a_special_one_is_replaced(database: Database) -> None:
    special = replace(_WRITE, idx=-1, channel="__error__")
    for body in (b"first", b"second"):
        rows = [replace(_WRITE, body=body), replace(special, body=body)]
        database.write(lambda connection, rows=rows: store.save_writes(connection, rows))

    found = database.read(lambda connection: store.load_writes(connection, "t", "", ["c1"]))["c1"]
    assert {row.idx: row.body for row in found} == {0: b"first", -1: b"second"}


def test_writes_come_in_the_order_in_which_langgraph_applies_them(database: Database) -> None:
    places = [("b", "t1", 0), ("a", "t9", 1), ("a", "t9", 0), ("", "t5", 0), ("a", "t2", -1)]
    rows = [replace(_WRITE, task_path=path, task_id=task, idx=idx) for path, task, idx in places]
    database.write(lambda connection: store.save_writes(connection, rows))

    found = database.read(lambda connection: store.load_writes(connection, "t", "", ["c1", "c2"]))
    assert [row.order for row in found["c1"]] == sorted(places)
    assert found["c2"] == []


# Pages.


def _save_line(connection: Connection, count: int, thread_id: str = "t", ns: str = "") -> None:
    for number in range(count):
        parent = f"{number - 1:04}" if number else None
        store.save_checkpoint(connection, CheckpointRow(thread_id, ns, f"{number:04}", parent, None, "k", b"x"))


def _pages(database: Database, page: Page) -> list[tuple[str, str, str]]:
    """The keys of this page and of all that follow."""
    seen: list[tuple[str, str, str]] = []
    following: Page | None = page
    while following is not None:
        rows, following = database.read(lambda connection, page=following: store.find_page(connection, page))
        assert len(rows) <= page.size
        seen += [(row.thread_id, row.ns, row.checkpoint_id) for row in rows]
    return seen


def test_pages_follow_each_other_last_saved_first_through_threads_and_namespaces(database: Database) -> None:
    saved = [("t", ""), ("t", "child"), ("a", "")]
    for place in saved:
        database.write(lambda connection, place=place: _save_line(connection, 7, *place))

    every = [(*place, f"{number:04}") for place in reversed(saved) for number in range(6, -1, -1)]
    assert _pages(database, Page(size=4)) == every
    assert _pages(database, Page("t", size=3)) == every[7:]
    assert _pages(database, Page("t", "child", before="0003", size=2)) == every[11:14]


# The order of saving. The wall clock was set back, so that later checkpoints have smaller ids.

_SET_BACK = ["0005", "0006", "0007", "0001", "0002", "0003"]


def _save_set_back(connection: Connection, thread_id: str = "t") -> None:
    parent = None
    for checkpoint_id in _SET_BACK:
        store.save_checkpoint(connection, CheckpointRow(thread_id, "", checkpoint_id, parent, None, "k", b"x"))
        parent = checkpoint_id


def _newest(database: Database, thread_id: str) -> str | None:
    row = database.read(lambda connection: store.find_checkpoint(connection, thread_id, "", None))
    return None if row is None else row.checkpoint_id


def test_the_newest_is_the_last_saved_whatever_its_id(database: Database) -> None:
    database.write(_save_set_back)

    assert _newest(database, "t") == "0003"
    assert database.read(lambda connection: store.find_ids(connection, "t", "")) == _SET_BACK[::-1]
    for size in (1, 2, 3, 50):
        assert [key[2] for key in _pages(database, Page("t", "", size=size))] == _SET_BACK[::-1]
        assert [key[2] for key in _pages(database, Page(size=size))] == _SET_BACK[::-1]


@pytest.mark.parametrize("thread_id", ["t", None])
@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("0001", ["0007", "0006", "0005"]),  # stored: what was saved before it, though its id is the smallest
        ("0007", ["0006", "0005"]),
        ("0005", []),
        ("0004", ["0003", "0002", "0001"]),  # not stored: the smaller ids
        ("0000", []),
    ],
)
def test_before_means_saved_before_or_if_it_is_unknown_a_smaller_id(
    database: Database, thread_id: str | None, before: str, found: list[str]
) -> None:
    database.write(_save_set_back)

    for size in (1, 2, 50):
        assert [key[2] for key in _pages(database, Page(thread_id, before=before, size=size))] == found
    assert database.read(lambda connection: store.find_ids(connection, "t", "", before)) == found


def test_before_asks_for_the_id_in_the_thread_that_is_listed(database: Database) -> None:
    database.write(_save_set_back)
    database.write(lambda connection: _save_line(connection, 3, "later"))

    assert [key[2] for key in _pages(database, Page("later", before="0002", size=1))] == ["0001", "0000"]
    assert [key[2] for key in _pages(database, Page("t", before="0002"))] == ["0001", "0007", "0006", "0005"]


def test_pages_go_on_when_what_they_stood_at_is_deleted(database: Database) -> None:
    database.write(_save_set_back)
    rows, following = database.read(lambda connection: store.find_page(connection, Page("t", before="0003", size=1)))
    database.write(lambda connection: store.delete_checkpoints(connection, "t", "", {"0003", "0002"}))

    assert [row.checkpoint_id for row in rows] == ["0002"]
    assert following is not None
    assert [key[2] for key in _pages(database, following)] == ["0001", "0007", "0006", "0005"]


def test_a_checkpoint_that_is_saved_again_keeps_its_place(database: Database) -> None:
    database.write(_save_set_back)
    again = CheckpointRow("t", "", "0006", "0005", None, "k", b"again")
    database.write(lambda connection: store.save_checkpoint(connection, again))

    assert database.read(lambda connection: store.find_ids(connection, "t", "")) == _SET_BACK[::-1]
    assert database.read(lambda connection: store.find_checkpoint(connection, "t", "", "0006")) == again


@pytest.mark.parametrize("chunk", [2, 500])
def test_a_copied_thread_keeps_its_order(database: Database, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHUNK", chunk)
    database.write(lambda connection: _save_line(connection, 10, "u"))
    database.write(_save_set_back)
    database.write(lambda connection: store.copy_thread(connection, "t", "copy"))
    own = CheckpointRow("copy", "", "0000", "0003", None, "k", b"x")
    database.write(lambda connection: store.save_checkpoint(connection, own))
    database.write(lambda connection: store.copy_thread(connection, "t", "copy"))  # what is there stays where it is

    assert database.read(lambda connection: store.find_ids(connection, "copy", "")) == ["0000", *_SET_BACK[::-1]]
    numbers = database.read(lambda connection: connection.execute(select(store.checkpoints.c.number)).scalars().all())
    assert len(set(numbers)) == len(numbers) == 10 + 6 + 6 + 1


def _plan(database: Database, statement: str) -> str:
    rows = database.read(lambda connection: connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all())
    return "; ".join(row[3] for row in rows)


def test_the_newest_and_a_checkpoint_by_its_id_alone_are_looked_up_and_not_searched_for(database: Database) -> None:
    newest = str(store._NEWEST.compile(database._writing, compile_kwargs={"render_postcompile": True}))
    for name in ("'t'", "''", "1", "0"):
        newest = newest.replace("?", name, 1)

    assert _plan(database, newest) == (
        "SEARCH saved_checkpoints USING INDEX saved_checkpoints_of_thread (thread_id=? AND ns=?)"
    )
    assert "saved_checkpoints_of_thread (thread_id=? AND ns=? AND number<?)" in _plan(
        database,
        "SELECT checkpoint_id FROM saved_checkpoints WHERE thread_id = 't' AND ns = '' AND number < 5"
        " ORDER BY number DESC, checkpoint_id DESC",
    )
    assert "saved_checkpoints_by_number" in _plan(database, "SELECT max(number) FROM saved_checkpoints")
    assert "saved_checkpoints_by_id (checkpoint_id=?)" in _plan(
        database, "SELECT thread_id FROM saved_checkpoints WHERE checkpoint_id = 'c' AND ns = ''"
    )


# Ancestors.


def test_ancestors_come_nearest_first_and_no_more_than_asked_for(database: Database) -> None:
    database.write(lambda connection: _save_line(connection, 30))
    database.write(lambda connection: _save_line(connection, 30, "other"))
    newest = database.read(lambda connection: store.find_checkpoint(connection, "t", "", None))
    assert newest is not None

    few = database.read(lambda connection: store.find_ancestors(connection, newest, 3))
    every = database.read(lambda connection: store.find_ancestors(connection, newest, 1_000))
    assert [row.checkpoint_id for row in few] == ["0028", "0027", "0026"]
    assert [row.checkpoint_id for row in every] == [f"{number:04}" for number in range(28, -1, -1)]
    assert database.read(lambda connection: store.find_ancestors(connection, every[-1], 3)) == []


# Values as differences.


def test_a_chain_of_differences_gives_every_version_back(database: Database) -> None:
    rows = _grown(40)
    database.write(lambda connection: store.save_values(connection, rows))

    wanted = [("items", str(number)) for number in (0, 1, 17, 39)]
    found = database.read(lambda connection: store.load_values(connection, "t", "", [*wanted, ("items", "none")]))
    assert {key: body.count(b"more") for key, (_, body) in found.items()} == {key: int(key[1]) for key in wanted}


def test_a_missing_or_damaged_link_is_named(database: Database) -> None:
    rows = _grown(5)
    database.write(lambda connection: store.save_values(connection, rows))
    database.write(lambda connection: connection.execute(store.values.delete().where(store.values.c.version == "2")))

    with pytest.raises(CheckpointDamaged, match=r"version '3'.*version '2', which it is a difference to, is missing"):
        database.read(lambda connection: store.load_values(connection, "t", "", [("items", "4")]))
    assert database.read(lambda connection: store.load_values(connection, "t", "", [("items", "1")]))

    wrong = replace(rows[2], body=rows[4].body)
    database.write(lambda connection: store.save_values(connection, [wrong]))
    with pytest.raises(CheckpointDamaged, match="a patch for"):
        database.read(lambda connection: store.load_values(connection, "t", "", [("items", "2")]))


def test_sweeping_keeps_what_a_used_value_is_a_difference_to(database: Database) -> None:
    rows = [*_grown(10), replace(_VALUE, channel="other")]
    database.write(lambda connection: store.save_values(connection, [*rows, replace(rows[0], ns="child")]))

    database.write(lambda connection: store.sweep_values(connection, "t", "", [("items", "6")]))

    assert _count(database, "saved_values") == 7 + 1  # versions 0 to 6, and the other namespace
    assert database.read(lambda connection: store.load_values(connection, "t", "", [("items", "6")]))


# Copying and deleting.


def test_a_copied_thread_reads_alike_and_is_its_own(database: Database) -> None:
    database.write(_save_all)
    database.write(lambda connection: store.copy_thread(connection, "t", "u"))
    database.write(lambda connection: store.copy_thread(connection, "t", "u"))
    database.write(lambda connection: store.delete_thread(connection, "t"))

    assert database.read(lambda connection: store.find_checkpoint(connection, "u", "", None)) == replace(
        _CHECKPOINT, thread_id="u"
    )
    assert database.read(lambda connection: store.load_writes(connection, "u", "", ["c1"]))["c1"]
    assert database.read(_load_all) == (None, {}, {"c1": []})


def test_damage_is_not_copied(database: Database) -> None:
    database.write(_save_all)
    database.write(lambda connection: connection.execute(update(store.values).values(body=b"spoilt")))

    with pytest.raises(CheckpointDamaged, match="stored value"):
        database.write(lambda connection: store.copy_thread(connection, "t", "u"))
    assert database.read(lambda connection: store.find_checkpoint(connection, "u", "", None)) is None


# The other database.


def test_every_prepared_statement_and_table_can_be_written_for_postgres() -> None:
    dialect = postgresql.dialect()
    prepared = [*store._inserts("postgresql").values(), store._BY_ID, store._NEWEST, store._HAS_VALUE]
    statements = [str(each.compile(dialect=dialect)) for each in [*prepared, store._VALUES_WITH_BASES]]
    tables = [
        str(CreateTable(table).compile(dialect=dialect)) for table in (store.checkpoints, store.values, store.writes)
    ]

    saving = store._inserts("postgresql")["checkpoint"]
    numbered = str(saving.compile(dialect=dialect, column_keys=[*CheckpointRow.__slots__, "checksum"]))
    indexes = [str(CreateIndex(index).compile(dialect=dialect)) for index in store.checkpoints.indexes]
    assert "(SELECT coalesce(max(number)" in numbered
    assert "number = excluded" not in numbered
    assert len(indexes) == 3
    assert sum("ON CONFLICT" in statement for statement in statements) == 5
    assert all('COLLATE "C"' in table and "BYTEA" in table for table in tables)
