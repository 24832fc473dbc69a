import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, cast, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from agents.errors import ConfigError, InvalidValue, StorageError
from checkpoints import database as module
from checkpoints.database import Database
from checkpoints.engine import name_of, url_of

_TABLES = MetaData()
_NOTES = Table("notes", _TABLES, Column("id", Integer, primary_key=True), Column("text", Text, nullable=False))
_ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with Database.open(address, _TABLES) as opened:
        yield opened


@pytest.fixture
def filed(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "notes.db", _TABLES) as opened:
        yield opened


def _note(text: str) -> Callable[[Connection], int]:
    return lambda connection: connection.execute(insert(_NOTES).values(text=text)).inserted_primary_key[0]


def _texts(connection: Connection) -> list[str]:
    return list(connection.execute(select(_NOTES.c.text).order_by(_NOTES.c.id)).scalars())


def _broken(connection: Connection) -> None:
    connection.execute(insert(_NOTES).values(text="broken"))
    raise KeyError("my own fault")


class _Blocked:
    """The writer, held inside a work, so that what comes meanwhile waits."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=database.write, args=(self._hold,))

    def _hold(self, connection: Connection) -> None:
        self.inside.set()
        assert self.go_on.wait(30)

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.inside.wait(30)
        return self

    def wait_for(self, count: int) -> None:
        while self.database._waiting < count:
            os.sched_yield()

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.thread.join()


def _count_commits(database: Database) -> list[int]:
    commits: list[int] = []
    event.listen(database._writing, "commit", lambda connection: commits.append(1))
    return commits


# Opening and closing.


def test_a_new_file_and_its_folders_are_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "notes.db"
    with Database.open(path, _TABLES) as database:
        database.write(_note("x"))

        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path, *path.parent.iterdir(), *path.parents)}

    assert {modes[name] for name in ("notes.db", "notes.db-wal", "notes.db-shm")} == {0o600}
    assert {modes["a"], modes["b"]} == {0o700}


def test_opening_again_finds_what_was_written(tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "notes.db"), _TABLES) as database:
        assert database.write(_note("kept")) == 1
    with Database.open(f"sqlite:///{tmp_path}/notes.db", _TABLES) as database:
        assert database.read(_texts) == ["kept"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder; nothing was opened"):
        Database.open(tmp_path)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, " * 100)

    with pytest.raises(StorageError, match="is not an SQLite database"):
        Database.open(path)
    assert path.read_text().startswith("Dear")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot be made or opened"):
        Database.open(tmp_path / "file" / "notes.db")


def test_an_unreadable_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        Database.open("postgresql+nothing://me:s3cret@localhost/x")
    assert "s3cret" not in str(caught.value)

    with pytest.raises(ConfigError, match="is no database for Holdfast"):
        Database.open("mysql://localhost/x")
    named = name_of(url_of("postgresql://me:s3cret@h/x?host=/run&password=s3cret&sslpassword=s3cret&passfile=s3cret"))
    assert named == "postgresql://me:***@h/x?host=%2Frun"
    for text in ("://", "postgresql://me:one@s3cret@localhost/x", "postgresql://me:s3cret@localhost:s3cret/x"):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            Database.open(text)
        assert "s3cret" not in repr((caught.value, caught.value.__cause__, caught.value.__context__))


def test_a_locked_file_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCKED_S_MAX", 0.02)
    monkeypatch.setattr("checkpoints.sqlite._BUSY_MS", 1)
    path = tmp_path / "notes.db"
    other = sqlite3.connect(path, isolation_level=None)
    with Database.open(path, _TABLES) as database:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="was locked by another process"):
            database.write(_note("late"))
        other.execute("ROLLBACK")

        database.write(_note("now"))
        assert database.read(_texts) == ["now"]
    other.close()


@pytest.mark.parametrize(
    ("pragma", "undo", "words"),
    [
        ("PRAGMA query_only=1", "PRAGMA query_only=0", "is read-only"),
        ("PRAGMA max_page_count=1", "PRAGMA max_page_count=1000000", "no room left"),
    ],
)
def test_a_full_or_read_only_database_says_so_and_recovers(filed: Database, pragma: str, undo: str, words: str) -> None:
    raw = filed._connect().connection.driver_connection
    assert raw is not None
    raw.execute(pragma)

    with pytest.raises(StorageError, match=words):
        filed.write(_note("x" * 100_000))

    raw.execute(undo)
    filed.write(_note("fits"))
    assert filed.read(_texts) == ["fits"]


def test_a_full_disk_fails_the_whole_batch_and_nothing_of_it_stays(filed: Database) -> None:
    raw = filed._connect().connection.driver_connection
    assert raw is not None
    with _Blocked(filed) as blocked, ThreadPoolExecutor(3) as threads:
        raw.execute("PRAGMA max_page_count=1")
        results = [threads.submit(filed.write, _note(text)) for text in ("a" * 9_000, "b" * 90_000, "c")]
        blocked.wait_for(3)
        blocked.go_on.set()
        errors = [result.exception(30) for result in results]

    assert [type(error) for error in errors] == [StorageError] * 3
    assert len({id(error) for error in errors}) == 3
    filed.close()
    with Database.open(filed._name, _TABLES) as again:
        assert again.read(_texts) == []


def test_closing_commits_what_waits_and_may_be_repeated(database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        with _Blocked(database) as blocked:
            results = [threads.submit(database.write, _note(str(number))) for number in range(3)]
            blocked.wait_for(3)
            closing = threads.submit(database.close)
            while not database._closed:
                os.sched_yield()
        closing.result(30)
        assert sorted(result.result(30) for result in results) == [1, 2, 3]
    database.close()

    for use in (database.read, database.write):
        with pytest.raises(StorageError, match="is closed"):
            use(_texts)


async def test_a_closed_database_refuses_the_event_loop_too(database: Database) -> None:
    database.close()
    for use in (database.aread, database.awrite):
        with pytest.raises(StorageError, match="is closed"):
            await use(_texts)


def test_no_thread_starts_before_the_first_write(tmp_path: Path) -> None:
    before = threading.active_count()
    with Database.open(tmp_path / "notes.db", _TABLES) as database:
        database.read(_texts)
        assert threading.active_count() == before


def test_a_process_that_never_closes_its_database_can_end(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from checkpoints.database import Database
database = Database.open(sys.argv[1])
database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (x)"))
print(asyncio.run(database.aread(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM t").scalar())))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.db")],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")


# Writing.


def test_a_write_is_in_the_file_when_it_returns(filed: Database) -> None:
    assert filed.write(_note("here")) == 1

    other = sqlite3.connect(filed._name)
    assert other.execute("SELECT text FROM notes").fetchall() == [("here",)]
    assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    other.close()
    assert filed.write(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar()) == 2
    assert filed.write(lambda connection: connection.exec_driver_sql("PRAGMA foreign_keys").scalar()) == 1


def test_a_failed_work_is_undone_and_its_own_error_comes_back(database: Database) -> None:
    with pytest.raises(KeyError, match="my own fault"):
        database.write(_broken)

    assert database.read(_texts) == []


def test_an_error_of_the_driver_is_one_line_without_sql_and_values(filed: Database) -> None:
    with pytest.raises(StorageError) as of_write:
        filed.write(lambda connection: connection.execute(insert(_NOTES), [{"id": 1, "text": "s3cret"}] * 2))
    with pytest.raises(StorageError) as of_read:
        filed.read(lambda connection: connection.exec_driver_sql("SELECT 's3cret' FROM missing"))

    assert str(of_write.value).startswith(
        f"{filed._name} refused a statement (UNIQUE constraint failed: notes.id); nothing was written; "
    )
    assert str(of_read.value).startswith(
        f"{filed._name} refused a statement (no such table: missing); nothing was read; "
    )
    assert isinstance(of_write.value.__cause__, IntegrityError)
    assert "s3cret" not in str(of_write.value.__cause__)
    assert filed.read(_texts) == []


@pytest.mark.parametrize("use", ["write", "read"])
def test_a_text_that_cannot_be_kept_is_named_as_such(database: Database, use: str) -> None:
    with pytest.raises(InvalidValue, match="lone surrogate") as caught:
        getattr(database, use)(lambda connection: connection.execute(select(_NOTES).where(_NOTES.c.text == "\ud800")))

    assert "\n" not in str(caught.value)
    assert ("written" if use == "write" else "read") in str(caught.value)


def test_what_waits_is_committed_together_and_a_failed_work_takes_no_other_with_it(database: Database) -> None:
    commits = _count_commits(database)
    works = [_broken if number % 3 == 1 else _note(str(number)) for number in range(9)]
    with ThreadPoolExecutor(9) as threads:
        with _Blocked(database) as blocked:
            results = [threads.submit(database.write, work) for work in works]
            blocked.wait_for(9)
        errors = [type(result.exception(30)) for result in results]

    assert errors == [type(None), KeyError, type(None)] * 3
    assert sorted(database.read(_texts)) == ["0", "2", "3", "5", "6", "8"]
    assert len(commits) == 2  # the one that held the writer, and one for all nine


async def test_one_turn_of_the_event_loop_is_one_commit(database: Database) -> None:
    commits = _count_commits(database)

    results = await asyncio.gather(
        *(database.awrite(_broken if number == 5 else _note(str(number))) for number in range(20)),
        return_exceptions=True,
    )

    assert [type(result) for result in results].count(KeyError) == 1
    assert len(await database.aread(_texts)) == 19
    assert len(commits) == 1


async def test_a_batch_has_a_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_MAX", 4)
    monkeypatch.setattr(module, "_WAITING_MAX", 2)
    with _Blocked(database) as blocked:
        first = [asyncio.ensure_future(database.awrite(_note(str(number)))) for number in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        blocked.wait_for(4)
        later = [asyncio.ensure_future(database.awrite(_note(str(number)))) for number in range(4, 10)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert database._waiting == 4  # the others wait outside
        blocked.go_on.set()
        await asyncio.gather(*first, *later)

    assert sorted(await database.aread(_texts)) == [str(number) for number in range(10)]


async def test_the_event_loop_goes_on_while_a_write_waits(database: Database) -> None:
    with _Blocked(database) as blocked:
        writing = asyncio.ensure_future(database.awrite(_note("x")))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not writing.done()
        blocked.go_on.set()
        assert await writing == 1


async def test_a_cancelled_caller_stops_waiting_and_its_work_stays_whole(database: Database) -> None:
    def pair(connection: Connection) -> None:
        _note("left")(connection)
        _note("right")(connection)

    with _Blocked(database) as blocked:
        writing = asyncio.ensure_future(database.awrite(pair))
        beside = asyncio.ensure_future(database.awrite(_note("next")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        blocked.wait_for(2)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    await asyncio.wait_for(beside, 30)
    assert await database.aread(_texts) == ["left", "right", "next"]


def test_the_writer_survives_an_event_loop_that_was_closed(database: Database) -> None:
    with _Blocked(database) as blocked:
        loop = asyncio.new_event_loop()
        task = loop.create_task(database.awrite(_note("orphan")))
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        blocked.wait_for(1)
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    database.write(_note("next"))
    assert database.read(_texts) == ["orphan", "next"]


@pytest.mark.parametrize("inline", [False, True])
def test_a_write_inside_a_write_is_refused_at_once(tmp_path: Path, inline: bool) -> None:
    with Database.open(tmp_path / "notes.db", _TABLES, inline=inline) as database:
        with pytest.raises(StorageError, match="from inside a write"):
            database.write(lambda connection: database.write(_note("x")))
        with pytest.raises(StorageError, match="from inside a write"):
            database.write(lambda connection: database.close())

        database.write(_note("after"))
        assert database.read(_texts) == ["after"]


def test_a_work_that_commits_by_itself_is_told_off(database: Database) -> None:
    with pytest.raises(StorageError, match="ended its own transaction"):
        database.write(lambda connection: connection.commit())

    database.write(_note("after"))
    assert database.read(_texts) == ["after"]


# Reading.


def test_a_read_sees_one_moment(database: Database) -> None:
    database.write(_note("before"))

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        first = _texts(connection)
        database.write(_note("meanwhile"))
        return first, _texts(connection)

    assert database.read(twice) == (["before"], ["before"])
    assert database.read(_texts) == ["before", "meanwhile"]


def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match="read-only"):
        database.read(_note("x"))


def test_an_error_of_a_reader_comes_back_as_it_is(database: Database) -> None:
    with pytest.raises(KeyError):
        database.read(lambda connection: {}["x"])


# In memory, and inline.


async def test_a_database_in_memory_works_from_every_side() -> None:
    with Database.open(":memory:", _TABLES) as database:
        database.write(_note("a"))
        await asyncio.gather(*(database.awrite(_note("b")) for _ in range(10)))
        assert database.read(_texts) == await database.aread(_texts) == ["a"] + 10 * ["b"]


@pytest.mark.parametrize("target", ["notes.db", ":memory:"])
async def test_inline_works_run_in_the_thread_that_calls(tmp_path: Path, target: str) -> None:
    here, threads = threading.get_ident(), threading.active_count()
    place = target if target == ":memory:" else tmp_path / target
    with Database.open(place, _TABLES, inline=True) as database:
        idents = [
            database.write(lambda connection: threading.get_ident()),
            await database.awrite(lambda connection: threading.get_ident()),
            database.read(lambda connection: threading.get_ident()),
            await database.aread(lambda connection: threading.get_ident()),
        ]
        assert idents == 4 * [here]
        assert threading.active_count() == threads

        with pytest.raises(KeyError):
            await database.awrite(_broken)
        await asyncio.gather(*(database.awrite(_note(str(number))) for number in range(5)))
        assert len(await database.aread(_texts)) == 5


# Several processes.

_INCREMENT = """
import sys
from sqlalchemy import select, update
from checkpoints.database import Database
from tests.checkpoints.test_database import _NOTES, _TABLES

