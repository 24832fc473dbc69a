"""Safe files: an SQLite file is checked before it is opened, replaced by a good backup where it is damaged, and copied.

What is done when, and what it took on a busy two-core machine (in brackets: nothing of the file in memory, as after a
power cut):

======================  ================================================  ===============  ==============  ==========
when                    what                                              1 MB             100 MB          1 GB
======================  ================================================  ===============  ==============  ==========
every start             SQLite reads the header and the table of tables   0.2 ms           0.2 ms          0.2 ms
with more reason        `PRAGMA quick_check`: every page and its order    1.2 ms (40 ms)   0.12 s (1.9 s)  1.4 (23) s
backup                  copy, `quick_check` of the copy, fsync, rename    8 ms             0.4 s           5 s
======================  ================================================  ===============  ==============  ==========

There is more reason to check when the file is small (up to 16 MB), when the last process did not end in order (it left
a log behind) or met damage, and when a backup is due. A backup is due when the file has changed since the newest one,
and that one is ten minutes old, or an application ends and the file is small. Three are kept, besides one of before
each migration. What no page shows, a value that was changed in its place, is found by the checksums of its row.

A backup is named `backups/FILE.NUMBER.TIME`, beside the file: the numbers grow, whatever the clock does. A server's
database has none of this: its own tools check and back it up.
"""

import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from agents.clock import NANOSECONDS, Clock, format_ns, monotonic
from agents.errors import StorageError
from checkpoints.engine import make_folders
from checkpoints.sqlite import sqlite_code

__all__ = ["Loss", "SafeFile", "back_up"]

_KEPT = 3
_SMALL_BYTES = 16 * 2**20
_EVERY_NS = 600 * NANOSECONDS
_WAIT_S_MAX = 30.0
"""How long a start waits for another process that is checking the file."""
_LOOK_S = 0.01
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_SUSPECT = "suspect"


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of a damaged file. `backup`: the time of the one that took its place, "" where there was none."""

    name: str
    what: str
    moved_to: str
    backup: str


class SafeFile:
    """One SQLite file, from its check at the start of an application to the backup at its end.

    Everybody who has the file open shares a lock on `FILE.lock`; who checks or replaces it has that lock alone. What
    has been done to the file and is not yet known to anybody stands in the lock file, so that a crash hides nothing.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock: int | None = None
        self._alone = False

    @classmethod
    def hold(cls, path: Path, clock: Clock) -> Self:
        """Take the file's lock; where its folder cannot be used, that is for who opens the file to say.

        Raises:
            StorageError: another process has been checking the file for too long.
        """
        file = cls(path, clock)
        try:
            make_folders(path)
            file._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return file
        _held.add(file._lock)
        try:
            file._alone = _flock(file._lock, fcntl.LOCK_EX)
            if not file._alone:
                file._share()
        except BaseException:
            file.close()
            raise
        return file

    def _share(self) -> None:
        assert self._lock is not None  # noqa: S101 - only who has the lock file open comes here
        give_up = monotonic() + _WAIT_S_MAX
        while not _flock(self._lock, fcntl.LOCK_SH):
            if monotonic() >= give_up:
                raise StorageError(
                    f"{self._path} has been checked or restored by another process for {_WAIT_S_MAX:.0f} s; nothing was"
                    " opened; wait for that process, or end it, and start again"
                )
            time.sleep(_LOOK_S)

    def mend(self) -> Loss | None:
        """Check the file, before it is opened; put the newest good backup, or nothing, in the place of a damaged one.

        Gives what was lost, also by an earlier mending that nobody has `settled` yet.

        Raises:
            StorageError: it is damaged, and another process has it open; or what is needed cannot be written.
        """
        if self._lock is None:
            return None
        if not self._alone:
            if wrong := _wrong_with(self._path, fully=False):
                raise StorageError(
                    f"{self._path} is damaged ({wrong}), and another process has it open; nothing was changed; end that"
                    " process, and start again: the newest good backup is restored"
                )
            return None
        note = self._note()
        earlier = _loss_of(self._path, note)
        wrong = _wrong_with(self._path, fully=bool(note) or self._needs_full_check())
        if not wrong:
            return earlier
        try:
            return self._replace(earlier.what if earlier and not self._path.exists() else wrong)
        except OSError as error:
            raise StorageError(
                f"{self._path} is damaged ({wrong}) and cannot be replaced ({error}); it was left as it is; make room"
                " and its folder writable, and start again"
            ) from error

    def settled(self) -> None:
        """What `mend` gave is written down elsewhere; from now on others may open the file too.

        Raises:
            StorageError: the lock file cannot be written, or another process is checking the file for too long.
        """
        if self._alone and self._lock is not None:
            try:
                self._write_note("")
            except OSError as error:
                raise StorageError(f"{self._path}.lock cannot be written ({error}); make it writable") from error
            self._alone = False
            self._share()

    def suspect(self) -> None:
        """Damage was met: the next start checks the whole file."""
        if self._lock is not None and not self._note():
            with suppress(OSError):
                self._write_note(_SUSPECT)

    def back_up(self, *, ending: bool = False) -> bool:
        """Take a backup, if one is due; True if one was taken. To be called now and then, and at the `ending`.

        Raises:
            StorageError: it could not be made; the older ones stay.
        """
        if self._lock is None or not _is_due(self._path, self._clock.now_ns(), ending=ending):
            return False
        try:
            return back_up(self._path, self._clock.now_ns())
        except _DamageFound:
            self.suspect()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            _held.discard(lock)
            os.close(lock)

    def _needs_full_check(self) -> bool:
        real = self._path.resolve()
        return (
            _size(real) <= _SMALL_BYTES
            or _size(_log_of(real)) > 0
            or _is_due(self._path, self._clock.now_ns(), ending=False)
        )

    def _replace(self, what: str) -> Loss:
        """In this order, so that a crash at any point leaves a file that is found to be damaged, or a note."""
        real = self._path.resolve()
        fresh = real.with_name(f"{real.name}.new")
        backup = _copy_newest_good(self._path, fresh)
        aside = _free_name(real, f"corrupt.{format_ns(self._clock.now_ns())}")
        when = "" if backup is None else backup.time
        loss = Loss(self._path.name, what, aside.name, when)
        self._write_note(json.dumps(asdict(loss)))
        for end in ("-wal", "-shm", ""):  # a log beside a file that it does not belong to would be played into it
            with suppress(FileNotFoundError):
                Path(f"{real}{end}").rename(f"{aside}{end}")
        fresh.replace(real)
        _sync(real.parent)
        return loss

    def _note(self) -> str:
        assert self._lock is not None  # noqa: S101 - only who has the lock file open comes here
        return os.pread(self._lock, 1 << 16, 0).decode(errors="replace")

    def _write_note(self, text: str) -> None:
        assert self._lock is not None  # noqa: S101 - only who has the lock file open comes here
        if text or self._note():
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, text.encode(), 0)
            os.fsync(self._lock)


