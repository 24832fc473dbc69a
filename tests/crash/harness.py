"""Kill a process at a point, let others go on where it was, and compare what came of it with an undisturbed home.

A fork server: this process imports everything once, warms up, and is frozen. Every life of a home is a child forked
from it, which ends by SIGKILL or by itself. Threads do not survive a fork, so there are none here; a child starts all
that the command line has.

    warm_up([VARIANTS["trade"]])
    with Stage(VARIANTS["trade"]) as stage:
        cycle = stage.play(At("insert orders"), At("commit holdfast.db", 3))     # killed, and killed again
    assert not cycle.broken, cycle.replay
"""

import asyncio
import faulthandler
import gc
import json
import os
import shlex
import shutil
import signal
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

from graph.resilience import Guard
from graph.resilience.virtual import VirtualClock
from tests.crash.points import At, Points, watch_lines, watch_storage, watch_tasks

__all__ = ["Cycle", "Databases", "Home", "Stage", "Variant", "warm_up"]

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - SIGKILL has no need of a disk
_HANGS_S = 60.0


@dataclass(frozen=True, slots=True)
class Home:
    """Where a user's runs are.

    `database`: the URL of the main database, "" for a file in the folder; `inline` keeps the databases off threads.
    """

    folder: Path
    database: str = ""
    inline: bool = False


