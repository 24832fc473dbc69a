from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from agents.errors import CheckpointDamaged
from checkpoints import loading, store, upkeep
from checkpoints.database import Database
from checkpoints.loading import Page
from checkpoints.store import CheckpointRow, ValueRow
from tests.checkpoints.rows import SET_BACK, WRITE, grown, save_line, save_set_back


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with Database.open(address) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "file.db") as opened:
        yield opened


# Pages.


def _pages(database: Database, page: Page) -> list[tuple[str, str, str]]:
    """The keys of this page and of all that follow."""
    seen: list[tuple[str, str, str]] = []
    following: Page | None = page
    while following is not None:
        rows, following = database.read(lambda connection, page=following: loading.find_page(connection, page))
        assert len(rows) <= page.size
        seen += [(row.thread_id, row.ns, row.checkpoint_id) for row in rows]
    return seen


def test_pages_follow_each_other_last_saved_first_through_threads_and_namespaces(database: Database) -> None:
    saved = [("t", ""), ("t", "child"), ("a", "")]
    for place in saved:
        database.write(lambda connection, place=place: save_line(connection, 7, *place))

    every = [(*place, f"{number:04}") for place in reversed(saved) for number in range(6, -1, -1)]
    assert _pages(database, Page(size=4)) == every
    assert _pages(database, Page("t", size=3)) == every[7:]
    assert _pages(database, Page("t", "child", before="0003", size=2)) == every[11:14]


# The order of saving. The wall clock was set back, so that later checkpoints have smaller ids.


def _newest(database: Database, thread_id: str) -> str | None:
    row = database.read(lambda connection: loading.find_checkpoint(connection, thread_id, "", None))
    return None if row is None else row.checkpoint_id


def test_the_newest_is_the_last_saved_whatever_its_id(database: Database) -> None:
    database.write(save_set_back)

    assert _newest(database, "t") == "0003"
    assert database.read(lambda connection: loading.find_ids(connection, "t", "")) == SET_BACK[::-1]
    for size in (1, 2, 3, 50):
        assert [key[2] for key in _pages(database, Page("t", "", size=size))] == SET_BACK[::-1]
        assert [key[2] for key in _pages(database, Page(size=size))] == SET_BACK[::-1]


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
    database.write(save_set_back)

    for size in (1, 2, 50):
        assert [key[2] for key in _pages(database, Page(thread_id, before=before, size=size))] == found
    assert database.read(lambda connection: loading.find_ids(connection, "t", "", before)) == found


def test_before_asks_for_the_id_in_the_thread_that_is_listed(database: Database) -> None:
    database.write(save_set_back)
    database.write(lambda connection: save_line(connection, 3, "later"))

    assert [key[2] for key in _pages(database, Page("later", before="0002", size=1))] == ["0001", "0000"]
    assert [key[2] for key in _pages(database, Page("t", before="0002"))] == ["0001", "0007", "0006", "0005"]


def test_pages_go_on_when_what_they_stood_at_is_deleted(database: Database) -> None:
    database.write(save_set_back)
    rows, following = database.read(lambda connection: loading.find_page(connection, Page("t", before="0003", size=1)))
    database.write(lambda connection: upkeep.delete_checkpoints(connection, "t", "", {"0003", "0002"}))

    assert [row.checkpoint_id for row in rows] == ["0002"]
    assert following is not None
    assert [key[2] for key in _pages(database, following)] == ["0001", "0007", "0006", "0005"]


def test_a_checkpoint_that_is_saved_again_keeps_its_place(database: Database) -> None:
    database.write(save_set_back)
    again = CheckpointRow("t", "", "0006", "0005", None, "k", b"again")
    database.write(lambda connection: store.save_checkpoint(connection, again))

    assert database.read(lambda connection: loading.find_ids(connection, "t", "")) == SET_BACK[::-1]
    assert database.read(lambda connection: loading.find_checkpoint(connection, "t", "", "0006")) == again


