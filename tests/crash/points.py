"""Where a process can die: named points, passed before and after whatever is kept, or at every line of our modules.

    points = Points(die_at=At("insert orders"))
    watch_storage(points, home)                      # in a child that was forked to be killed

A name says what is done, and to what: `insert saved_writes`, `commit holdfast.db`, `broker.send`, `rename
runs/RUN/report.md.new`; once it is done, the same name is passed with ` done` behind it. A line is
`graph/desk.py:98`. `insert orders#2` is the second time: unlike a running number that is the same place whatever other
threads do meanwhile.
"""

import os
import re
import signal
import sqlite3
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial, wraps
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import psycopg

from checkpoints.runs import CheckpointManager
from checkpoints.saver import SqlSaver
from graph.nodes import TradeNodes
from graph.paper import PaperBroker

__all__ = ["At", "Points", "watch_lines", "watch_storage", "watch_tasks"]


@dataclass(frozen=True, slots=True)
class At:
    """The `time`-th passing (from 1) of the point `name`."""

    name: str
    time: int = 1

    def __str__(self) -> str:
        return f"{self.name}#{self.time}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `str`; the first time where none is said."""
        name, mark, time = text.rpartition("#")
        return cls(name, int(time)) if mark else cls(text)


@dataclass(slots=True)
class Points:
    """What a process passes, and where it dies. `tell` is heard by whoever survives it; `keep` what is passed, or not.

    Any thread may pass a point, also inside a finalizer, which interrupts the thread anywhere: so there is no lock.
    """

    die_at: At | None = None
    tell: Callable[[str, Any], None] = lambda *_: None
    keep: bool = False
    passed: list[At] = field(default_factory=list)
    _times: "dict[str, count[int]]" = field(default_factory=lambda: defaultdict(lambda: count(1)))

    def at(self, name: str) -> None:
        """Pass a point, or die there."""
        time = next(self._times[name])
        if self.keep:
            self.passed.append(At(name, time))
        if self.die_at is not None and time == self.die_at.time and name == self.die_at.name:
            self.tell("killed", str(self.die_at))
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Pass a point before, and unless it fails one after."""
        self.at(name)
        yield
        self.at(f"{name} done")


# What is kept: in databases and files, in the broker's books, in claims of runs. There is no way back from watching it:
# the process is one that ends soon.


def watch_storage(points: Points, home: Path) -> None:
    """From now on pass a point around whatever this process does to what it keeps."""
    _watch_sqlite(points)
    _watch_postgres(points)
    _watch_files(points, home)
    for name in ("send", "find"):
        _wrap(PaperBroker, name, lambda call: _awaited(call, points))
    for name in ("begin", "claim", "fork"):
        _wrap(CheckpointManager, name, lambda call: _held(call, points))


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    call = getattr(owner, name)
    setattr(owner, name, wraps(call)(wrapper(call)))


def _awaited(call: Any, points: Points) -> Any:
    async def passing(*given: Any, **more: Any) -> Any:
        with points.around(f"broker.{call.__name__}"):
            return await call(*given, **more)

    return passing


def _held(call: Any, points: Points) -> Any:
    """Around the taking of a run, and around its giving back."""

    @asynccontextmanager
    async def passing(*given: Any, **more: Any) -> AsyncIterator[Any]:
        points.at(call.__name__)
        async with call(*given, **more) as hold:
            points.at(f"{call.__name__} done")
            try:
                yield hold
            finally:
                points.at("release")
        points.at("release done")

    return passing


def _watch_sqlite(points: Points) -> None:
    """Every statement of every connection, SQLAlchemy's or not."""

    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *given: Any) -> Any:
            with points.around(_named(sql, self.connection.name)):
                return super().execute(sql, *given)

        def executemany(self, sql: str, *given: Any) -> Any:
            with points.around(_named(sql, self.connection.name)):
                return super().executemany(sql, *given)

    class Connection(sqlite3.Connection):
        def __init__(self, database: Any, *given: Any, **more: Any) -> None:
            self.name = _place(Path(str(database).partition("?")[0]).name)
            with points.around(f"connect {self.name}"):
                super().__init__(database, *given, **more)

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, sql: str, *given: Any) -> Any:
            return self.cursor().execute(sql, *given)

        def commit(self) -> None:
            with points.around(f"commit {self.name}"):
                super().commit()

        def rollback(self) -> None:
            with points.around(f"rollback {self.name}"):
                super().rollback()

        def backup(self, target: Any, **more: Any) -> None:
            with points.around(f"backup {self.name}"):
                super().backup(target, **more)

    sqlite3.connect = sqlite3.dbapi2.connect = partial(sqlite3.connect, factory=Connection)  # type: ignore[attr-defined]