def increment(connection):
    count = int(connection.execute(select(_NOTES.c.text).where(_NOTES.c.id == 1)).scalar_one())
    connection.execute(update(_NOTES).where(_NOTES.c.id == 1).values(text=str(count + 1)))

with Database.open(sys.argv[1], _TABLES) as database:
    for _ in range(40):
        database.write(increment)
"""


def test_four_processes_that_read_and_write_one_row_lose_no_update(database: Database, address: str) -> None:
    database.write(_note("0"))
    command = [sys.executable, "-c", _INCREMENT, address]
    processes = [subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    more = cast(cast(_NOTES.c.text, Integer) + 1, Text)
    for _ in range(20):
        database.write(lambda connection: connection.execute(update(_NOTES).values(text=more)))

    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]

    assert ends == 4 * [("", 0)]
    assert int(database.read(_texts)[0]) == 180


def test_opening_a_file_again_leaves_the_locks_of_the_first(filed: Database) -> None:
    filed.write(_note("x"))
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM notes').fetchall(); c.close()"
    )
    with Database.open(filed._name, _TABLES):
        subprocess.run([sys.executable, "-c", code, filed._name], check=True)
        assert Path(f"{filed._name}-wal").exists()  # who finds no lock believes that it is the last, and deletes it


def test_two_that_create_one_database_at_once_both_succeed(address: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        databases = list(threads.map(lambda _: Database.open(address, _TABLES), range(8)))
    for number, database in enumerate(databases):
        database.write(_note(str(number)))
    for database in databases:
        assert len(database.read(_texts)) == 8
        database.close()


_ACKNOWLEDGE = """
import asyncio, sys
from sqlalchemy import insert
from checkpoints.database import Database
from tests.checkpoints.test_database import _NOTES, _TABLES

