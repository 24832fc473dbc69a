"""A PostgreSQL server of the tests' own: on a Unix socket, in a folder that nobody else has, and gone when they end.

Postgres refuses to run as root: then it is run as the user `postgres`. A shell holds it, and reads from a pipe that
ends when the tests do, however they end: it stops the server and removes the folder.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Server", "missing", "until"]

_WAIT_S_MAX = 30.0
_STEP_S = 0.005

_HOLD = """
"$@" & server=$!
read -r word
[ "$word" = keep ] && kill -INT $server 2>/dev/null || kill -QUIT $server 2>/dev/null
wait $server
[ "$word" = keep ] || { cd / && rm -rf "$HOLDFAST_SERVER"; }
"""
"""The shell's program. Its arguments: the server's command."""


def _binaries() -> Path | None:
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")  # Debian keeps them out of PATH, by version
    newest = max(installed, key=lambda path: int(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


def _user() -> str | None:
    """Who runs the server, None for whoever runs the tests. Raises KeyError where root has nobody to run it."""
    return None if os.getuid() else pwd.getpwnam("postgres").pw_name


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if _binaries() is None:
        return "there is no PostgreSQL server here; install Debian's package postgresql"
    try:
        _user()
    except KeyError:
        return "root cannot run a PostgreSQL server, and there is no user postgres to run it"
    return None


def _memory() -> str | None:
    """A folder in memory with room for what some hundred tests leave behind, or None."""
    shared = Path("/dev/shm")  # noqa: S108 - the folder in it is made by mkdtemp
    if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1_000_000_000:
        return str(shared)
    return None


class Server:
    """One server with an empty database `postgres`; `kill` and `start` it as often as you like, and `stop` it once.

    `durable`: it asks the system to write down what it acknowledges, as usual; without, it is faster. Its folder is in
    memory where that has room: a killed process loses nothing there, and the cut of power is not played.
    """

    def __init__(self, *, durable: bool = True) -> None:
        if reason := missing():
            pytest.skip(reason)
        binaries = _binaries()
        assert binaries is not None
        self._binaries = binaries
        self._user = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=_memory()))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._settings = [] if durable else ["-c", "fsync=off"]
        self._shell: subprocess.Popen[bytes] | None = None
        self._schemas, self._users = count(1), count(1)
        make = ["initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([self._binaries / make[0], *make[1:]], check=True, capture_output=True, **self._as())
        access = self._data / "pg_hba.conf"
        access.write_text(f"local all +locked scram-sha-256\n{access.read_text()}")
        self.start()
        self.run("CREATE ROLE locked")

    def _as(self) -> dict[str, Any]:
        who = {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}
        return who | {"cwd": self._folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}}

    def start(self, *, wait: bool = True) -> None:
        """Start it, with recovery where it was killed; `wait` until it answers."""
        command = [self._binaries / "postgres", "-D", self._data, "-k", self._folder, "-c", "listen_addresses="]
        started = self._as()
        started["env"]["HOLDFAST_SERVER"] = str(self._folder)
        with (self._folder / "log").open("ab") as log:
            self._shell = subprocess.Popen(
                ["sh", "-c", _HOLD, "sh", *command, "-c", "shared_buffers=16MB", *self._settings],
                stdin=subprocess.PIPE,
                start_new_session=True,  # what ends the tests from the keyboard goes not to the server too
                stdout=log,
                stderr=log,
                **started,
            )
        if wait:
            until(self._answers, "the server to answer")

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to all of its processes, as if the machine had lost its power."""
        os.kill(self.pid, signal.SIGSTOP)  # or it would start new ones meanwhile
        for process in {*self._processes(), self.pid}:
            os.kill(process, signal.SIGKILL)
        self._end(b"keep\n")
        until(lambda: not self._processes(), "the server to die")  # one that lives on keeps the next from starting

    def _processes(self) -> list[int]:
        """All of its processes; none where the system does not say where a process is at home."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").readlink() == self._data:
                    found.append(int(process.name))
        return found

    def restart(self) -> None:
        """Stop it as an operator does, which cuts every connection, and start it again."""
        self._end(b"keep\n")
        self.start()

    def stop(self) -> None:
        """Stop it for good, and remove all that it had."""
        self._end(b"")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, word: bytes) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.communicate(word, timeout=_WAIT_S_MAX)

    @property
    def pid(self) -> int:
        """The process that a signal to the server goes to."""
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    def url(self, *, user: str = "postgres", password: str = "", database: str = "postgres", schema: str = "") -> str:
        """Its address; with `schema`, what is made there is made in that schema."""
        secret = f":{password}" if password else ""
        path = f"&options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://{user}{secret}@/{database}?host={self._folder}{path}"

    def fresh(self) -> str:
        """The address of a new, empty schema."""
        schema = f"test_{next(self._schemas)}"
        self.run(f"CREATE SCHEMA {schema}")
        return self.url(schema=schema)

    def locked(self, password: str, rights: str = "") -> str:
        """The name of a new user who needs this password, and whom no other test knows."""
        user = f"locked_{next(self._users)}"
        self.run(f"CREATE ROLE {user} LOGIN {rights} PASSWORD '{password}' IN ROLE locked")
        return user

    def drop(self, url: str) -> None:
        """Remove the schema of `fresh`: what hundreds of tests leave behind is a lot, and is kept in memory."""
        import psycopg

        with suppress(psycopg.errors.LockNotAvailable):  # somebody is still at it: it goes with the server
            self.run(f"SET lock_timeout = '100ms'; DROP SCHEMA {url.rpartition('%3D')[2]} CASCADE")

    def run(self, statement: Any, *, schema: str = "public") -> list[Any]:
        """Run one statement as the superuser, and give its rows."""
        import psycopg

        where = {"host": str(self._folder), "user": "postgres", "options": f"-csearch_path={schema}"}
        with psycopg.connect(**where, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for what another process does; raises TimeoutError."""
    give_up = time.monotonic() + _WAIT_S_MAX
    while not done():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {_WAIT_S_MAX:.0f} s for {what}")
        time.sleep(_STEP_S)