def _loss_of(path: Path, note: str) -> Loss | None:
    """What an earlier process did to the file; None where it did nothing. A note that is cut off says at least that."""
    if note in {"", _SUSPECT}:
        return None
    try:
        return Loss(**json.loads(note))
    except (ValueError, TypeError):
        return Loss(path.name, "what was done to it was not written down to its end", "", "")


# Checking.


def _wrong_with(path: Path, *, fully: bool) -> str:
    """What is wrong with the file, in SQLite's words; "" where nothing is found.

    Only through a connection that cannot write: a damaged file and its log stay as they were found. What cannot be
    checked (a file that is locked, or not readable) is for who opens it to say.
    """
    real = path.resolve()
    if _size(real) == 0:  # SQLite would take it for a new database, and throw its log away
        lost = _size(_log_of(real)) > 0 or bool(_backups_of(path))
        return ("it is empty" if real.exists() else "it is missing") if lost else ""
    try:
        return _first_fault(f"{real.as_uri()}?mode=ro", 0 if _size(_log_of(real)) else _size(real), fully=fully)
    except sqlite3.Error as error:
        return str(error) if sqlite_code(error) in _DAMAGED else ""


def _first_fault(uri: str, size: int, *, fully: bool) -> str:
    """`size`: that of a file whose pages are all written; 0 where some may be in the log."""
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if size % connection.execute("PRAGMA page_size").fetchone()[0]:
            return "its last page was cut off"
        if not fully:
            return ""
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        return "" if found == "ok" else " ".join(found.split())


# Backups.


class _DamageFound(StorageError):
    """What was copied is damaged."""


@dataclass(frozen=True, slots=True)
class _Backup:
    path: Path
    number: int
    time: str  # as in agents.clock.format_ns
    kept: bool  # made before a migration, and never removed


