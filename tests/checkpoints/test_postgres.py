"""What only a server can do to a database: go away, come back, refuse, time out. What was said to be kept is kept."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError

from agents.errors import ConfigError, InvalidValue, StorageError
from checkpoints import database as module
from checkpoints import postgres
from checkpoints.database import Database
from tests.checkpoints.test_database import _NOTES, _TABLES, _Blocked, _count_commits, _note, _texts
from tests.postgres import Server, until

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A library that logs what goes wrong would write it, over many lines, to a terminal that asked for one."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING] == []


@pytest.fixture
def url(server: Server) -> str:
    return server.fresh()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database.open(url, _TABLES) as opened:
        yield opened


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that may be killed."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def shaky(own: Server) -> Iterator[Database]:
    with Database.open(own.fresh(), _TABLES) as opened:
        yield opened


def _sql(statement: str) -> Callable[[Connection], Any]:
    return lambda connection: connection.exec_driver_sql(statement).fetchall()


def _duplicate(connection: Connection) -> None:
    connection.execute(insert(_NOTES), [{"id": 1, "text": "s3cret"}] * 2)


def _long(connection: Connection) -> None:
    """The second of many rows fails, and the error is there before all of them are sent."""
    connection.execute(insert(_NOTES), [{"id": 1 + number // 2, "text": "x" * 20_000} for number in range(100)])


def _cut(connection: Connection) -> None:
    """The connection dies in the middle of the work."""
    connection.execute(insert(_NOTES).values(text="half"))
    connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")


def _cut_all(server: Server) -> None:
    """As a server does, or a firewall, with connections that were idle for too long."""
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast'")


def _told(error: BaseException | None, *words: str) -> bool:
    """The error is one line for a person."""
    text = str(error)
    return type(error) is StorageError and "\n" not in text and all(word in text for word in words)


# Statements that fail.


def test_an_error_of_the_server_is_one_line_without_sql_and_values(database: Database) -> None:
    with pytest.raises(StorageError) as of_write:
        database.write(_duplicate)
    with pytest.raises(StorageError) as of_read:
        database.read(_sql("SELECT 's3cret' FROM missing"))

    assert _told(of_write.value, 'refused a statement (duplicate key value violates unique constraint "notes_pkey"); ')
    assert _told(of_write.value, "; nothing was written; ")
    assert _told(of_read.value, 'refused a statement (relation "missing" does not exist); nothing was read; ')
    assert "s3cret" not in str(of_write.value) + str(of_read.value)


def test_a_statement_that_fails_takes_no_other_work_of_its_batch_with_it(database: Database) -> None:
    commits = _count_commits(database)
    works = [_duplicate if number % 3 == 1 else _note(str(number)) for number in range(9)]
    with ThreadPoolExecutor(9) as threads:
        with _Blocked(database) as blocked:
            results = [threads.submit(database.write, work) for work in works]
            blocked.wait_for(9)
        errors = [type(result.exception(30)) for result in results]

    assert errors == [type(None), StorageError, type(None)] * 3
    assert sorted(database.read(_texts)) == ["0", "2", "3", "5", "6", "8"]
    assert len(commits) == 2


def _rows(text: str, *others: str) -> Callable[[Connection], None]:
    return lambda connection: connection.execute(insert(_NOTES), [{"text": each} for each in (text, *others)]) and None


def _hiding(statement: Callable[[Connection], Any]) -> Callable[[str], Callable[[Connection], None]]:
    def work(connection: Connection) -> None:
        _note("hidden")(connection)
        with suppress(DBAPIError):
            statement(connection)

    return lambda text: work


def _failing(text: str) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        _note(text)(connection)
        raise KeyError(text)

    return work


_WORKS: dict[Callable[[str], Callable[[Connection], Any]], type[Exception] | None] = {
    _note: None,
    _rows: None,
    lambda text: _texts: None,
    lambda text: lambda connection: None: None,
    _failing: KeyError,
    lambda text: _duplicate: StorageError,
    lambda text: _long: StorageError,
    lambda text: _sql("SELEC 1"): StorageError,
    lambda text: _rows(text, "\x00", text): InvalidValue,
    _hiding(_duplicate): StorageError,
    _hiding(_sql("SELEC 1")): StorageError,
}


@pytest.mark.parametrize("seed", range(4))
async def test_every_work_of_a_batch_gets_the_outcome_that_is_its_own(database: Database, seed: int) -> None:
    """In a pipeline an error is told late, and could be told to another."""
    draw, kept = Random(seed), []  # noqa: S311
    for batch in range(40):
        rate = draw.choice([0.0, 0.2, 0.9])
        picked = [
            draw.choice([make for make, error in _WORKS.items() if (error is None) is (draw.random() >= rate)])
            for _ in range(draw.randint(1, 9))
        ]
        names = [f"{batch}-{number}" for number in range(len(picked))]
        works = [make(name) for make, name in zip(picked, names, strict=True)]
        done = await asyncio.gather(*map(database.awrite, works), return_exceptions=True)
        expected = [_WORKS[make] or type(None) for make in picked]
        assert [type(each) if isinstance(each, Exception) else type(None) for each in done] == expected, names
        kept += [name for make, name in zip(picked, names, strict=True) if make in {_note, _rows}]

    assert sorted(await database.aread(_texts)) == sorted(kept)


@pytest.mark.parametrize("together", [False, True])
def test_a_work_that_hides_an_error_is_not_acknowledged(database: Database, together: bool) -> None:
    """Postgres answers the COMMIT of a transaction that has failed without an error, and keeps nothing."""

    def hiding(connection: Connection) -> None:
        _note("hidden")(connection)
        with pytest.raises(DBAPIError):
            _duplicate(connection)

    with ThreadPoolExecutor(2) as threads, _Blocked(database) as blocked:
        results = [threads.submit(database.write, hiding)]
        if together:
            results.append(threads.submit(database.write, _note("beside")))
        blocked.wait_for(len(results))
        blocked.go_on.set()
        assert _told(results[0].exception(30), "hid an error", "nothing of it was kept")

    assert database.read(_texts) == (["beside"] if together else [])


def test_a_text_with_nul_is_named_as_such_and_leaves_the_others_alone(database: Database) -> None:
    for use in (database.write, database.read):
        with pytest.raises(InvalidValue, match="cannot keep a text that has NUL") as caught:
            use(lambda connection: connection.execute(select(_NOTES).where(_NOTES.c.text == "s3\x00cret")))
        assert "\n" not in str(caught.value)
    with ThreadPoolExecutor(3) as threads:
        with _Blocked(database) as blocked:
            results = [threads.submit(database.write, _note(text)) for text in ("a", "\x00", "\ud800", "d")]
            blocked.wait_for(3)
        errors = [type(result.exception(30)) for result in results]

    assert errors == [type(None), InvalidValue, InvalidValue, type(None)]
    assert sorted(database.read(_texts)) == ["a", "d"]


def test_what_cannot_be_written_is_said_in_words(database: Database, server: Server) -> None:
    def reading_only(connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        _note("x")(connection)

    with pytest.raises(StorageError, match=r"is read-only; nothing was written; give the address"):
        database.write(reading_only)

    server.run("CREATE ROLE guest LOGIN")
    url = server.fresh()
    for words in ("has no schema that this user may use; nothing was", "does not allow this user to do that; nothing"):
        with pytest.raises(StorageError, match=words) as caught:
            Database.open(url.replace("postgres@", "guest@"), _TABLES)
        assert _told(caught.value)
        server.run(f"GRANT USAGE ON SCHEMA {url.rpartition('%3D')[2]} TO guest")


# Reaching it.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("postgres@", "locked:wr0ng@"), 'password authentication failed for user "locked"'),
        (("postgres@", "locked@"), "no password supplied"),
        (("postgres@", "nobody:wr0ng@"), 'role "nobody" does not exist'),
        (("/postgres?", "/nowhere?"), 'database "nowhere" does not exist'),
        (("postgres@/postgres?host", "me:wr0ng@127.0.0.1:5/x?application_name"), "Connection refused"),
        (("postgres@/", "me:wr0ng@/"), 'role "me" does not exist'),
        (("?", "?nonsense=wr0ng&"), 'invalid connection option "nonsense"'),
    ],
)
def test_one_that_cannot_be_reached_is_told_at_once_in_one_line(
    server: Server, url: str, change: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("waited for one that was never there"))
    user = server.locked("r1ght")

    with pytest.raises(StorageError) as caught:
        Database.open(url.replace(*change).replace("locked", user), _TABLES)

    assert _told(caught.value, words.replace("locked", user), "; nothing was written; ")
    assert "wr0ng" not in str(caught.value)
    if "option" not in words:  # the driver's error of a connection carries the password with it
        assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_password_is_used_and_never_shown(server: Server) -> None:
    server.run("CREATE ROLE owner LOGIN SUPERUSER PASSWORD 's3:cr@et'")
    with Database.open(server.fresh().replace("postgres@", "owner:s3%3Acr%40et@"), _TABLES) as database:
        assert "owner:***@" in repr(database)
        with pytest.raises(StorageError) as caught:
            database.read(_sql("SELECT * FROM missing"))

    assert "cr@et" not in str(caught.value)
    assert "cr%40et" not in str(caught.value)


def test_a_database_that_cannot_keep_every_text_is_refused(server: Server) -> None:
    server.run("CREATE DATABASE old ENCODING 'SQL_ASCII' TEMPLATE template0")

    with pytest.raises(ConfigError, match="encoded as SQL_ASCII, which cannot keep every text; nothing was opened"):
        Database.open(server.url(database="old"), _TABLES)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "checkpoints.postgres", None)

    with pytest.raises(ConfigError, match=r"pip install 'holdfast\[postgres\]'"):
        Database.open("postgresql://me:s3cret@localhost/x")


def test_a_commit_is_on_disk_whatever_the_servers_default_is(server: Server) -> None:
    server.run("CREATE ROLE hasty LOGIN SUPERUSER")
    server.run("ALTER ROLE hasty SET synchronous_commit = off")
    server.run("CREATE ROLE careful LOGIN SUPERUSER")
    server.run("ALTER ROLE careful SET synchronous_commit = remote_apply")
    found = []
    for user in ("hasty", "careful"):
        with Database.open(server.fresh().replace("postgres@", f"{user}@"), _TABLES) as database:
            found += database.write(_sql("SHOW synchronous_commit"))

    assert found == [("on",), ("remote_apply",)]


# Turns.


def test_a_writer_waits_for_another_process_and_names_it(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCKED_S_MAX", 0.05)
    with Database.open(url, _TABLES) as first, Database.open(url, _TABLES) as second:
        with _Blocked(first), pytest.raises(StorageError, match="was locked by another process"):
            second.write(_note("late"))
        second.write(_note("now"))
        assert second.read(_texts) == ["now"]


def test_a_writer_that_stands_still_is_put_out_and_can_keep_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_IDLE_S_MAX", 0.1)
    with Database.open(url, _TABLES) as first, Database.open(url, _TABLES) as second, ThreadPoolExecutor(1) as threads:
        inside, go_on = threading.Event(), threading.Event()

        def stopped(connection: Connection) -> None:
            _note("stopped")(connection)
            inside.set()
            assert go_on.wait(30)
            _note("continued")(connection)

        result = threads.submit(first.write, stopped)
        assert inside.wait(30)
        second.write(_note("second"))
        go_on.set()
        assert _told(result.exception(30), "went away", "nothing was written")
        first.write(_note("first"))
        assert second.read(_texts) == ["second", "first"]


# Going away.


async def test_connections_that_died_while_they_were_idle_are_replaced(database: Database, server: Server) -> None:
    database.write(_note("before"))
    await asyncio.gather(*(database.aread(_sql("SELECT pg_sleep(0.01)")) for _ in range(4)))  # four readers are open
    _cut_all(server)

    assert len(await asyncio.gather(*(database.aread(_texts) for _ in range(8)))) == 8
    await database.awrite(_note("after"))
    assert await database.aread(_texts) == ["before", "after"]


def test_a_server_that_was_restarted_or_killed_is_found_again(own: Server, shaky: Database) -> None:
    shaky.write(_note("first"))
    shaky.read(_texts)
    own.restart()
    shaky.write(_note("second"))
    own.kill()
    own.start(wait=False)

    assert shaky.read(_texts) == ["first", "second"]
    shaky.write(_note("third"))
    assert shaky.read(_texts) == ["first", "second", "third"]


def test_a_server_that_stays_away_is_named_and_may_come_back(
    own: Server, shaky: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AWAY_S_MAX", 0.05)
    own.kill()
    with pytest.raises(StorageError) as of_write:
        shaky.write(_note("lost"))
    with pytest.raises(StorageError) as of_read:
        shaky.read(_texts)
    own.start()

    assert _told(of_write.value, "cannot be reached", "; nothing was written; check that it runs")
    assert _told(of_read.value, "cannot be reached", "; nothing was read; check that it runs")
    shaky.write(_note("kept"))
    assert shaky.read(_texts) == ["kept"]


@pytest.mark.parametrize("seen", [False, True])
def test_a_write_under_way_is_lost_with_its_batch_and_a_read_begins_again(
    database: Database, server: Server, seen: bool
) -> None:
    with ThreadPoolExecutor(4) as threads:
        with _Blocked(database) as blocked:
            works = (_note("before"), _note("after"), _cut if seen else lambda connection: _cut_all(server))
            results = [threads.submit(database.write, work) for work in works]
            blocked.wait_for(3)
        errors = [result.exception(30) for result in results]
    with pytest.raises(StorageError) as alone:
        database.write(_cut)
    with pytest.raises(StorageError, match="may have been kept or not"):  # nothing but its commit could notice
        database.write(lambda connection: _cut_all(server))
    reads = iter([_sql("SELECT pg_terminate_backend(pg_backend_pid())"), _texts])

    assert all(_told(error, "went away", "; nothing was written; try again") for error in (*errors, alone.value))
    database.write(_note("kept"))
    assert database.read(lambda connection: next(reads)(connection))  # noqa: PLW0108 (begun again, it is the next one) == ["kept"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_commit_that_was_cut_off_says(database: Database, fails: bool) -> None:
    """Only the server knows whether it was kept; a commit that is refused is known to have kept nothing."""
    body = "RAISE 'late'" if fails else "PERFORM pg_terminate_backend(pg_backend_pid())"
    database.write(
        lambda connection: connection.exec_driver_sql(
            f"CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body}; RETURN NULL; END$$;"
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON notes INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION"
            " late()"
        )
    )
    with pytest.raises(StorageError) as caught:
        database.write(_note("x"))

    words = "refused a statement (late); nothing was written" if fails else "may have been kept or not; try again"
    assert _told(caught.value, words)
    database.write(lambda connection: connection.exec_driver_sql("DROP TRIGGER late ON notes"))
    database.write(_note("y"))
    assert database.read(_texts) == ["y"]


@pytest.mark.parametrize("end", ["kill", "restart"])
async def test_under_load_what_was_acknowledged_is_there_and_the_rest_is_an_error(
    own: Server, shaky: Database, end: str
) -> None:
    kept: list[str] = []
    errors: list[BaseException] = []
    milestones = {100: asyncio.Event(), 200: asyncio.Event()}

    async def writer(name: str) -> None:
        number = 0
        while len(kept) < 300 and len(errors) < 100:
            text, number = f"{name}-{number}", number + 1
            try:
                await shaky.awrite(_note(text))
            except StorageError as error:
                errors.append(error)
            else:
                kept.append(text)
                if len(kept) in milestones:
                    milestones[len(kept)].set()

    async def trouble() -> None:
        for milestone in milestones.values():
            await milestone.wait()
            if end == "kill":
                await asyncio.to_thread(own.kill)
                own.start(wait=False)
            else:
                await asyncio.to_thread(own.restart)

    async with asyncio.TaskGroup() as tasks:
        for name in "abcdefgh":
            tasks.create_task(writer(name))
        tasks.create_task(trouble())

    assert all(_told(error, "went away") for error in errors), errors
    stored = await shaky.aread(_texts)
    assert set(kept) <= set(stored)
    assert len(stored) == len(set(stored)) <= len(kept) + len(errors)


_HOLD = """
import sys
from checkpoints.database import Database
from tests.checkpoints.test_database import _TABLES, _note
with Database.open(sys.argv[1], _TABLES) as database:
    def hold(connection):
        _note("half")(connection)
        print("inside", flush=True)
        sys.stdin.read()
    database.write(hold)
"""


def test_a_process_that_is_killed_in_a_write_leaves_neither_a_lock_nor_a_half(database: Database, url: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLD, url], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "inside\n"
    child.kill()
    child.communicate()

    database.write(_note("next"))
    assert database.read(_texts) == ["next"]


_SERVE = """
import sys
from tests.postgres import Server
server = Server(durable=False)
print(server.pid, server._folder, flush=True)
sys.stdin.read()
"""


def test_the_server_of_tests_that_are_killed_goes_with_them(server: Server) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _SERVE], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    pid, folder = child.stdout.readline().split()
    child.kill()
    child.communicate()

    until(lambda: not Path(folder).exists(), "the folder to be removed")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
