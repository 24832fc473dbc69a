"""The audit log: whatever is done to one of its rows is found, and processes that write at once write one chain."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import StaticPool, create_engine, insert, update

from agents.errors import StorageError
from checkpoints import audit
from checkpoints.audit import Audit, Verification
from checkpoints.database import Database

ROOT = Path(__file__).parents[2]
COLUMNS = [column.name for column in audit.rows.columns]


def add(database, why="lunch", **more):
    entry = {"time_ns": 5, "kind": "trading_state", "who": "anna", "why": why, "detail": {"to": "halted"}} | more
    return database.write(lambda connection: audit.append(connection, **entry))


def do(database, statement):
    """Past this program."""
    database.write(lambda connection: connection.execute(statement) and None)


@pytest.fixture
def database(address):
    with Database.open(address) as database:
        yield database


class TestEntries:
    async def test_each_follows_the_one_before_and_is_kept_as_it_was_given(self, database):
        assert await Audit(database).entries() == ()
        first, second = add(database), add(database, "more", detail={"b": 1, "a": [None, "ü"]})
        assert await Audit(database).entries() == (first, second)
        assert (first.number, second.number, second.previous) == (1, 2, first.hash)
        assert (first.previous, second.detail) == ("0" * 64, {"b": 1, "a": [None, "ü"]})
        assert await Audit(database).verify() == Verification(2, second.hash)

    async def test_a_new_log_is_empty_and_right(self, database):
        assert await Audit(database).verify() == Verification(0, "0" * 64)

    @pytest.mark.parametrize("text", ["a\x00b", "\ud800", "a\x00\ud800\n", "<ü>\u202e", "x" * 10_000])
    async def test_any_words_can_be_kept_and_verified(self, database, text):
        add(database, text, who=text, detail={text: text})
        (entry,) = await Audit(database).entries()
        assert entry.why == entry.who == text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\ud800", "?")
        assert entry.detail == {text: text}
        assert (await Audit(database).verify()).wrong == ""

    async def test_an_entry_goes_with_what_it_tells_of(self, database):
        def work(connection):
            audit.append(connection, time_ns=1, kind="k", who="", why="", detail={})
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            database.write(work)
        assert await Audit(database).entries() == ()
        assert add(database).number == 1

    async def test_many_are_read_page_by_page(self, database, monkeypatch):
        monkeypatch.setattr(audit, "_PAGE", 3)
        hashes = [add(database, str(number)).hash for number in range(7)]
        assert [entry.hash for entry in await Audit(database).entries()] == hashes
        assert await Audit(database).verify() == Verification(7, hashes[-1])

    async def test_the_newest_of_a_kind(self, database):
        assert database.read(lambda connection: audit.newest(connection, "k")) is None
        add(database, kind="k")
        wanted = add(database, kind="k")
        add(database)
        assert database.read(lambda connection: audit.newest(connection, "k")) == wanted


class TestHarm:
    @pytest.fixture
    def log(self, database):
        for number in range(5):
            add(database, str(number))
        return database

    @pytest.mark.parametrize("number", [1, 3, 5])
    @pytest.mark.parametrize("column", [column for column in COLUMNS if column != "number"])
    async def test_a_value_that_was_changed(self, log, column, number):
        value = 6 if column == "time_ns" else "f" * 64 if column in {"hash", "previous"} else "x"
        do(log, update(audit.rows).where(audit.rows.c.number == number).values({column: value}))
        found = await Audit(log).verify()
        assert (found.at, found.count) == (number, number - 1)
        assert found.wrong.startswith(f"entry {number} was changed: ")

    @pytest.mark.parametrize("number", [1, 3, 5])
    async def test_a_row_that_was_removed(self, log, number):
        do(log, audit.rows.delete().where(audit.rows.c.number == number))
        found = await Audit(log).verify()
        assert (found.at, found.count) == (number, number - 1)
        if number < 5:
            assert found.wrong == f"entry {number} is missing: entry {number + 1} comes in its place"
        else:
            assert found.wrong == "the log ends with entry 4, and its head is 5: some were removed at the end"

    async def test_all_rows_that_were_removed(self, log):
        do(log, audit.rows.delete())
        assert (await Audit(log).verify()).at == 1

    @pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 4), (4, 5)])
    async def test_rows_that_changed_places(self, log, one, other):
        for now, then in ((one, 99), (other, one), (99, other)):
            do(log, update(audit.rows).where(audit.rows.c.number == now).values(number=then))
        assert (await Audit(log).verify()).at == one

    @pytest.mark.parametrize("number", [0, -3, 6, 7])
    async def test_a_row_that_was_put_in(self, log, number):
        entries = await Audit(log).entries()
        row = {"number": number, "time_ns": 5, "kind": "k", "who": "", "why": "", "detail": "{}"}
        row["previous"] = entries[-1].hash if number > 0 else "0" * 64
        do(log, insert(audit.rows).values(**row, hash=audit._hash(row)))
        found = await Audit(log).verify()
        assert found.at == min(number, 6)
        assert found.wrong

    async def test_a_letter_that_was_moved_to_the_next_value(self, log):
        do(log, update(audit.rows).where(audit.rows.c.number == 2).values(who="ann", why="a1"))
        assert (await Audit(log).verify()).at == 2

    async def test_a_row_made_up_in_the_place_of_another_with_a_right_hash(self, log):
        (row,) = [entry for entry in await Audit(log).entries() if entry.number == 3]
        forged = {name: getattr(row, name) for name in COLUMNS} | {"why": "forged", "detail": "{}"}
        forged["hash"] = audit._hash(forged)
        do(log, update(audit.rows).where(audit.rows.c.number == 3).values(**forged))
        found = await Audit(log).verify()
        assert (found.at, found.wrong) == (4, "entry 4 was changed: it does not follow the entry before it")

    @pytest.mark.parametrize(
        ("harm", "at", "wrong"),
        [
            ({"number": 4}, 5, "the log ends with entry 5, and its head is 4: some were added"),
            ({"number": 6}, 6, "the log ends with entry 5, and its head is 6: some were removed"),
            ({"hash": "f" * 64}, 5, "the hash of entry 5 is not the one that the head has"),
            (None, 6, "there are 0 heads, and must be one"),
        ],
    )
    async def test_the_head(self, log, harm, at, wrong):
        do(log, audit._head.delete() if harm is None else update(audit._head).values(**harm))
        found = await Audit(log).verify()
        assert (found.at, found.count) == (at, 5)
        assert found.wrong.startswith(wrong)

    async def test_without_a_head_nothing_is_added(self, log):
        do(log, audit._head.delete())
        with pytest.raises(StorageError, match=r"has 0 heads.*; nothing was added; restore the database"):
            add(log)

    async def test_what_is_damaged_can_still_be_listed(self, log):
        do(log, update(audit.rows).where(audit.rows.c.number == 2).values(detail="no JSON"))
        assert (await Audit(log).entries())[1].detail == {"unreadable": "no JSON"}


ANY = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=70), st.binary(max_size=70), st.floats())
PLACE = st.tuples(st.sampled_from(COLUMNS), st.integers(1, 6))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A log of six, for whoever goes past this program: without the rules of its tables."""
    path = tmp_path_factory.mktemp("log") / "x.db"
    with Database.open(path) as database:
        for number in range(6):
            add(database, f"why {number}", detail={"n": number})
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode=DELETE; CREATE TABLE bare AS SELECT * FROM audit; DROP TABLE audit;"
            "ALTER TABLE bare RENAME TO audit;"
        )
        content = connection.serialize()

    @contextmanager
    def opened():
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
            raw.deserialize(content)
            yield raw

    return opened


