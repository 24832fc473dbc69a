"""The emergency brake that needs no database: while there is a file `HALT` in the home folder, no order goes.

Anybody who may write in the folder can put it there, by whatever means: `touch HALT`, an editor, a script. What stands
in it is the reason. Nothing heavy is imported here, so that the command that halts is as quick as that.
"""

import json
import os
import pwd
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.domain import KillSwitchReason
from agents.errors import StorageError

__all__ = ["Halt", "HaltFile", "home_folder", "user_name"]

_NAME = "HALT"
_READ_MAX = 65_536
_WHY_MAX = 2_000
"""What is longer is cut, so that what Holdfast wrote can be read in one go."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Why the file is there. `code`, `who` and `why` as in a trading state; `since_ns` when it was written.

    `ours`: Holdfast wrote it, and takes it away again once the database has what it says; another's file stays until
    an operator releases trading. `identity` tells the file from another that may come in its place.
    """

    code: str
    who: str
    why: str
    since_ns: int
    ours: bool = True
    identity: tuple[int, ...] = field(default=(), compare=False)


class HaltFile:
    """The file `HALT` of one home folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _NAME

    def read(self) -> Halt | None:
        """What the file says; None where there is none. Where it cannot be told whether there is one, there is one."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return _made_by_hand("", f"{self.path} cannot be looked for ({error.strerror})", 0, ())
        identity = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        text = self._text()
        said = _own_words(text)
        if said is not None:
            return Halt(**said, identity=identity)
        return _made_by_hand(user_name(found.st_uid), text, found.st_mtime_ns, identity)

    def _text(self) -> str:
        """On one line; a folder of this name, or a file that nobody may read, is a reason enough."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us up
            with os.fdopen(handle, "rb") as file:
                text = " ".join(file.read(_READ_MAX).decode(errors="replace").split())
        except OSError as error:
            return f"{self.path} is there, and cannot be read ({error.strerror})"
        return text or f"{self.path} is there"

    def write(self, halt: Halt) -> None:
        """Put the file there; one that is there already stays as it is.

        Raises:
            StorageError: there is none afterwards.
        """
        if os.path.lexists(self.path):
            return
        said = {"code": halt.code, "who": halt.who, "why": halt.why[:_WHY_MAX], "since_ns": halt.since_ns}
        draft = self.path.with_name(f"{_NAME}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(draft, json.dumps(said) + "\n")
            draft.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            self._write_empty(error)

    def _write_empty(self, reason: OSError) -> None:
        """A disk without room for the reason may still have some for the file."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError:
            raise StorageError(
                f"{self.path} cannot be written ({reason.strerror}); trading is not halted by it; mend the rights of"
                " its folder, or give --home"
            ) from reason

    def remove(self, seen: Halt) -> None:
        """Take away the file that was seen; one that has come since stays.

        Raises:
            StorageError: it cannot be removed, and halts trading still.
        """
        now = self.read()
        if now is None or now.identity != seen.identity:
            return
        try:
            self.path.unlink()
            _sync(self.path.parent)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be removed ({error.strerror}); trading stays halted by it; remove it by hand"
            ) from error


def home_folder(home: Path | None, config: Path | None) -> Path:
    """The home folder as the settings have it (flag, environment, settings file, default), but never refused."""
    given = home or os.environ.get("HOLDFAST_HOME")
    usual = Path("~/.holdfast")
    if not given:
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError, RuntimeError):
            file = config or usual.expanduser() / "holdfast.toml"
            given = Path(tomllib.loads(file.read_text(encoding="utf-8"))["home"])
    folder = Path(given or usual)
    with suppress(RuntimeError):  # somebody without a home of their own
        folder = folder.expanduser()
    return folder


_CODE_MAX = 32
_OWN = {"code": str, "who": str, "why": str, "since_ns": int}


def _own_words(text: str) -> dict[str, Any] | None:
    """What Holdfast wrote; None for any other text."""
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
        if isinstance(said, dict) and {name: type(value) for name, value in said.items()} == _OWN:
            return said if len(said["code"]) <= _CODE_MAX and 0 <= said["since_ns"] < 2**63 else None
    return None


def _made_by_hand(who: str, why: str, since_ns: int, identity: tuple[int, ...]) -> Halt:
    return Halt(KillSwitchReason.FILE, who, why, since_ns, ours=False, identity=identity)


def user_name(user: int) -> str:
    """What the system calls a user: not what their environment says, which is theirs to set."""
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
