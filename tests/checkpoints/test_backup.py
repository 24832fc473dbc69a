"""Safe files: damage is found, nothing good is thrown away, and a crash at any point is made good by the next start."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agents.clock import NANOSECONDS, ReplayClock
from agents.errors import StorageError
from checkpoints import backup as module
from checkpoints.backup import Loss, SafeFile, back_up

NOON = 1_767_268_800 * NANOSECONDS  # 2026-01-01
MINUTE = 60 * NANOSECONDS
ROOT = Path(__file__).parents[2]


class Died(BaseException):
    """A process that is gone in the middle of what it did."""


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]


def write(path, *texts):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("CREATE INDEX IF NOT EXISTS by_text ON notes (text)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO notes (text) VALUES (?)", [(text,) for text in texts])
        connection.execute("COMMIT")


def killed(path, text):
    """Write as a process that is killed right after its commit: the row is in the log alone."""
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("INSERT INTO notes (text) VALUES (?)", sys.argv[2:])
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, path, text], check=False)
    assert Path(f"{path}-wal").stat().st_size > 0


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def backups(path):
    return sorted(each.name for each in (path.parent / "backups").glob(f"{path.name}.0*"))


def names(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture
def clock():
    return ReplayClock(NOON)


@pytest.fixture
def path(tmp_path):
    """A database of some pages with one backup, and a row that is newer than that."""
    path = tmp_path / "home" / "notes.db"
    path.parent.mkdir(mode=0o700)
    write(path, *(f"{number:03d}{'x' * 500}" for number in range(200)))
    back_up(path, NOON - 60 * MINUTE)
    write(path, "newer")
    return path


@pytest.fixture
def start(clock):
    """Start as an application does; gives what was lost."""

    def start(path):
        file = SafeFile.hold(path, clock)
        try:
            loss = file.mend()
            file.settled()
        finally:
            file.close()
        return loss

    return start


def overwrite(offset, data):
    def hurt(path):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return hurt


DAMAGES = {
    "header zeroed": overwrite(0, b"\0" * 100),
    "header wrong": overwrite(0, b"SQLite format 4"),
    "a page overwritten": overwrite(4096 * 7, b"J" * 4096),
    "pages zeroed": overwrite(4096 * 3, bytes(4096 * 5)),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut within a page": lambda path: os.truncate(path, path.stat().st_size - 100),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "a letter": lambda path: path.write_text("Dear database, " * 500),
    "gone": Path.unlink,
}


class TestBackup:
    def test_it_has_what_is_committed_and_is_for_the_owner_alone(self, path, tmp_path):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("INSERT INTO notes (text) VALUES ('in the log')")
            other.execute("BEGIN IMMEDIATE")  # a writer at work neither waits for a backup nor is in it
            other.execute("INSERT INTO notes (text) VALUES ('not committed')")
            assert back_up(path, NOON)
            other.execute("COMMIT")
        folder = path.parent / "backups"
        assert backups(path) == ["notes.db.000001.20260101T110000Z", "notes.db.000002.20260101T120000Z"]
        assert rows(folder / backups(path)[-1])[-2:] == ["newer", "in the log"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}

    def test_three_are_kept_and_the_newest_is_the_last_made_whatever_the_clock_says(self, path):
        back_up(path, NOON, label="schema-1")
        for hour in (5, 3, 9, 1):
            write(path, str(hour))
            back_up(path, hour * 60 * MINUTE)
        assert backups(path) == [
            "notes.db.000002.20260101T120000Z.schema-1",
            "notes.db.000004.19700101T030000Z",
            "notes.db.000005.19700101T090000Z",
            "notes.db.000006.19700101T010000Z",
        ]

    def test_no_backup_is_made_of_a_damaged_file(self, path, clock, monkeypatch):
        monkeypatch.setattr(module, "_SMALL_BYTES", 0)
        file = SafeFile.hold(path, clock)
        assert file.mend() is None
        DAMAGES["a page overwritten"](path)
        before = backups(path)
        with pytest.raises(StorageError, match=r"notes\.db is damaged \(.*\); it was not backed up; start again"):
            file.back_up()
        assert (backups(path), "notes.db.new" in names(path.parent / "backups")) == (before, False)
        file.close()
        monkeypatch.setattr(module, "_is_due", lambda *_, **__: False)  # the suspicion alone is reason enough
        file = SafeFile.hold(path, clock)
        assert file.mend().backup == "20260101T110000Z"
        file.close()

    @pytest.mark.parametrize("at", ["fsync", "utime", "replace", "open", "mkdir"])
    def test_a_full_disk_leaves_the_old_ones_and_no_litter(self, path, monkeypatch, at):
        def full(*_args, **_more):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = names(path.parent / "backups")
        monkeypatch.setattr(*{"replace": (Path, "replace"), "mkdir": (Path, "mkdir")}.get(at, (os, at)), full)
        with pytest.raises(StorageError, match=r"could not be backed up \(.*No space left.*\); its older backups stay"):
            back_up(path, NOON)
        monkeypatch.undo()
        assert names(path.parent / "backups") == before
        assert back_up(path, NOON)

    def test_a_file_that_may_not_grow_is_a_full_disk_too(self, path):
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, usual[1]))
        try:
            with pytest.raises(StorageError, match="could not be backed up"):
                back_up(path, NOON)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert names(path.parent / "backups") == ["lock", "notes.db.000001.20260101T110000Z"]

    def test_one_at_a_time(self, path):
        with (path.parent / "backups" / "lock").open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert not back_up(path, NOON)

    def test_neither_a_backup_nor_a_check_takes_a_lock_of_this_process_away(self, path, clock):
        """Who opens and closes an SQLite file beside SQLite does (https://www.sqlite.org/howtocorrupt.html, 2.2).

        Another process would then take itself for the last one, and remove the log that this one writes to.
        """
        code = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM notes").fetchall()
connection.close()
"""
        with closing(sqlite3.connect(path, isolation_level=None)) as mine:
            mine.execute("INSERT INTO notes (text) VALUES ('mine')")
            log = Path(f"{path}-wal").stat().st_ino
            file = SafeFile.hold(path, clock)
            assert file.mend() is None
            assert file.back_up()
            subprocess.run([sys.executable, "-c", code, path], check=True)
            file.close()
            assert Path(f"{path}-wal").stat().st_ino == log


class TestDue:
    @pytest.mark.parametrize(
        ("minutes", "what", "due"),
        [
            (11, {"changed", "small"}, True),
            (11, {"changed"}, True),
            (11, {"small", "ending"}, False),
            (9, {"changed", "small"}, False),
            (9, {"changed", "small", "ending"}, True),
            (9, {"changed", "ending"}, False),
            (9, {"small", "ending"}, False),
            (-1, {"changed"}, True),  # the clock was set back: nobody knows how old it is
        ],
    )
    def test_when(self, path, monkeypatch, minutes, what, due):
        monkeypatch.setattr(module, "_SMALL_BYTES", path.stat().st_size - ("small" not in what))
        back_up(path, NOON)
        if "changed" in what:
            write(path, "changed")
        file = SafeFile.hold(path, ReplayClock(NOON + minutes * MINUTE))
        assert file.back_up(ending="ending" in what) is due
        assert len(backups(path)) == 2 + due
        file.close()

    def test_the_first_at_once_and_none_of_nothing(self, tmp_path, clock):
        file = SafeFile.hold(tmp_path / "notes.db", clock)
        assert not file.back_up(ending=True)
        write(tmp_path / "notes.db", "x")
        assert file.back_up()
        file.close()

    def test_a_change_in_the_log_alone_is_a_change_and_moving_it_over_is_none(self, path, clock):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            back_up(path, NOON)
            other.execute("INSERT INTO notes (text) VALUES ('x')")
            file = SafeFile.hold(path, clock)
            assert file.back_up(ending=True)
        assert not file.back_up(ending=True)  # closing has moved the log over
        file.close()


class TestCheck:
    def test_a_home_that_is_not_there_yet_and_one_that_cannot_be(self, tmp_path, start):
        assert start(tmp_path / "new" / "home" / "notes.db") is None
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        (tmp_path / "file").write_text("")
        assert start(tmp_path / "file" / "notes.db") is None

    def test_what_is_whole_is_left_alone(self, path, start):
        before = digest(path)
        assert start(path) is None
        assert digest(path) == before
        killed(path, "in the log")
        log = digest(Path(f"{path}-wal"))
        assert start(path) is None
        assert (digest(path), digest(Path(f"{path}-wal"))) == (before, log)
        assert rows(path)[-2:] == ["newer", "in the log"]

    @pytest.mark.parametrize("logged", [False, True])
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_every_damage_is_put_aside_as_it_was_found_and_the_backup_is_there(self, path, start, damage, logged):
        if logged:
            killed(path, "in the log")
        DAMAGES[damage](path)
        log = Path(f"{path}-wal")
        found = {each.name: digest(each) for each in (path, log) if each.exists()}
        loss = start(path)
        if loss is None:  # the log has the pages that were hurt
            assert logged
            assert rows(path)[-1] == "in the log"
            return
        aside = "notes.db.corrupt.20260101T120000Z"
        assert (loss.name, loss.moved_to, loss.backup) == ("notes.db", aside, "20260101T110000Z")
        assert "\n" not in loss.what
        assert loss.what
        kept = {
            each.name.replace(".corrupt.20260101T120000Z", ""): digest(each) for each in path.parent.glob(f"{aside}*")
        }
        assert {name: kept[name] for name in found} == found
        assert len(rows(path)) == 200
        assert not log.exists() or log.stat().st_size == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert start(path) is None

    def test_the_newest_backup_that_is_whole_is_the_one(self, path, start):
        for number in range(2):
            write(path, str(number))
            back_up(path, NOON + number * MINUTE)
        newest = path.parent / "backups" / backups(path)[-1]
        overwrite(4096 * 4, b"J" * 4096)(newest)
        DAMAGES["a letter"](path)
        assert start(path).backup == "20260101T120000Z"
        assert rows(path)[-2:] == ["newer", "0"]

    def test_without_a_good_backup_it_begins_anew(self, path, start):
        for each in backups(path):
            (path.parent / "backups" / each).write_bytes(b"")
        DAMAGES["header zeroed"](path)
        assert start(path).backup == ""
        assert path.read_bytes() == b""
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_two_of_one_second_have_two_names(self, path, start):
        for _ in range(2):
            DAMAGES["a letter"](path)
            assert start(path)
        assert {each.name for each in path.parent.glob("*corrupt*")} == {
            "notes.db.corrupt.20260101T120000Z",
            "notes.db.corrupt.20260101T120000Z-2",
        }

    def test_a_home_and_a_file_that_are_links(self, path, tmp_path, start):
        (tmp_path / "link").symlink_to(path.parent)
        DAMAGES["a letter"](path)
        assert start(tmp_path / "link" / "notes.db").backup
        other = tmp_path / "disk"
        other.mkdir()
        real = path.rename(other / "real.db")
        path.symlink_to(real)
        overwrite(0, b"x" * 100)(real)
        assert start(path).moved_to == "real.db.corrupt.20260101T120000Z"
        assert path.is_symlink()
        assert len(rows(path)) == 200

    def test_a_disk_that_has_no_room_for_the_backup_changes_nothing(self, path, start, monkeypatch):
        DAMAGES["a letter"](path)

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(module.shutil, "copyfile", full)
        with pytest.raises(StorageError, match=r"is damaged \(.*\) and cannot be replaced \(.*No space left"):
            start(path)
        assert path.read_text().startswith("Dear")
        monkeypatch.undo()
        assert start(path).backup

    @pytest.mark.parametrize("reason", ["none", "small", "not ended in order", "a backup is due"])
    def test_how_much_is_checked(self, path, start, monkeypatch, reason):
        back_up(path, NOON - MINUTE)
        monkeypatch.setattr(module, "_SMALL_BYTES", path.stat().st_size - (reason != "small"))
        if reason == "not ended in order":
            killed(path, "in the log")
        if reason == "a backup is due":
            write(path, "changed")
            monkeypatch.setattr(module, "_EVERY_NS", 0)
        looks = []
        monkeypatch.setattr(module, "_first_fault", lambda *_, fully: looks.append(fully) or "")
        start(path)
        assert looks == [reason != "none"]


class TestTogether:
    def test_of_many_starts_one_replaces_it(self, path, clock):
        DAMAGES["a page overwritten"](path)
        gate, losses = threading.Barrier(6), []

        def start():
            gate.wait()
            file = SafeFile.hold(path, clock)
            losses.append(file.mend())
            if losses[-1] is not None:
                assert len(rows(path)) == 200
            file.settled()
            assert len(rows(path)) == 200
            file.close()

        threads = [threading.Thread(target=start) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sum(loss is not None for loss in losses) == 1
        assert len(losses) == 6
        assert len(list(path.parent.glob("*corrupt*Z"))) == 1

    def test_of_two_processes_one_replaces_it(self, path):
        code = """
import sys
from pathlib import Path
from agents.clock import ReplayClock
from checkpoints.backup import SafeFile
file = SafeFile.hold(Path(sys.argv[1]), ReplayClock(0))
loss = file.mend()
file.settled()
print(loss is not None)
"""
        DAMAGES["a letter"](path)
        line = [sys.executable, "-c", code, str(path)]
        starts = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
        assert sorted(each.communicate(timeout=60)[0] for each in starts) == ["False\n", "True\n"]
        assert len(list(path.parent.glob("*corrupt*"))) == 1

    def test_a_damaged_file_that_somebody_has_open_is_left_alone(self, path, clock, start):
        first = SafeFile.hold(path, clock)
        assert first.mend() is None
        first.settled()
        DAMAGES["a letter"](path)
        with pytest.raises(
            StorageError, match=r"is damaged \(file is not a database\), and another process has it open"
        ):
            start(path)
        assert path.read_text().startswith("Dear")
        first.close()
        assert start(path).backup

    def test_who_waits_for_too_long_says_for_what(self, path, clock, start, monkeypatch):
        monkeypatch.setattr(module, "_WAIT_S_MAX", 0.0)
        first = SafeFile.hold(path, clock)
        with pytest.raises(StorageError, match="has been checked or restored by another process"):
            start(path)
        first.close()
        assert start(path) is None

    def test_a_child_does_not_keep_the_lock_of_its_parent(self, path, clock):
        file = SafeFile.hold(path, clock)
        (there, come), (over, end) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(end)
            os.write(come, b"x")
            os.read(over, 1)  # until the test is over
            os._exit(0)
        os.read(there, 1)
        file.close()
        again = SafeFile.hold(path, clock)
        os.close(end)
        os.waitpid(child, 0)
        for each in (there, come, over):
            os.close(each)
        assert again._alone
        again.close()


class TestCrash:
    """A mending that is cut off at any of its steps is made good by the next start, which tells what was lost."""

    def count_down(self, monkeypatch, steps):
        """Die before the step of this number."""
        left = [steps]

        def dying(real):
            def step(*args, **more):
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return real(*args, **more)

            return step

        for owner, name in (
            (os, "fsync"),
            (os, "ftruncate"),
            (os, "pwrite"),
            (Path, "rename"),
            (Path, "replace"),
            (module.shutil, "copyfile"),
        ):
            monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
        return left

    @pytest.mark.parametrize("damage", ["a letter", "gone", "cut in half", "a letter, and no backup"])
    def test_at_every_step(self, path, clock, start, monkeypatch, damage):
        damage, _, alone = damage.partition(", and no ")
        backed_up = not alone
        for each in [] if backed_up else backups(path):
            (path.parent / "backups" / each).unlink()
        whole = path.read_bytes()
        for steps in range(40):
            for each in path.parent.glob("notes.db*"):
                each.unlink()
            path.write_bytes(whole)
            DAMAGES[damage](path)
            hurt = path.read_bytes() if path.exists() else None
            with monkeypatch.context() as patch:
                left = self.count_down(patch, steps)
                file = SafeFile.hold(path, clock)
                with suppress(Died):
                    file.mend()
                file.close()  # what it had written down is never settled: it died before
            loss = start(path)
            assert isinstance(loss, Loss), steps
            assert loss.name == "notes.db"
            if backed_up:
                assert len(rows(path)) == 200, steps
            else:
                assert not path.exists() or path.read_bytes() == b"", steps
            if hurt is not None:
                assert hurt in [each.read_bytes() for each in path.parent.glob("*corrupt*")], steps
            assert start(path) is None, steps
            if left[0] > 0:
                break
        assert steps > 5

    def test_a_note_that_was_cut_off_is_a_note(self, path, clock):
        Path(f"{path}.lock").write_text(json.dumps({"name": "notes.db"})[:9])
        file = SafeFile.hold(path, clock)
        assert file.mend().what == "what was done to it was not written down to its end"
        file.settled()
        file.close()
        assert Path(f"{path}.lock").read_text() == ""