def look(raw):
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        return audit._verify(connection)


class TestAnyHarm:
    """One copy of the log for each example: what SQLite takes for a value is wide."""

    def test_unharmed_it_is_right(self, copy):
        with copy() as raw:
            assert look(raw) == Verification(6, look(raw).hash)

    @given(place=PLACE, value=ANY)
    @settings(max_examples=300)
    def test_a_changed_value_is_found(self, copy, place, value):
        column, number = place
        query = f"SELECT typeof({column}), {column} FROM audit WHERE rowid = {number}"  # noqa: S608
        with copy() as raw:
            was = raw.execute(query).fetchone()
            raw.execute(f"UPDATE audit SET {column} = ? WHERE rowid = {number}", (value,))  # noqa: S608
            assume(raw.execute(query).fetchone() != was)
            found = look(raw)
        assert found.wrong
        assert found.at is not None
        if column != "number":
            assert found.at == number

    @given(number=st.integers(1, 6))
    def test_a_removed_row_is_found_and_named(self, copy, number):
        with copy() as raw:
            raw.execute("DELETE FROM audit WHERE number = ?", (number,))
            assert look(raw).at == number

    @given(source=st.integers(1, 6), number=st.integers(-10, 20))
    def test_a_copied_row_is_found(self, copy, source, number):
        columns = ", ".join(["?", *COLUMNS[1:]])
        with copy() as raw:
            statement = f"INSERT INTO audit SELECT {columns} FROM audit WHERE number = ?"  # noqa: S608
            raw.execute(statement, (number, source))
            assert look(raw).wrong

    @given(one=st.integers(1, 6), other=st.integers(1, 6))
    def test_a_swap_is_found(self, copy, one, other):
        assume(one != other)
        swap = "UPDATE audit SET number = CASE number WHEN ? THEN ? ELSE ? END WHERE number IN (?, ?)"
        with copy() as raw:
            raw.execute(swap, (one, other, one, one, other))
            assert look(raw).at == min(one, other)


_WRITER = """
import sys
from checkpoints.database import Database
from tests.checkpoints.test_audit import add
with Database.open(sys.argv[1]) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(40):
        add(database, f"{sys.argv[2]} {number}")
"""


def test_processes_that_write_at_once_write_one_chain(address):
    Database.open(address).close()
    line = [sys.executable, "-c", _WRITER, address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    writers = [subprocess.Popen([*line, name], **pipes) for name in ("one", "two")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    with Database.open(address) as database:
        entries = asyncio.run(Audit(database).entries())
        assert asyncio.run(Audit(database).verify()) == Verification(80, entries[-1].hash)
    names = [entry.why.split()[0] for entry in entries]
    assert sorted(names) == ["one"] * 40 + ["two"] * 40


def test_the_detail_is_written_in_one_way_only(tmp_path):
    with Database.open(tmp_path / "x.db") as database:
        add(database, detail={"b": 1, "a": 2})
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        (text,) = connection.execute("SELECT detail FROM audit").fetchone()
    assert text == '{"a":2,"b":1}'
    assert json.loads(text)