def back_up(path: Path, now_ns: int, *, label: str = "") -> bool:
    """Copy the database as it is at one moment, while others use it; check the copy, and keep it.

    With a `label` it is kept for good, under a name that ends in it. False: another process is making one.

    Raises:
        StorageError: it could not be made, or is damaged; the older ones stay, and nothing else was changed.
    """
    folder = _folder_of(path)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder / "lock", wait=bool(label)) as locked:
            if locked:
                _make(path, folder, now_ns, label)
            return locked
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"{path} could not be backed up ({error}); its older backups stay; make room and {folder} writable"
        ) from error


def _make(path: Path, folder: Path, now_ns: int, label: str) -> None:
    old = _backups_of(path)
    number = old[0].number + 1 if old else 1
    new = folder / f"{path.name}.new"
    try:
        changed_ns = _copy(path, new)
        _sync(new)
        os.utime(new, ns=(changed_ns, changed_ns))
        new.replace(folder / ".".join(filter(None, (path.name, f"{number:06d}", format_ns(now_ns), label))))
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync(folder)
    for each in [backup for backup in old if not backup.kept][_KEPT - 1 :]:
        each.path.unlink(missing_ok=True)


def _copy(path: Path, new: Path) -> int:
    """Copy one moment of the database, and check the copy; gives the time of the newest change that is surely in it."""
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(new)) as copy:
        source.execute("PRAGMA wal_checkpoint(PASSIVE)")  # or doing so later would look like a change
        changed_ns = _changed_ns(path)
        copy.execute("PRAGMA journal_mode=OFF")
        copy.execute("PRAGMA synchronous=OFF")
        source.backup(copy)
    if wrong := _first_fault_of_copy(new):
        raise _DamageFound(f"{path} is damaged ({wrong}); it was not backed up; start again: it is checked then")
    return changed_ns


def _first_fault_of_copy(copy: Path) -> str:
    try:
        return _first_fault(f"{copy.absolute().as_uri()}?immutable=1", _size(copy), fully=True)
    except sqlite3.DatabaseError as error:
        return str(error)


def _copy_newest_good(path: Path, fresh: Path) -> _Backup | None:
    """Put the newest backup that is whole at `fresh`; where there is none, an empty file.

    Raises:
        OSError: a good one cannot be copied: an older one, or none, would lose what need not be lost.
    """
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    good = (each for each in _backups_of(path) if _size(each.path) and not _first_fault_of_copy(each.path))
    backup = next(good, None)
    if backup is not None:
        shutil.copyfile(backup.path, fresh)
    _sync(fresh)
    return backup


def _is_due(path: Path, now_ns: int, *, ending: bool) -> bool:
    if _size(path) == 0:
        return False
    newest = next(iter(_backups_of(path)), None)
    if newest is None:
        return True
    if _mtime_ns(newest.path) == _changed_ns(path):
        return False
    recent = format_ns(now_ns - _EVERY_NS) < newest.time <= format_ns(now_ns)
    return not recent or (ending and _size(path) <= _SMALL_BYTES)


def _backups_of(path: Path) -> list[_Backup]:
    """The newest first."""
    name = re.compile(re.escape(path.name) + r"\.(\d{6,})\.(\d{8}T\d{6}Z)(\..+)?")
    try:
        found = [(name.fullmatch(each.name), each) for each in _folder_of(path).iterdir()]
    except OSError:
        return []
    made = [_Backup(each, int(match[1]), match[2], bool(match[3])) for match, each in found if match]
    return sorted(made, key=lambda backup: backup.number, reverse=True)


def _folder_of(path: Path) -> Path:
    return path.parent / "backups"


# Files.


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _log_of(real: Path) -> Path:
    return Path(f"{real}-wal")


def _changed_ns(path: Path) -> int:
    """When the database was last changed. An empty log is only the sign of an open connection."""
    log = _log_of(path.resolve())
    return max(_mtime_ns(path), _mtime_ns(log) if _size(log) else 0)


def _free_name(path: Path, end: str) -> Path:
    """`PATH.END`, or with a number behind it where that is taken."""
    name, number = f"{path.name}.{end}", 1
    while any(Path(f"{path.with_name(name)}{each}").exists() for each in ("", "-wal")):
        number += 1
        name = f"{path.name}.{end}-{number}"
    return path.with_name(name)


def _sync(path: Path) -> None:
    """Make what is in a file, or the names in a folder, durable."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _flock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if wait:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield wait or _flock(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child shares its parent's locks, and would keep a damaged file from being replaced after its death."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