class Variant(Protocol):
    """What a user does, in lives of their own, and what is looked at when all is done.

    `before` sets the home up; nobody is killed in it. `begin` is what the user wants; `recover` goes on where whoever
    was before has died or stopped, and returns what the user sees in the end, as JSON. `books` are read from the
    databases, past the product. `wrong` says what of both is not as it must be, beside what an undisturbed home has.
    """

    @property
    def name(self) -> str: ...

    async def before(self, home: Home) -> None: ...

    async def begin(self, home: Home) -> None: ...

    async def recover(self, home: Home) -> Mapping[str, Any]: ...

    def books(self, home: Home) -> Mapping[str, Any]: ...

    def wrong(self, found: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> list[str]: ...


class Databases(Protocol):
    """Main databases that are not files: `make` gives the URL of an empty one."""

    def make(self) -> str: ...

    def drop(self, url: str) -> None: ...


@dataclass(slots=True)
class Cycle:
    """One home from its beginning to its end.

    `wanted`: where each life was to be killed, None for nowhere; `killed`: where it was; `broken`: what must not be.
    """

    variant: str
    wanted: tuple[At | None, ...]
    options: str = ""
    killed: list[At] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def replay(self) -> str:
        """The command that does it again."""
        places = "".join(f" --at {shlex.quote(str(at or 'nowhere'))}" for at in self.wanted)
        return f"python -m tests.crash --variant {self.variant}{self.options}{places}"


@dataclass(slots=True)
class _Play:
    """A cycle on its way. `told`: by each life, (kind, what) in the order of the telling; `saved`: before the first."""

    cycle: Cycle
    home: Home
    saved: frozenset[str] = frozenset()
    told: list[list[Any]] = field(default_factory=list)

    def last(self, kind: str) -> Any:
        return next((what for each, what in reversed(self.told[-1]) if each == kind), None)


class Stage:
    """A variant, set up to be played again and again. A context manager: what it made is removed in the end.

    `points`: those that an undisturbed home passes, life by life. `lines`: they are the lines of our modules, instead
    of what is kept. `databases`: where the main database is not a file.
    """

    def __init__(self, variant: Variant, *, lines: bool = False, databases: Databases | None = None) -> None:
        self.variant = variant
        self.points: tuple[list[At], ...] = ()
        self._options = (" --points lines" if lines else "") + (" --database postgres" if databases else "")
        self.lines = lines
        self._databases = databases
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-crash-", dir=_MEMORY))
        self._made = 0
        self._saved: frozenset[str] = frozenset()
        self._undisturbed: Mapping[str, Any] = {}
        self._done: Counter[str] = Counter()

    def __enter__(self) -> Self:
        try:
            if not self._databases:
                self._saved = self._set_up(Home(self._folder / "before"))
            self._play_undisturbed()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self._folder)

    def _play_undisturbed(self) -> None:
        play = self._new_play(())
        for work in (self.variant.begin, self.variant.recover):
            self._live([play], work, keep=True)
        if not play.cycle.broken:
            self._done = _done(play)
            self._undisturbed = self._found(play)
            self.points = tuple([At(*at) for at in told[-1][1]] for told in play.told)
        if broken := self._close(play).broken:
            raise RuntimeError(f"nobody was killed, and {self.variant.name} is broken: {'; '.join(broken)}")

    def play(self, *kills: At | None) -> Cycle:
        """One home: `begin` is killed at the first point, each `recover` at the next, and a last one is left alone."""
        return self.play_all([kills])[0]

    def play_all(self, wanted: Sequence[Sequence[At | None]]) -> list[Cycle]:
        """Several homes. The last to recover them all is one child: most of a child's time goes into its first touch
        of the memory that it shares with this process.
        """  # noqa: D205 (one sentence)
        plays = [self._new_play(kills) for kills in wanted]
        for play in plays:
            for die_at in play.cycle.wanted:
                self._live([play], self.variant.recover if play.told else self.variant.begin, die_at)
        self._live([play for play in plays if not play.cycle.broken], self.variant.recover)
        return [self._close(play) for play in plays]

    def _close(self, play: _Play) -> Cycle:
        """Judge what became of the home, and remove it."""
        if not play.cycle.broken:
            again = _done(play) - self._done
            play.cycle.broken = [
                *(f"{name} was done and saved, and was done again" for name in again),
                *_unsaved(play),
                *self.variant.wrong(self._found(play), self._undisturbed),
            ]
        shutil.rmtree(play.home.folder)
        if self._databases:
            self._databases.drop(play.home.database)
        return play.cycle

    def _found(self, play: _Play) -> Mapping[str, Any]:
        return {**play.last("returned"), **self.variant.books(play.home)}

    def _new_play(self, kills: Sequence[At | None]) -> _Play:
        self._made += 1
        home = Home(self._folder / f"{os.getpid()}-{self._made}", self._databases.make() if self._databases else "")
        saved = self._saved
        if self._databases:
            saved = self._set_up(home)
        else:
            shutil.copytree(self._folder / "before", home.folder)
        return _Play(Cycle(self.variant.name, tuple(kills), self._options), home, saved)

    def _set_up(self, home: Home) -> frozenset[str]:
        """Make the home as it is before; gives the checkpoints that it has then."""
        home.folder.mkdir()
        play = _Play(Cycle(self.variant.name, ()), home)
        self._live([play], self.variant.before)
        if play.cycle.broken:
            raise RuntimeError(f"{self.variant.name} could not be set up: {play.cycle.broken[0]}")
        return frozenset(what for kind, what in play.told[0] if kind == "put")

    def _live(
        self,
        plays: Sequence[_Play],
        work: Callable[[Home], Coroutine[Any, Any, Any]],
        die_at: At | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Fork a child that does the work in these homes, one after another, and write down what became of each."""
        trace = self._folder / f"{os.getpid()}-trace"
        child = os.fork()
        if not child:
            self._be_child([play.home for play in plays], work, trace, Points(die_at, keep=keep))
        status = os.waitpid(child, 0)[1]
        lines = [json.loads(line) for line in trace.read_text().splitlines()]
        trace.unlink()
        for index, play in enumerate(plays):
            play.told.append([line[1:] for line in lines if line[0] == index])
            kinds = {kind for kind, _ in play.told[-1]}
            if "killed" in kinds and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                play.cycle.killed.append(At.parse(play.last("killed")))
            elif "returned" not in kinds:
                play.cycle.broken.append(play.last("raised") or f"a child ended in silence, with wait status {status}")

    def _be_child(
        self,
        homes: Sequence[Home],
        work: Callable[[Home], Coroutine[Any, Any, Any]],
        trace: Path,
        points: Points,
    ) -> None:
        """All that a child does. What it tells is in the file at once, so that it survives the teller."""
        file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        index = 0

        def tell(kind: str, what: Any) -> None:
            os.write(file, json.dumps([index, kind, what]).encode() + b"\n")

        try:
            watch_tasks(tell)
            points.tell = tell
            if points.die_at or points.keep:
                (watch_lines if self.lines else watch_storage)(points, homes[0].folder)
            for index, home in enumerate(homes):  # noqa: B007 - it is told with whatever is told
                faulthandler.dump_traceback_later(_HANGS_S, exit=True)
                try:
                    with Guard.testing():
                        tell("returned", asyncio.run(work(home)))
                except Exception:  # noqa: BLE001 - whatever it is, the parent has to know
                    tell("raised", traceback.format_exc())
            if points.keep:
                tell("passed", [(at.name, at.time) for at in points.passed])
        finally:
            os._exit(0)


def _done(play: _Play) -> "Counter[str]":
    """How often a node, or an analyst, was told that what it had done was saved."""
    names = {what[1]: what[0] for told in play.told for kind, what in told if kind == "began"}
    return Counter(names[what] for told in play.told for kind, what in told if kind == "done" and what in names)


def _unsaved(play: _Play) -> list[str]:
    """What a node is given is on disk before it begins.

    But for a run's first step in a life: nobody may have been left to tell that its checkpoint was saved; and LangGraph
    copies the checkpoint that a rewind goes back to, and saves the copy beside that step.
    """
    saved = set(play.saved)
    broken = []
    for told in play.told:
        firsts: dict[str, str] = {}  # run -> checkpoint
        for kind, what in told:
            if kind == "put":
                saved.add(what)
            elif kind == "began":
                name, _, checkpoint, run_id = what
                if checkpoint not in {*saved, firsts.setdefault(run_id, checkpoint)}:
                    broken.append(f"{name} was begun before the checkpoint that it was given was saved")
    return broken


def warm_up(variants: Sequence[Variant]) -> None:
    """Do once, without a thread, what every life does, and let no collection touch what came of it."""
    _share_compiled_statements()
    for variant in variants:
        with tempfile.TemporaryDirectory(dir=_MEMORY) as folder, VirtualClock(0) as clock, Guard.testing():
            home = Home(Path(folder), inline=True)
            for work in (variant.before, variant.begin, variant.recover):
                clock.run(work(home))
    if threading.active_count() > 1:
        raise RuntimeError(f"a child would lack the threads {threading.enumerate()}; nothing was forked")
    gc.collect()
    gc.freeze()


def _share_compiled_statements() -> None:
    """Every engine finds what another of its kind has compiled: a quarter of a life's time otherwise."""
    compiled: Any = LRUCache(10_000)

    @event.listens_for(Engine, "engine_connect")
    def share(connection: Any) -> None:
        connection.engine._compiled_cache = compiled

    for kind in (SQLiteDialect_pysqlite, PGDialect_psycopg):
        kind.__hash__ = lambda dialect: hash(type(dialect))  # type: ignore[method-assign]
        kind.__eq__ = lambda dialect, other: type(dialect) is type(other)  # type: ignore[method-assign]
