"""What a disk, an operator or another program can do to an SQLite file: it is said in one line, and nothing is half."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agents.errors import StorageError
from checkpoints.database import Database
from tests.checkpoints.test_database import _ACKNOWLEDGE, _TABLES, _note, _texts

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "notes.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database.open(path, _TABLES) as opened:
        yield opened


def _child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code beside this process: what it does to itself cannot be undone."""
    given = [sys.executable, "-c", _PRELUDE + code, *map(str, arguments)]
    return subprocess.run(given, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=120)


_PRELUDE = """
import os, resource, sys
from agents.errors import StorageError
from checkpoints.database import Database
from tests.checkpoints.test_database import _TABLES, _note, _texts

def told(use, *arguments):
    try:
        use(*arguments)
    except StorageError as error:
        print(error, flush=True)
    else:
        print("done", flush=True)
"""


# No room.

_FILL = """
def fill(database, size):
    kept = 0
    try:
        while kept < 10_000:
            database.write(_note("x" * size))
            kept += 1
    except StorageError as error:
        print(error, flush=True)
    return kept

with Database.open(sys.argv[1], _TABLES) as database:
    {less}
    kept = fill(database, 20_000)
    assert len(database.read(_texts)) == kept, "what was refused is there"
    told(database.write, _note("y" * 20_000))
    {more}
    told(database.write, _note("again"))
    assert database.read(_texts) == ["x" * 20_000] * kept + ["again"]
with Database.open(sys.argv[1], _TABLES) as database:
    assert database.read(_texts) == ["x" * 20_000] * kept + ["again"]
    assert kept > 0
"""


def test_a_file_that_may_not_grow_loses_nothing_and_goes_on_when_it_may(path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"
    done = _child(_FILL.format(less=limit.format(400_000), more=limit.format("resource.RLIM_INFINITY")), path)

    assert done.stderr == ""
    *refused, last = done.stdout.splitlines()
    assert last == "done"
    assert len(refused) == 2
    for line in refused:
        assert line.startswith(f"{path} cannot be read or written by the disk; ")
        assert line.endswith("; check the disk and its room")


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk can only be made by root")
    try:
        ballast = "open(os.path.dirname(sys.argv[1]) + '/ballast', 'wb').write(b'b' * 300_000)"
        free = "os.remove(os.path.dirname(sys.argv[1]) + '/ballast')"
        done = _child(_FILL.format(less=ballast, more=free), disk / "notes.db")
        shutil.rmtree(disk / "notes.db", ignore_errors=True)
        (disk / "rest").write_bytes(b"r" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize))
        with pytest.raises(StorageError) as caught:
            Database.open(disk / "other.db", _TABLES)
    finally:
        subprocess.run(["umount", disk], check=True)

    words = "notes.db has no room left on its disk; nothing was written; free some space and try again"
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{disk}/{words}", f"{disk}/{words}", "done"]
    assert "\n" not in str(caught.value)
    assert "disk" in str(caught.value)


# No right.

_OPEN_AS_NOBODY = """
Database.open(sys.argv[1], _TABLES).close()
if not os.getuid():
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
def use(path):
    with Database.open(path, _TABLES) as database:
        database.write(_note("x"))
for path in sys.argv[2:]:
    told(use, path)
"""


def test_a_file_that_may_not_be_written_is_named_and_left_alone() -> None:
    read_only = "is read-only; nothing was written; make the file and its folder writable"
    unmade = "cannot be made or opened (Permission denied); check its path and permissions"
    expected = {
        (0o444, 0o777): read_only,
        (0o666, 0o555): read_only,
        (0o444, 0o555): read_only,
        (0o000, 0o777): "cannot be opened; nothing was written; check its path and permissions",
        (None, 0o555): unmade,
        (0o666, 0o000): unmade,
    }
    kept: dict[Path, bytes | None] = {}
    with tempfile.TemporaryDirectory() as name:  # others may enter it, as they may not enter pytest's own
        shared = Path(name)
        shared.chmod(0o755)
        for number, (file_mode, folder_mode) in enumerate(expected):
            path = shared / str(number) / "notes.db"
            with Database.open(path, _TABLES) as database:
                database.write(_note("before"))
            kept[path] = None if file_mode is None else path.read_bytes()
            if file_mode is None:
                path.unlink()
            else:
                path.chmod(file_mode)
            path.parent.chmod(folder_mode)

        done = _child(_OPEN_AS_NOBODY, shared / "warm.db", *kept)

        for path, before in kept.items():
            path.parent.chmod(0o700)
            if before is not None:
                path.chmod(0o600)
                assert path.read_bytes() == before
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{path} {words}" for path, words in zip(kept, expected.values(), strict=True)]