def _plan(file: Database, statement: str) -> str:
    rows = file.read(lambda connection: connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")).all())
    return "; ".join(row[3] for row in rows)


def test_the_newest_and_a_checkpoint_by_its_id_alone_are_looked_up_and_not_searched_for(file: Database) -> None:
    newest = str(loading._NEWEST.compile(file._writing, compile_kwargs={"render_postcompile": True}))
    for name in ("'t'", "''", "1", "0"):
        newest = newest.replace("?", name, 1)

    assert _plan(file, newest) == (
        "SEARCH saved_checkpoints USING INDEX saved_checkpoints_of_thread (thread_id=? AND ns=?)"
    )
    assert "saved_checkpoints_of_thread (thread_id=? AND ns=? AND number<?)" in _plan(
        file,
        "SELECT checkpoint_id FROM saved_checkpoints WHERE thread_id = 't' AND ns = '' AND number < 5"
        " ORDER BY number DESC",
    )
    assert _plan(file, "SELECT max(number) FROM saved_checkpoints") == "SEARCH saved_checkpoints"
    assert "INDEX sqlite_autoindex_saved_checkpoints_1 (checkpoint_id=?)" in _plan(
        file, "SELECT thread_id FROM saved_checkpoints WHERE checkpoint_id = 'c' AND ns = ''"
    )


# Ancestors.


def test_ancestors_come_nearest_first_and_no_more_than_asked_for(database: Database) -> None:
    database.write(lambda connection: save_line(connection, 30))
    database.write(lambda connection: save_line(connection, 30, "other"))
    newest = database.read(lambda connection: loading.find_checkpoint(connection, "t", "", None))
    assert newest is not None

    few = database.read(lambda connection: loading.find_ancestors(connection, newest, 3))
    every = database.read(lambda connection: loading.find_ancestors(connection, newest, 1_000))
    assert [row.checkpoint_id for row in few] == ["0028", "0027", "0026"]
    assert [row.checkpoint_id for row in every] == [f"{number:04}" for number in range(28, -1, -1)]
    assert database.read(lambda connection: loading.find_ancestors(connection, every[-1], 3)) == []


# Values as differences.


def test_a_chain_of_differences_gives_every_version_back(database: Database) -> None:
    rows = grown(40)
    database.write(lambda connection: store.save_values(connection, rows))

    wanted = [("items", str(number)) for number in (0, 1, 17, 39)]
    found = database.read(lambda connection: loading.load_values(connection, "t", "", [*wanted, ("items", "none")]))
    assert {key: body.count(b"more") for key, (_, body) in found.items()} == {key: int(key[1]) for key in wanted}


def test_a_missing_or_damaged_link_is_named(database: Database) -> None:
    rows = grown(5)
    database.write(lambda connection: store.save_values(connection, rows))
    database.write(lambda connection: connection.execute(store.values.delete().where(store.values.c.version == "2")))

    with pytest.raises(CheckpointDamaged, match=r"version '3'.*version '2', which it is a difference to, is missing"):
        database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "4")]))
    assert database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "1")]))

    wrong = replace(rows[2], body=rows[4].body)
    database.write(lambda connection: store.save_values(connection, [wrong]))
    with pytest.raises(CheckpointDamaged, match="a patch for"):
        database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "2")]))


def test_a_chain_without_an_end_is_damage(database: Database) -> None:
    rows = grown(3)
    database.write(lambda connection: store.save_values(connection, [replace(rows[1], base="2"), rows[2]]))

    with pytest.raises(CheckpointDamaged, match="is missing"):
        database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "2")]))


# Contents.


def _content(body: bytes, digest: str = "") -> ValueRow:
    digest = digest or store.digest_of("msgpack", body)
    return ValueRow("t", "", store.BY_CONTENT, digest, None, 0, "msgpack", body)


def test_a_write_may_leave_its_content_to_a_value(database: Database) -> None:
    content = _content(b"content" * 200)
    referring = replace(WRITE, kind=store.REFERENCE + "msgpack", body=content.version.encode())
    database.write(lambda connection: store.save_writes(connection, [referring, replace(WRITE, idx=1)]))

    with pytest.raises(CheckpointDamaged, match=rf"stored write .*'{content.version}', which has its content, is miss"):
        database.read(lambda connection: loading.load_writes(connection, "t", "", ["c1"]))
    database.write(lambda connection: store.save_values(connection, [content]))
    found = database.read(lambda connection: loading.load_writes(connection, "t", "", ["c1"]))["c1"]
    assert found == [replace(WRITE, body=content.body), replace(WRITE, idx=1)]


def test_a_content_under_a_wrong_name_is_damage(database: Database) -> None:
    wrong = _content(b"this", store.digest_of("msgpack", b"that"))
    database.write(lambda connection: store.save_values(connection, [wrong]))

    with pytest.raises(CheckpointDamaged, match="its content is not what its name says"):
        database.read(lambda connection: loading.load_values(connection, "t", "", [("", wrong.version)]))