async def main():
    database = Database.open(sys.argv[1], _TABLES)
    async def writer(name):
        number = 0
        while True:
            text = f"{name}-{number}"
            await database.awrite(lambda connection: connection.execute(insert(_NOTES).values(text=text)))
            print(text, flush=True)
            number += 1
    async with asyncio.TaskGroup() as tasks:
        for name in "abcdefgh":
            tasks.create_task(writer(name))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 150, 400])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "notes.db"
    child = subprocess.Popen(
        [sys.executable, "-c", _ACKNOWLEDGE, str(path)], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    seen = [child.stdout.readline().strip() for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    seen += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    child.wait()

    with Database.open(path, _TABLES) as database:
        assert set(seen) <= set(database.read(_texts))
        assert database.read(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
        assert database.read(lambda connection: connection.execute(select(func.count()).select_from(_NOTES)).scalar())


class TestRoom:
    def test_a_file_gives_back_what_is_free(self, filed: Database, tmp_path: Path) -> None:
        for _ in range(3):
            filed.write(_note("x" * 500_000))
        whole, free = filed.room()
        assert whole > 1_500_000
        assert free < 100_000
        filed.write(lambda connection: connection.execute(_NOTES.delete().where(_NOTES.c.id > 1)))
        assert filed.room()[1] > 900_000
        filed.compact()
        assert filed.room() == ((tmp_path / "notes.db").stat().st_size, 0)
        assert filed.room()[0] < 700_000
        assert filed.read(_texts) == ["x" * 500_000]
        assert filed.write(_note("and it goes on")) == 2

    def test_a_server_sees_to_it_itself(self, database: Database) -> None:
        database.write(_note("x"))
        database.compact()
        assert database.read(_texts) == ["x"]

    def test_not_from_inside_a_write_and_not_when_it_is_closed(self, filed: Database) -> None:
        with pytest.raises(StorageError, match="from inside a write"):
            filed.write(lambda _: filed.compact())
        filed.close()
        with pytest.raises(StorageError, match="is closed"):
            filed.compact()

    def test_what_goes_wrong_is_in_words(self, filed: Database) -> None:
        filed.write(_note("x"))
        with pytest.MonkeyPatch.context() as patch:

            def full(_: Connection) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            patch.setattr(filed._dialect, "compact", full)
            with pytest.raises(StorageError, match=r"notes\.db .*; nothing was changed; "):
                filed.compact()
        assert filed.read(_texts) == ["x"]