def _watch_postgres(points: Points) -> None:
    def passing(call: Any) -> Any:
        def execute(self: Any, query: Any, *given: Any, **more: Any) -> Any:
            with points.around(_named(str(query), "postgres")):
                return call(self, query, *given, **more)

        return execute

    def ending(call: Any) -> Any:
        def end(self: Any) -> None:
            with points.around(f"{call.__name__} postgres"):
                call(self)

        return end

    for name in ("execute", "executemany"):
        _wrap(psycopg.Cursor, name, passing)
    for name in ("commit", "rollback"):
        _wrap(psycopg.Connection, name, ending)


_VERB = re.compile(r"\w+")
_TABLE = re.compile(
    r"\b(?:(?:INTO|FROM|UPDATE|TABLE|INDEX|JOIN) +(?:IF NOT EXISTS +)?|PRAGMA +(?:main\.|temp\.)?)[\"']?(\w+)",
    re.IGNORECASE,
)


@cache
def _named(sql: str, database: str) -> str:
    """`insert orders`; what is about no table is about its database: `begin holdfast.db`.

    Which works share a batch is another matter each time, and so are the savepoints between them.
    """
    word = _VERB.search(sql)
    verb = word[0].lower() if word else "nothing"
    table = _TABLE.search(sql)
    return verb if verb in {"savepoint", "release"} else f"{verb} {table[1] if table else database}"


_FILES = {"open": "write", "os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "remove"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _watch_files(points: Points, home: Path) -> None:
    """Pass a point before what the process does to a file of the home, or to a lock: the interpreter tells of it."""
    root = f"{home}/"

    def hook(what: str, given: tuple[Any, ...]) -> None:
        if what == "fcntl.flock":
            points.at("flock")
        elif what in _FILES and str(given[0]).startswith(root) and (what != "open" or (given[2] or 0) & _WRITING):
            points.at(f"{_FILES[what]} {_place(str(given[0])[len(root) :])}")

    sys.addaudithook(hook)


_VARYING = ((r"^runs/[^/]+", "runs/RUN"), (r"^owners/.+", "owners/OWNER"), (r"\.\d{6}\.\d{8}T\d{6}Z", ".BACKUP"))


def _place(path: str) -> str:
    """A path in the home, without what is another one for each run, process and time."""
    for what, name in _VARYING:
        path = re.sub(what, name, path)
    return path


# Every line.

_ROOT = f"{Path(__file__).parents[2]}/"


def watch_lines(points: Points, _home: Path) -> None:
    """Pass a point before each line of our own modules, in this thread and in all that are started from now on."""

    def line(frame: FrameType, what: str, _: Any) -> Any:
        if what == "line":
            points.at(f"{_module(frame.f_code)}:{frame.f_lineno}")
        return line

    def call(frame: FrameType, _what: str, _: Any) -> Any:
        return line if _module(frame.f_code) else None

    threading.settrace(call)
    sys.settrace(call)


@cache
def _module(code: CodeType) -> str:
    """Its path, where it is one of ours."""
    path = code.co_filename.removeprefix(_ROOT)
    return path if path.startswith(("agents/", "checkpoints/", "graph/")) else ""


# What was begun, and what was acknowledged as saved.

_NODES = ("research", "analyst", "synthesis", "strategy", "quality_gate", "execution")
_TO_BE_BEGUN_AGAIN = {"__error__", "__interrupt__"}


def watch_tasks(tell: Callable[[str, Any], None]) -> None:
    """Tell of each node that is begun, and of each checkpoint and each result that is durable.

    Of a task its id by LangGraph is told, which is the same whenever it is begun from the same checkpoint, and that
    checkpoint.
    """

    def begun(call: Any) -> Any:
        async def telling(self: TradeNodes, state: Any, config: Any) -> Any:
            where = config["configurable"]
            task = where["checkpoint_ns"].rpartition(":")[2]
            name = state.get("analyst") or call.__name__
            tell("began", [name, task, where["checkpoint_map"][""], where["thread_id"]])
            return await call(self, state, config)

        return telling

    def put(call: Any) -> Any:
        async def telling(self: SqlSaver, config: Any, checkpoint: Any, *given: Any) -> Any:
            saved = await call(self, config, checkpoint, *given)
            tell("put", checkpoint["id"])
            return saved

        return telling

    def put_writes(call: Any) -> Any:
        async def telling(self: SqlSaver, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            await call(self, config, writes, task_id, task_path)
            if not {channel for channel, _ in writes} & _TO_BE_BEGUN_AGAIN:
                tell("done", task_id)

        return telling

    for name in _NODES:
        _wrap(TradeNodes, name, begun)
    _wrap(SqlSaver, "aput", put)
    _wrap(SqlSaver, "aput_writes", put_writes)