# Another file.


def _deleted(path: Path) -> None:
    path.unlink()


def _replaced(path: Path) -> None:
    other = path.with_name("other.db")
    with Database.open(other, _TABLES) as database:
        database.write(_note("another story"))
    other.replace(path)


def _without_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize("change", [_deleted, _replaced, _without_log])
@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_that_is_deleted_or_replaced_while_it_is_open_is_noticed(
    database: Database, path: Path, change: Callable[[Path], None], read_before: bool
) -> None:
    database.write(_note("kept"))
    if read_before:
        database.read(_texts)
    change(path)

    for _ in range(2):
        for use in (lambda: database.write(_note("lost")), lambda: database.read(_texts)):
            with pytest.raises(StorageError, match=r"was deleted or replaced while it was open; .* start again$"):
                use()
    assert path.exists() is (change is not _deleted), "nobody asked for a new one"
    if change is _replaced:
        alone = shutil.copy(path, path.with_name("alone.db"))  # without the old one's log, which SQLite would take in
        with closing(sqlite3.connect(alone)) as other:
            assert other.execute("SELECT text FROM notes").fetchall() == [("another story",)]


def test_a_writer_that_connects_again_writes_into_no_other_file(database: Database, path: Path) -> None:
    database.write(_note("kept"))
    database._disconnect()
    database._writing.dispose()
    _replaced(path)

    with pytest.raises(StorageError, match="was deleted or replaced while it was open"):
        database.write(_note("lost"))
    database.close()
    with Database.open(path, _TABLES) as other:
        assert other.read(_texts) == ["another story"]


def test_a_write_into_a_file_that_goes_away_meanwhile_is_not_acknowledged(database: Database, path: Path) -> None:
    def work(connection: object) -> None:
        path.unlink()

    with pytest.raises(StorageError, match="was deleted or replaced while it was open"):
        database.write(work)


def test_a_writer_that_connects_again_knows_its_new_log(database: Database, path: Path) -> None:
    database.write(_note("before"))
    database._disconnect()
    database._writing.dispose()  # it was the last connection: the log is gone with it
    assert not Path(f"{path}-wal").exists()

    database.write(_note("after"))
    database.write(_note("last"))
    assert database.read(_texts) == ["before", "after", "last"]


# A log that a crash left.


def _whole(log: Path) -> None:
    pass


def _torn(log: Path) -> None:
    """As a power cut leaves a log whose last writes had not reached the disk."""
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 1_000)
        file.seek(-500, os.SEEK_END)
        file.write(b"\xff" * 400)


def _appended(log: Path) -> None:
    with log.open("ab") as file:
        file.write(os.urandom(10_000))


def _without_index(log: Path) -> None:
    log.with_name(log.name.replace("-wal", "-shm")).unlink()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A file with its log as a killed process left them, and what that had acknowledged."""
    path = tmp_path_factory.mktemp("crashed") / "notes.db"
    child = subprocess.Popen(
        [sys.executable, "-c", _ACKNOWLEDGE, str(path)], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    seen = [child.stdout.readline().strip() for _ in range(60)]
    child.kill()
    seen += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.stdout.close()
    child.wait()
    return path, set(seen)


@pytest.mark.parametrize("change", [_whole, _torn, _appended, _without_index])
def test_a_log_that_a_crash_left_is_taken_in_as_far_as_it_is_whole(
    crashed: tuple[Path, set[str]], path: Path, change: Callable[[Path], None]
) -> None:
    left, seen = crashed
    shutil.copytree(left.parent, path.parent)
    change(Path(f"{path}-wal"))

    with Database.open(path, _TABLES) as database:
        stored = database.read(_texts)
        assert database.read(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
        database.write(_note("next"))
        assert database.read(_texts) == [*stored, "next"]
    missing = seen - set(stored)
    assert missing == set() if change is not _torn else len(missing) < 20, "only what was last may be lost"
